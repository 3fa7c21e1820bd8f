// Frechet distance, Inception Score, CLIPSIM, perceptual distance, and TorchScript extractors.
#include <gtest/gtest.h>
#include <torch/script.h>
#include <torch/torch.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "training/eval/extractor.h"
#include "training/eval/frechet.h"
#include "worker/model/error.h"

namespace kandinsky::training {
namespace {

using Kind = model::ModelError::Kind;

template <typename F>
void ExpectError(Kind kind, const F& call) {
  try {
    call();
    ADD_FAILURE() << "no error";
  } catch (const model::ModelError& error) {
    EXPECT_EQ(error.kind(), kind) << error.what();
  }
}

at::Tensor Doubles(std::vector<double> values, at::IntArrayRef shape) {
  return torch::tensor(values, torch::kDouble).view(shape);
}

TEST(FrechetTest, ValuesByHand) {
  struct Case {
    std::vector<double> mean1, covariance1, mean2, covariance2;
    double want;
  };
  const std::vector<Case> cases = {
      // Equal.
      {{1, 2}, {2, 0.5, 0.5, 1}, {1, 2}, {2, 0.5, 0.5, 1}, 0},
      // Means only: 3^2 + 4^2.
      {{0, 0}, {1, 0, 0, 1}, {3, 4}, {1, 0, 0, 1}, 25},
      // Diagonal: sum of (sqrt(a) - sqrt(b))^2 = (2 - 1)^2 + (3 - 5)^2.
      {{0, 0}, {4, 0, 0, 9}, {0, 0}, {1, 0, 0, 25}, 5},
      // One dimension: (2 - 5)^2 + (1 - 2)^2.
      {{2}, {1}, {5}, {4}, 10},
      // Rank one each, at right angles: no overlap, 1 + 1.
      {{0, 0}, {1, 0, 0, 0}, {0, 0}, {0, 0, 0, 1}, 2},
      // The trace of the root of a 2x2 product is sqrt(trace + 2 sqrt(det)). Product
      // [[2,1],[1,2]] * diag(1,4) has trace 10 and determinant 12.
      {{0, 0}, {2, 1, 1, 2}, {0, 0}, {1, 0, 0, 4}, 9 - 2 * std::sqrt(10 + 2 * std::sqrt(12.0))},
  };
  for (const Case& c : cases) {
    const auto size = static_cast<int64_t>(c.mean1.size());
    const double got =
        FrechetDistance(Doubles(c.mean1, {size}), Doubles(c.covariance1, {size, size}),
                        Doubles(c.mean2, {size}), Doubles(c.covariance2, {size, size}));
    const double back =
        FrechetDistance(Doubles(c.mean2, {size}), Doubles(c.covariance2, {size, size}),
                        Doubles(c.mean1, {size}), Doubles(c.covariance1, {size, size}));
    EXPECT_NEAR(got, c.want, 1e-7);
    EXPECT_NEAR(back, c.want, 1e-7);
  }
  ExpectError(Kind::kInvalidArgument,
              [] { FrechetDistance(at::zeros({2}), at::eye(3), at::zeros({2}), at::eye(2)); });
}

TEST(FrechetTest, StatisticsOfAStream) {
  torch::manual_seed(1);
  // Far from zero, where sums of squares in one pass would lose their digits.
  const at::Tensor features = torch::randn({50, 6}, torch::kDouble) * 0.01 + 1e6;
  FeatureStatistics whole, first, second, empty;
  whole.Add(features);
  first.Add(features.slice(0, 0, 7));
  first.Add(features.slice(0, 7, 20));
  second.Add(features.slice(0, 20, 50));
  first.Merge(second);
  first.Merge(empty);
  empty.Merge(whole);
  const at::Tensor mean = features.mean(0);
  const at::Tensor want = torch::cov(features.t());
  for (const FeatureStatistics* s : {&whole, &first, &empty}) {
    EXPECT_EQ(s->count(), 50);
    EXPECT_TRUE(torch::allclose(s->Mean(), mean, 1e-12));
    EXPECT_TRUE(torch::allclose(s->Covariance(), want, 1e-5, 1e-10));
  }
  EXPECT_NEAR(FrechetDistance(whole, first), 0, 1e-9);
  // Fewer observations than dimensions: singular covariances are allowed.
  FeatureStatistics few;
  few.Add(features.slice(0, 0, 3));
  EXPECT_GT(FrechetDistance(whole, few), 0);
  ExpectError(Kind::kInvalidArgument, [&] { few.Add(at::zeros({2, 5})); });
  ExpectError(Kind::kInvalidArgument, [&] { few.Add(at::zeros({6})); });
  ExpectError(Kind::kInvalidArgument, [] { FeatureStatistics().Mean(); });
}

TEST(InceptionScoreTest, ValuesByHand) {
  // Certain and evenly spread over K classes: K. All the same: 1.
  EXPECT_NEAR(InceptionScore(at::eye(4), 1)[0], 4, 1e-9);
  EXPECT_NEAR(InceptionScore(at::full({6, 5}, 0.2), 1)[0], 1, 1e-9);
  // Two rows (0.9, 0.1), (0.1, 0.9): KL to the even marginal is ln 2 - H(0.9).
  const double entropy = -0.9 * std::log(0.9) - 0.1 * std::log(0.1);
  const at::Tensor p = Doubles({0.9, 0.1, 0.1, 0.9}, {2, 2});
  EXPECT_NEAR(InceptionScore(p, 1)[0], std::exp(std::log(2.0) - entropy), 1e-9);
  // Splits are scored on their own: each of one row has the score 1.
  EXPECT_EQ(InceptionScore(p, 10).size(), 2u);
  EXPECT_NEAR(InceptionScore(p, 2)[1], 1, 1e-9);
  EXPECT_EQ(InceptionScore(at::full({25, 2}, 0.5)).size(), 10u);
  ExpectError(Kind::kInvalidArgument, [] { InceptionScore(at::zeros({0, 3})); });
}

TEST(ClipSimilarityTest, ValuesByHand) {
  // Frames at 0, 60 and 90 degrees from the text, of any length: (1 + 0.5 + 0) / 3.
  const double root3 = std::sqrt(3.0);
  const at::Tensor images = Doubles({2, 0, 1, root3, 0, 5, 0, 1, 0, 1, 0, 1}, {2, 3, 2});
  const std::vector<double> got = ClipSimilarity(images, Doubles({7, 0, 0, 1}, {2, 2}));
  ASSERT_EQ(got.size(), 2u);
  EXPECT_NEAR(got[0], 0.5, 1e-9);
  EXPECT_NEAR(got[1], 1, 1e-9);
  ExpectError(Kind::kInvalidArgument, [&] { ClipSimilarity(images, at::zeros({3, 2})); });
}

TEST(PerceptualDistanceTest, ValuesByHand) {
  // One place: unit vectors (1, 0) and (0, 1) are 2 apart; (3, 0) and (5, 0) are the same.
  const at::Tensor a = Doubles({3, 0, 3, 0}, {2, 2, 1, 1});
  const at::Tensor b = Doubles({0, 8, 5, 0}, {2, 2, 1, 1});
  EXPECT_EQ(PerceptualDistance({a}, {b}), (std::vector<double>{2, 0}));
  EXPECT_EQ(PerceptualDistance({a, a}, {b, b}), (std::vector<double>{4, 0}));
  // Places are averaged: the same in half of the picture.
  const at::Tensor wide_a = at::cat({a, a}, 3);
  const at::Tensor wide_b = at::cat({b, a}, 3);
  EXPECT_EQ(PerceptualDistance({wide_a}, {wide_b}), (std::vector<double>{1, 0}));
  ExpectError(Kind::kInvalidArgument, [&] { PerceptualDistance({a}, {wide_b}); });
}

class ExtractorTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ =
        std::filesystem::temp_directory_path() / ("extractor_test_" + std::to_string(::getpid()));
    std::filesystem::create_directories(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  // A TorchScript file with this forward.
  std::string Save(const std::string& forward) {
    torch::jit::Module module("extractor");
    module.register_parameter("weight", torch::full({1}, 2.0), /*is_buffer=*/false);
    module.define(forward);
    const std::string path = (folder_ / (std::to_string(++files_) + ".pt")).string();
    module.save(path);
    return path;
  }

  std::filesystem::path folder_;
  int files_ = 0;
};

// Mean, minimum, maximum of each sample and the sizes that the network saw.
constexpr char kLook[] = R"(
def forward(self, x):
    y = x.flatten(1)
    sizes = torch.tensor([float(x.size(1)), float(x.size(2)), float(x.size(3))])
    sizes = sizes.unsqueeze(0).expand(x.size(0), 3)
    stats = torch.stack([y.mean(1), y.amin(1), y.amax(1)], 1)
    return torch.cat([stats * self.weight, sizes], 1)
)";

constexpr char kSwitches[] = R"(
def forward(self, x, rescale: bool = False, resize: bool = False, return_features: bool = False):
    flags = torch.tensor([float(rescale), float(resize), float(return_features)])
    flags = flags.unsqueeze(0).expand(x.size(0), 3)
    return torch.cat([flags, x.flatten(1).amax(1, keepdim=True)], 1)
)";

