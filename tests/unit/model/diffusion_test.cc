#include "worker/model/diffusion.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Parallel.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <numbers>
#include <string>
#include <utility>
#include <vector>

#include "worker/model/denoising.h"
#include "worker/model/error.h"
#include "worker/model/noise.h"
#include "worker/model/sampler.h"
#include "worker/model/weights_init.h"

namespace kandinsky::model {
namespace {

using ::testing::HasSubstr;

std::string MessageOf(const std::function<void()>& call,
                      ModelError::Kind kind = ModelError::Kind::kInvalidArgument) {
  try {
    call();
  } catch (const ModelError& error) {
    EXPECT_EQ(error.kind(), kind);
    return error.what();
  }
  return "nothing was thrown";
}

double MaxDifference(const at::Tensor& a, const at::Tensor& b) {
  return (a.to(at::kDouble) - b.to(at::kDouble)).abs().max().item<double>();
}

TEST(NoiseSchedule, CosineEqualsItsDefinition) {
  const NoiseSchedule schedule(ScheduleType::kCosine, 50);
  const auto a = [](double u) {
    return std::pow(std::cos((u + 0.008) / 1.008 * std::numbers::pi / 2), 2);
  };
  double product = 1;
  for (int64_t t = 0; t < 50; ++t) {
    const double beta = std::min(1 - a((t + 1) / 50.0) / a(t / 50.0), 0.999);
    product *= 1 - beta;
    EXPECT_NEAR(schedule.betas[t].item<double>(), beta, 1e-7);
    EXPECT_NEAR(schedule.alpha_bar(t) / product, 1, 1e-4) << t;
    EXPECT_NEAR(schedule.sqrt_one_minus_alphas_cumprod[t].item<double>(), std::sqrt(1 - product),
                1e-6);
  }
  EXPECT_EQ(schedule.alpha_bar(-1), 1);
  EXPECT_EQ(schedule.alphas_cumprod_prev[0].item<double>(), 1);
  EXPECT_EQ(schedule.posterior_variance[0].item<double>(), 0);
  EXPECT_EQ(schedule.posterior_log_variance[0].item<float>(),
            schedule.posterior_log_variance[1].item<float>());
  EXPECT_EQ(schedule.Tensors().size(), 9u);
}

TEST(NoiseSchedule, ScalesTimesToAThousand) {
  for (const auto& [steps, want] : std::vector<std::pair<int64_t, int64_t>>{
           {50, 20}, {6, 166}, {2, 500}, {999, 1}, {1000, 1}, {2000, 1}}) {
    EXPECT_EQ(NoiseSchedule(ScheduleType::kCosine, steps).time_scale(), want) << steps;
  }
}

TEST(NoiseSchedule, RefusesWhatGivesNoNumbers) {
  EXPECT_THAT(MessageOf([] { NoiseSchedule(ScheduleType::kCosine, 1); }), HasSubstr("steps is 1"));
  EXPECT_THAT(MessageOf([] { NoiseSchedule(ScheduleType::kLinear, 20); }),
              HasSubstr("above 20 for the linear schedule"));
  EXPECT_THAT(MessageOf([] { NoiseSchedule(ScheduleType::kLinear, -3); }), HasSubstr("steps"));
  EXPECT_TRUE(
      NoiseSchedule(ScheduleType::kLinear, 21).posterior_mean_coef_1.isfinite().all().item<bool>());
}

TEST(PredictX0, InvertsTheForwardProcess) {
  at::manual_seed(1);
  const NoiseSchedule schedule(ScheduleType::kCosine, 50);
  const at::Tensor x0 = at::randn({2, 4, 3, 5}), noise = at::randn({2, 4, 3, 5});
  for (const int64_t t : {0, 7, 30}) {
    const at::Tensor steps = at::full({2}, t, at::kLong);
    const at::Tensor x = QSample(schedule, x0, steps, noise);
    const at::Tensor v = VTarget(schedule, x0, steps, noise);
    EXPECT_LT(MaxDifference(PredictX0(schedule, PredictionType::kEpsilon, x, noise, t), x0), 1e-4);
    EXPECT_LT(MaxDifference(PredictX0(schedule, PredictionType::kV, x, v, t), x0), 1e-5);
  }
}

TEST(ProcessX0, ThresholdsEachItemByItself) {
  // Item 0 stays within [-1, 1]; item 1 holds 0, 1, .., 10.
  const at::Tensor x =
      at::stack({at::linspace(-1, 1, 11), at::arange(11).to(at::kFloat)}).reshape({2, 1, 1, 11});
  struct Case {
    std::optional<double> percentile;
    double floor;
    double limit;  // q of item 1
  };
  for (const Case& c : {Case{0.9, 1, 9}, Case{0.98, 1, 9.8}, Case{1.0, 1, 10}, Case{0.0, 1, 1},
                        Case{0.9, 1.5, 9}, Case{0.0, 1.5, 1.5}, Case{0.98, 50, 50}}) {
    const at::Tensor got = ProcessX0(x, c.percentile, c.floor);
    EXPECT_LT(MaxDifference(got[0], x[0]), 1e-6);
    const at::Tensor want = x[1].clamp(-c.limit, c.limit) * (c.floor / c.limit);
    EXPECT_LT(MaxDifference(got[1], want), 1e-6);
  }
  EXPECT_TRUE(at::equal(ProcessX0(x, std::nullopt), x.clamp(-1, 1)));
  EXPECT_TRUE(at::equal(ProcessX0(x, std::nullopt, 1.5), x.clamp(-1.5, 1.5)));
  EXPECT_THAT(MessageOf([&] { ProcessX0(x, 1.5); }), HasSubstr("percentile"));
  EXPECT_THAT(MessageOf([&] { ProcessX0(x, 0.98, 0); }),
              HasSubstr("threshold_floor is 0.000000, must be 0.01..100"));
}

TEST(SeededNoise, IsPhiloxAndBoxMuller) {
  // The published test vector of Philox4x32-10 for counter 0 and key 0.
  constexpr uint32_t kWords[] = {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8};
  const at::Tensor noise = SeededNoise(0).Draw({NoiseStage::kKeyframes, 0, 0}, {4});
  for (int i = 0; i < 2; ++i) {
    const double radius = std::sqrt(-2 * std::log((kWords[2 * i] + 0.5) / 4294967296.0));
    const double angle = 2 * std::numbers::pi * kWords[2 * i + 1] / 4294967296.0;
    EXPECT_FLOAT_EQ(noise[2 * i].item<float>(), static_cast<float>(radius * std::cos(angle)));
    EXPECT_FLOAT_EQ(noise[2 * i + 1].item<float>(), static_cast<float>(radius * std::sin(angle)));
  }
}

TEST(SeededNoise, DependsOnNothingButItsKey) {
  const NoiseKey base{NoiseStage::kInterpolation, 1, 7};
  const at::Tensor want = SeededNoise(42).Draw(base, {3, 5, 7});
  const int threads = at::get_num_threads();
  at::set_num_threads(threads == 1 ? 2 : 1);
  EXPECT_TRUE(at::equal(SeededNoise(42).Draw(base, {3, 5, 7}), want));
  at::set_num_threads(threads);
  // The stream does not depend on the shape, and a shorter draw is a prefix.
  EXPECT_TRUE(at::equal(SeededNoise(42).Draw(base, {105}), want.flatten()));
  EXPECT_TRUE(at::equal(SeededNoise(42).Draw(base, {21}), want.flatten().narrow(0, 0, 21)));
  const std::pair<uint64_t, NoiseKey> others[] = {
      {43, base},
      {42 + (uint64_t{1} << 32), base},
      {42, {NoiseStage::kKeyframes, 1, 7}},
      {42, {NoiseStage::kInterpolation, 0, 7}},
      {42, {NoiseStage::kInterpolation, 1, 8}},
      {42, {NoiseStage::kInterpolation, 1, -1}},
  };
  for (const auto& [seed, key] : others) {
    const at::Tensor other = SeededNoise(seed).Draw(key, {3, 5, 7});
    EXPECT_FALSE(at::isclose(other, want).any().item<bool>());
  }
}

TEST(SeededNoise, IsStandardNormal) {
  const at::Tensor x = SeededNoise(7).Draw({}, {400, 1000}).to(at::kDouble);
  EXPECT_NEAR(x.mean().item<double>(), 0, 0.01);
  EXPECT_NEAR(x.var().item<double>(), 1, 0.01);
  EXPECT_NEAR(x.pow(3).mean().item<double>(), 0, 0.03);
  EXPECT_NEAR(x.pow(4).mean().item<double>(), 3, 0.06);
  // Neighbours and partners of a Box-Muller pair are independent.
  const at::Tensor flat = x.flatten();
  for (const int64_t lag : {1, 2, 4}) {
    const int64_t count = flat.size(0) - lag;
    EXPECT_NEAR((flat.narrow(0, 0, count) * flat.narrow(0, lag, count)).mean().item<double>(), 0,
                0.01);
  }
  EXPECT_TRUE(x.isfinite().all().item<bool>());
}

SamplerConfig Config(SamplerType type, int64_t steps, int64_t schedule_steps = 0, double eta = 0) {
  SamplerConfig config;
  config.type = type;
  config.steps = steps;
  config.schedule_steps = schedule_steps;
  config.eta = eta;
  return config;
}

TEST(Sampler, ChoosesTimesteps) {
  struct Case {
    int64_t steps, schedule_steps;
    std::vector<int64_t> timesteps, times;  // the first ones
    int64_t last;
  };
  const Case cases[] = {
      {50, 0, {49, 48}, {980, 960}, 0},       {50, 50, {49, 48}, {980, 960}, 0},
      {10, 1000, {999, 899}, {999, 899}, 99}, {3, 10, {9, 5, 2}, {900, 500, 200}, 2},
      {1, 1000, {999}, {999}, 999},
  };
  for (const Case& c : cases) {
    const Sampler sampler(Config(SamplerType::kDdim, c.steps, c.schedule_steps));
    for (size_t k = 0; k < c.timesteps.size(); ++k) {
      EXPECT_EQ(sampler.timestep(static_cast<int64_t>(k)), c.timesteps[k]);
      EXPECT_EQ(sampler.network_time(static_cast<int64_t>(k)), c.times[k]);
    }
    EXPECT_EQ(sampler.timestep(c.steps - 1), c.last);
  }
}

TEST(Sampler, RefusesBadConfigs) {
  struct Case {
    std::function<void(SamplerConfig&)> spoil;
    const char* want;
  };
  const Case cases[] = {
      {[](SamplerConfig& c) { c.steps = 0; }, "steps is 0"},
      {[](SamplerConfig& c) { c.schedule_steps = 3; }, "schedule_steps is 3"},
      {[](SamplerConfig& c) { c.eta = 1.5; }, "eta"},
      {[](SamplerConfig& c) { c.percentile = -1; }, "percentile"},
      {[](SamplerConfig& c) { c.threshold_floor = 101; }, "threshold_floor"},
      {[](SamplerConfig& c) { c.eta = std::numeric_limits<double>::quiet_NaN(); }, "eta"},
  };
  for (const Case& c : cases) {
    SamplerConfig config = Config(SamplerType::kDdim, 10);
    c.spoil(config);
    EXPECT_THAT(MessageOf([&] { Sampler sampler(config); }), HasSubstr(c.want));
  }
  EXPECT_THAT(MessageOf([] { ParseSamplerType("euler"); }), HasSubstr("euler"));
  for (const SamplerType type :
       {SamplerType::kDdpm, SamplerType::kDdim, SamplerType::kDpmSolver2M}) {
    EXPECT_EQ(ParseSamplerType(SamplerName(type)), type);
  }
}

// The last step of DDIM returns x_0, thresholded as the config says.
TEST(Sampler, ThresholdsAtItsFloor) {
  const at::Tensor x0 = at::tensor({-1.4, -0.5, 0.2, 1.3}, at::kFloat).reshape({1, 1, 2, 2});
  for (const double floor : {1.0, 1.2, 1.5}) {
    SamplerConfig config = Config(SamplerType::kDdim, 4, 100);
    config.percentile = 0.0;
    config.threshold_floor = floor;
    const Sampler sampler(config);
    LoopState state;
    state.next_step = 3;
    state.x = at::zeros_like(x0);
    const double alpha_bar = sampler.schedule().alpha_bar(sampler.timestep(3));
    const at::Tensor noise = x0 * (-std::sqrt(alpha_bar) / std::sqrt(1 - alpha_bar));
    sampler.Advance(state, noise, at::Tensor());
    EXPECT_LT(MaxDifference(state.x, x0.clamp(-floor, floor)), 1e-5);
  }
}

// The exact denoiser of data ~ N(mean, deviation^2): E[x_0 | x_t] in closed form.
Denoiser GaussianDenoiser(const Sampler& sampler, double mean, double deviation) {
  return [&sampler, mean, deviation](const at::Tensor& x, const StepTime& time) {
    const double a = sampler.schedule().alpha_bar(time.value / sampler.schedule().time_scale());
    const double variance = a * deviation * deviation + 1 - a;
    const at::Tensor x0 =
        mean + (x - std::sqrt(a) * mean) * (std::sqrt(a) * deviation * deviation / variance);
    return (x - x0 * std::sqrt(a)) / std::sqrt(1 - a);
  };
}

// Every rule carries noise to the data's distribution.
TEST(Sampler, ReachesTheDataDistribution) {
  struct Case {
    SamplerConfig config;
    double tolerance;
  };
  const Case cases[] = {
      {Config(SamplerType::kDdpm, 100), 0.015},
      {Config(SamplerType::kDdpm, 50, 1000), 0.03},
      {Config(SamplerType::kDdim, 50, 1000), 0.015},
      {Config(SamplerType::kDdim, 50, 1000, 1.0), 0.03},
      {Config(SamplerType::kDpmSolver2M, 50, 1000), 0.015},
  };
  constexpr double kMean = 0.2, kDeviation = 0.2;
  for (const Case& c : cases) {
    const Sampler sampler(c.config);
    const SeededNoise noise(3);
    const DenoisingLoop loop(sampler, GaussianDenoiser(sampler, kMean, kDeviation), noise,
                             NoiseStage::kKeyframes, 0);
    const at::Tensor x = loop.Run(loop.Start({4, 4, 32, 32})).to(at::kDouble);
    const std::string name(SamplerName(c.config.type));
    EXPECT_NEAR(x.mean().item<double>(), kMean, c.tolerance) << name;
    EXPECT_NEAR(x.std().item<double>(), kDeviation, c.tolerance) << name;
  }
}

// The second-order rule gains on DDIM: against the exact flow of the same start, at equal numbers
// of steps.
TEST(Sampler, DpmSolverIsOfHigherOrder) {
  constexpr double kMean = 0.3, kDeviation = 0.2;
  const SeededNoise noise(5);
  const auto error = [&](SamplerType type, int64_t steps) {
    const Sampler sampler(Config(type, steps, 1000));
    const DenoisingLoop loop(sampler, GaussianDenoiser(sampler, kMean, kDeviation), noise,
                             NoiseStage::kKeyframes, 0);
    const LoopState start = loop.Start({1, 4, 16, 16});
    LoopState state = start;
    while (state.next_step + 1 < steps) loop.Step(state);  // the last step is first order in both
    // The flow keeps quantiles: x_t = sqrt(a) mean + sqrt(a deviation^2 + 1 - a) z.
    const double a = sampler.schedule().alpha_bar(sampler.timestep(steps - 1));
    return MaxDifference(
        state.x, start.x * std::sqrt(a * kDeviation * kDeviation + 1 - a) + std::sqrt(a) * kMean);
  };
  for (const int64_t steps : {10, 20}) {
    EXPECT_LT(error(SamplerType::kDpmSolver2M, steps), 0.5 * error(SamplerType::kDdim, steps))
        << steps;
  }
}

// A denoiser that depends on every element and on time.
at::Tensor Wobble(const at::Tensor& x, const StepTime& time) {
  return at::sin(x * 3 + static_cast<double>(time.value) * 0.01) + x.roll(1, 3) * 0.5;
}

const SamplerConfig kAllRules[] = {
    Config(SamplerType::kDdpm, 7), Config(SamplerType::kDdpm, 5, 100),
    Config(SamplerType::kDdim, 6, 100), Config(SamplerType::kDdim, 6, 100, 0.7),
    Config(SamplerType::kDpmSolver2M, 6, 100)};

TEST(DenoisingLoop, ResumesAtAnyStepBitForBit) {
  const SeededNoise noise(99);
  for (const SamplerConfig& config : kAllRules) {
    const Sampler sampler(config);
    const DenoisingLoop loop(sampler, Wobble, noise, NoiseStage::kInterpolation, 1);
    const at::Tensor want = loop.Run(loop.Start({3, 4, 4, 6}));
    for (int64_t stop = 0; stop <= config.steps; ++stop) {
      LoopState saved = loop.Start({3, 4, 4, 6});
      while (saved.next_step < stop) loop.Step(saved);
      // What a checkpoint keeps: plain copies, nothing of this process.
      LoopState restored;
      restored.next_step = saved.next_step;
      restored.x = saved.x.clone();
      if (saved.previous_x0.defined()) restored.previous_x0 = saved.previous_x0.clone();
      const Sampler other_sampler(config);
      const SeededNoise other_noise(99);
      const DenoisingLoop other(other_sampler, Wobble, other_noise, NoiseStage::kInterpolation, 1);
      EXPECT_TRUE(at::equal(other.Run(restored), want))
          << SamplerName(config.type) << " stopped after " << stop;
    }
  }
}

TEST(DenoisingLoop, NeedsThePreviousX0OfAMultistepRule) {
  const SeededNoise noise(99);
  const Sampler sampler(Config(SamplerType::kDpmSolver2M, 6, 100));
  const DenoisingLoop loop(sampler, Wobble, noise, NoiseStage::kKeyframes, 0);
  LoopState state = loop.Start({1, 4, 4, 4});
  loop.Step(state);
  state.previous_x0 = at::Tensor();
  EXPECT_THAT(MessageOf([&] { loop.Run(state); }), HasSubstr("previous_x0"));
}

TEST(DenoisingLoop, StopsWhenCancelled) {
  const SeededNoise noise(1);
  for (const SamplerConfig& config : kAllRules) {
    const Sampler sampler(config);
    for (int64_t allowed = 0; allowed < config.steps; ++allowed) {
      int64_t steps = 0;
      const DenoisingLoop loop(sampler, Wobble, noise, NoiseStage::kKeyframes, 0);
      DenoisingLoop::Hooks hooks;
      hooks.cancelled = [&] { return steps == allowed; };
      hooks.step = [&](const LoopState& state, double seconds) {
        EXPECT_EQ(state.next_step, ++steps);
        EXPECT_GE(seconds, 0);
      };
      EXPECT_THAT(MessageOf(
                      [&] {
                        loop.Run(loop.Start({1, 4, 4, 4}), hooks);
                      },
                      ModelError::Kind::kCancelled),
                  HasSubstr("before step " + std::to_string(allowed)));
      EXPECT_EQ(steps, allowed);
    }
  }
}

TEST(DenoisingLoop, RefusesStatesOutsideTheLoop) {
  const SeededNoise noise(1);
  const Sampler sampler(Config(SamplerType::kDdpm, 4));
  const DenoisingLoop loop(sampler, Wobble, noise, NoiseStage::kKeyframes, 0);
  for (const int64_t step : {-1, 5}) {
    LoopState state = loop.Start({1, 4, 4, 4});
    state.next_step = step;
    EXPECT_THAT(MessageOf([&] { loop.Run(state); }), HasSubstr("next_step"));
  }
  EXPECT_THAT(MessageOf([&] { loop.Run(LoopState{}); }), HasSubstr("defined x"));
  LoopState finished = loop.Start({1, 4, 4, 4});
  finished.next_step = 4;
  EXPECT_TRUE(at::equal(loop.Run(finished), finished.x));
  EXPECT_THAT(MessageOf([&] { loop.Step(finished); }), HasSubstr("next_step is 4"));
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
  config.num_frames = 4;
  config.temporal_variant = TemporalVariant::kConv1dAttn1dBlocks;
  return config;
}

// A small network, a text, "no text" and four noisy frames.
class Guidance : public ::testing::Test {
 protected:
  Guidance() { InitializeWeights(unet, 1); }

