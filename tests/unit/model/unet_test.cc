#include "worker/model/unet.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "worker/model/error.h"
#include "worker/model/layers.h"
#include "worker/model/norm.h"
#include "worker/model/unet_attention.h"

namespace kandinsky::model {
namespace {

using ::testing::HasSubstr;

constexpr TemporalVariant kKeyframeVariants[] = {
    TemporalVariant::kConv1dAttn1dLayers, TemporalVariant::kConv1dAttn1dBlocks,
    TemporalVariant::kConv1dAttn3dBlocks, TemporalVariant::kConv3dAttn1dBlocks};

// Three levels, about 200,000 parameters.
UnetConfig SmallConfig(TemporalVariant variant) {
  UnetConfig config;
  config.model_channels = 16;
  config.init_channels = 16;
  config.time_embed_dim = 24;
  config.context_dim = 12;
  config.groups = 4;
  config.head_dim = 8;
  config.dim_mult = {1, 2, 3};
  config.num_blocks = {2, 3, 2};
  config.add_cross_attention = {false, true, true};
  config.add_self_attention = {true, true, true};
  config.temporal_variant = variant;
  if (config.keyframes()) config.num_frames = 3;
  if (config.interpolation()) {
    config.num_channels = 20;
    config.out_channels = 12;
  }
  return config;
}

// Every parameter random, none zero.
void FillAll(Unet& unet, uint64_t seed) {
  unet.ResetParameters(seed);
  at::NoGradGuard no_grad;
  at::manual_seed(seed);
  for (const auto& parameter : unet.named_parameters()) {
    at::Tensor value = parameter.value();
    if (value.abs().max().item<double>() == 0) value.copy_(at::randn_like(value) * 0.2);
  }
}

UnetInput SmallInput(const UnetConfig& config, int64_t videos, int64_t frames, int64_t height,
                     int64_t width) {
  at::manual_seed(5);
  UnetInput input;
  input.x = at::randn({videos * frames, config.num_channels, height, width});
  input.time = at::full({1}, 500, at::kLong);
  input.context = at::randn({videos, 5, config.context_dim});
  input.context_mask = at::ones({videos, 5}, at::kLong);
  input.context_mask.narrow(1, 3, 2).zero_();
  input.frames = frames;
  input.skip_frames = at::full({1}, 3, at::kLong);
  return input;
}

double MaxDifference(const at::Tensor& a, const at::Tensor& b) {
  return (a.to(at::kDouble) - b.to(at::kDouble)).abs().max().item<double>();
}

// ‖a - b‖ / ‖b‖
double RelativeError(const at::Tensor& a, const at::Tensor& b) {
  const at::Tensor want = b.to(at::kDouble);
  return ((a.to(at::kDouble) - want).norm() / want.norm()).item<double>();
}

std::string MessageOf(const std::function<void()>& call) {
  try {
    call();
  } catch (const ModelError& error) {
    EXPECT_EQ(error.kind(), ModelError::Kind::kInvalidArgument);
    return error.what();
  }
  return "nothing was thrown";
}

TEST(UnetConfig, ReadsThePublishedKeys) {
  const nlohmann::json json = nlohmann::json::parse(R"({
    "model_channels": 8, "init_channels": 8, "num_channels": 20, "out_channels": 12,
    "time_embed_dim": 16, "context_dim": 12, "groups": 2, "head_dim": 8, "expansion_ratio": 4,
    "compression_ratio": 2, "dim_mult": [1, 2], "num_blocks": [2, 3],
    "add_cross_attention": [false, true], "add_self_attention": [false, true],
    "num_frames": null, "interpolation": true})");
  const UnetConfig config = UnetConfig::FromJson(json);
  EXPECT_TRUE(config.interpolation());
  EXPECT_EQ(config.num_blocks, (std::vector<int64_t>{2, 3}));
  EXPECT_EQ(config.add_cross_attention, (std::vector<bool>{false, true}));
  EXPECT_EQ(config.size_multiple(), 2);
}

TEST(UnetConfig, ChoosesTheVariant) {
  struct Case {
    nlohmann::json frames, interpolation, variant;
    TemporalVariant want;
  };
  const Case cases[] = {
      {nullptr, false, nullptr, TemporalVariant::kNone},
      {15, false, nullptr, TemporalVariant::kConv1dAttn1dBlocks},
      {16, false, "Conv1dAttn1dLayers", TemporalVariant::kConv1dAttn1dLayers},
      {16, false, "Conv1dAttn3dBlocks", TemporalVariant::kConv1dAttn3dBlocks},
      {16, false, "Conv3dAttn1dBlocks", TemporalVariant::kConv3dAttn1dBlocks},
      {nullptr, true, nullptr, TemporalVariant::kInterpolation},
      {15, true, nullptr, TemporalVariant::kInterpolation},
  };
  for (const Case& c : cases) {
    nlohmann::json json = SmallConfig(c.interpolation.get<bool>() ? TemporalVariant::kInterpolation
                                                                  : TemporalVariant::kNone)
                              .ToJson();
    json["num_frames"] = c.frames;
    json["interpolation"] = c.interpolation;
    json.erase("temporal_variant");
    if (!c.variant.is_null()) json["temporal_variant"] = c.variant;
    const UnetConfig config = UnetConfig::FromJson(json);
    EXPECT_EQ(TemporalVariantName(config.temporal_variant), TemporalVariantName(c.want)) << json;
    // What is written reads back as the same.
    EXPECT_EQ(UnetConfig::FromJson(config.ToJson()).ToJson(), config.ToJson());
  }
}

TEST(UnetConfig, RefusesWhatNoNetworkCanBeBuiltFrom) {
  struct Case {
    const char* field;
    nlohmann::json value;
    const char* want;
  };
  const Case cases[] = {
      {"init_channels", 2, "init_channels"},
      {"init_channels", 18, "init_channels is 18, must be a multiple of groups (4)"},
      {"num_blocks", {2, 1, 2}, "num_blocks[1] is 1, must be at least 2"},
      {"num_blocks", {2, 2}, "num_blocks is 2, must be as many entries as dim_mult has (3)"},
      {"add_self_attention", {true}, "add_self_attention"},
      {"add_self_attention", {1, 2, 3}, "add_self_attention"},
      {"dim_mult", nlohmann::json::array(), "dim_mult"},
      {"head_dim", 5, "head_dim"},
      {"head_dim", 0, "head_dim"},
      {"groups", 3, "init_channels"},
      {"groups", 16, "hidden part is a multiple of 16"},
      {"compression_ratio", 5, "compression_ratio"},
      {"temporal_variant", "Conv9d", "temporal_variant"},
      {"model_channels", "many", "model_channels"},
      {"model_chanels", 3, "model_chanels"},
  };
  for (const Case& c : cases) {
    nlohmann::json json = SmallConfig(TemporalVariant::kNone).ToJson();
    json[c.field] = c.value;
    EXPECT_THAT(MessageOf([&] { UnetConfig::FromJson(json); }), HasSubstr(c.want)) << json;
  }
}

TEST(Unet, HasThePublishedNumbersOfParameters) {
  struct Case {
    TemporalVariant variant;
    int64_t spatial, temporal;  // 0: not published
  };
  const Case cases[] = {
      {TemporalVariant::kNone, 3038562820, 0},
      {TemporalVariant::kConv1dAttn1dBlocks, 3038562820, 1105176192},
      {TemporalVariant::kConv1dAttn3dBlocks, 3038562820, 1105176192},
      {TemporalVariant::kInterpolation, 3038604300, 833967746},
      {TemporalVariant::kConv3dAttn1dBlocks, 3038562820, 0},
      {TemporalVariant::kConv1dAttn1dLayers, 3038562820, 0},
  };
  for (const Case& c : cases) {
    UnetConfig config;
    config.temporal_variant = c.variant;
    if (config.keyframes()) config.num_frames = 16;
    if (config.interpolation()) {
      config.num_channels = 20;
      config.out_channels = 12;
    }
    const Unet unet(config, at::TensorOptions(at::kMeta));
    int64_t spatial = 0, temporal = 0;
    for (const auto& parameter : unet.named_parameters()) {
      (Unet::IsTemporalParameter(parameter.key()) ? temporal : spatial) +=
          parameter.value().numel();
    }
    EXPECT_EQ(spatial, c.spatial) << TemporalVariantName(c.variant);
    if (c.temporal != 0) {
      EXPECT_EQ(temporal, c.temporal) << TemporalVariantName(c.variant);
    }
    // "About 1 B": the sizes of the variants are comparable.
    if (config.keyframes()) {
      EXPECT_GT(temporal, 800'000'000) << TemporalVariantName(c.variant);
      EXPECT_LT(temporal, 1'300'000'000) << TemporalVariantName(c.variant);
    }
  }
}

// A small keyframe network with the spatial parameters of `image` and new temporal parts.
std::unique_ptr<Unet> VideoFromImage(TemporalVariant variant, const Unet& image) {
  auto video = std::make_unique<Unet>(SmallConfig(variant));
  video->CopySpatialParameters(image);
  video->ResetTemporalParameters(9);
  return video;
}

// Level by level the video network computes what the image network computes.
TEST(Unet, NewTemporalPartsAreTheIdentity) {
  at::NoGradGuard no_grad;
  Unet image(SmallConfig(TemporalVariant::kNone));
  FillAll(image, 3);
  for (const TemporalVariant variant : kKeyframeVariants) {
    const std::unique_ptr<Unet> start = VideoFromImage(variant, image);
    Unet& video = *start;
    const UnetInput input = SmallInput(video.config(), 2, 3, 12, 8);
    UnetInput frames = input;
    frames.context = input.context.repeat_interleave(3, 0);
    frames.context_mask = input.context_mask.repeat_interleave(3, 0);
    EXPECT_TRUE(at::equal(video.forward(input), image.forward(input)))
        << TemporalVariantName(variant);
    EXPECT_LT(MaxDifference(video.forward(input), image.forward(frames)), 1e-5)
        << TemporalVariantName(variant);
    // And they are the identity only until they are trained.
    FillAll(video, 4);
    const at::Tensor together = video.forward(input);
    UnetInput shuffled = input;
    shuffled.x = at::cat({input.x.narrow(0, 0, 2), at::zeros_like(input.x.narrow(0, 0, 1)),
                          input.x.narrow(0, 3, 3)});
    const at::Tensor other = video.forward(shuffled);
    EXPECT_GT(MaxDifference(together[0], other[0]), 1e-4)
        << TemporalVariantName(variant) << ": frame 0 does not see frame 2";
    EXPECT_TRUE(at::equal(together.narrow(0, 3, 3), other.narrow(0, 3, 3)))
        << TemporalVariantName(variant) << ": video 1 sees video 0";
  }
}

TEST(Unet, OpenTemporalBlocksTellEqualFramesApart) {
  at::NoGradGuard no_grad;
  Unet image(SmallConfig(TemporalVariant::kNone));
  FillAll(image, 3);
  for (const TemporalVariant variant : kKeyframeVariants) {
    const std::unique_ptr<Unet> video = VideoFromImage(variant, image);
    video->OpenTemporalBlocks(5);
    UnetInput input = SmallInput(video->config(), 1, 3, 8, 8);
    input.x = input.x.narrow(0, 0, 1).repeat({3, 1, 1, 1});
    const at::Tensor frames = video->forward(input);
    const bool blocks = variant != TemporalVariant::kConv1dAttn1dLayers;
    EXPECT_EQ(MaxDifference(frames[0], frames[2]) > 1e-2, blocks) << TemporalVariantName(variant);
    EXPECT_TRUE(frames.isfinite().all().item<bool>());
  }
}

TEST(Unet, InterpolationStartsFromTheImageNetwork) {
  at::NoGradGuard no_grad;
  Unet image(SmallConfig(TemporalVariant::kNone));
  FillAll(image, 3);
  Unet interpolation(SmallConfig(TemporalVariant::kInterpolation));
  interpolation.CopySpatialParameters(image);
  interpolation.ResetTemporalParameters(1);
  const UnetInput input = SmallInput(interpolation.config(), 2, 3, 8, 8);
  UnetInput middle = input;
  middle.x = input.x.narrow(1, 8, 4);  // the second of the three noisy frames
  const at::Tensor want = image.forward(middle);
  EXPECT_LT(MaxDifference(interpolation.forward(input), want.repeat({1, 3, 1, 1})), 1e-5);
}

TEST(Unet, GradientsReachEveryParameter) {
  for (const TemporalVariant variant :
       {TemporalVariant::kNone, TemporalVariant::kConv1dAttn1dLayers,
        TemporalVariant::kConv1dAttn1dBlocks, TemporalVariant::kConv1dAttn3dBlocks,
        TemporalVariant::kConv3dAttn1dBlocks, TemporalVariant::kInterpolation}) {
    Unet unet(SmallConfig(variant));
    FillAll(unet, 11);
    const UnetInput input = SmallInput(unet.config(), 2, 3, 8, 8);
    unet.forward(input).square().sum().backward();
    for (const auto& parameter : unet.named_parameters()) {
      const at::Tensor gradient = parameter.value().grad();
      ASSERT_TRUE(gradient.defined()) << TemporalVariantName(variant) << " " << parameter.key();
      EXPECT_TRUE(gradient.isfinite().all().item<bool>()) << parameter.key();
      EXPECT_GT(gradient.abs().max().item<double>(), 0)
          << TemporalVariantName(variant) << " " << parameter.key();
    }
    // The path with gradients and the fused one compute the same.
    const at::Tensor with_graph = unet.forward(input).detach();
    at::NoGradGuard no_grad;
    EXPECT_LT(RelativeError(unet.forward(input), with_graph), 1e-5) << TemporalVariantName(variant);
  }
}

// Zero-initialised closing layers get gradients at once and everything before them as soon as they
// have moved, so training can leave the identity.
TEST(Unet, IdentityCanBeLeftByTraining) {
  for (const TemporalVariant variant : kKeyframeVariants) {
    Unet unet(SmallConfig(variant));
    unet.ResetParameters(2);
    const UnetInput input = SmallInput(unet.config(), 1, 3, 8, 8);
    // Each step opens what is closed by zeros alone: branches, then the norms inside them.
    for (int step = 0; step < 3; ++step) {
      unet.zero_grad();
      unet.forward(input).square().sum().backward();
      at::NoGradGuard no_grad;
      for (at::Tensor& parameter : unet.parameters()) {
        parameter.sub_(parameter.grad().sign() * 1e-2);
      }
    }
    for (const auto& parameter : unet.named_parameters()) {
      EXPECT_GT(parameter.value().grad().abs().max().item<double>(), 0)
          << TemporalVariantName(variant) << " " << parameter.key();
    }
  }
}

TEST(Unet, TakesAnyNumberOfKeyframes) {
  struct Case {
    int64_t frames;
    std::vector<double> first;
  };
  // s = 180 / n wherever n divides 180.
  const Case cases[] = {{1, {0}},
                        {4, {0, 45, 90, 135}},
                        {15, {0, 12, 24, 36}},
                        {16, {0, 11.25, 22.5}},
                        {7, {0, 180.0 / 7}},
                        {60, {0, 3, 6, 9}}};
  Unet unet(SmallConfig(TemporalVariant::kConv1dAttn1dBlocks));
  FillAll(unet, 1);
  at::NoGradGuard no_grad;
  for (const Case& c : cases) {
    const at::Tensor positions = TemporalPositions(c.frames);
    ASSERT_EQ(positions.size(0), c.frames);
    for (size_t i = 0; i < c.first.size(); ++i) {
      EXPECT_FLOAT_EQ(positions[static_cast<int64_t>(i)].item<float>(),
                      static_cast<float>(c.first[i]));
    }
    UnetInput input = SmallInput(unet.config(), 1, c.frames, 4, 4);
    const at::Tensor implied = unet.forward(input);
    input.temporal_positions = positions;
    EXPECT_TRUE(at::equal(implied, unet.forward(input)));
    EXPECT_TRUE(implied.isfinite().all().item<bool>());
  }
}

TEST(Unet, OneTextRowPerVideoEqualsOnePerFrame) {
  at::NoGradGuard no_grad;
  for (const TemporalVariant variant :
       {TemporalVariant::kNone, TemporalVariant::kConv1dAttn1dBlocks,
        TemporalVariant::kInterpolation}) {
    Unet unet(SmallConfig(variant));
    FillAll(unet, 8);
    const UnetInput input = SmallInput(unet.config(), 2, 3, 8, 4);
    UnetInput repeated = input;
    repeated.context = input.context.repeat_interleave(3, 0);
    repeated.context_mask = input.context_mask.repeat_interleave(3, 0).to(at::kBool);
    EXPECT_LT(RelativeError(unet.forward(input), unet.forward(repeated)), 1e-5);
  }
}

TEST(Unet, RefusesShapesThatDoNotFit) {
  Unet unet(SmallConfig(TemporalVariant::kConv1dAttn1dBlocks));
  FillAll(unet, 8);
  const UnetInput good = SmallInput(unet.config(), 2, 3, 8, 8);
  struct Case {
    std::function<void(UnetInput&)> spoil;
    const char* want;
  };
  const Case cases[] = {
      {[](UnetInput& i) { i.x = i.x.narrow(2, 0, 6); }, "multiples of 4"},
      {[](UnetInput& i) { i.x = i.x.narrow(1, 0, 3); }, "must be [N, 4, H, W]"},
      {[](UnetInput& i) { i.x = i.x[0]; }, "must be [N, 4, H, W]"},
      {[](UnetInput& i) { i.x = at::Tensor(); }, "undefined"},
      {[](UnetInput& i) { i.frames = 4; }, "multiple of the 4 frames"},
      {[](UnetInput& i) { i.context = i.context.narrow(2, 0, 5); }, "context"},
      {[](UnetInput& i) {
         i.context = i.context.repeat({2, 1, 1});
       },
       "context"},
      {[](UnetInput& i) { i.context_mask = i.context_mask.narrow(1, 0, 2); }, "context_mask"},
      {[](UnetInput& i) { i.time = at::Tensor(); }, "time"},
      {[](UnetInput& i) { i.time = at::zeros({4}); }, "time"},
      {[](UnetInput& i) { i.temporal_positions = at::zeros({5}); }, "temporal_positions"},
  };
  for (const Case& c : cases) {
    UnetInput input = good;
    c.spoil(input);
    EXPECT_THAT(MessageOf([&] { unet.forward(input); }), HasSubstr(c.want));
  }
  Unet interpolation(SmallConfig(TemporalVariant::kInterpolation));
  FillAll(interpolation, 8);
  UnetInput input = SmallInput(interpolation.config(), 1, 3, 8, 8);
  input.skip_frames = at::Tensor();
  EXPECT_THAT(MessageOf([&] { interpolation.forward(input); }), HasSubstr("skip_frames"));
}

TEST(Unet, DoesNotDependOnMemoryOrderOfTheInput) {
  at::NoGradGuard no_grad;
  Unet unet(SmallConfig(TemporalVariant::kConv1dAttn3dBlocks));
  FillAll(unet, 8);
  UnetInput input = SmallInput(unet.config(), 1, 3, 8, 12);
  const at::Tensor want = unet.forward(input);
  input.x = input.x.contiguous(at::MemoryFormat::ChannelsLast);
  EXPECT_TRUE(at::equal(unet.forward(input), want));
  input.x = input.x.transpose(2, 3).contiguous().transpose(2, 3);
  EXPECT_TRUE(at::equal(unet.forward(input), want));
}

TEST(Unet, TracesInnerModulesInOrder) {
  at::NoGradGuard no_grad;
  Unet unet(SmallConfig(TemporalVariant::kConv1dAttn1dBlocks));
  FillAll(unet, 8);
  std::vector<std::string> paths;
  at::Tensor last;
  const at::Tensor out = unet.forward(SmallInput(unet.config(), 1, 3, 8, 8),
                                      [&](const std::string& path, const at::Tensor& output) {
                                        paths.push_back(path);
                                        last = output;
                                      });
  ASSERT_GT(paths.size(), 60u);
  EXPECT_EQ(paths.front(), "to_time_embed.0");
  EXPECT_EQ(paths.back(), "out_layer");
  EXPECT_TRUE(at::equal(last, out));
  const auto at = [&](const std::string& path) {
    return std::find(paths.begin(), paths.end(), path) - paths.begin();
  };
  EXPECT_LT(at("down_samples.1.resnet_attn_blocks.0.0"),
            at("down_samples.1.resnet_attn_blocks.0.3"));
  EXPECT_GT(at("up_samples.1.resnet_attn_blocks.0.0"), at("up_samples.1.resnet_attn_blocks.0.3"));
}

// A mid-size network, to bound what the narrow types cost. The figures are in docs/model.md.
TEST(Unet, LowPrecisionStaysWithinItsBounds) {
  struct Case {
    at::ScalarType dtype;
    double limit;
  };
  const Case cases[] = {{at::kDouble, 2e-5}, {at::kHalf, 1e-2}, {at::kBFloat16, 8e-2}};
  at::NoGradGuard no_grad;
  for (const TemporalVariant variant :
       {TemporalVariant::kConv1dAttn1dBlocks, TemporalVariant::kConv3dAttn1dBlocks,
        TemporalVariant::kInterpolation}) {
    UnetConfig config = SmallConfig(variant);
    config.model_channels = config.init_channels = 32;
    config.time_embed_dim = 64;
    Unet reference(config);
    FillAll(reference, 21);
    const UnetInput input = SmallInput(config, 1, 3, 16, 16);
    const at::Tensor want = reference.forward(input);
    const auto source = reference.named_parameters();
    for (const Case& c : cases) {
      Unet unet(config, at::TensorOptions(c.dtype));
      for (const auto& parameter : unet.named_parameters()) {
        at::Tensor value = parameter.value();
        value.copy_(source[parameter.key()]);
      }
      const at::Tensor got = unet.forward(input);
      EXPECT_EQ(got.scalar_type(), c.dtype);
      EXPECT_LT(RelativeError(got, want), c.limit)
          << TemporalVariantName(variant) << " " << c.dtype;
    }
  }
}

TEST(Sinusoid, HasSinesFirst) {
  const at::Tensor out = blocks::Sinusoid(at::tensor({0, 980}, at::kLong), 8);
  ASSERT_EQ(out.sizes(), (std::vector<int64_t>{2, 8}));
  for (int j = 0; j < 4; ++j) {
    const double angle = 980 * std::pow(10000.0, -j / 3.0);
    EXPECT_NEAR(out[1][j].item<double>(), std::sin(angle), 2e-4) << j;
    EXPECT_NEAR(out[1][4 + j].item<double>(), std::cos(angle), 2e-4) << j;
    EXPECT_EQ(out[0][j].item<double>(), 0);
    EXPECT_EQ(out[0][4 + j].item<double>(), 1);
  }
}

struct NormCase {
  int64_t items, channels, height, width, groups;
  double mean;  // far from zero is where one-pass variances fail
  bool silu;
};

at::Tensor DefinedNorm(const NormCase& c, const at::Tensor& x, const at::Tensor& scale,
                       const at::Tensor& shift) {
  const at::Tensor y = at::group_norm(x, c.groups, {}, {}, 1e-5) * scale.unsqueeze(2).unsqueeze(3) +
                       shift.unsqueeze(2).unsqueeze(3);
  return c.silu ? at::silu(y) : y;
}

TEST(NormScaleShift, EqualsItsDefinition) {
  const NormCase cases[] = {{2, 8, 3, 5, 2, 0, true},     {1, 32, 16, 16, 4, 50, false},
                            {3, 12, 1, 1, 4, 0, true},    {2, 20, 7, 9, 5, -20, true},
                            {4, 64, 32, 32, 16, 3, true}, {1, 3, 9, 9, 1, 0, false}};
  at::manual_seed(1);
  for (const NormCase& c : cases) {
    const at::Tensor x = at::randn({c.items, c.channels, c.height, c.width}) + c.mean;
    const at::Tensor scale = at::randn({c.items, c.channels});
    const at::Tensor shift = at::randn({c.items, c.channels});
    const auto wide = [](const at::Tensor& t) { return t.to(at::kDouble); };
    const at::Tensor want = DefinedNorm(c, wide(x), wide(scale), wide(shift));
    const at::Tensor got = NormScaleShift(x, c.groups, scale, shift, c.silu);
    EXPECT_LT(MaxDifference(got, want), 1e-5 * (1 + std::abs(c.mean))) << c.channels;
    EXPECT_TRUE(got.is_contiguous(at::MemoryFormat::ChannelsLast));
    const at::Tensor exact = NormScaleShift(wide(x), c.groups, wide(scale), wide(shift), c.silu);
    EXPECT_LT(MaxDifference(exact, want), 1e-10);
  }
}

TEST(NormScaleShift, HasTheGradientsOfItsDefinition) {
  const NormCase cases[] = {{2, 8, 3, 5, 2, 0, true},
                            {3, 12, 1, 2, 4, 1, false},
                            {2, 20, 7, 9, 5, -20, true},
                            {4, 64, 16, 32, 16, 3, true}};
  at::manual_seed(2);
  for (const NormCase& c : cases) {
    const at::Tensor x = at::randn({c.items, c.channels, c.height, c.width}) + c.mean;
    const at::Tensor scale = at::randn({c.items, c.channels});
    const at::Tensor shift = at::randn({c.items, c.channels});
    const at::Tensor weight = at::randn(x.sizes());  // of the outputs' sum
    const auto gradients = [&](at::ScalarType type, const auto& norm) {
      std::vector<at::Tensor> inputs;
      for (const at::Tensor& input : {x, scale, shift}) {
        inputs.push_back(input.detach().to(type, /*non_blocking=*/false, /*copy=*/true));
        inputs.back().set_requires_grad(true);
      }
      (norm(inputs[0], inputs[1], inputs[2]) * weight.to(type)).sum().backward();
      for (at::Tensor& input : inputs) input = input.grad();
      return inputs;
    };
    const auto got = gradients(at::kFloat, [&](const auto& a, const auto& b, const auto& d) {
      return NormScaleShift(a, c.groups, b, d, c.silu);
    });
    const auto want = gradients(at::kDouble, [&](const auto& a, const auto& b, const auto& d) {
      return DefinedNorm(c, a, b, d);
    });
    for (size_t i = 0; i < want.size(); ++i) {
      const double size = want[i].abs().max().item<double>();
      EXPECT_LT(MaxDifference(got[i], want[i]), 1e-5 * (1 + std::abs(c.mean)) * size)
          << c.channels << " channels, input " << i;
    }
  }
}

TEST(NormScaleShift, DoesNotHideNaN) {
  at::Tensor x = at::ones({1, 8, 2, 2});
  x[0][3][1][0] = std::nan("");
  const at::Tensor got = NormScaleShift(x, 2, at::ones({1, 8}), at::zeros({1, 8}), true);
  EXPECT_TRUE(got[0][0].isnan().all().item<bool>());
  EXPECT_FALSE(got[0][7].isnan().any().item<bool>());
}

TEST(NormScaleShift, SiluHoldsForHugeValues) {
  const at::Tensor x = at::tensor({-1.0, 1.0, -1.0, 1.0}).reshape({1, 1, 2, 2}).to(at::kFloat);
  const at::Tensor got =
      NormScaleShift(x, 1, at::full({1, 1}, 1e5), at::zeros({1, 1}), true).flatten();
  EXPECT_NEAR(got[0].item<float>(), 0, 1e-6);
  EXPECT_NEAR(got[1].item<float>(), 1e5, 10);
}

TEST(FrameConv, EqualsAConvolutionOverTheVideo) {
  struct Case {
    int64_t time_kernel, spatial_kernel;
  };
  at::manual_seed(3);
  at::NoGradGuard no_grad;
  for (const Case& c : {Case{1, 1}, Case{3, 1}, Case{3, 3}, Case{1, 3}}) {
    blocks::FrameConv conv(6, 5, c.time_kernel, c.spatial_kernel, {});
    conv.weight.copy_(at::randn_like(conv.weight));
    conv.bias.copy_(at::randn_like(conv.bias));
    const at::Tensor x = at::randn({2 * 4, 6, 5, 7});
    const at::Tensor video =
        x.unflatten(0, {2, 4}).transpose(1, 2).contiguous();  // [B, C, T, H, W]
    const at::Tensor want =
        at::conv3d(video, conv.weight.contiguous(), conv.bias, 1,
                   {c.time_kernel / 2, c.spatial_kernel / 2, c.spatial_kernel / 2})
            .transpose(1, 2)
            .flatten(0, 1);
    EXPECT_LT(MaxDifference(conv.forward(x, 4), want), 1e-4)
        << c.time_kernel << " " << c.spatial_kernel;
  }
}

// softmax(q k' / sqrt(d)) v by hand, with masked logits at the lowest finite value.
at::Tensor PlainAttention(const torch::nn::Module& module, const at::Tensor& query,
                          const at::Tensor& context, int64_t head_dim, const at::Tensor& mask,
                          const std::string& prefix = "") {
  const auto weights = module.named_parameters();
  const auto heads = [&](const at::Tensor& x, const char* name) {
    return at::linear(x, weights[prefix + name]).unflatten(2, {-1, head_dim}).transpose(1, 2);
  };
  at::Tensor logits =
      at::matmul(heads(query, "to_query.weight"), heads(context, "to_key.weight").transpose(2, 3)) /
      std::sqrt(static_cast<double>(head_dim));
  if (mask.defined()) {
    logits = logits.masked_fill(mask.eq(0).unsqueeze(1).unsqueeze(1),
                                std::numeric_limits<float>::lowest());
  }
  const at::Tensor out = at::matmul(logits.softmax(3), heads(context, "to_value.weight"));
  return at::linear(out.transpose(1, 2).flatten(2), weights[prefix + "output_layer.weight"]);
}

blocks::Attention RandomAttention(int64_t query_dim, int64_t key_dim, int64_t inner,
                                  int64_t head_dim) {
  blocks::Attention attention(query_dim, key_dim, inner, head_dim, {});
  at::NoGradGuard no_grad;
  for (at::Tensor& parameter : attention.parameters()) parameter.copy_(at::randn_like(parameter));
  return attention;
}

TEST(Attention, MasksAsPublished) {
  at::manual_seed(4);
  at::NoGradGuard no_grad;
  const blocks::Attention attention = RandomAttention(8, 6, 12, 4);
  const at::Tensor query = at::randn({3, 5, 8}), context = at::randn({3, 7, 6});
  at::Tensor some = at::ones({3, 7}, at::kLong);
  some[0].narrow(0, 2, 5).zero_();
  at::Tensor blind = some.clone();
  blind[1].zero_();  // uniform over all tokens, not NaN
  const std::pair<const char*, at::Tensor> cases[] = {
      {"all visible", at::ones({3, 7}, at::kBool)},
      {"undefined", {}},
      {"some hidden", some},
      {"one row hidden", blind},
      {"everything hidden", at::zeros({3, 7}, at::kBool)}};
  for (const auto& [name, mask] : cases) {
    const at::Tensor got =
        attention.forward(query, context, blocks::MakeKeyMask(mask, at::TensorOptions(at::kFloat)));
    EXPECT_LT(RelativeError(got, PlainAttention(attention, query, context, 4, mask)), 1e-5) << name;
  }
}

TEST(Attention, BlindRowsAreUniformInEveryDtype) {
  at::manual_seed(4);
  at::NoGradGuard no_grad;
  for (const at::ScalarType dtype : {at::kDouble, at::kFloat, at::kHalf, at::kBFloat16}) {
    blocks::Attention attention = RandomAttention(8, 6, 12, 4);
    attention.to(dtype);
    const at::TensorOptions options = at::TensorOptions(dtype);
    const at::Tensor query = at::randn({1, 5, 8}).to(dtype) * 10;
    const at::Tensor context = at::randn({1, 7, 6}).to(dtype);
    const at::Tensor got = attention.forward(
        query, context, blocks::MakeKeyMask(at::zeros({1, 7}, at::kBool), options));
    const auto weights = attention.named_parameters();
    const at::Tensor mean =
        at::linear(context, weights["to_value.weight"]).to(at::kFloat).mean(1, true).to(dtype);
    const at::Tensor want = at::linear(mean, weights["output_layer.weight"]).expand_as(got);
    EXPECT_LT(RelativeError(got, want), 2e-2) << dtype;
  }
}

TEST(Attention, OverFramesSeesOnlyTheSamePixel) {
  at::manual_seed(4);
  at::NoGradGuard no_grad;
  const blocks::Attention attention = RandomAttention(12, 12, 12, 4);
  constexpr int64_t kVideos = 2, kFrames = 3, kPixels = 5;
  const at::Tensor x = at::randn({kVideos * kFrames, kPixels, 12});
  // [B*T, HW, C] -> [B*HW, T, C] by copies.
  const at::Tensor sequences =
      x.unflatten(0, {kVideos, kFrames}).transpose(1, 2).contiguous().flatten(0, 1);
  const at::Tensor want = PlainAttention(attention, sequences, sequences, 4, {})
                              .unflatten(0, {kVideos, kPixels})
                              .transpose(1, 2)
                              .flatten(0, 1);
  EXPECT_LT(RelativeError(attention.OverFrames(x, kFrames), want), 1e-5);
}

// Against windows gathered one by one; maps of odd size end in smaller windows.
TEST(TemporalAttentionBlock, AttendsWithinPixelsOrWindows) {
  struct Case {
    int64_t window, height, width;
  };
  constexpr int64_t kVideos = 2, kFrames = 3, kChannels = 8, kHeadDim = 4;
  at::NoGradGuard no_grad;
  for (const Case& c :
       {Case{1, 4, 4}, Case{1, 3, 5}, Case{2, 4, 4}, Case{2, 3, 5}, Case{2, 1, 1}, Case{2, 2, 3}}) {
    at::manual_seed(6);
    blocks::TemporalAttentionBlock block({kChannels, 6, 2, kHeadDim, 2}, c.window == 2, {});
    for (const auto& parameter : block.named_parameters()) {
      // Plain norms and no feed forward leave x + attention(norm(x)).
      const bool plain = parameter.key().find("norm") != std::string::npos ||
                         parameter.key() == "feed_forward.2.weight";
      at::Tensor value = parameter.value();
      value.copy_(plain ? at::zeros_like(value) : at::randn_like(value));
    }
    const at::Tensor time = at::randn({kVideos * kFrames, 6});
    const at::Tensor x = at::randn({kVideos * kFrames, kChannels, c.height, c.width});
    const at::Tensor normed = at::group_norm(x, 2);
    at::Tensor want = x.clone();
    for (int64_t video = 0; video < kVideos; ++video) {
      for (int64_t top = 0; top < c.height; top += c.window) {
        for (int64_t left = 0; left < c.width; left += c.window) {
          const auto cut = [&](const at::Tensor& t) {
            return t.narrow(0, video * kFrames, kFrames)
                .narrow(2, top, std::min(c.window, c.height - top))
                .narrow(3, left, std::min(c.window, c.width - left));
          };
          const at::Tensor piece = cut(normed).permute({0, 2, 3, 1});  // [T, h, w, C]
          const at::Tensor tokens = piece.reshape({1, -1, kChannels});
          cut(want).add_(PlainAttention(block, tokens, tokens, kHeadDim, {}, "temporal_attention.")
                             .reshape(piece.sizes())
                             .permute({0, 3, 1, 2}));
        }
      }
    }
    EXPECT_LT(RelativeError(block.forward(x, time, time, kFrames), want), 1e-5)
        << c.window << " " << c.height << "x" << c.width;
  }
}

}  // namespace
}  // namespace kandinsky::model
