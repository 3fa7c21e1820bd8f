#include "tests/support/fake_device/fake_device.h"

#include <ATen/ATen.h>
#include <c10/core/Event.h>
#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <functional>
#include <string>

namespace kandinsky::fake {
namespace {

class FakeDeviceTest : public testing::Test {
 protected:
  static void SetUpTestSuite() { RegisterFakeDevice(); }
  void SetUp() override {
    at::manual_seed(0);
    ResetCounters();
  }
  const c10::impl::VirtualGuardImpl runtime_{c10::kPrivateUse1};
};

TEST_F(FakeDeviceTest, ComputesWhatTheCpuComputes) {
  const at::Device device = FakeDevice();
  const at::Tensor x = at::randn({2, 8, 6, 6}), w = at::randn({4, 8, 3, 3}), b = at::randn({4});
  const at::Tensor q = at::randn({2, 2, 5, 8}), table = at::randn({7, 3});
  const at::Tensor index = at::tensor({3, 0, 6}, at::kLong);
  const auto same = [](const at::Tensor& got, const at::Tensor& want) {
    EXPECT_TRUE(got.device() == FakeDevice());
    EXPECT_TRUE(at::equal(got.cpu(), want)) << got.cpu() << "\n" << want;
  };
  // LibTorch computes these of simpler operations where a device has no kernel for them.
  const auto close = [](const at::Tensor& got, const at::Tensor& want) {
    EXPECT_TRUE(got.device() == FakeDevice());
    EXPECT_LT((got.cpu() - want).abs().max().item<float>(), 1e-6);
  };
  const at::Tensor dx = x.to(device), dw = w.to(device), db = b.to(device), dq = q.to(device);
  same(dx, x);
  same(at::conv2d(dx, dw, db, 1, 1), at::conv2d(x, w, b, 1, 1));
  same(at::silu(dx) * 2 + 1, at::silu(x) * 2 + 1);
  same(dx.sum({2, 3}), x.sum({2, 3}));
  same(std::get<0>(dx.flatten(1).sort(1)), std::get<0>(x.flatten(1).sort(1)));
  same(at::scaled_dot_product_attention(dq, dq, dq), at::scaled_dot_product_attention(q, q, q));
  same(at::embedding(table.to(device), index.to(device)), at::embedding(table, index));
  same(at::arange(5, at::TensorOptions(at::kDouble).device(device)), at::arange(5, at::kDouble));
  same(at::cat({dx, dx}, 1), at::cat({x, x}, 1));
  same(at::full({3}, 2.5, at::TensorOptions().device(device)), at::full({3}, 2.5));
  close(at::layer_norm(dx, {6}), at::layer_norm(x, {6}));
  close(at::group_norm(dx, 4), at::group_norm(x, 4));
  same(dx.to(at::kHalf).to(at::kFloat), x.to(at::kHalf).to(at::kFloat));
  same(at::zeros({0, 3}, at::TensorOptions().device(device)), at::zeros({0, 3}));
}

TEST_F(FakeDeviceTest, ViewsShareMemoryAndAreNoKernels) {
  const at::Tensor x = at::zeros({4, 6}, at::TensorOptions().device(FakeDevice()));
  ResetCounters();
  x.t().narrow(0, 1, 2).view({2, 4}).select(0, 1).unfold(0, 2, 2).unsqueeze(0).expand({3, 2, 2});
  EXPECT_EQ(ReadCounters().kernels, 0);
  x.t().select(0, 1).fill_(7);
  EXPECT_EQ(ReadCounters().kernels, 1);
  EXPECT_EQ(x.cpu().sum().item<float>(), 28);
}

TEST_F(FakeDeviceTest, TensorsOfTwoPlacesDoNotMix) {
  const at::Tensor host = at::ones({3}), device = host.to(FakeDevice()),
                   other = host.to(FakeDevice(1));
  const at::Tensor index = at::zeros({1}, at::kLong), weight = at::ones({2, 3, 1, 1});
  EXPECT_THROW(device + host, c10::Error);
  EXPECT_THROW(host + device, c10::Error);
  EXPECT_THROW(device + other, c10::Error);
  EXPECT_THROW(at::cat({device, host}), c10::Error);
  EXPECT_THROW(device.index_select(0, index), c10::Error);
  EXPECT_THROW(device.index_select(0, index[0]), c10::Error);
  EXPECT_THROW(at::conv2d(device.view({1, 3, 1, 1}), weight), c10::Error);
  EXPECT_THROW(at::matmul(device, host), c10::Error);
  EXPECT_THROW(at::embedding(device.view({3, 1}), index), c10::Error);
  EXPECT_EQ((device + host[0]).device(), FakeDevice());  // as on CUDA
  EXPECT_EQ((device * 2).device(), FakeDevice());
  EXPECT_EQ((other * 2).device(), FakeDevice(1));
}

TEST_F(FakeDeviceTest, TheHostCannotTouchDeviceMemory) {
  testing::GTEST_FLAG(death_test_style) = "threadsafe";
  const at::Tensor x = at::ones({3}, at::TensorOptions().device(FakeDevice()));
  EXPECT_DEATH(printf("%f", static_cast<double>(x.const_data_ptr<float>()[1])), "");
  EXPECT_DEATH(x.mutable_data_ptr<float>()[1] = 2, "");
}

TEST_F(FakeDeviceTest, CountsCopiesAndSynchronisations) {
  const at::Tensor x = at::ones({10}).to(FakeDevice());
  EXPECT_EQ(ReadCounters().to_device, 1);
  EXPECT_EQ(ReadCounters().to_device_bytes, 40);
  EXPECT_EQ(ReadCounters().synchronisations, 1);  // blocking
  const struct {
    std::string what;
    std::function<void()> run;
    int64_t waits, to_host;
  } cases[] = {
      {"kernels", [&] { at::silu(x + 1).sum(); }, 0, 0},
      {"a new tensor", [&] { at::full({3}, 5, x.options()); }, 0, 0},
      {"item", [&] { x.sum().item<float>(); }, 1, 1},
      {"copy", [&] { x.cpu(); }, 1, 1},
      {"pageable, non-blocking", [&] { at::empty({10}).copy_(x, /*non_blocking=*/true); }, 1, 1},
      {"equal", [&] { at::equal(x, x); }, 1, 0},
      {"nonzero", [&] { x.nonzero(); }, 1, 0},
      {"mask", [&] { x.masked_select(x.gt(0)); }, 1, 0},
      {"index by mask", [&] { x.index({x.gt(0)}); }, 1, 0},
      {"stream", [&] { runtime_.getStream(FakeDevice()).synchronize(); }, 1, 0},
      {"device", [&] { runtime_.synchronizeDevice(0); }, 1, 0},
  };
  for (const auto& c : cases) {
    ResetCounters();
    c.run();
    EXPECT_EQ(ReadCounters().synchronisations, c.waits) << c.what;
    EXPECT_EQ(ReadCounters().to_host, c.to_host) << c.what;
    EXPECT_EQ(ReadCounters().to_device, 0) << c.what;
  }
}

TEST_F(FakeDeviceTest, CountsMemoryByTag) {
  const int64_t before = ReadCounters().live_bytes;
  const auto options = at::TensorOptions(at::kByte).device(FakeDevice());
  const at::Tensor kept = at::empty({1000}, options);  // 1024 bytes
  {
    const CounterTag tag("part");
    at::empty({5000}, options);
    const at::Tensor within = at::empty({512}, options);
    EXPECT_EQ(ReadCounters().live_bytes, before + 1024 + 512);
  }
  at::empty({100000}, options);
  const Counters all = ReadCounters(), part = ReadCounters("part");
  EXPECT_EQ(all.allocations, 4);
  EXPECT_EQ(all.live_bytes, before + 1024);
  EXPECT_EQ(all.peak_bytes, before + 1024 + 100352);
  EXPECT_EQ(part.allocations, 2);
  EXPECT_EQ(part.peak_bytes, before + 1024 + 5120);
  LimitMemory(before + (1 << 20));
  EXPECT_THROW(at::empty({1 << 20}, options), c10::OutOfMemoryError);
  LimitMemory(kMemoryBytes);
  EXPECT_NO_THROW(at::empty({1 << 20}, options));
}

TEST_F(FakeDeviceTest, PinnedCopiesHappenLater) {
  const at::Device device = FakeDevice();
  const at::Tensor pinned = at::ones({8}).pin_memory();
  ASSERT_TRUE(pinned.is_pinned());
  ASSERT_FALSE(at::ones({8}).is_pinned());
  ResetCounters();

  // What the source holds when the device comes to it is what arrives.
  const at::Tensor there = pinned.to(device, /*non_blocking=*/true);
  pinned.fill_(5);
  const at::Tensor doubled = there * 2;

  // The target holds nothing of use until an event that follows the copy has been waited for.
  at::Tensor back = at::zeros({8}, at::TensorOptions().pinned_memory(true));
  back.copy_(doubled, /*non_blocking=*/true);
  EXPECT_TRUE(std::isnan(back[0].item<float>()));
  doubled.zero_();  // later in the stream: does not matter
  c10::Event event(c10::kPrivateUse1);
  event.record(runtime_.getStream(device));
  event.synchronize();
  EXPECT_EQ(back[0].item<float>(), 10);
  EXPECT_EQ(ReadCounters().synchronisations, 0);
  EXPECT_EQ(ReadCounters().event_waits, 1);
  EXPECT_EQ(ReadCounters().to_device, 1);
  EXPECT_EQ(ReadCounters().to_host_bytes, 32);
}

TEST_F(FakeDeviceTest, StreamsAreOrderedByEventsAlone) {
  const at::Device device = FakeDevice();
  const at::Tensor pinned = at::ones({8}).pin_memory();
  const c10::Stream copies = runtime_.getStreamFromGlobalPool(device);
  at::Tensor x = at::zeros({8}, at::TensorOptions().device(device));
  c10::Event event(c10::kPrivateUse1);
  {
    const c10::StreamGuard guard(copies);
    x.copy_(pinned, /*non_blocking=*/true);
    event.record(copies);
  }
  EXPECT_TRUE(std::isnan((x + 1)[0].item<float>()));  // another stream, too early
  event.block(runtime_.getStream(device));
  EXPECT_EQ((x + 1)[0].item<float>(), 2);
  EXPECT_TRUE(event.query());
}

}  // namespace
}  // namespace kandinsky::fake
