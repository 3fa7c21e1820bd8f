#include "worker/model/interpolation.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

#include "worker/model/error.h"
#include "worker/model/mfi.h"

namespace kandinsky::model {
namespace {

using ::testing::HasSubstr;

std::string MessageOf(const std::function<void()>& call) {
  try {
    call();
  } catch (const ModelError& error) {
    return error.what();
  }
  return "nothing was thrown";
}

double MaxDifference(const at::Tensor& a, const at::Tensor& b) {
  return (a - b).abs().max().item<double>();
}

UnetConfig SmallConfig() {
  UnetConfig config;
  config.model_channels = config.init_channels = 8;
  config.time_embed_dim = 16;
  config.context_dim = 12;
  config.groups = 2;
  config.head_dim = 4;
  config.dim_mult = {1, 2};
  config.num_blocks = {2, 2};
  config.add_cross_attention = config.add_self_attention = {false, true};
  return config;
}

// Every parameter random, so that each of them shows.
void FillAll(Unet& unet) {
  unet.ResetParameters(1);
  at::NoGradGuard no_grad;
  at::manual_seed(1);
  for (at::Tensor& parameter : unet.parameters()) {
    if (parameter.abs().max().item<double>() == 0) {
      parameter.copy_(at::randn_like(parameter) * 0.2);
    }
  }
}

// A video whose frame i is filled with i.
at::Tensor CountingVideo(int64_t frames, double factor = 1) {
  return (at::arange(frames).to(at::kFloat) * factor)
      .reshape({frames, 1, 1, 1})
      .expand({frames, 4, 2, 3})
      .clone();
}

TEST(Interpolation, CountsFramesAndSkips) {
  for (const auto& [t, want] :
       std::vector<std::pair<int64_t, int64_t>>{{16, 61}, {61, 241}, {15, 57}, {57, 225}, {2, 5}}) {
    EXPECT_EQ(InterpolatedFrames(t), want);
  }
  EXPECT_EQ(SkipFrames(0), 3);
  EXPECT_EQ(SkipFrames(1), 1);
  EXPECT_THAT(MessageOf([] { SkipFrames(2); }), HasSubstr("pass is 2"));
}

TEST(Interpolation, MergesGroupsBetweenTheirKeyframes) {
  // Keyframes 0, 4, 8, ..; the three frames of group g hold 4g+1, 4g+2, 4g+3: merged they count.
  for (const int64_t frames : {2, 3, 16, 61}) {
    const at::Tensor video = CountingVideo(frames, 4);
    std::vector<at::Tensor> inner;
    for (int64_t i = 1; i <= 3; ++i) inner.push_back(LeftKeyframes(video) + i);
    const at::Tensor merged = MergeGroups(video, at::cat(inner, 1));
    EXPECT_TRUE(at::equal(merged, CountingVideo(InterpolatedFrames(frames)))) << frames;
  }
  EXPECT_THAT(MessageOf([] {
                MergeGroups(CountingVideo(3), at::zeros({3, 12, 2, 3}));
              }),
              HasSubstr("groups"));
}

TEST(Interpolation, GuidanceDropsTheKeyframes) {
  UnetConfig config = SmallConfig();
  config.temporal_variant = TemporalVariant::kInterpolation;
  config.num_channels = 20;
  config.out_channels = 12;
  Unet unet(config);
  FillAll(unet);
  at::NoGradGuard no_grad;
  at::manual_seed(2);
  const at::Tensor video = at::randn({4, 4, 4, 6}), x = at::randn({3, 12, 4, 6});
  const at::Tensor null_embedding = at::randn({12});

  UnetInput input;
  input.time = at::full({1}, 400, at::kLong);
  input.skip_frames = at::full({1}, 3, at::kLong);
  input.frames = 3;
  input.context = at::zeros({3, 2, 12});
  input.context.select(1, 0).copy_(null_embedding);
  input.context_mask = at::tensor({1, 0}, at::kLong).expand({3, 2});
  input.x = at::cat({video.narrow(0, 0, 3), x, video.narrow(0, 1, 3)}, 1);
  const at::Tensor cond = unet.forward(input);
  input.x = at::cat({at::zeros({3, 4, 4, 6}), x, at::zeros({3, 4, 4, 6})}, 1);
  const at::Tensor uncond = unet.forward(input);
  EXPECT_GT(MaxDifference(cond, uncond), 1e-3);

  for (const bool two_passes : {false, true}) {
    const Denoiser denoiser =
        MakeInterpolationDenoiser(unet, video, null_embedding, 3, {0.25, two_passes});
    EXPECT_LT(MaxDifference(denoiser(x, 400), cond * 1.25 - uncond * 0.25), 1e-4);
  }
  const Denoiser other = MakeInterpolationDenoiser(unet, video, null_embedding, 1, {0.25, false});
  EXPECT_GT(MaxDifference(other(x, 400), cond * 1.25 - uncond * 0.25), 1e-4)
      << "the number of skipped frames has no influence";
  EXPECT_THAT(MessageOf([&] {
                MakeInterpolationDenoiser(unet, video.narrow(0, 0, 1), null_embedding, 1, {});
              }),
              HasSubstr("at least 2 frames"));
}

TEST(Interpolation, LoopResumesBitForBit) {
  UnetConfig config = SmallConfig();
  config.temporal_variant = TemporalVariant::kInterpolation;
  config.num_channels = 20;
  config.out_channels = 12;
  Unet unet(config);
  FillAll(unet);
  at::manual_seed(3);
  const at::Tensor video = at::randn({4, 4, 4, 4}), null_embedding = at::randn({12});
  SamplerConfig sampling;
  sampling.steps = 4;
  sampling.prediction = PredictionType::kV;
  const Sampler sampler(sampling);
  const SeededNoise noise(5);
  for (int pass = 0; pass < 2; ++pass) {
    const DenoisingLoop loop(
        sampler, MakeInterpolationDenoiser(unet, video, null_embedding, SkipFrames(pass), {}),
        noise, NoiseStage::kInterpolation, pass);
    std::vector<LoopState> states = {loop.Start({3, 12, 4, 4})};
    DenoisingLoop::Hooks hooks;
    hooks.step = [&](const LoopState& state, double) { states.push_back(state); };
    const at::Tensor want = loop.Run(states.front(), hooks);
    const std::vector<LoopState> saved = states;
    for (const LoopState& state : saved) EXPECT_TRUE(at::equal(loop.Run(state), want));
  }
}

TEST(Mfi, TellsWhichFramesAreGiven) {
  const at::Tensor video = CountingVideo(3) + 1;  // frames 1, 2, 3
  const at::Tensor condition = MfiCondition(video);
  ASSERT_EQ(condition.sizes(), (std::vector<int64_t>{10, 5, 2, 3}));
  const double content[] = {1, 0, 0, 0, 2, 2, 0, 0, 0, 3};
  for (int64_t i = 0; i < 10; ++i) {
    EXPECT_TRUE(at::equal(condition[i].narrow(0, 0, 4), at::full({4, 2, 3}, content[i]))) << i;
    EXPECT_TRUE(at::equal(condition[i][4], at::full({2, 3}, content[i] != 0 ? 1.0 : 0.0))) << i;
  }
}

TEST(Mfi, MergesThePredictedFrames) {
  for (const int64_t frames : {2, 5, 16}) {
    const at::Tensor video = CountingVideo(frames, 4);
    std::vector<at::Tensor> sequences;
    for (int64_t g = 0; g + 1 < frames; ++g) {
      // The given frames of a sequence come back denoised, too; the video's own win.
      sequences.push_back(CountingVideo(5) + 4.0 * static_cast<double>(g));
      sequences.back()[0].fill_(-1);
      sequences.back()[4].fill_(-1);
    }
    EXPECT_TRUE(
        at::equal(MergeMfi(video, at::cat(sequences)), CountingVideo(InterpolatedFrames(frames))));
  }
  EXPECT_THAT(MessageOf([] {
                MergeMfi(CountingVideo(3), at::zeros({9, 4, 2, 3}));
              }),
              HasSubstr("sequences"));
}

TEST(Mfi, StartsFromTheImageNetworkAndBatchesFreely) {
  at::NoGradGuard no_grad;
  Unet image(SmallConfig());
  FillAll(image);
  Unet unet(MfiUnetConfig(SmallConfig()));
  EXPECT_EQ(unet.config().num_channels, 9);
  unet.CopySpatialParameters(image);
  unet.ResetTemporalParameters(1);
  at::manual_seed(3);
  const at::Tensor video = at::randn({4, 4, 4, 4}), x = at::randn({15, 4, 4, 4});
  const at::Tensor null_embedding = at::randn({12});
  UnetInput input;
  input.x = x;
  input.time = at::full({1}, 400, at::kLong);
  const TextCondition null = NullCondition(null_embedding, 2);
  input.context = null.context;
  input.context_mask = null.mask;
  // New input channels have zero weights.
  EXPECT_LT(MaxDifference(MakeMfiDenoiser(unet, video, null_embedding, {0.25, false})(x, 400),
                          image.forward(input)),
            1e-4);
  // Once trained, sequences are still independent of each other.
  FillAll(unet);
  unet.named_parameters()["in_layer.weight"].copy_(at::randn({8, 9, 3, 3}) * 0.2);
  const at::Tensor want = MakeMfiDenoiser(unet, video, null_embedding, {0.25, false})(x, 400);
  for (const int64_t batch : {1, 2, 3, 7}) {
    for (const bool two_passes : {false, true}) {
      const Denoiser denoiser =
          MakeMfiDenoiser(unet, video, null_embedding, {0.25, two_passes}, batch);
      EXPECT_LT(MaxDifference(denoiser(x, 400), want), 1e-4) << batch;
    }
  }
  // And the given frames matter.
  EXPECT_GT(MaxDifference(
                MakeMfiDenoiser(unet, at::zeros_like(video), null_embedding, {0.25, false})(x, 400),
                want),
            1e-3);
}

}  // namespace
}  // namespace kandinsky::model