at::Tensor Clips(int64_t batch, int64_t frames, int64_t height, int64_t width, int level) {
  return at::full({batch, frames, height, width, 3}, level, at::TensorOptions().dtype(at::kByte));
}

TEST_F(ExtractorTest, VideoInStyleganVsProtocol) {
  // Without the published switches: resized and scaled here.
  FeatureExtractor plain = FeatureExtractor::Load(Save(kLook), Preprocessing::I3d());
  at::Tensor clips = at::cat({Clips(1, 20, 32, 48, 0), Clips(1, 20, 32, 48, 255)});
  at::Tensor features = plain.Extract(clips);
  EXPECT_EQ(plain.Prepare(clips).sizes(), (at::IntArrayRef{2, 3, 16, 224, 224}));
  EXPECT_TRUE(torch::allclose(features, torch::tensor({{-2.0, -2.0, -2.0, 3.0, 16.0, 224.0},
                                                       {2.0, 2.0, 2.0, 3.0, 16.0, 224.0}},
                                                      torch::kFloat)))
      << features;

  // With them: levels as they are, and the switches set.
  FeatureExtractor published = FeatureExtractor::Load(Save(kSwitches), Preprocessing::I3d());
  features = published.Extract(clips);
  EXPECT_EQ(published.Prepare(clips).sizes(), (at::IntArrayRef{2, 3, 16, 32, 48}));
  EXPECT_TRUE(torch::equal(
      features, torch::tensor({{1.0, 1.0, 1.0, 0.0}, {1.0, 1.0, 1.0, 255.0}}, torch::kFloat)))
      << features;
  ExpectError(Kind::kInvalidArgument, [&] { plain.Extract(Clips(1, 15, 32, 32, 0)); });
  ExpectError(Kind::kInvalidArgument, [&] { plain.Extract(at::zeros({1, 16, 32, 32, 3})); });
  ExpectError(Kind::kInvalidArgument, [&] { plain.Extract(Clips(1, 16, 32, 32, 0).select(0, 0)); });
}

