// From the published files to a model directory that runs.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ATen/ATen.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>

#include "tests/unit/model/checkpoint_files.h"
#include "worker/model/checkpoint/safetensors.h"
#include "worker/model/error.h"
#include "worker/model/model_config.h"
#include "worker/model/pipeline.h"
#include "worker/model/tools/convert.h"
#include "worker/model/tools/recorded_noise.h"

namespace kandinsky::model {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using ::testing::Not;
using testing::TemporaryFolder;

const std::string kCases = std::string(KANDINSKY_SOURCE_DIR) + "/tests/parity/";

nlohmann::json ReadJson(const std::string& path) {
  std::ifstream file(path);
  return nlohmann::json::parse(file);
}

// model.json for a recorded pipeline case.
nlohmann::json ConfigOf(const nlohmann::json& recorded) {
  nlohmann::json config = ReadJson(std::string(KANDINSKY_SOURCE_DIR) + "/models/tiny/model.json");
  for (const char* name : {"text_encoder", "keyframe_unet", "interpolation_unet", "movq"}) {
    config[name] = recorded["config"][name];
  }
  config.erase("video_movq");
  config.erase("variant");
  config["decoding"] = {{"decoder", "image"}};
  const int64_t keyframes = recorded["config"]["keyframe_unet"]["num_frames"];
  config["keyframes"] = keyframes;
  config["keyframe_sampling"] = {{"percentile", 0.98}};
  config["interpolation_sampling"] = {{"percentile", 0.98}, {"skip_frames", {3, 1}}};
  config["levels"] = nlohmann::json::array();
  int64_t frames = keyframes;
  for (const char* name : {"low", "medium", "high"}) {
    config["levels"].push_back(
        {{"name", name}, {"passes", config["levels"].size()}, {"frames", frames}, {"fps", {2, 1}}});
    frames = 4 * frames - 3;
  }
  config["limits"]["width"] = {{"min", 16}, {"max", 64}, {"multiple", 16}};
  config["limits"]["height"] = config["limits"]["width"];
  config["limits"]["pixels_max"] = 64 * 64;
  config["limits"]["steps"] = {{"min", 2}, {"max", 100}};
  config["defaults"]["width"] = 32;
  config["defaults"]["height"] = 32;
  config["weights"] = {
      {"text_encoder", {{"file", "text_encoder.safetensors"}}},
      {"projection", {{"file", "keyframes.safetensors"}, {"prefix", "projections."}}},
      {"keyframe_unet", {{"file", "keyframes.safetensors"}, {"prefix", "unet."}}},
      {"keyframe_null", {{"file", "keyframes.safetensors"}, {"prefix", "null_embedding"}}},
      {"interpolation_unet", {{"file", "more/interpolation.safetensors"}, {"prefix", "u."}}},
      {"interpolation_null", {{"file", "more/interpolation.safetensors"}, {"prefix", "none"}}},
      {"movq", {{"file", "movq.safetensors"}}}};
  return config;
}

struct Prepared {
  explicit Prepared(const std::string& name)
      : path(kCases + name), recorded(ReadJson(path + "/case.json")) {
    options.weights = path + "/weights";
    options.text_encoder = path + "/text_encoder";
    options.config = folder.Write("config.json", ConfigOf(recorded).dump());
    options.out = folder.Path("model");
  }
  std::string Run() const {
    std::ostringstream log;
    Convert(options, log);
    return log.str();
  }
  std::string Complaint() const {
    try {
      Run();
      return "";
    } catch (const ModelError& error) {
      return error.what();
    }
  }

