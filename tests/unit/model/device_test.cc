// The model on a device that is not the CPU (tests/support/fake_device): it gives the CPU's
// results, and the denoising loops neither copy nor wait. What each part asks of the device is
// printed and held.
#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tests/support/fake_device/fake_device.h"
#include "worker/model/denoising.h"
#include "worker/model/error.h"
#include "worker/model/interpolation.h"
#include "worker/model/mfi.h"
#include "worker/model/movq.h"
#include "worker/model/pipeline.h"
#include "worker/model/pipeline_parts.h"
#include "worker/model/weights_init.h"

namespace kandinsky::model {
namespace {

const std::string kModels = std::string(KANDINSKY_SOURCE_DIR) + "/models/";

at::Device Device() {
  fake::RegisterFakeDevice();
  return fake::FakeDevice();
}

// Both to be compared on the CPU; relative to what is expected.
double RelativeError(const at::Tensor& got, const at::Tensor& want) {
  const at::Tensor a = got.cpu().to(at::kDouble), b = want.cpu().to(at::kDouble);
  return ((a - b).norm() / b.norm()).item<double>();
}

// Holds a count of operations: at most `bar`, and a bar that has become slack by a tenth is to be
// lowered.
void Hold(const std::string& what, double got, double bar) {
  std::printf("%-34s %7.1f operations, bar %.0f\n", what.c_str(), got, bar);
  EXPECT_LE(got, bar) << what;
  EXPECT_GE(got, 0.9 * bar) << what << ": lower the bar";
}

// No copy from or to the host and no synchronisation.
void ExpectPure(const std::string& what) {
  const fake::Counters counters = fake::ReadCounters();
  EXPECT_EQ(counters.to_device, 0) << what;
  EXPECT_EQ(counters.to_host, 0) << what;
  for (const auto& [cause, count] : counters.causes) {
    ADD_FAILURE() << what << " waits for the device " << count << " times: " << cause;
  }
}

UnetConfig SmallConfig(TemporalVariant variant) {
  UnetConfig config;
  config.model_channels = 16;
  config.init_channels = 16;
  config.time_embed_dim = 24;
  config.context_dim = 12;
  config.groups = 4;
  config.head_dim = 8;
  config.dim_mult = {1, 2};
  config.num_blocks = {2, 2};
  config.add_cross_attention = {false, true};
  config.add_self_attention = {true, true};
  config.temporal_variant = variant;
  if (config.keyframes()) config.num_frames = 4;
  if (config.interpolation()) {
    config.num_channels = 20;
    config.out_channels = 12;
  }
  return config;
}

// The same network on the CPU and on the device.
struct Twins {
  explicit Twins(const UnetConfig& config, at::ScalarType dtype = at::kFloat)
      : cpu(config, at::TensorOptions(dtype)),
        device(config, at::TensorOptions(dtype).device(Device())) {
    at::NoGradGuard no_grad;
    InitializeWeights(cpu, 3);
    const auto theirs = cpu.named_parameters();
    for (const auto& parameter : device.named_parameters()) {
      at::Tensor value = parameter.value();
      value.copy_(theirs[parameter.key()]);
    }
    for (Unet* unet : {&cpu, &device}) {
      unet->eval();
      for (at::Tensor& parameter : unet->parameters()) parameter.set_requires_grad(false);
    }
  }
  Unet cpu, device;
};

TextCondition Text(int64_t width, uint64_t seed) {
  at::manual_seed(seed);
  at::Tensor mask = at::ones({1, 5}, at::kLong);
  mask.narrow(1, 3, 2).zero_();
  return {at::randn({1, 5, width}), mask};
}

TEST(Noise, IsDrawnOnTheDeviceWithoutACopy) {
  const struct {
    uint64_t seed;
    NoiseKey key;
    std::vector<int64_t> shape;
  } cases[] = {
      {0, {NoiseStage::kKeyframes, 0, -1}, {16, 4, 64, 64}},
      {42, {NoiseStage::kInterpolation, 1, 17}, {61, 12, 32, 32}},
      {0xFFFFFFFFFFFFFFFF, {NoiseStage::kInterpolation, 0xFFFF, int64_t{1} << 40}, {1 << 20}},
      {0x123456789ABCDEF0, {NoiseStage::kKeyframes, 3, 0x7FFFFFFFFFFFFFFF}, {3, 5, 7}},
      {7, {NoiseStage::kKeyframes, 0, 5}, {1}},
      {7, {NoiseStage::kKeyframes, 0, 5}, {6}},
  };
  const at::Device device = Device();
  int64_t compared = 0, different = 0;
  for (const auto& c : cases) {
    const SeededNoise noise(c.seed);
    const at::Tensor want = noise.Draw(c.key, c.shape);
    fake::ResetCounters();
    const at::Tensor drawn = noise.Draw(c.key, c.shape, device);
    ExpectPure("noise");
    ASSERT_EQ(drawn.device(), device);
    const at::Tensor got = drawn.cpu();
    ASSERT_EQ(got.sizes(), want.sizes());
    // Neighbouring floats are neighbouring integers.
    const at::Tensor apart = (got.view(at::kInt).to(at::kLong) - want.view(at::kInt)).abs();
    EXPECT_LE(apart.max().item<int64_t>(), 1) << c.seed;
    compared += apart.numel();
    different += apart.count_nonzero().item<int64_t>();
  }
  std::printf("noise: %ld of %ld elements have another last bit\n", different, compared);
  EXPECT_LE(different, compared / 1000000 + 1);
}

// Every variant, every rule, each kind of guidance: the loop's result is the CPU's, and nothing is
// copied or waited for within it.
TEST(DenoisingLoop, RunsOnTheDeviceAlone) {
  using enum TemporalVariant;
  const struct {
    TemporalVariant variant;
    SamplerType sampler;
    bool two_passes;
    bool temporal_guidance;
    double operations;  // a step, at most
  } cases[] = {
      {kNone, SamplerType::kDdpm, false, false, 1160},
      {kConv1dAttn1dLayers, SamplerType::kDdim, false, false, 1335},
      {kConv1dAttn1dBlocks, SamplerType::kDpmSolver2M, false, false, 1853},
      {kConv1dAttn1dBlocks, SamplerType::kDdpm, true, true, 5310},
      {kConv1dAttn3dBlocks, SamplerType::kDdpm, false, false, 2038},
      {kConv3dAttn1dBlocks, SamplerType::kDdim, false, false, 2011},
  };
  const at::Device device = Device();
  constexpr int64_t kSteps = 5;
  const SeededNoise noise(1);
  for (const auto& c : cases) {
    const std::string name = std::string(TemporalVariantName(c.variant)) + ", " +
                             std::string(SamplerName(c.sampler)) +
                             (c.two_passes ? ", two passes" : "");
    Twins unet(SmallConfig(c.variant));
    const TextCondition text = Text(12, 2);
    const TextCondition null = NullCondition(at::randn({12}), 5);
    GuidanceConfig guidance = {.scale = 3, .two_passes = c.two_passes};
    if (c.temporal_guidance) guidance.temporal = {.scale = 1, .window = 2, .from = 300};
    const Sampler sampler({.type = c.sampler, .steps = kSteps, .schedule_steps = 100, .eta = 0.5});
    const auto loop = [&](Unet& network, at::Device where) {
      return DenoisingLoop(sampler, MakeKeyframeDenoiser(network, text, null, guidance), noise,
                           NoiseStage::kKeyframes, 0, where);
    };
    // Odd sizes: maps of 3x2 at the coarser level, whose windows are padded.
    const std::vector<int64_t> shape = {4, 4, 6, 4};
    const DenoisingLoop on_cpu = loop(unet.cpu, at::kCPU), on_device = loop(unet.device, device);
    const at::Tensor want = on_cpu.Run(on_cpu.Start(shape));
    LoopState state = on_device.Start(shape);
    std::vector<int64_t> told;
    double seconds = 0;
    fake::ResetCounters();
    const at::Tensor got =
        on_device.Run(std::move(state), {.step = [&](const LoopState& s, double t) {
                        told.push_back(s.next_step);
                        seconds += t;
                        // No more than two steps behind.
                        EXPECT_GE(fake::ReadCounters().event_waits, s.next_step);
                      }});
    ExpectPure(name);
    const fake::Counters counters = fake::ReadCounters();
    EXPECT_EQ(counters.event_waits, kSteps) << name;
    EXPECT_EQ(told, (std::vector<int64_t>{1, 2, 3, 4, 5})) << name;
    EXPECT_GT(seconds, 0);
    EXPECT_LT(RelativeError(got, want), 1e-4) << name;
    Hold(name, static_cast<double>(counters.kernels) / kSteps, c.operations);
  }
}

TEST(DenoisingLoop, InterpolatesOnTheDeviceAlone) {
  const at::Device device = Device();
  constexpr int64_t kSteps = 4;
  const SeededNoise noise(1);
  const Sampler sampler({.type = SamplerType::kDdpm,
                         .steps = kSteps,
                         .schedule_steps = 100,
                         .prediction = PredictionType::kV});
  const at::Tensor video = noise.Draw({NoiseStage::kKeyframes, 9, 0}, {3, 4, 6, 4});
  const at::Tensor null = at::full({12}, 0.5);
  const auto run = [&](const std::string& name, const std::function<Denoiser(at::Device)>& denoiser,
                       std::vector<int64_t> shape, double operations) {
    const DenoisingLoop on_cpu(sampler, denoiser(at::kCPU), noise, NoiseStage::kInterpolation, 0);
    const DenoisingLoop on_device(sampler, denoiser(device), noise, NoiseStage::kInterpolation, 0,
                                  device);
    const at::Tensor want = on_cpu.Run(on_cpu.Start(shape));
    LoopState state = on_device.Start(shape);
    fake::ResetCounters();
    const at::Tensor got = on_device.Run(std::move(state));
    ExpectPure(name);
    const fake::Counters counters = fake::ReadCounters();
    EXPECT_LE(counters.event_waits, kSteps) << name;
    EXPECT_LT(RelativeError(got, want), 1e-4) << name;
    Hold(name, static_cast<double>(counters.kernels) / kSteps, operations);
  };
  Twins groups(SmallConfig(TemporalVariant::kInterpolation));
  run(
      "interpolation, ddpm",
      [&](at::Device where) {
        return MakeInterpolationDenoiser(where.is_cpu() ? groups.cpu : groups.device, video, null,
                                         3, {.scale = 0.25});
      },
      {2, 12, 6, 4}, 1306);
  Twins masked(MfiUnetConfig(SmallConfig(TemporalVariant::kConv1dAttn1dBlocks)));
  run(
      "masked interpolation, ddpm",
      [&](at::Device where) {
        return MakeMfiDenoiser(where.is_cpu() ? masked.cpu : masked.device, video, null,
                               {.scale = 0.25}, 1);
      },
      {10, 4, 6, 4}, 3851);
}

// The host is at most two steps ahead, also where nobody asks to be told; cancelling does not wait.
TEST(DenoisingLoop, DoesNotRunAheadOfTheDevice) {
  const at::Device device = Device();
  const SeededNoise noise(1);
  const Sampler sampler({.steps = 20});
  int64_t asked = 0, most_ahead = 0;
  const DenoisingLoop loop(
      sampler,
      [&](const at::Tensor& x, const StepTime& time) {
        EXPECT_EQ(time.tensor.device(), device);
        EXPECT_EQ(time.value, sampler.network_time(asked));
        most_ahead = std::max(most_ahead, asked - fake::ReadCounters().event_waits);
        ++asked;
        return x * 0.5;
      },
      noise, NoiseStage::kKeyframes, 0, device);
  LoopState start = loop.Start({1, 4, 4, 4});
  fake::ResetCounters();
  loop.Run(start);
  EXPECT_EQ(asked, 20);
  EXPECT_EQ(most_ahead, DenoisingLoop::kStepsAhead);
  asked = 0;
  fake::ResetCounters();
  EXPECT_THROW(loop.Run(start, {.cancelled = [&] { return asked == 5; }}), ModelError);
  EXPECT_EQ(fake::ReadCounters().event_waits, 5 - DenoisingLoop::kStepsAhead);
}

TEST(Unet, ReadsTextOfAllKindsOnTheDevice) {
  const at::Device device = Device();
  at::NoGradGuard no_grad;
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16, at::kHalf}) {
    Twins unet(SmallConfig(TemporalVariant::kConv1dAttn1dBlocks), dtype);
    at::manual_seed(4);
    UnetInput cpu;
    cpu.x = at::randn({8, 4, 6, 4});
    cpu.time = at::full({1}, 500, at::kLong);
    cpu.context = at::randn({2, 5, 12});
    for (const std::vector<int64_t>& visible : {std::vector<int64_t>{5, 5}, {3, 1}, {0, 2}}) {
      cpu.context_mask = at::arange(5).unsqueeze(0) < at::tensor(visible).unsqueeze(1);
      UnetInput there = cpu;
      there.x = cpu.x.to(device);
      there.time = cpu.time.to(device);
      there.text = unet.device.PrepareText(cpu.context.to(device), cpu.context_mask);
      there.context = there.context_mask = at::Tensor();
      fake::ResetCounters();
      const at::Tensor got = unet.device.forward(there);
      ExpectPure("forward");
      EXPECT_EQ(got.scalar_type(), dtype);
      EXPECT_LT(RelativeError(got, unet.cpu.forward(cpu)), dtype == at::kFloat ? 1e-5 : 0.03)
          << dtype << " " << visible;
    }
  }
}

