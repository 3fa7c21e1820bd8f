// The measures that need tensors, over generators, decoders and methods whose quality is known; and
// that a model directory goes through all of them.
#include <ATen/Parallel.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "training/domain/shapes.h"
#include "training/eval/feature_scores.h"
#include "training/eval/generator.h"
#include "training/eval/interpolation_error.h"
#include "training/eval/metrics.h"
#include "training/eval/prompt_match.h"
#include "training/eval/reconstruction.h"
#include "training/trainers/export.h"
#include "worker/model/error.h"
#include "worker/model/mfi.h"
#include "worker/model/unet.h"
#include "worker/model/weights_init.h"

namespace kandinsky::training {
namespace {

using Json = nlohmann::ordered_json;

at::Tensor Render(const ClipSpec& spec, int frames, int size) {
  std::vector<uint8_t> rgb = RenderClip(spec, frames, size, size);
  return at::from_blob(rgb.data(), {frames, size, size, 3}, at::kByte).clone();
}

// Draws the clip whose number the seed is, moved on by `shift`.
class RenderingGenerator : public ClipGenerator {
 public:
  RenderingGenerator(std::vector<PromptClip> clips, size_t shift)
      : clips_(std::move(clips)), shift_(shift) {}

  at::Tensor Generate(const std::string& prompt, uint64_t seed) override {
    EXPECT_EQ(prompt, clips_.at(seed).prompt);
    return Render(clips_[(seed + shift_) % clips_.size()].spec, 16, 64);
  }