TEST_F(ExtractorTest, ChannelsAndFramesKeepTheirOrder) {
  at::Tensor clips = Clips(2, 3, 4, 5, 0);
  clips[1][2][3][4][0] = 10;
  clips[0][1][0][2][2] = 20;
  Preprocessing raw;
  raw.scale = 255;
  FeatureExtractor video = FeatureExtractor::Load(Save(kLook), raw);
  at::Tensor prepared = video.Prepare(clips);
  EXPECT_EQ(prepared.sizes(), (at::IntArrayRef{2, 3, 3, 4, 5}));
  EXPECT_EQ((prepared[1][0][2][3][4].item<float>()), 10);
  EXPECT_EQ((prepared[0][2][1][0][2].item<float>()), 20);
  EXPECT_EQ(prepared.sum().item<float>(), 30);
  raw.video = false;
  FeatureExtractor image = FeatureExtractor::Load(Save(kLook), raw);
  prepared = image.Prepare(clips);
  EXPECT_EQ(prepared.sizes(), (at::IntArrayRef{6, 3, 4, 5}));
  EXPECT_EQ((prepared[5][0][3][4].item<float>()), 10);
  EXPECT_EQ((prepared[1][2][0][2].item<float>()), 20);
  const at::Tensor features = image.Extract(clips);
  EXPECT_EQ(features.sizes(), (at::IntArrayRef{2, 3, 6}));
  EXPECT_EQ((features[1][2][2].item<float>()), 20);  // weight times the maximum
}