MovqConfig SmallMovq(bool video) {
  MovqConfig config;
  config.resolution = 16;
  config.ch = 32;
  config.ch_mult = {1, 2};
  config.num_res_blocks = 1;
  config.attn_resolutions = {8};
  config.temporal = config.temporal_attention_block = video;
  return config;
}

TEST(Movq, DecodesOnTheDevice) {
  const at::Device device = Device();
  at::NoGradGuard no_grad;
  for (const bool video : {false, true}) {
    const std::string name = video ? "video decoder" : "image decoder";
    Movq cpu(SmallMovq(video)), there(SmallMovq(video), at::TensorOptions().device(device));
    InitializeWeights(cpu, 3);
    const auto theirs = cpu.named_parameters();
    for (const auto& parameter : there.named_parameters()) {
      at::Tensor value = parameter.value();
      value.copy_(theirs[parameter.key()]);
    }
    cpu.eval();
    there.eval();
    at::manual_seed(1);
    const at::Tensor latents = at::randn({4, 4, 8, 8});
    const at::Tensor want = cpu.Decode(latents);
    const at::Tensor moved = latents.to(device);
    fake::ResetCounters();
    const at::Tensor got = there.Decode(moved);
    const at::Tensor pixels = ToPixels(got);
    ExpectPure(name);
    Hold(name, static_cast<double>(fake::ReadCounters().kernels), video ? 251 : 158);
    EXPECT_LT(RelativeError(got, want), 1e-4) << name;
    EXPECT_LE((pixels.cpu().to(at::kInt) - ToPixels(want).to(at::kInt)).abs().max().item<int>(), 1);
    // In strips the maps lie in host memory between layers.
    const at::Tensor strips = there.Decode(moved, {.max_bytes = 100000});
    EXPECT_GT(fake::ReadCounters().to_host, 0);
    EXPECT_LT(RelativeError(strips, want), 1e-4) << name;
  }
}