  const TemporaryFolder folder;
  const std::string path;
  const nlohmann::json recorded;
  ConvertOptions options;
};

double Distance(const at::Tensor& a, const at::Tensor& b) {
  EXPECT_EQ(a.sizes(), b.sizes());
  return (a.to(at::kDouble) - b.to(at::kDouble)).abs().max().item<double>();
}

// Runs all three stages of a converted directory on recorded noise.
TEST(ConvertTest, AConvertedModelGivesTheRecordedVideo) {
  for (const char* name : {"pipeline_safetensors", "pipeline_sharded_bin"}) {
    const Prepared prepared(name);
    const std::string log = prepared.Run();
    EXPECT_THAT(log, HasSubstr("more/interpolation.safetensors"));
    const SafetensorsFile inputs(prepared.path + "/inputs.safetensors");
    const SafetensorsFile outputs(prepared.path + "/outputs.safetensors");
    RecordedNoise noise;
    noise.Add(NoiseStage::kKeyframes, 0, inputs.Read("keyframes.initial_noise"),
              inputs.Read("keyframes.noise"));
    noise.Add(NoiseStage::kInterpolation, 0, inputs.Read("medium.initial_noise"),
              inputs.Read("medium.noise"));
    noise.Add(NoiseStage::kInterpolation, 1, inputs.Read("high.initial_noise"),
              inputs.Read("high.noise"));
    GenerationRequest request;
    request.prompt = prepared.recorded["prompt"];
    if (prepared.recorded["negative_prompt"].is_string()) {
      request.negative_prompt = prepared.recorded["negative_prompt"];
    }
    request.width = prepared.recorded["width"];
    request.height = prepared.recorded["height"];
    request.steps = prepared.recorded["steps"];
    request.guidance_scale = prepared.recorded["guidance_scale"];
    request.interpolation_guidance_scale = prepared.recorded["interpolation_guidance_scale"];

    const std::string& directory = prepared.options.out;
    const at::Tensor keyframes = KeyframeStage(directory, {}).Run(request, {}, {}, &noise);
    EXPECT_LT(Distance(keyframes, outputs.Read("keyframes")), 2e-3) << name;
    const at::Tensor video =
        InterpolationStage(directory, {}).Run(keyframes, request, {}, {}, &noise);
    EXPECT_LT(Distance(video, outputs.Read("high")), 2e-3) << name;
    std::vector<at::Tensor> frames;
    DecodingStage(directory, {}).Run(video, {}, [&](int64_t, const at::Tensor& chunk) {
      frames.push_back(chunk.clone());
    });
    EXPECT_LE(Distance(at::cat(frames).permute({0, 3, 1, 2}), outputs.Read("frames_uint8")), 1)
        << name;
  }
}

TEST(ConvertTest, KeepsOrConvertsTypes) {
  struct Case {
    std::optional<at::ScalarType> dtype;
    at::ScalarType unet, text, movq;
  };
  for (const Case& c : {Case{std::nullopt, at::kHalf, at::kBFloat16, at::kFloat},
                        Case{at::kFloat, at::kFloat, at::kFloat, at::kFloat},
                        Case{at::kBFloat16, at::kBFloat16, at::kBFloat16, at::kBFloat16}}) {
    Prepared prepared("pipeline_sharded_bin");
    prepared.options.dtype = c.dtype;
    prepared.Run();
    const std::string& out = prepared.options.out;
    const SafetensorsFile keyframes(out + "/keyframes.safetensors");
    EXPECT_EQ(keyframes.Find("unet.in_layer.weight")->dtype, c.unet);
    EXPECT_EQ(keyframes.Find("projections.t5.0.weight")->dtype, at::kFloat);
    EXPECT_EQ(keyframes.Find("null_embedding")->shape.size(), 1u);
    EXPECT_EQ(SafetensorsFile(out + "/text_encoder.safetensors").Find("shared.weight")->dtype,
              c.text);
    EXPECT_EQ(SafetensorsFile(out + "/movq.safetensors").Find("encoder.conv_in.weight")->dtype,
              c.movq);
    // The decoder of the language model is left behind.
    EXPECT_EQ(SafetensorsFile(out + "/text_encoder.safetensors").Find("lm_head.weight"), nullptr);
  }
}

TEST(ConvertTest, RefusesToOverwriteUnlessTold) {
  Prepared prepared("pipeline_safetensors");
  prepared.Run();
  EXPECT_THAT(prepared.Complaint(), HasSubstr("is already there"));
  prepared.options.overwrite = true;
  EXPECT_EQ(prepared.Complaint(), "");
}

TEST(ConvertTest, TheConfigMayWaitInTheDirectory) {
  Prepared prepared("pipeline_safetensors");
  fs::create_directory(prepared.options.out);
  fs::copy(prepared.options.config, prepared.options.out + "/model.json");
  prepared.options.config = prepared.options.out + "/model.json";
  EXPECT_EQ(prepared.Complaint(), "");
  EXPECT_EQ(ModelConfig::Load(prepared.options.out).keyframes, 4);
}

TEST(ConvertTest, SaysWhatDoesNotFitBeforeWritingAnything) {
  struct Case {
    const char* what;
    std::function<void(Prepared&, nlohmann::json&)> change;
    std::vector<const char*> complaints;
  };
  const Case cases[] = {
      {"two networks of other dimensions",
       [](Prepared&, nlohmann::json& config) {
         config["keyframe_unet"]["time_embed_dim"] = 24;
         config["text_encoder"]["d_ff"] = 28;
       },
       {"keyframe U-Net: ", "mis-shaped",
        "text encoder: ", "wi_0.weight is [24, 16], must be [28, 16]"}},
      {"more layers than the file has",
       [](Prepared&, nlohmann::json& config) { config["text_encoder"]["num_layers"] = 3; },
       {"missing: encoder.block.2.layer.0.SelfAttention.k.weight"}},
      {"fewer layers than the file has",
       [](Prepared&, nlohmann::json& config) { config["text_encoder"]["num_layers"] = 1; },
       {"unexpected: encoder.block.1.layer.0.SelfAttention.k.weight"}},
      {"no such folder",
       [](Prepared& p, nlohmann::json&) { p.options.weights = "/no/such"; },
       {"/no/such/kandinsky_video.pt: no such file"}},
      {"a file that is not safetensors",
       [](Prepared&, nlohmann::json& config) { config["weights"]["movq"]["file"] = "movq.pt"; },
       {"\"movq.pt\" must end in .safetensors"}},
      {"a video decoder without its checkpoint",
       [](Prepared&, nlohmann::json& config) {
         config["video_movq"] = config["movq"];
         config["video_movq"]["temporal"] = true;
         config["weights"]["video_movq"] = {{"file", "video.safetensors"}};
       },
       {"--video-movq"}},
  };
  for (const Case& c : cases) {
    Prepared prepared("pipeline_safetensors");
    nlohmann::json config = ConfigOf(prepared.recorded);
    c.change(prepared, config);
    prepared.folder.Write("config.json", config.dump());
    const std::string complaint = prepared.Complaint();
    for (const char* wanted : c.complaints) EXPECT_THAT(complaint, HasSubstr(wanted)) << c.what;
    EXPECT_FALSE(fs::exists(prepared.options.out)) << c.what;
  }
}

}  // namespace
}  // namespace kandinsky::model