TEST_F(ExtractorTest, ImagesInClipsProtocol) {
  FeatureExtractor clip = FeatureExtractor::Load(Save(kLook), Preprocessing::ClipImage());
  // Gray of the level that CLIP's mean has in the first channel: 0.4815 * 255 = 122.8.
  const at::Tensor clips = Clips(2, 3, 32, 64, 123);
  const at::Tensor prepared = clip.Prepare(clips);
  EXPECT_EQ(prepared.sizes(), (at::IntArrayRef{6, 3, 224, 224}));
  EXPECT_NEAR((prepared[0][0][100][100].item<double>()), (123 / 255.0 - 0.48145466) / 0.26862954,
              1e-4);
  EXPECT_NEAR((prepared[5][2][0][223].item<double>()), (123 / 255.0 - 0.40821073) / 0.27577711,
              1e-4);
  EXPECT_EQ(clip.Extract(clips).sizes(), (at::IntArrayRef{2, 3, 6}));
  // The middle of a wide picture is kept: left third black, middle gray, right third white.
  at::Tensor wide = Clips(1, 1, 30, 90, 128);
  wide.narrow(3, 0, 30).fill_(0);
  wide.narrow(3, 60, 30).fill_(255);
  const at::Tensor middle = clip.Prepare(wide);
  const double gray = (128 / 255.0 - 0.48145466) / 0.26862954;
  EXPECT_NEAR((middle[0][0][10][112].item<double>()), gray, 1e-3);
  EXPECT_NEAR((middle[0][0][10][20].item<double>()), gray, 1e-3);
  EXPECT_NEAR((middle[0][0][10][204].item<double>()), gray, 1e-3);
}

TEST_F(ExtractorTest, InceptionsSwitches) {
  const std::string path = Save(R"(
def forward(self, x, return_features: bool = False, no_output_bias: bool = False):
    return torch.tensor([[float(return_features), float(no_output_bias)]]).expand(x.size(0), 2)
)");
  for (const bool features : {true, false}) {
    FeatureExtractor inception = FeatureExtractor::Load(path, Preprocessing::Inception(features));
    const at::Tensor got = inception.Extract(Clips(1, 2, 8, 8, 1));
    EXPECT_EQ((got[0][1][0].item<float>()), features);
    EXPECT_EQ((got[0][1][1].item<float>()), !features);
  }
}

TEST_F(ExtractorTest, Texts) {
  TextExtractor text = TextExtractor::Load(Save(R"(
def forward(self, tokens):
    return torch.stack([tokens.float().mean(1), tokens.float().amax(1)], 1)
)"));
  const at::Tensor features = text.Extract(torch::tensor({{1, 1, 3}, {7, 0, 0}}, torch::kLong));
  EXPECT_EQ(features.sizes(), (at::IntArrayRef{2, 2}));
  EXPECT_EQ((features[0][1].item<float>()), 3);
  EXPECT_EQ((features[1][1].item<float>()), 7);
  ExpectError(Kind::kInvalidArgument, [&] { text.Extract(at::zeros({2, 3})); });
}

TEST_F(ExtractorTest, BadFilesAndResults) {
  ExpectError(Kind::kNotFound, [&] {
    FeatureExtractor::Load((folder_ / "none.pt").string(), Preprocessing::C3d());
  });
  const std::string broken = (folder_ / "broken.pt").string();
  std::ofstream(broken) << "not a zip file";
  ExpectError(Kind::kDataLoss, [&] { FeatureExtractor::Load(broken, Preprocessing::C3d()); });
  ExpectError(Kind::kDataLoss, [&] { TextExtractor::Load(broken); });
  FeatureExtractor wrong = FeatureExtractor::Load(Save(R"(
def forward(self, x):
    return x
)"),
                                                  Preprocessing::C3d());
  ExpectError(Kind::kInvalidArgument, [&] { wrong.Extract(Clips(1, 16, 8, 8, 1)); });
  FeatureExtractor none = FeatureExtractor::Load(Save(R"(
def forward(self, x):
    return x.sum()
)"),
                                                 Preprocessing::C3d());
  ExpectError(Kind::kInvalidArgument, [&] { none.Extract(Clips(1, 16, 8, 8, 1)); });
  // Trailing dimensions of size one are features, too.
  FeatureExtractor column = FeatureExtractor::Load(Save(R"(
def forward(self, x):
    return x.mean([2, 3, 4], keepdim=True)
)"),
                                                   Preprocessing::C3d());
  EXPECT_EQ(column.Extract(Clips(2, 16, 8, 8, 1)).sizes(), (at::IntArrayRef{2, 3}));
}

}  // namespace
}  // namespace kandinsky::training