// A model directory with random weights, made once and removed at the end.
const std::string& TinyModel() {
  struct Directory {
    Directory() : path(::testing::TempDir() + "/device_test_tiny." + std::to_string(getpid())) {
      ModelConfig config = ModelConfig::Load(kModels + "tiny");
      config.interpolation_steps_max = 0;
      WriteRandomModel(config, kModels + "tiny", path, 1);
    }
    ~Directory() {
      std::error_code ignored;
      std::filesystem::remove_all(path, ignored);
    }
    const std::string path;
  };
  static const Directory directory;
  return directory.path;
}

GenerationRequest SmallRequest() {
  GenerationRequest request;
  request.prompt = "a red car";
  request.negative_prompt = "a cat";
  request.seed = 7;
  request.width = 32;
  request.height = 48;
  request.steps = 4;
  request.guidance_scale = 5;
  request.interpolation_guidance_scale = 0.25;
  request.passes = 1;
  return request;
}

// Hooks that want a checkpoint after step 2, and what happened.
struct Recording {
  StageHooks hooks;
  std::vector<StageCheckpoint> checkpoints;
  std::vector<int64_t> steps;
  // Copies to the host and synchronisations between two steps that the stage reported.
  std::vector<std::pair<int64_t, int64_t>> between;

  Recording() {
    hooks.progress = [this](const StageProgress& progress) {
      steps.push_back(progress.step);
      const fake::Counters counters = fake::ReadCounters();
      if (steps.size() > 1) {
        between.push_back(
            {counters.to_host - last.to_host, counters.synchronisations - last.synchronisations});
        EXPECT_EQ(counters.to_device, last.to_device);
      }
      last = counters;
    };
    hooks.checkpoint_due = [this] { return steps.back() == 2; };
    hooks.checkpoint = [this](const StageCheckpoint& checkpoint) {
      EXPECT_TRUE(checkpoint.x.is_cpu());
      checkpoints.push_back(checkpoint);
    };
  }
  fake::Counters last;
};

