#include "worker/model/pipeline.h"

#include <ATen/core/grad_mode.h>

#include <cmath>
#include <map>
#include <new>
#include <string>
#include <string_view>
#include <utility>

#include "common/spec/utf8.h"
#include "worker/model/checkpoint/load.h"
#include "worker/model/checkpoint/tensor_source.h"
#include "worker/model/error.h"
#include "worker/model/frame_delivery.h"
#include "worker/model/graph_cache.h"
#include "worker/model/graph_recorder.h"
#include "worker/model/interpolation.h"
#include "worker/model/memory_plan.h"
#include "worker/model/pipeline_parts.h"
#include "worker/model/reproducible.h"
#include "worker/model/weights_init.h"

namespace kandinsky::model {
namespace {

// Contexts of 128 tokens by 4096 floats are 2 MiB: the cache holds a hundred of the largest.
constexpr size_t kCachedPrompts = 256;
constexpr int64_t kCachedBytes = 256 << 20;

[[noreturn]] void Invalid(const std::string& message) {
  throw ModelError(ModelError::Kind::kInvalidArgument, message);
}

at::TensorOptions MetaOptions(const Placement& placement) {
  return at::TensorOptions(at::kMeta).dtype(placement.dtype);
}

// Fills a module that was built on the meta device. options.dtype must be given.
void LoadModule(torch::nn::Module& module, const std::string& directory, const WeightSource& from,
                const ExecutionOptions& execution, LoadOptions options) {
  if (execution.random_weights) {
    MakeRandomWeights(module, *execution.random_weights, from.file + ":" + from.prefix,
                      options.dtype.value(), options.device);
  } else {
    const std::unique_ptr<TensorSource> source = OpenCheckpoint(directory + "/" + from.file);
    options.prefix = from.prefix;
    LoadInto(module, *source, options);
  }
  module.eval();
  for (at::Tensor& parameter : module.parameters()) parameter.set_requires_grad(false);
}

// As LoadModule, but the matrices of the blocks become int8, one after the other.
void LoadQuantized(T5Encoder& t5, const std::string& directory, const WeightSource& from,
                   LoadOptions options) {
  const std::unique_ptr<TensorSource> source = OpenCheckpoint(directory + "/" + from.file);
  options.prefix = from.prefix;
  std::map<const at::TensorImpl*, StoredMatrix*> matrices;
  t5.ForEachMatrix(
      [&](StoredMatrix& matrix) { matrices[matrix.weight.unsafeGetTensorImpl()] = &matrix; });
  const std::map<std::string, std::string> stored = MatchTensors(t5, *source, options);
  for (const auto& item : t5.named_parameters()) {
    const auto matrix = matrices.find(item.value().unsafeGetTensorImpl());
    const bool quantized = matrix != matrices.end();
    ReplaceStorage(item.value(),
                   source->Read(stored.at(item.key()), quantized ? at::kFloat : options.dtype,
                                quantized ? at::kCPU : options.device));
    item.value().set_requires_grad(false);
    if (!quantized) continue;
    matrix->second->Quantize();
    matrix->second->Keep(options.device, /*fetched=*/false);
  }
  t5.eval();
}

// Moves those that lie elsewhere.
void PlaceMatrices(TextEncoder& encoder, const TextPlacement& text) {
  encoder.t5().ForEachMatrix([&](StoredMatrix& matrix) { matrix.Keep(text.kept, text.fetched); });
}

std::unique_ptr<TextEncoder> LoadTextEncoder(const ModelConfig& config,
                                             const std::string& directory,
                                             const ExecutionOptions& execution) {
  const TextPlacement text = PlaceText(execution);
  auto encoder = std::make_unique<TextEncoder>(config.text_encoder,
                                               at::TensorOptions(at::kMeta).dtype(text.kept_dtype));
  const LoadOptions options = {.ignored = {"decoder.", "lm_head."},
                               .aliases = {{"shared.weight", {"encoder.embed_tokens.weight"}}},
                               .dtype = text.kept_dtype,
                               .device = text.kept};
  if (text.int8 && !execution.random_weights) {
    LoadQuantized(encoder->t5(), directory, config.weights.text_encoder, options);
  } else {
    LoadModule(encoder->t5(), directory, config.weights.text_encoder, execution, options);
  }
  if (text.int8) {
    encoder->t5().ForEachMatrix([](StoredMatrix& matrix) { matrix.Quantize(); });
  }
  LoadModule(encoder->projection(), directory, config.weights.projection, execution,
             {.dtype = at::kFloat, .device = text.computed});
  encoder->t5().ComputeOn(text.computed, text.computed_dtype);
  PlaceMatrices(*encoder, text);
  return encoder;
}

std::unique_ptr<Unet> LoadUnet(const UnetConfig& config, const std::string& directory,
                               const WeightSource& source, const ExecutionOptions& execution) {
  const Placement& placement = execution.placement;
  auto unet = std::make_unique<Unet>(config, MetaOptions(placement));
  LoadModule(*unet, directory, source, execution,
             {.dtype = placement.dtype, .device = placement.device});
  return unet;
}

at::Tensor LoadNull(const std::string& directory, const WeightSource& source, int64_t width,
                    const ExecutionOptions& execution) {
  if (execution.random_weights) {
    return RandomParameter(source.file + ":null_embedding", {width}, *execution.random_weights);
  }
  const std::unique_ptr<TensorSource> file = OpenCheckpoint(directory + "/" + source.file);
  return LoadNullEmbedding(*file, source.prefix, width);
}

std::unique_ptr<Movq> LoadDecoder(const MovqConfig& config, const std::string& directory,
                                  const WeightSource& source, const ExecutionOptions& execution) {
  const Placement& placement = execution.placement;
  auto movq = std::make_unique<Movq>(config, MetaOptions(placement), /*decoder_only=*/true);
  LoadModule(*movq, directory, source, execution,
             {.ignored = {"encoder.", "quant_conv."},
              .dtype = placement.dtype,
              .device = placement.device});
  return movq;
}

// What computes beside a stage's U-Net, or stands in for it.
struct UnetAids {
  std::unique_ptr<Unet> second;        // on ExecutionOptions::second_device
  std::unique_ptr<GraphCache> graphs;  // of steps of the U-Net
  std::string no_graphs;               // why there are none, where they were wanted

