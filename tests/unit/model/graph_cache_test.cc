// Which call warms up, records, replays or runs as usual, and that the result never depends on it.
// The recorder here stands for CUDA's: it refuses what a capture refuses, by the fake accelerator's
// counts, and its replay runs the work again on the addresses that it was recorded with. What
// capturing does on a GPU only a GPU shows.
#include "worker/model/graph_cache.h"

#include <c10/core/impl/VirtualGuardImpl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tests/support/fake_device/fake_recorder.h"
#include "worker/model/error.h"

namespace kandinsky::model {
namespace {

using ::testing::HasSubstr;

class GraphCacheTest : public ::testing::Test {
 protected:
  void SetUp() override {
    fake::RegisterFakeDevice();
    at::manual_seed(1);
  }

  GraphCache MakeCache(size_t max_graphs = 4) {
    return GraphCache(std::make_unique<fake::FakeRecorder>(&log_), fake::FakeDevice(), max_graphs);
  }
  static at::Tensor OnDevice(const at::Tensor& tensor) { return tensor.to(fake::FakeDevice()); }
  static at::Tensor Random(at::IntArrayRef shape) { return OnDevice(at::randn(shape)); }

  // runs counts how often the work itself ran on the host.
  GraphCache::Work Affine(double scale, int* runs = nullptr) {
    return [scale, runs](const std::vector<at::Tensor>& inputs) {
      if (runs != nullptr) ++*runs;
      return inputs[0] * scale + inputs[1];
    };
  }