// What a stage may ask for in one run, all in all.
struct StageBar {
  double operations;
  int64_t to_device, to_host, synchronisations;
};

void HoldStage(const std::string& name, const StageBar& bar) {
  const fake::Counters counters = fake::ReadCounters();
  std::printf(
      "%s: %ld copies to the device (%ld bytes), %ld to the host (%ld bytes), %ld "
      "synchronisations, %ld event waits, %ld allocations, peak %ld bytes\n",
      name.c_str(), counters.to_device, counters.to_device_bytes, counters.to_host,
      counters.to_host_bytes, counters.synchronisations, counters.event_waits, counters.allocations,
      counters.peak_bytes);
  for (const auto& [cause, count] : counters.causes) {
    std::printf("  %ld times %s\n", count, cause.c_str());
  }
  Hold(name, static_cast<double>(counters.kernels), bar.operations);
  EXPECT_EQ(counters.to_device, bar.to_device) << name;
  EXPECT_EQ(counters.to_host, bar.to_host) << name;
  EXPECT_EQ(counters.synchronisations, bar.synchronisations) << name;
}

TEST(Stages, RunOnTheDevice) {
  const ExecutionOptions device = {.placement = {.device = Device()}};
  const GenerationRequest request = SmallRequest();
  const std::vector<std::pair<int64_t, int64_t>> one_copy_when_due = {{0, 0}, {1, 1}, {0, 0}};

  KeyframeStage keyframe_stage(TinyModel(), device);
  Recording recording;
  fake::ResetCounters();
  const at::Tensor keyframes = keyframe_stage.Run(request, recording.hooks);
  HoldStage("keyframes", {8808, 10, 7, 17});
  EXPECT_EQ(recording.steps, (std::vector<int64_t>{1, 2, 3, 4}));
  EXPECT_EQ(recording.between, one_copy_when_due);
  EXPECT_TRUE(keyframes.is_cpu());
  EXPECT_LT(RelativeError(keyframes, KeyframeStage(TinyModel(), {}).Run(request)), 1e-3);
  // A run that goes on from the checkpoint ends in the same bits; from the CPU's side, too, it is
  // the same video.
  ASSERT_EQ(recording.checkpoints.size(), 1u);
  EXPECT_TRUE(at::equal(keyframe_stage.Run(request, {}, recording.checkpoints[0]), keyframes));
  EXPECT_LT(RelativeError(KeyframeStage(TinyModel(), {}).Run(request, {}, recording.checkpoints[0]),
                          keyframes),
            1e-3);

  fake::ResetCounters();
  const at::Tensor preview = keyframe_stage.Preview(keyframes.narrow(0, 0, 2));
  HoldStage("preview of 2 frames", {502, 2, 2, 4});
  const at::Tensor want = KeyframeStage(TinyModel(), {}).Preview(keyframes.narrow(0, 0, 2));
  EXPECT_LE((preview.to(at::kInt) - want.to(at::kInt)).abs().max().item<int>(), 1);

  InterpolationStage interpolation_stage(TinyModel(), device);
  Recording passes;
  fake::ResetCounters();
  const at::Tensor clip = interpolation_stage.Run(keyframes, request, passes.hooks);
  HoldStage("interpolation, one pass", {2808, 6, 2, 8});
  EXPECT_EQ(passes.between, one_copy_when_due);
  EXPECT_EQ(clip.size(0), 61);
  EXPECT_LT(RelativeError(clip, InterpolationStage(TinyModel(), {}).Run(keyframes, request)), 1e-3);
  ASSERT_EQ(passes.checkpoints.size(), 1u);
  EXPECT_TRUE(
      at::equal(interpolation_stage.Run(keyframes, request, {}, passes.checkpoints[0]), clip));

  DecodingStage decoding_stage(TinyModel(), device), reference(TinyModel(), {});
  const auto decode = [&](DecodingStage& stage) {
    std::vector<at::Tensor> chunks;
    stage.Run(clip.narrow(0, 0, 9), {},
              [&](int64_t, const at::Tensor& frames) { chunks.push_back(frames); });
    return at::cat(chunks);
  };
  fake::ResetCounters();
  const at::Tensor frames = decode(decoding_stage);
  HoldStage("decoding of 9 frames", {502, 2, 2, 2});
  EXPECT_LE((frames.to(at::kInt) - decode(reference).to(at::kInt)).abs().max().item<int>(), 1);
}

// Half precision takes paths of its own (the text encoder's clamps, conversions).
TEST(Stages, RunInHalfPrecisionOnTheDevice) {
  for (const at::ScalarType dtype : {at::kHalf, at::kBFloat16}) {
    GenerationRequest request = SmallRequest();
    request.steps = 2;
    const auto run = [&](at::Device where) {
      return KeyframeStage(TinyModel(), {.placement = {.device = where, .dtype = dtype}})
          .Run(request);
    };
    EXPECT_LT(RelativeError(run(Device()), run(at::kCPU)), 0.1) << dtype;
  }
}

}  // namespace
}  // namespace kandinsky::model
