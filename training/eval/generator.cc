#include "training/eval/generator.h"

#include <chrono>
#include <filesystem>
#include <set>

#include "training/eval/judge_frames.h"
#include "training/eval/sha256.h"
#include "worker/model/error.h"

namespace kandinsky::training {
namespace {

using model::ModelError;

std::string Number(double value) { return nlohmann::json(value).dump(); }

const model::Level& FindLevel(const model::ModelConfig& config, const std::string& name) {
  std::string names;
  for (const model::Level& level : config.levels) {
    if (level.name == name) return level;
    names += (names.empty() ? "" : ", ") + level.name;
  }
  throw ModelError(ModelError::Kind::kInvalidArgument,
                   "--level is \"" + name + "\", must be one of " + names);
}

}  // namespace

nlohmann::ordered_json RunPrompt(ClipGenerator& generator, const PromptClip& clip, uint64_t seed,
                                 at::Tensor* frames) {
  const auto start = std::chrono::steady_clock::now();
  const at::Tensor video = generator.Generate(clip.prompt, seed).contiguous();  // [T, H, W, 3]
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  if (frames != nullptr) *frames = video;
  return PromptRecord(clip, seed, seconds, JudgeFrames(video));
}

ModelGenerator::ModelGenerator(const GeneratorOptions& options)
    : keyframes_(options.model, {.placement = options.placement}),
      decoding_(options.model, {.placement = options.placement}) {
  const model::GenerationDefaults& defaults = config().defaults;
  level_ = FindLevel(config(), options.level.empty() ? defaults.level : options.level);
  request_.prompt = "a prompt";
  request_.width = options.width > 0 ? options.width : defaults.width;
  request_.height = options.height > 0 ? options.height : defaults.height;
  request_.steps = options.steps > 0 ? options.steps : defaults.steps;
  request_.guidance_scale =
      options.guidance_scale >= 0 ? options.guidance_scale : defaults.guidance_scale;
  request_.interpolation_guidance_scale = options.interpolation_guidance_scale >= 0
                                              ? options.interpolation_guidance_scale
                                              : defaults.interpolation_guidance_scale;
  request_.passes = level_.passes;
  model::ValidateRequest(request_, config());
  if (level_.passes > 0) {
    interpolation_ = std::make_unique<model::InterpolationStage>(
        options.model, model::ExecutionOptions{.placement = options.placement});
  }
}

at::Tensor ModelGenerator::Generate(const std::string& prompt, uint64_t seed) {
  model::GenerationRequest request = request_;
  request.prompt = prompt;
  request.seed = seed;
  at::Tensor latents = keyframes_.Run(request);  // [T, 4, h, w]
  if (interpolation_) latents = interpolation_->Run(latents, request);
  std::vector<at::Tensor> frames;
  decoding_.Run(latents, {},
                [&](int64_t, const at::Tensor& chunk) { frames.push_back(chunk.clone()); });
  return at::cat(frames);
}

std::vector<std::pair<std::string, std::string>> ModelGenerator::Settings() const {
  std::vector<std::pair<std::string, std::string>> settings = {
      {"level", level_.name + " (" + std::to_string(level_.frames) + " frames)"},
      {"size", std::to_string(request_.width) + " x " + std::to_string(request_.height)},
      {"sampler", DescribeSampler(config().keyframe_sampling)},
      {"steps", std::to_string(request_.steps)},
      {"guidance scale", Number(request_.guidance_scale)}};
  const model::TemporalGuidance& temporal = config().temporal_guidance;
  if (temporal.scale > 0) {
    settings.emplace_back("temporal guidance",
                          Number(temporal.scale) + ", windows of " +
                              std::to_string(temporal.window) + ", network times " +
                              std::to_string(temporal.from) + " to " + std::to_string(temporal.to));
  }
  if (interpolation_) {
    settings.emplace_back("interpolation sampler",
                          DescribeSampler(config().interpolation_sampling));
    settings.emplace_back("interpolation steps",
                          std::to_string(config().InterpolationSteps(request_.steps)));
    settings.emplace_back("interpolation guidance scale",
                          Number(request_.interpolation_guidance_scale));
  }
  return settings;
}

std::vector<std::pair<std::string, std::string>> DescribeModel(const model::ModelConfig& config,
                                                               const std::string& directory) {
  const model::WeightSources& weights = config.weights;
  std::set<std::string> files = {
      "model.json",
      config.tokenizer,
      weights.text_encoder.file,
      weights.projection.file,
      weights.keyframe_unet.file,
      weights.keyframe_null.file,
      weights.interpolation_unet.file,
      weights.interpolation_null.file,
      weights.movq.file,
  };
  if (weights.video_movq) files.insert(weights.video_movq->file);
  std::vector<std::pair<std::string, std::string>> settings = {{"model", config.name},
                                                               {"variant", config.variant}};
  for (const std::string& file : files) {
    const std::string path = directory + "/" + file;
    // Weights may be a folder, and those that are not measured may be missing.
    if (!std::filesystem::is_regular_file(path)) continue;
    settings.emplace_back("SHA-256 of " + file, Sha256OfFile(path));
  }
  return settings;
}

std::string DescribeSampler(const model::SamplerConfig& sampling) {
  std::string text(model::SamplerName(sampling.type));
  text += sampling.schedule == model::ScheduleType::kCosine ? ", cosine" : ", linear";
  text += " schedule";
  if (sampling.schedule_steps > 0) {
    text += " of " + std::to_string(sampling.schedule_steps) + " steps";
  }
  return text + (sampling.prediction == model::PredictionType::kV ? ", v" : ", epsilon") +
         " prediction";
}

}  // namespace kandinsky::training
