// What ExecutionOptions and GuidanceConfig trade for speed gives the same bits: guidance on two
// devices, and recorded graphs, for keyframes and interpolation. On the fake accelerator.
#include <ATen/Parallel.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "tests/support/fake_device/fake_device.h"
#include "tests/support/fake_device/fake_recorder.h"
#include "worker/model/checkpoint/load.h"
#include "worker/model/graph_cache.h"
#include "worker/model/interpolation.h"
#include "worker/model/pipeline_parts.h"
#include "worker/model/weights_init.h"

namespace kandinsky::model {
namespace {

using ::testing::IsEmpty;

constexpr int64_t kFrames = 4, kSide = 4, kTokens = 5;
constexpr int64_t kSteps = 4;

UnetConfig SmallConfig(TemporalVariant variant) {
  UnetConfig config;
  config.model_channels = config.init_channels = 8;
  config.time_embed_dim = 16;
  config.context_dim = 24;
  config.groups = 2;
  config.head_dim = 4;
  config.dim_mult = {1, 2};
  config.num_blocks = {2, 2};
  config.add_cross_attention = config.add_self_attention = {false, true};
  config.temporal_variant = variant;
  if (variant == TemporalVariant::kInterpolation) {
    config.num_channels = 20;
    config.out_channels = 12;
  } else {
    config.num_frames = kFrames;
  }
  return config;
}

std::unique_ptr<Unet> MakeUnet(TemporalVariant variant, at::Device device) {
  auto unet = std::make_unique<Unet>(SmallConfig(variant));
  InitializeWeights(*unet, 1);
  for (at::Tensor& parameter : unet->parameters()) {
    parameter.set_requires_grad(false);
    ReplaceStorage(parameter, parameter.to(device));
  }
  return unet;
}

SamplerConfig Sampling(PredictionType prediction) {
  SamplerConfig config;
  config.prediction = prediction;
  config.steps = kSteps;
  return config;
}

EncodedPrompt Prompt(int64_t seed, bool negative) {
  at::manual_seed(static_cast<uint64_t>(seed));
  EncodedPrompt prompt;
  const auto text = [] {
    at::Tensor mask = at::ones({1, kTokens}, at::kLong);
    mask.narrow(1, 3, 2).zero_();
    return TextContext{at::randn({1, kTokens, 24}), mask};
  };
  prompt.positive = text();
  if (negative) prompt.negative = text();
  return prompt;
}

struct Request {
  int64_t seed = 1;
  bool negative = false;
  double scale = 5;
  TemporalGuidance temporal = {};
};

at::Tensor Keyframes(Unet& unet, const Request& request, GuidanceConfig guidance = {}) {
  guidance.scale = request.scale;
  guidance.temporal = request.temporal;
  const SeededNoise noise(static_cast<uint64_t>(request.seed));
  return SampleKeyframes(unet, Prompt(request.seed, request.negative), at::ones({24}) * 0.3,
                         kFrames, kSide, kSide, Sampling(PredictionType::kEpsilon), guidance,
                         noise);
}

at::Tensor Groups(Unet& unet, const Request& request, GuidanceConfig guidance = {}) {
  guidance.scale = request.scale;
  at::manual_seed(static_cast<uint64_t>(request.seed));
  const at::Tensor video = at::randn({kFrames, 4, kSide, kSide});
  const SeededNoise noise(static_cast<uint64_t>(request.seed));
  return SampleGroups(unet, video, at::ones({24}) * 0.3, {.pass = 0}, Sampling(PredictionType::kV),
                      guidance, noise);
}

// Different values of everything that a request may change without changing a shape.
const std::vector<Request> kRequests = {
    {.seed = 1},
    {.seed = 2},
    {.seed = 3, .negative = true},
    {.seed = 4, .scale = 2.5},
    {.seed = 5, .scale = 0},
    {.seed = 6, .temporal = {.scale = 0.5, .window = 2, .from = 300, .to = 800}},
    {.seed = 1},
};

class DeviceExecutionTest : public ::testing::Test {
 protected:
  void SetUp() override {
    fake::RegisterFakeDevice();
    fake::ResetCounters();
    at::set_num_threads(1);  // the tensors are tiny
  }
};

TEST_F(DeviceExecutionTest, TwoDevicesGiveTheBitsOfTwoPasses) {
  struct Case {
    at::Device first, second;
  };
  const at::Device cpu = at::kCPU;
  for (const Case& c : {Case{cpu, cpu}, Case{fake::FakeDevice(0), fake::FakeDevice(1)},
                        Case{fake::FakeDevice(1), fake::FakeDevice(0)}}) {
    const auto keyframes = MakeUnet(TemporalVariant::kConv1dAttn1dBlocks, c.first);
    const auto keyframes_2 = MakeUnet(TemporalVariant::kConv1dAttn1dBlocks, c.second);
    const auto groups = MakeUnet(TemporalVariant::kInterpolation, c.first);
    const auto groups_2 = MakeUnet(TemporalVariant::kInterpolation, c.second);
    for (const Request& request : {kRequests[0], kRequests[2], kRequests[4]}) {
      fake::ResetCounters();
      EXPECT_TRUE(at::equal(Keyframes(*keyframes, request, {.second = keyframes_2.get()}),
                            Keyframes(*keyframes, request, {.two_passes = true})));
      EXPECT_TRUE(at::equal(Groups(*groups, request, {.second = groups_2.get()}),
                            Groups(*groups, request, {.two_passes = true})));
      const int64_t between = fake::ReadCounters().between_devices;
      if (c.first.is_cpu() || request.scale == 0) {
        EXPECT_EQ(between, 0);
      } else {
        EXPECT_GT(between, 2 * kSteps);
      }
    }
  }
}

TEST_F(DeviceExecutionTest, TheSecondDeviceAddsNoSynchronisation) {
  const auto first = MakeUnet(TemporalVariant::kConv1dAttn1dBlocks, fake::FakeDevice(0));
  const auto second = MakeUnet(TemporalVariant::kConv1dAttn1dBlocks, fake::FakeDevice(1));
  const auto count = [&](const GuidanceConfig& guidance) {
    fake::ResetCounters();
    Keyframes(*first, {}, guidance);
    return fake::ReadCounters();
  };
  const fake::Counters one = count({.two_passes = true}), two = count({.second = second.get()});
  // The second half's text goes there once; within the loop nothing waits.
  EXPECT_LE(two.synchronisations, one.synchronisations + 2);
  EXPECT_EQ(two.event_waits, one.event_waits);
}

TEST_F(DeviceExecutionTest, GraphsGiveTheSameBitsForEveryRequest) {
  const at::Device device = fake::FakeDevice();
  for (const bool two_passes : {false, true}) {
    const auto keyframes = MakeUnet(TemporalVariant::kConv1dAttn1dBlocks, device);
    const auto groups = MakeUnet(TemporalVariant::kInterpolation, device);
    fake::RecorderLog log;
    GraphCache keyframe_graphs(std::make_unique<fake::FakeRecorder>(&log), device);
    GraphCache group_graphs(std::make_unique<fake::FakeRecorder>(&log), device);
    for (const Request& request : kRequests) {
      EXPECT_TRUE(at::equal(
          Keyframes(*keyframes, request, {.two_passes = two_passes, .graphs = &keyframe_graphs}),
          Keyframes(*keyframes, request, {.two_passes = two_passes})))
          << request.seed;
      EXPECT_TRUE(
          at::equal(Groups(*groups, request, {.two_passes = two_passes, .graphs = &group_graphs}),
                    Groups(*groups, request, {.two_passes = two_passes})))
          << request.seed;
    }
    const GraphStats& stats = keyframe_graphs.stats();
    EXPECT_THAT(stats.reason, IsEmpty());
    EXPECT_EQ(stats.failed, 0);
    // Scale 5, 2.5, 0, and temporal guidance where it acts: a warm-up each.
    EXPECT_EQ(stats.recorded, 4);
    EXPECT_EQ(stats.as_usual, 4);
    EXPECT_EQ(stats.replayed, static_cast<int64_t>(kRequests.size()) * kSteps - 4);
    EXPECT_THAT(group_graphs.stats().reason, IsEmpty());
    EXPECT_EQ(group_graphs.stats().failed, 0);
    EXPECT_EQ(group_graphs.stats().recorded, 3);
    EXPECT_EQ(group_graphs.stats().as_usual, 3);
  }
}

TEST_F(DeviceExecutionTest, ARecorderThatFailsChangesNothing) {
  class Broken : public GraphRecorder {
   public:
    std::unique_ptr<RecordedGraph> Record(const std::function<void()>&) override {
      TORCH_CHECK(false, "operation not permitted when stream is capturing");
    }
  };
  const at::Device device = fake::FakeDevice();
  const auto unet = MakeUnet(TemporalVariant::kConv1dAttn1dBlocks, device);
  GraphCache graphs(std::make_unique<Broken>(), device);
  EXPECT_TRUE(at::equal(Keyframes(*unet, {}, {.graphs = &graphs}), Keyframes(*unet, {})));
  EXPECT_EQ(graphs.stats().failed, 1);
  EXPECT_EQ(graphs.stats().as_usual, kSteps);
}

}  // namespace
}  // namespace kandinsky::model