  GuidanceConfig Guide(double scale, const ExecutionOptions& execution,
                       const TemporalGuidance& temporal = {}) const {
    return {.scale = scale,
            .two_passes = execution.guidance_passes == 2,
            .temporal = temporal,
            .second = second.get(),
            .graphs = graphs.get(),
            .window = execution.interpolation_window};
  }
  GraphStats stats() const {
    if (graphs != nullptr) return graphs->stats();
    return {.reason = no_graphs};
  }
};

UnetAids MakeUnetAids(const UnetConfig& config, const std::string& directory,
                      const WeightSource& source, const ExecutionOptions& execution) {
  UnetAids aids;
  const Placement& placement = execution.placement;
  if (execution.second_device) {
    ExecutionOptions there = execution;
    there.placement.device = *execution.second_device;
    aids.second = LoadUnet(config, directory, source, there);
  } else if (execution.cuda_graphs && placement.device.is_cuda()) {
    if (auto recorder = MakeGraphRecorder(placement.device, &aids.no_graphs)) {
      aids.graphs = std::make_unique<GraphCache>(std::move(recorder), placement.device);
    }
  }
  return aids;
}

DecodeOptions DecodeBound(const ModelConfig& config, const ExecutionOptions& execution) {
  return {execution.decode_bytes.value_or(config.decode_max_bytes)};
}

SamplerConfig WithSteps(SamplerConfig config, int64_t steps) {
  config.steps = steps;
  return config;
}

// Length in code points, or -1 if the text is not UTF-8 (overlong forms and surrogates are refused,
// too).
int64_t CountCharacters(std::string_view text) {
  int64_t count = 0;
  for (; !text.empty(); ++count) {
    if (!PopCodePoint(text)) return -1;
  }
  return count;
}

void CheckInt(const char* field, int64_t value, const IntRange& range, int64_t multiple = 1) {
  if (value >= range.min && value <= range.max && value % multiple == 0) return;
  Invalid(std::string(field) + " is " + std::to_string(value) + ", must be " +
          (multiple > 1 ? "a multiple of " + std::to_string(multiple) + " " : "") + "from " +
          std::to_string(range.min) + " to " + std::to_string(range.max));
}

void CheckDouble(const char* field, double value, const DoubleRange& range) {
  if (value >= range.min && value <= range.max) return;  // a NaN is not
  Invalid(std::string(field) + " is " + std::to_string(value) + ", must be from " +
          std::to_string(range.min) + " to " + std::to_string(range.max));
}

void CheckText(const char* field, const std::string& text, const IntRange& range) {
  const int64_t characters = CountCharacters(text);
  if (characters < 0) Invalid(std::string(field) + " is not valid UTF-8");
  CheckInt((std::string(field) + " length").c_str(), characters, range);
}

// run(execution), and if memory runs out there, once more with the next cheaper plan, which stays.
// `graphs`, where there are any, hold memory of the plan before and are dropped.
template <typename Run>
auto WithCheaperPlan(PlannedStage stage, ExecutionOptions& execution, GraphCache* graphs,
                     const StageHooks& hooks, const Run& run) {
  std::optional<CheaperPlan> next;
  std::string why;
  try {
    return run(execution);
  } catch (const c10::Error& error) {
    if (!IsOutOfMemory(error)) throw;
    next = NextPlan(stage, execution);
    if (!next) throw;
    why = error.what_without_backtrace();
  } catch (const std::bad_alloc&) {
    next = NextPlan(stage, execution);
    if (!next) throw;
    why = "out of host memory";
  }
  // Outside of the handlers: all that the failed run held is gone.
  if (graphs != nullptr) graphs->Clear();
  ReleaseCachedMemory(execution.placement.device);
  execution = next->execution;
  if (hooks.plan_changed) hooks.plan_changed(next->flags, why.substr(0, why.find('\n')));
  return run(execution);
}

void CheckVideo(const char* field, const at::Tensor& video, int64_t channels) {
  if (video.defined() && video.dim() == 4 && video.size(1) == channels && video.numel() > 0 &&
      video.is_floating_point()) {
    return;
  }
  Invalid(std::string(field) + " has shape " +
          (video.defined() ? c10::str(video.sizes()) : std::string("nothing")) +
          ", must be floating-point [T, " + std::to_string(channels) + ", h, w]");
}

}  // namespace

void ValidateRequest(const GenerationRequest& request, const ModelConfig& config) {
  CheckText("prompt", request.prompt, config.limits.prompt_characters);
  CheckText("negative_prompt", request.negative_prompt, config.limits.negative_prompt_characters);
  CheckInt("width", request.width, config.limits.width, config.size_multiple());
  CheckInt("height", request.height, config.limits.height, config.size_multiple());
  if (request.width * request.height > config.limits.pixels_max) {
    Invalid("width * height is " + std::to_string(request.width * request.height) +
            ", must be at most " + std::to_string(config.limits.pixels_max));
  }
  CheckInt("steps", request.steps, config.limits.steps);
  CheckDouble("guidance_scale", request.guidance_scale, config.limits.guidance_scale);
  CheckDouble("interpolation_guidance_scale", request.interpolation_guidance_scale,
              config.limits.interpolation_guidance_scale);
  CheckInt("passes", request.passes, {0, static_cast<int64_t>(config.levels.size()) - 1});
}

int64_t FrameCount(int64_t keyframes, int passes) {
  for (int pass = 0; pass < passes; ++pass) keyframes = 4 * keyframes - 3;
  return keyframes;
}

struct KeyframeStage::Impl {
  ModelConfig config;
  ExecutionOptions execution;
  Tokenizer tokenizer;
  std::unique_ptr<TextEncoder> encoder;
  std::unique_ptr<Unet> unet;
  UnetAids aids;
  at::Tensor null_embedding;  // [W]
  std::unique_ptr<Movq> movq;
  EmbeddingCache cache{kCachedPrompts, kCachedBytes};
};

KeyframeStage::KeyframeStage(const std::string& model_directory,
                             const ExecutionOptions& execution) {
  ValidateExecutionOptions(execution);
  ModelConfig config = ModelConfig::Load(model_directory);
  CheckMemory(config, PlannedStage::kKeyframes, execution);
  Tokenizer tokenizer(model_directory + "/" + config.tokenizer);
  if (tokenizer.vocabulary() > config.text_encoder.vocab_size) {
    Invalid("model.json: text_encoder.vocab_size is " +
            std::to_string(config.text_encoder.vocab_size) + ", must be at least " +
            std::to_string(tokenizer.vocabulary()) + " for this tokenizer");
  }
  auto encoder = LoadTextEncoder(config, model_directory, execution);
  auto unet =
      LoadUnet(config.keyframe_unet, model_directory, config.weights.keyframe_unet, execution);
  UnetAids aids =
      MakeUnetAids(config.keyframe_unet, model_directory, config.weights.keyframe_unet, execution);
  at::Tensor null_embedding = LoadNull(model_directory, config.weights.keyframe_null,
                                       config.keyframe_unet.context_dim, execution);
  auto movq = LoadDecoder(config.movq, model_directory, config.weights.movq, execution);
  impl_.reset(new Impl{std::move(config), execution, std::move(tokenizer), std::move(encoder),
                       std::move(unet), std::move(aids), std::move(null_embedding),
                       std::move(movq)});
}

KeyframeStage::~KeyframeStage() = default;

at::Tensor KeyframeStage::Run(const GenerationRequest& request, const StageHooks& hooks,
                              const std::optional<StageCheckpoint>& resume,
                              const NoiseSource* noise) {
  const ReproducibleScope reproducible;
  ValidateRequest(request, impl_->config);
  if (hooks.cancelled && hooks.cancelled()) {
    throw ModelError(ModelError::Kind::kCancelled, "cancelled before the text encoder");
  }
  const SeededNoise seeded(request.seed);
  const int64_t cell = impl_->config.movq.downsampling();
  const auto run = [&](const ExecutionOptions& execution) {
    PlaceMatrices(*impl_->encoder, PlaceText(execution));
    const EncodedPrompt prompt = impl_->cache.GetOrCompute(
        {impl_->config.name, request.prompt, request.negative_prompt}, [&] {
          return EncodePrompt(impl_->tokenizer, *impl_->encoder, request.prompt,
                              request.negative_prompt.empty() ? nullptr : &request.negative_prompt);
        });
    return SampleKeyframes(
        *impl_->unet, prompt, impl_->null_embedding, impl_->config.keyframes, request.height / cell,
        request.width / cell, WithSteps(impl_->config.keyframe_sampling, request.steps),
        impl_->aids.Guide(request.guidance_scale, execution, impl_->config.temporal_guidance),
        noise != nullptr ? *noise : seeded, hooks, resume);
  };
  return WithCheaperPlan(PlannedStage::kKeyframes, impl_->execution, impl_->aids.graphs.get(),
                         hooks, run);
}

at::Tensor KeyframeStage::Preview(const at::Tensor& keyframes) {
  const ReproducibleScope reproducible;
  at::NoGradGuard no_grad;
  CheckVideo("keyframes", keyframes, impl_->config.movq.z_channels);
  std::vector<at::Tensor> frames;  // uint8 [1, H, W, 3]
  for (const at::Tensor& frame : keyframes.split(1)) {
    frames.push_back(ToPixels(impl_->movq->Decode(frame.to(impl_->execution.placement.device),
                                                  DecodeBound(impl_->config, impl_->execution)))
                         .to(at::kCPU));
  }
  return at::cat(frames);
}

const ModelConfig& KeyframeStage::config() const { return impl_->config; }

GraphStats KeyframeStage::graph_stats() const { return impl_->aids.stats(); }

struct InterpolationStage::Impl {
  ModelConfig config;
  ExecutionOptions execution;
  std::unique_ptr<Unet> unet;
  UnetAids aids;
  at::Tensor null_embedding;  // [W]
};

InterpolationStage::InterpolationStage(const std::string& model_directory,
                                       const ExecutionOptions& execution) {
  ValidateExecutionOptions(execution);
  ModelConfig config = ModelConfig::Load(model_directory);
  CheckMemory(config, PlannedStage::kInterpolation, execution);
  auto unet = LoadUnet(config.interpolation_unet, model_directory,
                       config.weights.interpolation_unet, execution);
  UnetAids aids = MakeUnetAids(config.interpolation_unet, model_directory,
                               config.weights.interpolation_unet, execution);
  at::Tensor null_embedding = LoadNull(model_directory, config.weights.interpolation_null,
                                       config.interpolation_unet.context_dim, execution);
  impl_.reset(new Impl{std::move(config), execution, std::move(unet), std::move(aids),
                       std::move(null_embedding)});
}

InterpolationStage::~InterpolationStage() = default;

at::Tensor InterpolationStage::Run(const at::Tensor& keyframes, const GenerationRequest& request,
                                   const StageHooks& hooks,
                                   const std::optional<StageCheckpoint>& resume,
                                   const NoiseSource* noise) {
  const ReproducibleScope reproducible;
  const ModelConfig& config = impl_->config;
  ValidateRequest(request, config);
  CheckVideo("keyframes", keyframes, config.movq.z_channels);
  if (keyframes.size(0) < 2) Invalid("keyframes has 1 frame, must have at least 2");
  at::Tensor video = keyframes.to(at::kCPU, at::kFloat);
  int first_pass = 0;
  if (resume) {
    first_pass = resume->pass;
    if (first_pass < 0 || first_pass >= request.passes) {
      Invalid("checkpoint.pass is " + std::to_string(first_pass) + ", must be from 0 to " +
              std::to_string(request.passes - 1));
    }
    CheckVideo("checkpoint.video", resume->video, config.movq.z_channels);
    const int64_t frames = FrameCount(keyframes.size(0), first_pass);
    if (resume->video.size(0) != frames || resume->video.size(2) != keyframes.size(2) ||
        resume->video.size(3) != keyframes.size(3)) {
      Invalid("checkpoint.video has shape " + c10::str(resume->video.sizes()) + ", must have " +
              std::to_string(frames) + " frames of the keyframes' size");
    }
    video = resume->video.to(at::kCPU, at::kFloat);
  }
  const SeededNoise seeded(request.seed);
  for (int pass = first_pass; pass < request.passes; ++pass) {
    const auto run = [&](const ExecutionOptions& execution) {
      return SampleGroups(
          *impl_->unet, video, impl_->null_embedding,
          {.pass = pass,
           .passes = request.passes,
           .skip_frames = config.skip_frames.at(static_cast<size_t>(pass))},
          WithSteps(config.interpolation_sampling, config.InterpolationSteps(request.steps)),
          impl_->aids.Guide(request.interpolation_guidance_scale, execution),
          noise != nullptr ? *noise : seeded, hooks,
          resume && resume->pass == pass ? resume : std::nullopt);
    };
    const at::Tensor groups = WithCheaperPlan(PlannedStage::kInterpolation, impl_->execution,
                                              impl_->aids.graphs.get(), hooks, run);
    video = MergeGroups(video, groups);
  }
  return video;
}

const ModelConfig& InterpolationStage::config() const { return impl_->config; }

GraphStats InterpolationStage::graph_stats() const { return impl_->aids.stats(); }

struct DecodingStage::Impl {
  ModelConfig config;
  ExecutionOptions execution;
  std::unique_ptr<Movq> movq;
};

DecodingStage::DecodingStage(const std::string& model_directory,
                             const ExecutionOptions& execution) {
  ValidateExecutionOptions(execution);
  ModelConfig config = ModelConfig::Load(model_directory);
  CheckMemory(config, PlannedStage::kDecoding, execution);
  const bool video = config.decoder == DecoderKind::kVideo;
  auto movq = LoadDecoder(video ? *config.video_movq : config.movq, model_directory,
                          video ? *config.weights.video_movq : config.weights.movq, execution);
  impl_.reset(new Impl{std::move(config), execution, std::move(movq)});
}

DecodingStage::~DecodingStage() = default;

void DecodingStage::Run(const at::Tensor& latents, const StageHooks& hooks,
                        const std::function<void(int64_t first, const at::Tensor& frames)>& sink,
                        int64_t first_frame) {
  const ReproducibleScope reproducible;
  CheckVideo("latents", latents, impl_->config.movq.z_channels);
  const auto run = [&](const ExecutionOptions& execution) {
    FrameDelivery delivery([&](int64_t first, const at::Tensor& frames) {  // uint8 [n, H, W, 3]
      if (hooks.progress) {
        hooks.progress(
            {.pass = 0, .passes = 1, .step = first + frames.size(0), .steps = latents.size(0)});
      }
      first_frame = first + frames.size(0);
      sink(first, frames);
    });
    try {
      // After running out of memory: from the first chunk that the sink has not had.
      DecodeChunks(
          *impl_->movq, execution.placement.device, latents, DecodeBound(impl_->config, execution),
          hooks.cancelled,
          [&](int64_t first, const at::Tensor& decoded) {
            delivery.Push(first, ToPixels(decoded));
          },
          first_frame);
    } catch (...) {
      delivery.Flush();  // what was decoded before
      throw;
    }
    delivery.Flush();
  };
  WithCheaperPlan(PlannedStage::kDecoding, impl_->execution, nullptr, hooks, run);
}

const ModelConfig& DecodingStage::config() const { return impl_->config; }

}  // namespace kandinsky::model