 private:
  const std::vector<PromptClip> clips_;
  const size_t shift_;
};

TEST(EvaluationModelTest, AGeneratorThatReturnsTrueClipsIsAlwaysRight) {
  struct Case {
    size_t shift;
    double least, most;  // of colour and shape both right
  };
  const auto clips = DrawPrompts({.seed = 9, .count = 90});
  for (const Case& c : {Case{0, 1, 1}, Case{1, 0, 0.06}}) {
    RenderingGenerator generator(clips, c.shift);
    std::vector<Json> records;
    for (size_t i = 0; i < clips.size(); ++i) {
      at::Tensor frames;
      records.push_back(RunPrompt(generator, clips[i], i, &frames));
      EXPECT_EQ(frames.sizes(), (std::vector<int64_t>{16, 64, 64, 3}));
    }
    Result result;
    SummarizePrompts(records, false, result);
    EXPECT_GE(result.figures.at("seen.color_and_shape").value, c.least);
    EXPECT_LE(result.figures.at("seen.color_and_shape").value, c.most);
    EXPECT_EQ(result.figures.at("seen.all").value == 1, c.shift == 0);
  }
}

TEST(EvaluationModelTest, ReconstructionOfKnownQuality) {
  const std::vector<Reconstructor> reconstructors = {
      {"image", "exact", [](const at::Tensor& frames) { return frames; }},
      {"video", "off by four levels", [](const at::Tensor& frames) {
         return at::where(frames.ge(128), frames - 4, frames + 4).to(at::kByte);
       }}};
  std::vector<Json> records;
  for (uint64_t i = 0; i < 4; ++i) {
    const ClipSpec spec = ClipAt(1, i, {.motion = Motion::kStill});
    Clip clip;
    clip.frames = Render(spec, 8, 32);
    clip.attributes = {static_cast<int64_t>(spec.shape), static_cast<int64_t>(spec.color), -1, -1};
    records.push_back(ReconstructionRecord(reconstructors, clip, nullptr));
  }
  Result result;
  SummarizeReconstruction(reconstructors, records, false, 1, result);
  EXPECT_TRUE(std::isinf(result.figures.at("image.psnr").value));
  EXPECT_EQ(result.figures.at("image.ssim").value, 1);
  EXPECT_NEAR(result.figures.at("video.psnr").value, 10 * std::log10(255.0 * 255 / 16), 1e-9);
  EXPECT_LT(result.figures.at("video.ssim").value, 1);
  EXPECT_EQ(result.figures.at("video.flicker").value, 0);  // the error stands still
  EXPECT_EQ(result.figures.count("video.perceptual"), 0u);
  // What is asked for is judged; here it is four levels off at most.
  EXPECT_EQ(result.figures.at("image.color_and_shape").value, 1);
  EXPECT_EQ(result.figures.at("video.shape").value, 1);
  EXPECT_EQ(result.figures.at("image.background").count, 0);
  EXPECT_THROW(CompareFrames(at::zeros({2, 8, 8, 3}, at::kByte), at::zeros({1, 8, 8, 3}, at::kByte),
                             nullptr),
               model::ModelError);
}

TEST(EvaluationModelTest, ReconstructionThatLosesTheColor) {
  const std::vector<Reconstructor> gray = {{"image", "gray", [](const at::Tensor& frames) {
                                              return frames.to(at::kFloat)
                                                  .mean(3, /*keepdim=*/true)
                                                  .to(at::kByte)
                                                  .expand_as(frames)
                                                  .contiguous();
                                            }}};
  Clip clip;
  const ClipSpec spec = {.shape = Shape::kSquare,
                         .color = Color::kGreen,
                         .background = Background::kBlack,
                         .motion = Motion::kStill};
  clip.frames = Render(spec, 8, 32);
  clip.attributes = {static_cast<int64_t>(Shape::kSquare), static_cast<int64_t>(Color::kGreen),
                     static_cast<int64_t>(Background::kBlack), -1};
  Result result;
  SummarizeReconstruction(gray, {ReconstructionRecord(gray, clip, nullptr)}, true, 1, result);
  EXPECT_EQ(result.figures.at("held-out.image.shape").value, 1);
  EXPECT_EQ(result.figures.at("held-out.image.color").value, 0);
  EXPECT_EQ(result.figures.at("held-out.image.background").value, 1);
  EXPECT_EQ(result.figures.at("held-out.image.color_and_shape").value, 0);
}

at::Tensor ToLevels(const at::Tensor& latents) {  // a decoder: [T, 4, h, w] -> [T, h, w, 3]
  return latents.narrow(1, 0, 3).permute({0, 2, 3, 1}).clamp(0, 255).to(at::kByte).contiguous();
}

TEST(EvaluationModelTest, InterpolationOfKnownQuality) {
  at::manual_seed(2);
  const at::Tensor t = at::arange(33, at::kFloat).view({33, 1, 1, 1});
  const at::Tensor straight = 100 + t * at::rand({1, 4, 12, 12});
  const at::Tensor wavy = 100 + 40 * at::sin(t / 3 + at::rand({1, 4, 12, 12}));
  at::Tensor truth;  // what the perfect method knows
  const InterpolationMethod perfect = {"ours", "perfect",
                                       [&](const at::Tensor& video, int pass, uint64_t) {
                                         return truth.slice(0, 0, truth.size(0), pass == 0 ? 4 : 1);
                                       }};
  const std::vector<InterpolationMethod> methods = {LinearBlending(), perfect};
  std::vector<Json> records;
  for (const bool fast : {false, true}) {
    truth = fast ? wavy : straight;
    for (uint64_t i = 0; i < 2; ++i) {
      records.push_back(InterpolationRecord(methods, truth, fast, i, ToLevels));
    }
  }
  Result result;
  SummarizeInterpolation(methods, records, 1, result);
  for (const char* question : {"first", "second", "both"}) {
    const std::string name = question;
    EXPECT_LT(result.figures.at(name + ".slow.linear.error").value, 1e-6) << name;
    EXPECT_GT(result.figures.at(name + ".fast.linear.error").value, 0.5) << name;
    EXPECT_LT(result.figures.at(name + ".fast.linear.psnr").value, 60) << name;
    EXPECT_EQ(result.figures.at(name + ".all.ours.error").value, 0) << name;
    EXPECT_TRUE(std::isinf(result.figures.at(name + ".fast.ours.psnr").value)) << name;
    EXPECT_EQ(result.figures.at(name + ".all.ours.flicker").value, 0) << name;
    EXPECT_GT(result.figures.at(name + ".fast.linear.flicker").value, 0) << name;
  }
  // Linear blending by hand, of the fast clip's second pass.
  double sum = 0;
  for (int64_t i = 0; i < 32; ++i) {
    if (i % 4 == 0) continue;
    const at::Tensor blend =
        at::lerp(wavy[i / 4 * 4], wavy[i / 4 * 4 + 4], static_cast<double>(i % 4) / 4);
    sum += (blend - wavy[i]).square().mean().item<double>();
  }
  EXPECT_NEAR(result.figures.at("second.fast.linear.error").value, sum / 24, 1e-3);
  EXPECT_THROW(InterpolationRecord(methods, straight.narrow(0, 0, 32), false, 0, nullptr),
               model::ModelError);
}

TEST(EvaluationModelTest, JackknifeOfAMeanIsItsStudentInterval) {
  const at::Tensor values = at::randn({10}, at::kDouble);
  const Interval want = Mean({values.data_ptr<double>(), 10});
  const Interval got = GroupJackknife(10, [&](const at::Tensor& kept) {
    return values.index_select(0, kept).mean().item<double>();
  });
  EXPECT_NEAR(got.value, want.value, 1e-12);
  EXPECT_NEAR(got.low, want.low, 1e-9);
  EXPECT_NEAR(got.high, want.high, 1e-9);
  EXPECT_TRUE(std::isnan(GroupJackknife(1, [](const at::Tensor&) { return 1.0; }).low));
}

TEST(EvaluationModelTest, FrechetIntervalHoldsTheKnownDistance) {
  at::manual_seed(1);
  const at::Tensor real = at::randn({400, 3}, at::kDouble),
                   other = at::randn({400, 3}, at::kDouble);
  EXPECT_NEAR(FrechetInterval(real, real).value, 0, 1e-6);
  const Interval shifted = FrechetInterval(real, other + 2);  // |2, 2, 2|^2 = 12
  EXPECT_NEAR(shifted.value, 12, 1);
  EXPECT_LT(shifted.low, 12);
  EXPECT_GT(shifted.high, 12);
  EXPECT_THROW(FrechetInterval(real, other.narrow(0, 0, 7)), model::ModelError);
  EXPECT_THROW(ParseFeatureKind("fid"), model::ModelError);
}

TEST(EvaluationModelTest, AModelDirectoryGoesThroughEveryMeasure) {
  at::set_num_threads(1);
  char name[] = "/tmp/kandinsky-evaluation-XXXXXX";
  ASSERT_NE(mkdtemp(name), nullptr);
  const std::string folder = name, preset = KANDINSKY_SOURCE_DIR "/models/tiny";
  const model::ModelConfig config = model::ModelConfig::Load(preset);
  model::WriteRandomModel(config, preset, folder, 1);
  {
    ModelGenerator generator(
        {.model = folder, .level = "low", .width = 32, .height = 32, .steps = 2});
    const at::Tensor clip = generator.Generate("a red circle", 5);
    EXPECT_EQ(clip.sizes(), (std::vector<int64_t>{16, 32, 32, 3}));
    EXPECT_TRUE(clip.equal(generator.Generate("a red circle", 5)));
    EXPECT_FALSE(clip.equal(generator.Generate("a red circle", 6)));
    EXPECT_FALSE(DescribeModel(config, folder).empty());
    EXPECT_THROW(ModelGenerator({.model = folder, .level = "huge"}), model::ModelError);
    EXPECT_THROW(ModelGenerator({.model = folder, .steps = 100000}), model::ModelError);
  }
  const InterpolationSampling sampling = {.steps = 2, .guidance_scale = 0.25};
  const std::string mfi = folder + "/training/mfi.safetensors";
  EXPECT_THROW(MaskedFrameInterpolation(config, mfi, at::kCPU, sampling), model::ModelError);
  {
    model::Unet unet(model::MfiUnetConfig(config.keyframe_unet));
    unet.ResetParameters(1);
    std::map<std::string, at::Tensor> tensors = {
        {"null_embedding", at::zeros({config.keyframe_unet.context_dim}, at::kHalf)}};
    Collect(unet, "unet.", tensors);
    std::filesystem::create_directory(folder + "/training");
    ExportTensors(tensors, mfi);
  }
  const at::Tensor video = at::rand({3, 4, 4, 4});
  for (const InterpolationMethod& method :
       {UnetInterpolation(config, folder, at::kCPU, sampling),
        MaskedFrameInterpolation(config, mfi, at::kCPU, sampling)}) {
    for (const int pass : {0, 1}) {
      const at::Tensor more = method.run(video, pass, 1);
      ASSERT_EQ(more.sizes(), (std::vector<int64_t>{9, 4, 4, 4})) << method.name;
      EXPECT_TRUE(more.slice(0, 0, 9, 4).equal(video)) << method.name;
      EXPECT_TRUE(more.equal(method.run(video, pass, 1))) << method.name;
      EXPECT_FALSE(more.equal(method.run(video, pass, 2))) << method.name;
    }
  }
  std::filesystem::remove_all(folder);
}

}  // namespace
}  // namespace kandinsky::training
