#include "worker/model/pipeline.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <functional>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "worker/model/error.h"
#include "worker/model/json_reader.h"
#include "worker/model/weights_init.h"

namespace kandinsky::model {
namespace {

using ::testing::HasSubstr;

const std::string kModels = std::string(KANDINSKY_SOURCE_DIR) + "/models/";

// The tiny preset with every pass in as many steps as the request says.
ModelConfig TinyConfig() {
  ModelConfig config = ModelConfig::Load(kModels + "tiny");
  config.interpolation_steps_max = 0;
  return config;
}

// A model directory with random weights of TinyConfig, made once and removed at the end.
const std::string& TinyModel() {
  struct Directory {
    Directory() : path(::testing::TempDir() + "/pipeline_test_tiny." + std::to_string(getpid())) {
      WriteRandomModel(TinyConfig(), kModels + "tiny", path, 1);
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

GenerationRequest SmallRequest(int passes) {
  GenerationRequest request;
  request.prompt = "a red car, рыжий кот";
  request.seed = 7;
  request.width = 32;
  request.height = 48;
  request.steps = 4;
  request.guidance_scale = 5;
  request.interpolation_guidance_scale = 0.25;
  request.passes = passes;
  return request;
}

using Json = nlohmann::json;

Json TinyJson() { return ReadJsonFile(kModels + "tiny/model.json"); }

TEST(ModelConfig, PresetsReadAndWriteBackEqual) {
  for (const char* name : {"tiny", "kandinsky-video-1.0"}) {
    const ModelConfig config = ModelConfig::Load(kModels + name);
    EXPECT_EQ(config.name, name);
    EXPECT_EQ(ModelConfig::FromJson(config.ToJson()).ToJson(), config.ToJson());
    EXPECT_EQ(config.keyframes, 16);
    ASSERT_EQ(config.levels.size(), 3u);
    for (const Level& level : config.levels) {
      EXPECT_EQ(level.frames, FrameCount(16, level.passes));
      // Every level lasts about 8 seconds.
      EXPECT_NEAR(static_cast<double>(level.frames) * level.fps_denominator / level.fps_numerator,
                  8, 0.2);
    }
  }
  const ModelConfig full = ModelConfig::Load(kModels + "kandinsky-video-1.0");
  EXPECT_EQ(full.size_multiple(), 64);
  EXPECT_EQ(full.defaults.steps, 50);
}

TEST(ModelConfig, HostileFilesAreRefusedByName) {
  const struct {
    const char* what;
    std::function<void(Json&)> damage;
    const char* want;
  } tests[] = {
      {"no object", [](Json& j) { j = 3; }, "must be an object"},
      {"unknown field", [](Json& j) { j["extra"] = 1; }, "model.json.extra is not a known field"},
      {"missing", [](Json& j) { j.erase("movq"); }, "model.json.movq is missing"},
      {"future", [](Json& j) { j["format_version"] = 2; }, "format_version is 2"},
      {"name", [](Json& j) { j["name"] = "../x"; }, "model.json.name"},
      {"type", [](Json& j) { j["keyframes"] = "16"; }, "keyframes is \"16\""},
      {"huge", [](Json& j) { j["keyframes"] = 1e18; }, "keyframes"},
      {"overflow", [](Json& j) { j["keyframes"] = 18446744073709551615u; }, "keyframes"},
      {"context", [](Json& j) { j["text_encoder"]["context_dim"] = 64; }, "context_dim"},
      {"unet", [](Json& j) { j["keyframe_unet"]["model_channels"] = -1; }, "keyframe_unet"},
      {"unet width", [](Json& j) { j["keyframe_unet"]["num_channels"] = 8; }, "num_channels is 8"},
      {"swapped", [](Json& j) { j["keyframe_unet"] = j["interpolation_unet"]; }, "keyframe_unet"},
      {"multiple", [](Json& j) { j["limits"]["width"]["multiple"] = 8; }, "must be 16"},
      {"range", [](Json& j) { j["limits"]["width"]["max"] = 16; }, "limits.width.max is 16"},
      {"odd size", [](Json& j) { j["defaults"]["width"] = 70; }, "a multiple of 16"},
      {"default steps", [](Json& j) { j["defaults"]["steps"] = 1; }, "defaults.steps is 1"},
      {"guidance", [](Json& j) { j["defaults"]["guidance_scale"] = -1; }, "guidance_scale is -1"},
      {"level", [](Json& j) { j["defaults"]["level"] = "ultra"; }, "defaults.level"},
      {"frames", [](Json& j) { j["levels"][1]["frames"] = 60; }, "levels[1].frames is 60"},
      {"fps",
       [](Json& j) {
         j["levels"][1]["fps"] = {15, 0};
       },
       "levels[1].fps"},
      {"sampler", [](Json& j) { j["keyframe_sampling"]["sampler"] = "magic"; }, "ddpm or ddim"},
      {"schedule", [](Json& j) { j["keyframe_sampling"]["schedule_steps"] = 50; }, "steps.max"},
      {"temporal guidance",
       [](Json& j) {
         j["keyframe_sampling"]["temporal_guidance"] = {{"scale", -1}};
       },
       "keyframe_sampling.temporal_guidance.scale is -1"},
      {"its window",
       [](Json& j) {
         j["keyframe_sampling"]["temporal_guidance"] = {{"window", 3}};
       },
       "temporal_guidance.window is 3, must divide the 16 keyframes"},
      {"its interval",
       [](Json& j) {
         j["keyframe_sampling"]["temporal_guidance"] = {{"from", 500}, {"to", 499}};
       },
       "temporal_guidance.to is 499, must be an integer from 500"},
      {"interpolation's guidance",
       [](Json& j) {
         j["interpolation_sampling"]["temporal_guidance"] = {{"scale", 1}};
       },
       "temporal_guidance is not a known field"},
      {"threshold floor", [](Json& j) { j["interpolation_sampling"]["threshold_floor"] = 0; },
       "interpolation_sampling.threshold_floor is 0"},
      {"interpolation steps", [](Json& j) { j["interpolation_sampling"]["steps_max"] = -1; },
       "steps_max is -1"},
      {"keyframe steps", [](Json& j) { j["keyframe_sampling"]["steps_max"] = 2; },
       "steps_max is not a known field"},
      {"video",
       [](Json& j) {
         j["decoding"]["decoder"] = "video";
         j.erase("video_movq");
         j["weights"].erase("video_movq");
       },
       "there is no video_movq"},
      {"escape", [](Json& j) { j["tokenizer"] = "../../etc/passwd"; }, "tokenizer"},
      {"absolute", [](Json& j) { j["weights"]["movq"]["file"] = "/etc/passwd"; }, "movq.file"},
      {"inside", [](Json& j) { j["weights"]["movq"]["file"] = "a/../../b"; }, "movq.file"},
  };
  for (const auto& test : tests) {
    Json json = TinyJson();
    test.damage(json);
    try {
      ModelConfig::FromJson(json);
      ADD_FAILURE() << test.what << " was accepted";
    } catch (const ModelError& error) {
      EXPECT_EQ(error.kind(), ModelError::Kind::kInvalidArgument) << test.what;
      EXPECT_THAT(error.what(), HasSubstr(test.want)) << test.what;
    }
  }
}

TEST(ModelConfig, FilesThatAreNotJsonAreRefused) {
  const std::string folder = ::testing::TempDir() + "/model_config_test";
  const std::string deep(100000, '[');
  for (const std::string& text : {std::string("{"), std::string(""), std::string("\xff\xfe"), deep,
                                  std::string(2 << 20, ' ')}) {
    std::filesystem::create_directories(folder);
    std::ofstream(folder + "/model.json", std::ios::binary) << text;
    EXPECT_THROW(ModelConfig::Load(folder), ModelError) << text.substr(0, 10);
  }
  try {
    ModelConfig::Load(folder + "/missing");
    ADD_FAILURE();
  } catch (const ModelError& error) {
    EXPECT_EQ(error.kind(), ModelError::Kind::kNotFound);
  }
}

TEST(ValidateRequest, NamesTheFieldAndItsLimit) {
  const ModelConfig config = ModelConfig::Load(kModels + "tiny");
  EXPECT_NO_THROW(ValidateRequest(SmallRequest(2), config));
  const struct {
    std::function<void(GenerationRequest&)> damage;
    const char* want;
  } tests[] = {
      {[](auto& r) { r.prompt = ""; }, "prompt length is 0"},
      {[](auto& r) { r.prompt = std::string(2001, 'a'); }, "prompt length is 2001"},
      {[](auto& r) { r.prompt = "\xc0\x80"; }, "prompt is not valid UTF-8"},
      {[](auto& r) { r.negative_prompt = "\xed\xa0\x80"; }, "negative_prompt is not valid UTF-8"},
      {[](auto& r) { r.width = 33; }, "width is 33, must be a multiple of 16 from 32 to 256"},
      {[](auto& r) { r.height = 512; }, "height is 512"},
      {[](auto& r) { r.steps = 0; }, "steps is 0, must be from 2 to 100"},
      {[](auto& r) { r.guidance_scale = std::nan(""); }, "guidance_scale"},
      {[](auto& r) { r.interpolation_guidance_scale = 6; }, "interpolation_guidance_scale"},
      {[](auto& r) { r.passes = 3; }, "passes is 3, must be from 0 to 2"},
  };
  for (const auto& test : tests) {
    GenerationRequest request = SmallRequest(2);
    test.damage(request);
    try {
      ValidateRequest(request, config);
      ADD_FAILURE() << test.want << " was accepted";
    } catch (const ModelError& error) {
      EXPECT_THAT(error.what(), HasSubstr(test.want));
    }
  }
  GenerationRequest cyrillic = SmallRequest(0);
  cyrillic.prompt.clear();
  for (int i = 0; i < 2000; ++i) cyrillic.prompt += "ж";
  EXPECT_NO_THROW(ValidateRequest(cyrillic, config));
}

TEST(ParsePlacement, KnowsItsNames) {
  EXPECT_EQ(ParsePlacement("cpu", "bfloat16").dtype, at::kBFloat16);
  EXPECT_TRUE(ParsePlacement("cpu", "float32").device.is_cpu());
  for (const char* device : {"", "gpu", "cuda:", "cuda:x", "cuda:-1", "cuda:9999"}) {
    EXPECT_THROW(ParsePlacement(device, "float32"), ModelError) << device;
  }
  EXPECT_THROW(ParsePlacement("cpu", "float64"), ModelError);
}

TEST(WriteRandomModel, IsDeterministic) {
  const std::string copy = TinyModel() + ".copy";
  const ModelConfig config = TinyConfig();
  const auto read = [](const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    return std::string{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  };
  WriteRandomModel(config, kModels + "tiny", copy, 1);
  for (const char* file : {"/movq.safetensors", "/keyframes.safetensors", "/model.json"}) {
    EXPECT_EQ(read(copy + file), read(TinyModel() + file)) << file;
    EXPECT_FALSE(read(copy + file).empty()) << file;
  }
  WriteRandomModel(config, kModels + "tiny", copy, 2);
  EXPECT_NE(read(copy + "/movq.safetensors"), read(TinyModel() + "/movq.safetensors"));
  std::filesystem::remove_all(copy);
}

TEST(Stages, MakeEveryLevelAndReportEachStep) {
  const Placement placement;
  KeyframeStage keyframe_stage(TinyModel(), {placement});
  InterpolationStage interpolation_stage(TinyModel(), {placement});
  DecodingStage decoding_stage(TinyModel(), {placement});
  const GenerationRequest request = SmallRequest(2);
  std::vector<int64_t> steps;
  StageHooks hooks;
  hooks.progress = [&](const StageProgress& progress) {
    steps.push_back(progress.pass * 100 + progress.step);
  };
  const at::Tensor keyframes = keyframe_stage.Run(request, hooks);
  EXPECT_EQ(keyframes.sizes(), (std::vector<int64_t>{16, 4, 6, 4}));
  EXPECT_EQ(steps, (std::vector<int64_t>{1, 2, 3, 4}));
  EXPECT_TRUE(keyframes.isfinite().all().item<bool>());

  EXPECT_TRUE(interpolation_stage.Run(keyframes, SmallRequest(0)).equal(keyframes));
  steps.clear();
  const at::Tensor clip = interpolation_stage.Run(keyframes, request, hooks);
  EXPECT_EQ(clip.sizes(), (std::vector<int64_t>{241, 4, 6, 4}));
  EXPECT_EQ(steps, (std::vector<int64_t>{1, 2, 3, 4, 101, 102, 103, 104}));
  EXPECT_TRUE(clip.slice(0, 0, 241, 16).equal(keyframes));

  // Decoding from the start and from a chunk border, and the preview, give the same pixels.
  const at::Tensor latents = clip.narrow(0, 0, 9);
  std::vector<at::Tensor> chunks;
  std::vector<int64_t> borders;
  const auto keep = [&](int64_t first, const at::Tensor& frames) {
    borders.push_back(first);
    chunks.push_back(frames.clone());
  };
  decoding_stage.Run(latents, {}, keep);
  EXPECT_EQ(borders, (std::vector<int64_t>{0, 5}));
  const at::Tensor frames = at::cat(chunks);
  EXPECT_EQ(frames.sizes(), (std::vector<int64_t>{9, 48, 32, 3}));
  EXPECT_GT(frames.to(at::kFloat).std().item<float>(), 10);  // a picture, not a gray card
  chunks.clear();
  decoding_stage.Run(latents, {}, keep, 5);
  ASSERT_EQ(chunks.size(), 1u);
  EXPECT_TRUE(chunks[0].equal(frames.narrow(0, 5, 4)));
  EXPECT_THROW(decoding_stage.Run(latents, {}, keep, 3), ModelError);
  EXPECT_THROW(decoding_stage.Run(latents, {}, keep, 10), ModelError);
  const at::Tensor preview = keyframe_stage.Preview(latents.narrow(0, 0, 2));
  EXPECT_LE((preview.to(at::kInt) - frames.narrow(0, 0, 2).to(at::kInt)).abs().max().item<int>(),
            1);
}

// TinyModel with another model.json, to be removed by the caller.
std::string TinyModelBut(const std::function<void(Json&)>& change) {
  const std::string model = TinyModel() + ".but";
  std::filesystem::copy(TinyModel(), model);
  Json json = ReadJsonFile(model + "/model.json");
  change(json);
  std::ofstream(model + "/model.json") << json;
  return model;
}

TEST(Stages, InterpolateInFewerStepsIfTheModelSaysSo) {
  const std::string few_steps =
      TinyModelBut([](Json& json) { json["interpolation_sampling"]["steps_max"] = 2; });
  const at::Tensor keyframes = at::randn({2, 4, 4, 4});
  std::vector<int> reported;
  StageHooks hooks;
  hooks.progress = [&](const StageProgress& progress) { reported.push_back(progress.steps); };
  const auto run = [&](const std::string& model, int64_t steps) {
    GenerationRequest request = SmallRequest(1);
    request.width = request.height = 32;
    request.steps = steps;
    InterpolationStage stage(model, {});
    return stage.Run(keyframes, request, hooks);
  };
  const at::Tensor two = run(TinyModel(), 2);
  EXPECT_TRUE(run(few_steps, 2).equal(two));
  EXPECT_TRUE(run(few_steps, 50).equal(two));
  EXPECT_EQ(reported, (std::vector<int>{2, 2, 2, 2, 2, 2}));
  EXPECT_FALSE(run(TinyModel(), 3).equal(two));
  std::filesystem::remove_all(few_steps);
}

TEST(Stages, GuideFramesTogetherIfTheModelSaysSo) {
  const auto run = [&](double scale, int window) {
    const std::string model = TinyModelBut([&](Json& json) {
      json["keyframe_sampling"]["temporal_guidance"] = {{"scale", scale}, {"window", window}};
    });
    const at::Tensor keyframes = KeyframeStage(model, {}).Run(SmallRequest(0));
    std::filesystem::remove_all(model);
    return keyframes;
  };
  const at::Tensor without = run(0, 1), with = run(2, 4);
  EXPECT_TRUE(run(0, 4).equal(without));
  EXPECT_FALSE(with.equal(without));
  EXPECT_FALSE(run(2, 1).equal(with));
}

TEST(Stages, DependOnSeedAndPrompts) {
  KeyframeStage stage(TinyModel(), {});
  const GenerationRequest request = SmallRequest(0);
  const at::Tensor first = stage.Run(request);
  EXPECT_TRUE(stage.Run(request).equal(first));  // also from the embedding cache
  KeyframeStage again(TinyModel(), {});
  EXPECT_TRUE(again.Run(request).equal(first));
  GenerationRequest other = request;
  other.seed = 8;
  EXPECT_FALSE(stage.Run(other).equal(first));
  other = request;
  other.prompt = "a blue square";
  EXPECT_FALSE(stage.Run(other).equal(first));
  other = request;
  other.negative_prompt = "blurry";
  EXPECT_FALSE(stage.Run(other).equal(first));
}

TEST(Stages, ResumeFromEveryCheckpointBitForBit) {
  KeyframeStage keyframe_stage(TinyModel(), {});
  InterpolationStage interpolation_stage(TinyModel(), {});
  GenerationRequest request = SmallRequest(2);
  request.steps = 3;
  std::vector<StageCheckpoint> checkpoints;
  StageHooks hooks;
  hooks.checkpoint_due = [] { return true; };
  hooks.checkpoint = [&](const StageCheckpoint& checkpoint) { checkpoints.push_back(checkpoint); };
  const at::Tensor keyframes = keyframe_stage.Run(request, hooks);
  ASSERT_EQ(checkpoints.size(), 3u);
  for (const StageCheckpoint& checkpoint : checkpoints) {
    EXPECT_TRUE(keyframe_stage.Run(request, {}, checkpoint).equal(keyframes))
        << checkpoint.next_step;
  }
  const at::Tensor few = keyframes.narrow(0, 0, 3);
  checkpoints.clear();
  const at::Tensor clip = interpolation_stage.Run(few, request, hooks);
  EXPECT_EQ(clip.size(0), 33);
  ASSERT_EQ(checkpoints.size(), 6u);
  for (const StageCheckpoint& checkpoint : checkpoints) {
    EXPECT_TRUE(interpolation_stage.Run(few, request, {}, checkpoint).equal(clip))
        << checkpoint.pass << " " << checkpoint.next_step;
  }
  // Checkpoints of another request are refused.
  StageCheckpoint wrong = checkpoints.back();
  wrong.x = at::zeros({1, 2, 3, 4});
  EXPECT_THROW(interpolation_stage.Run(few, request, {}, wrong), ModelError);
  wrong = checkpoints.back();
  wrong.next_step = 99;
  EXPECT_THROW(interpolation_stage.Run(few, request, {}, wrong), ModelError);
  wrong = checkpoints.back();
  wrong.pass = 2;
  EXPECT_THROW(interpolation_stage.Run(few, request, {}, wrong), ModelError);
  wrong = checkpoints.back();
  wrong.video = few;
  EXPECT_THROW(interpolation_stage.Run(few, request, {}, wrong), ModelError);
}

TEST(Stages, CancelWithinOneStep) {
  KeyframeStage stage(TinyModel(), {});
  DecodingStage decoding_stage(TinyModel(), {});
  int steps = 0;
  StageHooks hooks;
  hooks.progress = [&](const StageProgress&) { ++steps; };
  hooks.cancelled = [&] { return steps >= 2; };
  const auto is_cancelled = [](const std::function<void()>& run) {
    try {
      run();
    } catch (const ModelError& error) {
      return error.kind() == ModelError::Kind::kCancelled;
    }
    return false;
  };
  EXPECT_TRUE(is_cancelled([&] { stage.Run(SmallRequest(0), hooks); }));
  EXPECT_EQ(steps, 2);
  EXPECT_TRUE(is_cancelled([&] {
    decoding_stage.Run(at::randn({4, 4, 4, 4}), hooks, [](int64_t, const at::Tensor&) {});
  }));
}

TEST(Stages, RefuseDamagedModelDirectories) {
  const std::string damaged = TinyModel() + ".damaged";
  std::filesystem::copy(TinyModel(), damaged, std::filesystem::copy_options::recursive);
  std::filesystem::resize_file(damaged + "/movq.safetensors", 1000);
  EXPECT_THROW(DecodingStage(damaged, {}), ModelError);
  std::filesystem::remove(damaged + "/movq.safetensors");
  EXPECT_THROW(DecodingStage(damaged, {}), ModelError);
  EXPECT_THROW(KeyframeStage(damaged + "/nowhere", {}), ModelError);
  std::filesystem::remove_all(damaged);
}

}  // namespace
}  // namespace kandinsky::model
