// What travels between host and device, and what waits for it: weights on their way in, decoded
// frames on their way out. On the fake accelerator, whose copies happen late and are counted.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/nn/module.h>

#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "tests/support/fake_device/fake_device.h"
#include "tests/unit/model/checkpoint_files.h"
#include "worker/model/checkpoint/load.h"
#include "worker/model/checkpoint/parallel_read.h"
#include "worker/model/checkpoint/safetensors.h"
#include "worker/model/error.h"
#include "worker/model/frame_delivery.h"

namespace kandinsky::model {
namespace {

using ::testing::ElementsAre;
using testing::TemporaryFolder;

class DeviceCopiesTest : public ::testing::Test {
 protected:
  void SetUp() override {
    fake::RegisterFakeDevice();
    at::manual_seed(3);
    fake::ResetCounters();
  }
};

// ---- weights ----

std::map<std::string, at::Tensor> Weights() {
  return {{"conv", at::randn({64, 48, 3, 3})}, {"point", at::randn({32, 16, 1, 1})},
          {"linear", at::randn({700, 300})},   {"bias", at::randn({33})},
          {"scalar", at::randn({})},           {"empty", at::empty({0, 4})},
          {"steps", at::arange(77, at::kLong)}};
}

int64_t Elements(const std::map<std::string, at::Tensor>& tensors, bool floating) {
  int64_t elements = 0;
  for (const auto& [name, tensor] : tensors) {
    if (tensor.is_floating_point() == floating) elements += tensor.numel();
  }
  return elements;
}

TEST_F(DeviceCopiesTest, WeightsArriveWithoutASynchronisation) {
  const TemporaryFolder folder;
  for (const at::ScalarType stored : {at::kFloat, at::kHalf, at::kBFloat16}) {
    std::map<std::string, at::Tensor> tensors = Weights();
    for (auto& [name, tensor] : tensors) {
      if (tensor.is_floating_point()) tensor = tensor.to(stored);
    }
    const std::string path = folder.Path(DtypeName(stored) + ".safetensors");
    WriteSafetensors(path, tensors);
    const auto source = OpenCheckpoint(path);
    for (const at::ScalarType dtype : {at::kFloat, at::kHalf, at::kBFloat16}) {
      for (const int threads : {1, 3}) {
        std::vector<ReadJob> jobs;
        for (const std::string& name : source->Names()) {
          jobs.push_back({name, dtype,
                          source->Find(name)->shape.size() == 4 ? at::MemoryFormat::ChannelsLast
                                                                : at::MemoryFormat::Contiguous});
        }
        fake::ResetCounters();
        std::map<std::string, at::Tensor> taken;
        ReadTensors(*source, jobs,
                    {.device = fake::FakeDevice(1), .threads = threads, .staging_bytes = 96 << 10},
                    [&](size_t i, const at::Tensor& tensor) { taken[jobs[i].name] = tensor; });
        const fake::Counters counters = fake::ReadCounters();
        EXPECT_EQ(counters.synchronisations, 0);
        EXPECT_EQ(counters.to_host, 0);
        // The narrower of the two types is what travels.
        const auto item =
            static_cast<int64_t>(std::min(c10::elementSize(stored), c10::elementSize(dtype)));
        EXPECT_EQ(counters.to_device_bytes,
                  Elements(tensors, true) * item + Elements(tensors, false) * 8);
        // In pieces of which two for each thread are 96 KiB.
        const int64_t piece = (96 << 10) / threads / 2;
        EXPECT_GE(counters.to_device, counters.to_device_bytes / piece);
        EXPECT_LE(counters.to_device,
                  counters.to_device_bytes / piece + static_cast<int64_t>(jobs.size()));

        ASSERT_EQ(taken.size(), jobs.size());
        for (const ReadJob& job : jobs) {
          const at::Tensor want = source->Read(job.name, dtype).contiguous(job.order);
          const at::Tensor& got = taken.at(job.name);
          EXPECT_EQ(got.device(), fake::FakeDevice(1)) << job.name;
          EXPECT_EQ(got.scalar_type(), want.scalar_type()) << job.name;
          EXPECT_EQ(got.strides(), want.strides()) << job.name;
          EXPECT_TRUE(at::equal(got.cpu(), want)) << job.name;
        }
      }
    }
  }
}

TEST_F(DeviceCopiesTest, LoadingPutsAModuleOnTheDevice) {
  const TemporaryFolder folder;
  WriteSafetensors(folder.Path("x.safetensors"), Weights());
  torch::nn::Module module;
  for (const auto& [name, tensor] : Weights()) {
    if (!tensor.is_floating_point()) continue;
    module.register_parameter(name, at::empty(tensor.sizes(), at::kMeta));
  }
  module.register_buffer("steps", at::empty({77}, at::TensorOptions(at::kMeta).dtype(at::kLong)));
  const auto source = OpenCheckpoint(folder.Path("x.safetensors"));
  LoadInto(module, *source, {.dtype = at::kBFloat16, .device = fake::FakeDevice()});
  EXPECT_EQ(fake::ReadCounters().synchronisations, 0);
  for (const auto& item : module.named_parameters()) {
    EXPECT_TRUE(at::equal(item.value().cpu(), source->Read(item.key(), at::kBFloat16)))
        << item.key();
  }
  EXPECT_TRUE(at::equal(module.named_buffers()["steps"].cpu(), at::arange(77, at::kLong)));
}

TEST_F(DeviceCopiesTest, ADeviceThatIsFullEndsLoading) {
  const TemporaryFolder folder;
  WriteSafetensors(folder.Path("x.safetensors"), Weights());
  const auto source = OpenCheckpoint(folder.Path("x.safetensors"));
  std::vector<ReadJob> jobs;
  for (const std::string& name : source->Names()) jobs.push_back({name, at::kFloat});
  fake::LimitMemory(fake::ReadCounters().live_bytes + (200 << 10));
  EXPECT_THROW(ReadTensors(*source, jobs, {.device = fake::FakeDevice(), .threads = 3},
                           [](size_t, const at::Tensor&) {}),
               c10::OutOfMemoryError);
  fake::LimitMemory(fake::kMemoryBytes);
}

TEST_F(DeviceCopiesTest, StagingHasALeastSize) {
  const TemporaryFolder folder;
  WriteSafetensors(folder.Path("x.safetensors"), Weights());
  const auto source = OpenCheckpoint(folder.Path("x.safetensors"));
  EXPECT_THROW(
      ReadTensors(*source, {}, {.device = fake::FakeDevice(), .threads = 2, .staging_bytes = 8191},
                  [](size_t, const at::Tensor&) {}),
      ModelError);
}

// ---- frames ----

at::Tensor Chunk(int64_t i) { return at::full({2, 3, 4, 3}, i, at::kByte); }

TEST_F(DeviceCopiesTest, FramesArriveOneChunkLaterAndWithoutASynchronisation) {
  std::vector<std::string> events;
  FrameDelivery delivery([&](int64_t first, const at::Tensor& frames) {
    events.push_back("got " + std::to_string(first));
    EXPECT_TRUE(frames.device().is_cpu());
    EXPECT_TRUE(at::equal(frames, Chunk(first / 2)));
  });
  for (int64_t i = 0; i < 3; ++i) {
    // The device's memory is used again for the next chunk.
    const at::Tensor computed =
        at::full({2, 3, 4, 3}, i, at::TensorOptions(at::kByte).device(fake::FakeDevice()));
    events.push_back("computed " + std::to_string(2 * i));
    delivery.Push(2 * i, computed);
  }
  delivery.Flush();
  delivery.Flush();
  EXPECT_THAT(events,
              ElementsAre("computed 0", "computed 2", "got 0", "computed 4", "got 2", "got 4"));
  const fake::Counters counters = fake::ReadCounters();
  EXPECT_EQ(counters.synchronisations, 0);
  EXPECT_EQ(counters.event_waits, 3);
  EXPECT_EQ(counters.to_host, 3);
  EXPECT_EQ(counters.to_host_bytes, 3 * 2 * 3 * 4 * 3);
}

TEST_F(DeviceCopiesTest, FramesOfTheCpuAreHandedOverAtOnce) {
  std::vector<int64_t> got;
  FrameDelivery delivery([&](int64_t first, const at::Tensor&) { got.push_back(first); });
  delivery.Push(0, Chunk(0));
  EXPECT_THAT(got, ElementsAre(0));
  delivery.Push(2, Chunk(1).permute({0, 2, 1, 3}));
  delivery.Flush();
  EXPECT_THAT(got, ElementsAre(0, 2));
}

TEST_F(DeviceCopiesTest, WhatTheSinkThrowsEndsTheDelivery) {
  int calls = 0;
  FrameDelivery delivery([&](int64_t, const at::Tensor&) {
    if (++calls == 2) throw std::runtime_error("the disk is full");
  });
  const at::Device device = fake::FakeDevice();
  delivery.Push(0, Chunk(0).to(device));
  delivery.Push(2, Chunk(1).to(device));
  EXPECT_THROW(delivery.Push(4, Chunk(2).to(device)), std::runtime_error);
  delivery.Push(6, Chunk(3).to(device));
  delivery.Flush();
  EXPECT_EQ(calls, 2);
}

TEST_F(DeviceCopiesTest, ADeliveryMayEndWithFramesUnderWay) {
  const int64_t before = fake::ReadCounters().live_bytes;
  {
    FrameDelivery delivery([](int64_t, const at::Tensor&) { FAIL(); });
    delivery.Push(0, Chunk(0).to(fake::FakeDevice()));
  }
  EXPECT_EQ(fake::ReadCounters().live_bytes, before);
}

}  // namespace
}  // namespace kandinsky::model
