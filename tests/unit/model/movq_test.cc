#include "worker/model/movq.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "worker/model/error.h"
#include "worker/model/movq_norm.h"
#include "worker/model/vector_quantizer.h"
#include "worker/model/weights_init.h"

namespace kandinsky::model {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

MovqConfig SmallConfig(bool video) {
  MovqConfig config;
  config.resolution = 16;
  config.ch = 32;
  config.ch_mult = {1, 2};
  config.num_res_blocks = 1;
  config.attn_resolutions = {8};
  config.temporal = config.temporal_attention_block = video;
  return config;
}

std::unique_ptr<Movq> MakeMovq(const MovqConfig& config) {
  auto movq = std::make_unique<Movq>(config);
  InitializeWeights(*movq, 3);
  movq->eval();
  return movq;
}

double MaxDifference(const at::Tensor& a, const at::Tensor& b) {
  EXPECT_EQ(a.sizes(), b.sizes());
  return (a.to(at::kDouble) - b.to(at::kDouble)).abs().max().item<double>();
}

TEST(DecodeChunkLengths, FollowThePublishedPipeline) {
  const struct {
    int64_t frames;
    std::vector<int64_t> want;
  } tests[] = {{0, {}},
               {1, {1}},
               {3, {3}},
               {4, {4}},
               {8, {4, 4}},
               {9, {5, 4}},
               {13, {5, 5, 3}},
               {15, {5, 5, 5}},
               {16, {4, 4, 4, 4}},
               {33, {5, 5, 5, 5, 5, 5, 3}}};
  for (const auto& test : tests) {
    EXPECT_EQ(DecodeChunkLengths(test.frames), test.want) << test.frames;
  }
  const std::vector<int64_t> high = DecodeChunkLengths(241);
  EXPECT_EQ(high.size(), 49u);
  EXPECT_EQ(high.front(), 5);
  EXPECT_EQ(high.back(), 1);
}

TEST(ToPixels, ClipsAndTruncates) {
  const at::Tensor decoded =
      at::tensor({-2.f, -1.f, 0.f, 0.999f, 1.f, 9.f, std::nanf("")}).view({1, 1, 1, 7});
  const at::Tensor pixels = ToPixels(decoded);
  EXPECT_EQ(pixels.sizes(), (std::vector<int64_t>{1, 1, 7, 1}));
  std::vector<int> got;
  for (int i = 0; i < 7; ++i) got.push_back(pixels[0][0][i][0].item<int>());
  EXPECT_THAT(got, ElementsAre(0, 0, 127, 254, 255, 255, 0));
}

TEST(Movq, ImageDecoderTreatsFramesOnTheirOwn) {
  at::NoGradGuard no_grad;
  const auto movq = MakeMovq(SmallConfig(false));
  const at::Tensor z = at::randn({5, 4, 4, 6});
  const at::Tensor whole = movq->Decode(z);
  EXPECT_EQ(whole.sizes(), (std::vector<int64_t>{5, 3, 8, 12}));
  int64_t first = 0;
  for (const int64_t length : {2, 1, 2}) {
    EXPECT_LT(
        MaxDifference(movq->Decode(z.narrow(0, first, length)), whole.narrow(0, first, length)),
        2e-5);
    first += length;
  }
}

TEST(Movq, VideoDecoderMixesTheFramesOfAClipOnly) {
  at::NoGradGuard no_grad;
  const auto movq = MakeMovq(SmallConfig(true));
  const at::Tensor z = at::randn({6, 4, 4, 4});
  // Two clips in one call equal two calls.
  const at::Tensor clips = movq->Decode(z, {}, 3);
  EXPECT_LT(MaxDifference(clips.narrow(0, 0, 3), movq->Decode(z.narrow(0, 0, 3))), 2e-5);
  EXPECT_LT(MaxDifference(clips.narrow(0, 3, 3), movq->Decode(z.narrow(0, 3, 3))), 2e-5);
  // The last frame of a clip reaches its first, but not another clip.
  at::Tensor changed = z.clone();
  changed[2] += 1;
  const at::Tensor after = movq->Decode(changed, {}, 3);
  EXPECT_GT(MaxDifference(after[0], clips[0]), 1e-3);
  EXPECT_LT(MaxDifference(after.narrow(0, 3, 3), clips.narrow(0, 3, 3)), 2e-5);
}

TEST(Movq, VideoDecoderWithMergeZeroIsTheImageDecoder) {
  at::NoGradGuard no_grad;
  MovqConfig config = SmallConfig(true);
  config.temporal_attention_block = false;
  const auto video = MakeMovq(config);
  const auto image = MakeMovq(SmallConfig(false));  // same names, same weights
  for (auto& parameter : video->named_parameters()) {
    if (parameter.key().find("temporal_merge") != std::string::npos) parameter.value().zero_();
  }
  // One frame a clip, so that the attention norms see each frame's own latent.
  const at::Tensor z = at::randn({3, 4, 4, 4});
  EXPECT_LT(MaxDifference(video->Decode(z, {}, 1), image->Decode(z)), 2e-5);
}

TEST(Movq, BoundedDecodingEqualsWholeDecoding) {
  at::NoGradGuard no_grad;
  for (const bool video : {false, true}) {
    const auto movq = MakeMovq(SmallConfig(video));
    const at::Tensor z = at::randn({3, 4, 8, 6});
    const at::Tensor whole = movq->Decode(z);
    // From one row at a time to everything at once.
    for (const int64_t bytes : {1 << 10, 20 << 10, 64 << 10, 150 << 10, 1 << 20, 1 << 30}) {
      EXPECT_LT(MaxDifference(movq->Decode(z, {bytes}), whole), 5e-5)
          << (video ? "video " : "image ") << bytes;
    }
  }
}

TEST(Movq, FusedPathEqualsDifferentiablePath) {
  for (const bool video : {false, true}) {
    const auto movq = MakeMovq(SmallConfig(video));
    const at::Tensor z = at::randn({2, 4, 4, 4}), images = at::rand({2, 3, 8, 8}) * 2 - 1;
    const at::Tensor decoded = movq->Decode(z), encoded = movq->Encode(images);
    ASSERT_TRUE(decoded.requires_grad());
    at::NoGradGuard no_grad;
    EXPECT_LT(MaxDifference(movq->Decode(z), decoded), 2e-5);
    EXPECT_LT(MaxDifference(movq->Encode(images), encoded), 2e-5);
  }
}

TEST(Movq, GradientsReachEveryParameter) {
  MovqConfig config = SmallConfig(true);
  const auto movq = MakeMovq(config);
  const at::Tensor images = at::rand({2, 3, 8, 8}) * 2 - 1;
  movq->Decode(movq->Encode(images)).pow(2).sum().backward();
  for (const auto& parameter : movq->named_parameters()) {
    const std::string& name = parameter.key();
    // The published video decoder does not condition the norms of temporal attention.
    const bool unused = name.find("temporal_attn") != std::string::npos &&
                        name.find("norm.conv_") != std::string::npos;
    EXPECT_EQ(parameter.value().grad().defined(), !unused) << name;
  }
}

TEST(Movq, BuildsOnTheMetaDevice) {
  MovqConfig config;  // full size
  const Movq image(config, at::TensorOptions(at::kMeta));
  int64_t count = 0;
  for (const auto& parameter : image.parameters()) count += parameter.numel();
  EXPECT_EQ(count, 270603567);
  config.temporal = config.temporal_attention_block = true;
  const Movq video(config, at::TensorOptions(at::kMeta), /*decoder_only=*/true);
  count = 0;
  for (const auto& parameter : video.named_parameters()) {
    if (parameter.key().rfind("decoder.", 0) == 0) count += parameter.value().numel();
  }
  EXPECT_EQ(count, 556645919);
}

TEST(Movq, LowPrecisionStaysCloseToFloat32) {
  at::NoGradGuard no_grad;
  const auto movq = MakeMovq(SmallConfig(true));
  const at::Tensor z = at::randn({3, 4, 8, 8});
  const at::Tensor want = movq->Decode(z);
  const struct {
    at::ScalarType dtype;
    double limit;  // mean absolute error over mean absolute value
  } tests[] = {{at::kBFloat16, 0.04}, {at::kHalf, 0.006}};
  for (const auto& test : tests) {
    const auto low = MakeMovq(SmallConfig(true));
    low->to(test.dtype);
    const at::Tensor got = low->Decode(z).to(at::kFloat);
    const double error = ((got - want).abs().mean() / want.abs().mean()).item<double>();
    EXPECT_LT(error, test.limit) << test.dtype;
    EXPECT_GT(error, 1e-6) << test.dtype;
  }
}

TEST(Movq, RefusesWrongShapes) {
  const auto movq = MakeMovq(SmallConfig(false));
  EXPECT_THROW(movq->Decode(at::randn({1, 3, 4, 4})), ModelError);
  EXPECT_THROW(movq->Decode(at::randn({4, 4, 4})), ModelError);
  EXPECT_THROW(movq->Decode(at::randn({4, 4, 4, 4}), {}, 3), ModelError);
  EXPECT_THROW(movq->Encode(at::randn({1, 3, 7, 8})), ModelError);
}

TEST(MovqNorm, StatisticsHoldFarFromZero) {
  // A mean a thousand times the deviation: one-pass sums of squares in float32 would be all error.
  const at::Tensor x = (at::randn({2, 64, 9, 7}) + 1000).contiguous(at::MemoryFormat::ChannelsLast);
  const at::Tensor weight = at::ones({64}), bias = at::zeros({64});
  const at::Tensor want = at::group_norm(x.to(at::kDouble), kMovqGroups, weight.to(at::kDouble),
                                         bias.to(at::kDouble), kMovqEpsilon);
  const at::Tensor got = NormActivate(x, {weight, bias, {}, {}, false});
  EXPECT_LT(MaxDifference(got, want), 2e-3);  // the input itself is rounded at 6e-5
}

TEST(VectorQuantizer, PicksTheNearestEntryAndPassesGradients) {
  torch::manual_seed(5);
  VectorQuantizer quantizer(16, 4);
  at::Tensor codebook = quantizer.parameters()[0];
  {
    at::NoGradGuard no_grad;
    codebook.normal_();
  }
  at::Tensor z = at::randn({2, 4, 3, 3}).requires_grad_();
  const QuantizedLatents result = quantizer.forward(z);
  // Brute force.
  const at::Tensor flat = z.detach().permute({0, 2, 3, 1}).reshape({-1, 1, 4});
  const at::Tensor nearest =
      (flat - codebook.detach().unsqueeze(0)).pow(2).sum(2).argmin(1).view({2, 3, 3});
  EXPECT_TRUE(result.indices.equal(nearest));
  EXPECT_LT(MaxDifference(result.latents, quantizer.Lookup(nearest)), 1e-6);
  // Straight through: the output's gradient arrives at the input unchanged, and not at the
  // codebook.
  const at::Tensor weight = at::randn({2, 4, 3, 3});
  const auto straight = torch::autograd::grad({(result.latents * weight).sum()}, {z, codebook}, {},
                                              true, false, /*allow_unused=*/true);
  EXPECT_LT(MaxDifference(straight[0], weight), 1e-6);
  EXPECT_TRUE(!straight[1].defined() || straight[1].abs().max().item<double>() == 0);
  // The loss moves both sides towards each other, the encoder with weight beta.
  const at::Tensor difference = (z - quantizer.Lookup(nearest)).detach();
  const auto loss = torch::autograd::grad({result.loss}, {z, codebook});
  EXPECT_LT(MaxDifference(loss[0], difference * (2 * 0.25 / z.numel())), 1e-6);
  at::Tensor pull = at::zeros({16, 4});
  pull.index_add_(0, nearest.flatten(),
                  difference.permute({0, 2, 3, 1}).reshape({-1, 4}) * (-2.0 / z.numel()));
  EXPECT_LT(MaxDifference(loss[1], pull), 1e-6);
  EXPECT_DOUBLE_EQ(quantizer.Perplexity(at::zeros({4, 1, 1}, at::kLong)), 1);
  EXPECT_NEAR(quantizer.Perplexity(at::arange(16).view({16, 1, 1})), 16, 1e-9);
}

TEST(MovqConfig, RefusesWhatNoNetworkCanBeBuiltFrom) {
  const nlohmann::json good = SmallConfig(true).ToJson();
  EXPECT_EQ(MovqConfig::FromJson(good).ToJson(), good);
  const struct {
    const char* field;
    nlohmann::json value;
    const char* want;
  } tests[] = {
      {"ch", 30, "movq.ch is 30"},
      {"ch", 48, "a multiple of 32"},
      {"ch_mult", nlohmann::json::array(), "movq.ch_mult"},
      {"ch_mult", {1, -1}, "movq.ch_mult"},
      {"num_res_blocks", 0, "movq.num_res_blocks is 0"},
      {"num_res_blocks", "two", "movq.num_res_blocks is \"two\""},
      {"double_z", true, "movq.double_z is true, must be false"},
      {"temporal_kernel_size", {2, 3, 3}, "three odd numbers"},
      {"surprise", 1, "movq.surprise is not a known field"},
  };
  for (const auto& test : tests) {
    nlohmann::json bad = good;
    bad[test.field] = test.value;
    try {
      MovqConfig::FromJson(bad);
      ADD_FAILURE() << test.field << " = " << test.value << " was accepted";
    } catch (const ModelError& error) {
      EXPECT_EQ(error.kind(), ModelError::Kind::kInvalidArgument);
      EXPECT_THAT(error.what(), HasSubstr(test.want));
    }
  }
}

}  // namespace
}  // namespace kandinsky::model