  fake::RecorderLog log_;
};

TEST_F(GraphCacheTest, WarmsUpRecordsReplays) {
  GraphCache cache = MakeCache();
  for (int i = 0; i < 5; ++i) {
    const at::Tensor x = Random({2, 3}), y = Random({3});
    const at::Tensor got = cache.Run("a", {x, y}, Affine(2));
    EXPECT_TRUE(at::equal(got.cpu(), x.cpu() * 2 + y.cpu())) << i;
    EXPECT_EQ(cache.stats().as_usual, 1);
    EXPECT_EQ(cache.stats().recorded, i == 0 ? 0 : 1);
    EXPECT_EQ(cache.stats().replayed, i);
  }
  EXPECT_EQ(log_.recorded, 1);
  EXPECT_EQ(log_.replayed, 5);  // one to compare with the first call
}

TEST_F(GraphCacheTest, ResultsOutliveTheNextCall) {
  GraphCache cache = MakeCache();
  std::vector<at::Tensor> inputs, outputs;
  for (int i = 0; i < 4; ++i) {
    inputs.push_back(Random({4}));
    outputs.push_back(cache.Run("a", {inputs.back(), inputs.back()}, Affine(3)));
  }
  for (int i = 0; i < 4; ++i) {
    EXPECT_TRUE(at::equal(outputs[i].cpu(), inputs[i].cpu() * 3 + inputs[i].cpu())) << i;
  }
}

TEST_F(GraphCacheTest, EverythingThatTheWorkDependsOnTellsGraphsApart) {
  GraphCache cache = MakeCache(8);
  const at::Tensor square = Random({4, 4});
  struct Case {
    std::string signature;
    std::vector<at::Tensor> inputs;
  };
  const std::vector<Case> cases = {{"a", {square, square}},
                                   {"b", {square, square}},
                                   {"a", {square.t(), square}},
                                   {"a", {square, square.t()}},
                                   {"a", {square.to(at::kDouble), square}},
                                   {"a", {Random({5, 4, 4}), square}}};
  for (int round = 0; round < 3; ++round) {
    for (const Case& c : cases) {
      const double scale = c.signature == "a" ? 2 : 5;
      const at::Tensor got = cache.Run(c.signature, c.inputs, Affine(scale));
      EXPECT_TRUE(at::equal(got.cpu(), c.inputs[0].cpu() * scale + c.inputs[1].cpu()));
    }
  }
  EXPECT_EQ(cache.stats().recorded, static_cast<int64_t>(cases.size()));
  EXPECT_EQ(cache.stats().failed, 0);
}

TEST_F(GraphCacheTest, ReplaysCopyInputsAndWaitForNothing) {
  GraphCache cache = MakeCache();
  const at::Tensor x = Random({6}), y = Random({6});
  cache.Run("a", {x, y}, Affine(2));
  fake::ResetCounters();
  cache.Run("a", {x, y}, Affine(2));  // records, and compares
  EXPECT_EQ(fake::ReadCounters().synchronisations, 1);
  fake::ResetCounters();
  cache.Run("a", {x, y}, Affine(2));
  const fake::Counters counters = fake::ReadCounters();
  EXPECT_EQ(counters.synchronisations, 0);
  EXPECT_EQ(counters.event_waits, 0);
  EXPECT_EQ(counters.to_device + counters.to_host, 0);
}

TEST_F(GraphCacheTest, WorkThatWaitsRunsAsUsual) {
  GraphCache cache = MakeCache();
  const at::Tensor x = Random({6});
  const GraphCache::Work waits = [](const std::vector<at::Tensor>& inputs) {
    return inputs[0] * inputs[0].sum().item<float>();
  };
  for (int i = 0; i < 4; ++i) {
    const at::Tensor got = cache.Run("a", {x}, waits);
    EXPECT_TRUE(at::equal(got.cpu(), x.cpu() * x.cpu().sum().item<float>()));
  }
  EXPECT_EQ(cache.stats().failed, 1);  // not tried again
  EXPECT_EQ(cache.stats().as_usual, 4);
  EXPECT_EQ(cache.stats().replayed, 0);
  EXPECT_THAT(cache.stats().reason, HasSubstr("_local_scalar_dense"));
  // Other work is not affected.
  for (int i = 0; i < 3; ++i) cache.Run("b", {x, x}, Affine(2));
  EXPECT_EQ(cache.stats().replayed, 2);
}

TEST_F(GraphCacheTest, AReplayThatGivesOtherBitsIsNotUsed) {
  GraphCache cache = MakeCache();
  const at::Tensor x = Random({6});
  // Depends on something that is not among its inputs.
  at::Tensor hidden = OnDevice(at::zeros({}));
  const GraphCache::Work work = [&hidden](const std::vector<at::Tensor>& inputs) {
    return inputs[0] + hidden;
  };
  for (int i = 0; i < 3; ++i) {
    hidden.fill_(i);
    EXPECT_TRUE(at::equal(cache.Run("a", {x}, work).cpu(), x.cpu() + i)) << i;
  }
  EXPECT_EQ(cache.stats().failed, 1);
  EXPECT_EQ(cache.stats().replayed, 0);
  EXPECT_THAT(cache.stats().reason, HasSubstr("other bits"));
}

TEST_F(GraphCacheTest, NotANumberIsNoDifference) {
  GraphCache cache = MakeCache();
  const at::Tensor x = OnDevice(at::full({3}, NAN));
  for (int i = 0; i < 3; ++i) cache.Run("a", {x, x}, Affine(2));
  EXPECT_EQ(cache.stats().replayed, 2);
}

TEST_F(GraphCacheTest, OutOfMemoryWhileRecordingFallsBack) {
  GraphCache cache = MakeCache();
  const at::Tensor x = Random({1 << 16});
  cache.Run("a", {x, x}, Affine(2));
  // Room for the work (two tensors of 256 KiB), but not for what a graph reads beside it.
  fake::LimitMemory(fake::ReadCounters().live_bytes + 2 * (int64_t{1} << 18));
  const at::Tensor got = cache.Run("a", {x, x}, Affine(2));
  fake::LimitMemory(fake::kMemoryBytes);
  EXPECT_EQ(cache.stats().failed, 1);
  EXPECT_TRUE(at::equal(got.cpu(), x.cpu() * 2 + x.cpu()));
}

TEST_F(GraphCacheTest, WhatTheWorkThrowsComesBackAndLeavesNothing) {
  GraphCache cache = MakeCache();
  const at::Tensor x = Random({6});
  bool fails = false;
  const GraphCache::Work work = [&fails](const std::vector<at::Tensor>& inputs) {
    if (fails) throw ModelError(ModelError::Kind::kInvalidArgument, "no");
    return inputs[0] + 1;
  };
  cache.Run("a", {x}, work);
  const int64_t live = fake::ReadCounters().live_bytes;
  fails = true;
  for (int i = 0; i < 2; ++i) EXPECT_THROW(cache.Run("a", {x}, work), ModelError);
  EXPECT_EQ(fake::ReadCounters().live_bytes, live);
  fails = false;
  EXPECT_TRUE(at::equal(cache.Run("a", {x}, work).cpu(), x.cpu() + 1));
  EXPECT_EQ(cache.stats().recorded, 1);
}

TEST_F(GraphCacheTest, TheLeastRecentlyUsedGraphMakesRoom) {
  GraphCache cache = MakeCache(2);
  const at::Tensor x = Random({6});
  int runs = 0;
  const auto run = [&](const std::string& signature) {
    cache.Run(signature, {x, x}, Affine(2, &runs));
  };
  for (const char* signature : {"a", "a", "b", "b", "a", "c", "c"}) run(signature);
  EXPECT_EQ(log_.live, 2);  // a and c
  EXPECT_EQ(cache.stats().dropped, 1);
  EXPECT_EQ(cache.stats().recorded, 3);
  run("a");
  EXPECT_EQ(cache.stats().recorded, 3);
  run("b");  // recorded again at once
  EXPECT_EQ(cache.stats().recorded, 4);
  EXPECT_EQ(log_.live, 2);
}

TEST_F(GraphCacheTest, KindsOfWorkThatNeverComeBackAreForgotten) {
  GraphCache cache = MakeCache(1);
  const at::Tensor x = Random({6});
  for (int i = 0; i < 100; ++i) cache.Run(std::to_string(i), {x, x}, Affine(2));
  EXPECT_EQ(cache.stats().as_usual, 100);
  cache.Run("0", {x, x}, Affine(2));
  EXPECT_EQ(cache.stats().as_usual, 101) << "it would be warm if all were remembered";
}

TEST_F(GraphCacheTest, ClearGivesEverythingBack) {
  const int64_t before = fake::ReadCounters().live_bytes;
  GraphCache cache = MakeCache();
  {
    const at::Tensor x = Random({100});
    for (int i = 0; i < 3; ++i) cache.Run("a", {x, x}, Affine(2));
  }
  EXPECT_GT(fake::ReadCounters().live_bytes, before);
  cache.Clear();
  EXPECT_EQ(fake::ReadCounters().live_bytes, before);
  EXPECT_EQ(log_.live, 0);
}

TEST_F(GraphCacheTest, RefusesInputsThatOverlap) {
  GraphCache cache = MakeCache();
  const at::Tensor x = Random({1, 6}).expand({4, 6});
  EXPECT_THROW(cache.Run("a", {x, x}, Affine(2)), ModelError);
}

TEST_F(GraphCacheTest, OtherDevicesHaveNoRecorder) {
  for (const c10::Device device : {c10::Device(c10::kCPU), fake::FakeDevice()}) {
    std::string why;
    EXPECT_EQ(MakeGraphRecorder(device, &why), nullptr);
    EXPECT_FALSE(why.empty());
  }
}

}  // namespace
}  // namespace kandinsky::model