  // The conditional half, as a network called by hand takes it.
  UnetInput Input() const {
    UnetInput input;
    input.x = x;
    input.time = at::full({1}, 980, at::kLong);
    input.context = text.context;
    input.context_mask = text.mask;
    return input;
  }

  static at::Tensor Random(at::IntArrayRef shape) {
    return at::randn(shape, at::detail::createCPUGenerator(static_cast<uint64_t>(shape.size())));
  }

  Unet unet{SmallConfig()};
  const TextCondition text{Random({1, 5, 12}), at::ones({1, 5}, at::kLong)};
  const TextCondition null = NullCondition(Random({12}), 5);
  const at::Tensor x = Random({4, 4, 4, 4});
};

TEST_F(Guidance, IsTheSameInOneBatchAndInTwoPasses) {
  at::NoGradGuard no_grad;
  const TextCondition negative{-text.context, text.mask};
  for (const TextCondition& unconditional : {null, negative}) {
    const at::Tensor batch = MakeKeyframeDenoiser(unet, text, unconditional, {5, false})(x, 980);
    const at::Tensor passes = MakeKeyframeDenoiser(unet, text, unconditional, {5, true})(x, 980);
    EXPECT_LT(MaxDifference(batch, passes), 1e-4);
    // (w+1) cond - w uncond, from networks called by hand.
    UnetInput input = Input();
    const at::Tensor cond = unet.forward(input);
    input.context = unconditional.context;
    input.context_mask = unconditional.mask;
    const at::Tensor uncond = unet.forward(input);
    EXPECT_LT(MaxDifference(batch, cond * 6 - uncond * 5), 1e-3);
    EXPECT_GT(MaxDifference(cond, uncond), 1e-3) << "the text has no influence";
    EXPECT_LT(
        MaxDifference(MakeKeyframeDenoiser(unet, text, unconditional, {0, false})(x, 980), cond),
        1e-5);
  }
}

TEST_F(Guidance, TemporalGuidanceLeadsAwayFromFramesOfTheirOwn) {
  at::NoGradGuard no_grad;
  UnetInput input = Input();
  const at::Tensor cond = unet.forward(input);
  const auto apart = [&](int64_t window) {  // each window by itself, at its place in time
    std::vector<at::Tensor> windows;
    input.frames = window;
    for (int64_t first = 0; first < 4; first += window) {
      input.x = x.narrow(0, first, window);
      input.temporal_positions = TemporalPositions(4).narrow(0, first, window);
      windows.push_back(unet.forward(input));
    }
    return at::cat(windows);
  };
  EXPECT_GT(MaxDifference(apart(1), cond), 1e-3) << "frames have no influence on each other";
  EXPECT_GT(MaxDifference(apart(1), apart(2)), 1e-3);

  const auto predict = [&](double scale, const TemporalGuidance& temporal, int64_t time,
                           const at::Tensor& positions = {}) {
    return MakeKeyframeDenoiser(unet, text, null, {.scale = scale, .temporal = temporal},
                                positions)(x, time);
  };
  TemporalGuidance twice{.scale = 2, .from = 300, .to = 980};
  for (const double scale : {0.0, 1.0}) {
    const at::Tensor plain = predict(scale, {}, 980);
    for (const int64_t window : {1, 2}) {
      twice.window = window;
      const at::Tensor difference = cond - apart(window);
      // Without what the places of a frame share, and what all frames do at a place.
      const at::Tensor own = difference - difference.mean({2, 3}, true) - difference.mean(0, true) +
                             difference.mean({0, 2, 3}, true);
      EXPECT_LT(MaxDifference(predict(scale, twice, 980), plain + own * 2), 1e-3);
      EXPECT_TRUE(
          at::equal(predict(scale, twice, 980), predict(scale, twice, 980, TemporalPositions(4))));
    }
  }
  for (const int64_t time : {300, 980}) {
    EXPECT_FALSE(at::equal(predict(1, twice, time), predict(1, {}, time))) << time;
  }
  for (const int64_t time : {299, 981}) {
    EXPECT_TRUE(at::equal(predict(1, twice, time), predict(1, {}, time))) << time;
  }
}

TEST_F(Guidance, NullConditionShowsOneToken) {
  const at::Tensor embedding = Random({12});
  for (const at::Tensor& stored : {embedding, embedding.unsqueeze(0)}) {
    const TextCondition null = NullCondition(stored.to(at::kHalf), 7);
    ASSERT_EQ(null.context.sizes(), (std::vector<int64_t>{1, 7, 12}));
    EXPECT_EQ(null.context.scalar_type(), at::kFloat);
    EXPECT_LT(MaxDifference(null.context[0][0], embedding), 1e-2);
    EXPECT_EQ(null.context.narrow(1, 1, 6).abs().max().item<double>(), 0);
    EXPECT_EQ(null.mask.sum().item<int64_t>(), 1);
    EXPECT_EQ(null.mask[0][0].item<int64_t>(), 1);
  }
  EXPECT_THAT(MessageOf([&] { NullCondition(embedding, 0); }), HasSubstr("tokens"));
  EXPECT_THAT(MessageOf([&] {
                NullCondition(at::zeros({2, 12}), 3);
              }),
              HasSubstr("null embedding"));
}

// The whole keyframe loop with its network: interrupted equals uninterrupted, whatever the rule.
TEST_F(Guidance, KeyframeLoopResumesBitForBit) {
  const SeededNoise noise(17);
  for (const auto& [config, temporal] :
       {std::pair(Config(SamplerType::kDdpm, 4), 0.0),
        std::pair(Config(SamplerType::kDdpm, 4), 2.0),
        std::pair(Config(SamplerType::kDpmSolver2M, 4, 1000), 0.0)}) {
    const Sampler sampler(config);
    const DenoisingLoop loop(
        sampler, MakeKeyframeDenoiser(unet, text, null, {.scale = 5, .temporal = {temporal}}),
        noise, NoiseStage::kKeyframes, 0);
    std::vector<LoopState> states = {loop.Start({4, 4, 4, 6})};
    DenoisingLoop::Hooks hooks;
    hooks.step = [&](const LoopState& state, double) { states.push_back(state); };
    const at::Tensor want = loop.Run(states.front(), hooks);
    const std::vector<LoopState> saved = states;
    for (const LoopState& state : saved) {
      EXPECT_TRUE(at::equal(loop.Run(state), want)) << state.next_step;
    }
  }
}

}  // namespace
}  // namespace kandinsky::model
