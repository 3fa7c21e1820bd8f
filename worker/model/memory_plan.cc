#include "worker/model/memory_plan.h"

#include <ATen/core/grad_mode.h>
#include <c10/core/CachingDeviceAllocator.h>

#include <algorithm>
#include <cstdio>
#include <functional>
#include <iterator>
#include <memory>
#include <utility>

#include "worker/model/denoising.h"
#include "worker/model/error.h"
#include "worker/model/interpolation.h"
#include "worker/model/memory_tracker.h"
#include "worker/model/movq.h"
#include "worker/model/pipeline.h"
#include "worker/model/text/text_encoder.h"
#include "worker/model/unet.h"

namespace kandinsky::model {
namespace {

// What errors of memory say that have no type of their own: the CPU's allocator, cuBLAS.
constexpr const char* kPhrases[] = {"out of memory", "not enough memory", "can't allocate memory",
                                    "CUBLAS_STATUS_ALLOC_FAILED"};

at::TensorOptions Meta(at::ScalarType dtype) { return at::TensorOptions(at::kMeta).dtype(dtype); }

// The peak of what `run` allocates above what is alive before it.
int64_t PeakOf(MemoryTracker& tracker, const std::function<void()>& run) {
  const int64_t before = tracker.live_bytes();
  tracker.ResetPeak();
  run();
  return tracker.peak_bytes() - before;
}

DecodeOptions DecodeBound(const ModelConfig& config, const ExecutionOptions& execution) {
  return {execution.decode_bytes.value_or(config.decode_max_bytes)};
}

// The text encoder as the keyframe stage has it, on the meta device.
std::unique_ptr<TextEncoder> MakeTextEncoder(const ModelConfig& config, const TextPlacement& text) {
  auto encoder = std::make_unique<TextEncoder>(config.text_encoder, Meta(text.kept_dtype));
  if (text.int8) {
    encoder->t5().ForEachMatrix([](StoredMatrix& matrix) { matrix.Quantize(); });
  }
  encoder->t5().ForEachMatrix([&](StoredMatrix& matrix) { matrix.Keep(at::kMeta, text.fetched); });
  encoder->t5().ComputeOn(at::kMeta, text.computed_dtype);
  return encoder;
}

StageMemory PlanKeyframes(const ModelConfig& config, const PlannedRequest& request,
                          const ExecutionOptions& execution) {
  StageMemory plan;
  MemoryTracker tracker;
  const at::ScalarType dtype = execution.placement.dtype;
  const TextPlacement text = PlaceText(execution);
  const bool text_on_device = text.computed == execution.placement.device;
  const int64_t tokens = config.text_encoder.max_length;

  Unet unet(config.keyframe_unet, Meta(dtype));
  const Movq movq(config.movq, Meta(dtype), /*decoder_only=*/true);
  std::unique_ptr<TextEncoder> encoder;
  if (text.kept == execution.placement.device) {
    encoder = MakeTextEncoder(config, text);
  } else {
    const HostMemoryScope host;
    encoder = MakeTextEncoder(config, text);
  }
  if (text.fetched) {
    // The projection is on the device even so.
    const TextProjection projection(config.text_encoder, Meta(at::kFloat));
    plan.weights_bytes = tracker.live_bytes();
  }
  plan.weights_bytes = std::max(plan.weights_bytes, tracker.live_bytes());
  plan.host_weights_bytes = tracker.host_bytes();

  if (text_on_device) {
    // Without the rules that read results on the host (TextEncoder::Encode).
    const at::Tensor ids = at::zeros({2, tokens}, at::kLong);
    plan.phases.push_back({"text", PeakOf(tracker, [&] {
                             const at::Tensor embeddings =
                                 encoder->t5().forward(ids, at::ones_like(ids));
                             encoder->projection().forward(embeddings.to(at::kFloat));
                           })});
  }
  const int64_t cell = config.movq.downsampling();
  const int64_t height = request.height / cell, width = request.width / cell;
  plan.phases.push_back({"denoising", PeakOf(tracker, [&] {
                           const int64_t depth = config.keyframe_unet.context_dim;
                           const TextCondition condition = {at::zeros({1, tokens, depth}),
                                                            at::ones({1, tokens}, at::kLong)};
                           const Denoiser denoiser = MakeKeyframeDenoiser(
                               unet, condition, NullCondition(at::zeros({depth}), tokens),
                               {.scale = 1,
                                .two_passes = execution.guidance_passes == 2,
                                .temporal = config.temporal_guidance});
                           const at::Tensor x = at::empty(
                               {config.keyframes, config.keyframe_unet.num_channels, height, width},
                               Meta(at::kFloat));
                           // At a time at which temporal guidance acts, if it does.
                           denoiser(x, config.temporal_guidance.from);
                         })});
  plan.phases.push_back(
      {"preview", PeakOf(tracker, [&] {
         ToPixels(
             movq.Decode(at::empty({1, config.movq.z_channels, height, width}, Meta(at::kFloat)),
                         DecodeBound(config, execution)));
       })});
  return plan;
}

StageMemory PlanInterpolation(const ModelConfig& config, const PlannedRequest& request,
                              const ExecutionOptions& execution) {
  StageMemory plan;
  MemoryTracker tracker;
  Unet unet(config.interpolation_unet, Meta(execution.placement.dtype));
  plan.weights_bytes = tracker.live_bytes();
  const int64_t cell = config.movq.downsampling();
  const int64_t height = request.height / cell, width = request.width / cell;
  const int64_t frames = FrameCount(config.keyframes, std::max(request.passes, 1) - 1);
  plan.phases.push_back(
      {"denoising", PeakOf(tracker, [&] {
         const Denoiser denoiser = MakeInterpolationDenoiser(
             unet, at::empty({frames, config.movq.z_channels, height, width}, Meta(at::kFloat)),
             at::zeros({config.interpolation_unet.context_dim}, Meta(at::kFloat)), 1,
             {.scale = 1,
              .two_passes = execution.guidance_passes == 2,
              .window = execution.interpolation_window});
         denoiser(at::empty({frames - 1, config.interpolation_unet.out_channels, height, width},
                            Meta(at::kFloat)),
                  0);
       })});
  return plan;
}

StageMemory PlanDecoding(const ModelConfig& config, const PlannedRequest& request,
                         const ExecutionOptions& execution) {
  StageMemory plan;
  MemoryTracker tracker;
  const bool video = config.decoder == DecoderKind::kVideo;
  const Movq movq(video ? *config.video_movq : config.movq, Meta(execution.placement.dtype),
                  /*decoder_only=*/true);
  plan.weights_bytes = tracker.live_bytes();
  const int64_t cell = config.movq.downsampling();
  const std::vector<int64_t> chunks =
      DecodeChunkLengths(FrameCount(config.keyframes, request.passes));
  plan.phases.push_back(
      {"decoding", PeakOf(tracker, [&] {
         ToPixels(movq.Decode(
             at::empty({*std::max_element(chunks.begin(), chunks.end()), config.movq.z_channels,
                        request.height / cell, request.width / cell},
                       Meta(at::kFloat)),
             DecodeBound(config, execution)));
       })});
  return plan;
}

void CheckSize(const char* field, int64_t value, const ModelConfig& config) {
  const int64_t multiple = config.size_multiple();
  constexpr int64_t kMost = 1 << 16;
  if (value >= multiple && value % multiple == 0 && value <= kMost) return;
  throw ModelError(ModelError::Kind::kInvalidArgument,
                   std::string(field) + " is " + std::to_string(value) +
                       ", must be a multiple of " + std::to_string(multiple) + " up to " +
                       std::to_string(kMost));
}

}  // namespace

std::string_view PlannedStageName(PlannedStage stage) {
  switch (stage) {
    case PlannedStage::kKeyframes:
      return "keyframes";
    case PlannedStage::kInterpolation:
      return "interpolation";
    case PlannedStage::kDecoding:
      return "decoding";
  }
  return "unknown";
}

int64_t StageMemory::activations_bytes() const {
  int64_t most = 0;
  for (const Phase& phase : phases) most = std::max(most, phase.peak_bytes);
  return most;
}

int64_t StageMemory::total_bytes() const {
  return weights_bytes + activations_bytes() + allowance_bytes;
}

PlannedRequest DefaultRequest(const ModelConfig& config) {
  return {config.defaults.width, config.defaults.height,
          config.levels.empty() ? 0 : static_cast<int>(config.levels.size()) - 1};
}

StageMemory PlanStage(const ModelConfig& config, PlannedStage stage, const PlannedRequest& request,
                      const ExecutionOptions& execution) {
  ValidateExecutionOptions(execution);
  CheckSize("width", request.width, config);
  CheckSize("height", request.height, config);
  const at::NoGradGuard no_grad;
  StageMemory plan;
  switch (stage) {
    case PlannedStage::kKeyframes:
      plan = PlanKeyframes(config, request, execution);
      break;
    case PlannedStage::kInterpolation:
      plan = PlanInterpolation(config, request, execution);
      break;
    case PlannedStage::kDecoding:
      plan = PlanDecoding(config, request, execution);
      break;
  }
  plan.stage = stage;
  if (!execution.placement.device.is_cpu()) {
    plan.allowance_bytes =
        kDeviceAllowanceBytes +
        static_cast<int64_t>(kFragmentation * static_cast<double>(plan.activations_bytes()));
  }
  return plan;
}

std::vector<CheaperPlan> CheaperPlans(PlannedStage stage, const ExecutionOptions& execution) {
  std::vector<CheaperPlan> plans = {{execution, "", true}};
  // Adds what `change` makes of the options, if that is something else than them.
  const auto add = [&](bool running, const std::string& flags,
                       const std::function<bool(ExecutionOptions&)>& change) {
    CheaperPlan plan = {execution, flags, running};
    if (change(plan.execution)) plans.push_back(std::move(plan));
  };
  const auto halves = [](ExecutionOptions& options) {
    return std::exchange(options.guidance_passes, 2) != 2;
  };
  const auto offload = [](ExecutionOptions& options) {
    using Device = ExecutionOptions::TextEncoderDevice;
    if (options.placement.device.is_cpu()) return false;
    return std::exchange(options.text_encoder_device, Device::kOffload) == Device::kSame;
  };
  const auto window = [](ExecutionOptions& options, int64_t groups) {
    if (options.interpolation_window > 0 && options.interpolation_window <= groups) return false;
    options.interpolation_window = groups;
    return true;
  };
  const auto bound = [](ExecutionOptions& options, int64_t bytes) {
    if (options.decode_bytes && *options.decode_bytes > 0 && *options.decode_bytes <= bytes) {
      return false;
    }
    options.decode_bytes = bytes;
    return true;
  };
  switch (stage) {
    case PlannedStage::kKeyframes:
      add(true, "--guidance_passes=2", halves);
      add(true, "--text_encoder_device=offload", offload);
      add(true, "--text_encoder_device=offload --guidance_passes=2",
          [&](ExecutionOptions& options) {
            const bool moved = offload(options);
            return halves(options) && moved;
          });
      add(false, "--text_encoder_weights=int8", [](ExecutionOptions& options) {
        using Weights = ExecutionOptions::TextEncoderWeights;
        return std::exchange(options.text_encoder_weights, Weights::kInt8) != Weights::kInt8;
      });
      if (plans.back().execution.text_encoder_weights != execution.text_encoder_weights) {
        plans.back().same = false;
      }
      break;
    case PlannedStage::kInterpolation:
      for (const int64_t groups : {int64_t{16}, int64_t{4}}) {
        add(true, "--interpolation_window=" + std::to_string(groups),
            [&](ExecutionOptions& options) { return window(options, groups); });
      }
      add(true, "--guidance_passes=2", halves);
      for (const int64_t groups : {int64_t{16}, int64_t{4}, int64_t{1}}) {
        add(true, "--guidance_passes=2 --interpolation_window=" + std::to_string(groups),
            [&](ExecutionOptions& options) {
              const bool narrowed = window(options, groups);
              return (halves(options) || groups == 1) && narrowed;
            });
      }
      break;
    case PlannedStage::kDecoding:
      for (const int64_t megabytes : {4000, 1000, 250}) {
        add(true, "--decode_bytes=" + std::to_string(megabytes) + "MB",
            [&](ExecutionOptions& options) { return bound(options, megabytes * 1000000); });
      }
      break;
  }
  return plans;
}

std::optional<int64_t> AvailableMemory(const ExecutionOptions& execution) {
  if (execution.device_memory_bytes > 0) return execution.device_memory_bytes;
  const at::Device device = execution.placement.device;
  if (device.is_cpu() || device.is_meta()) return std::nullopt;
  auto* allocator = dynamic_cast<c10::DeviceAllocator*>(c10::GetAllocator(device.type()));
  if (allocator == nullptr) return std::nullopt;
  try {
    const auto [free, total] = allocator->getMemoryInfo(device.has_index() ? device.index() : 0);
    return static_cast<int64_t>(free);
  } catch (const c10::Error&) {
    return std::nullopt;  // this allocator does not know
  }
}

void CheckMemory(const ModelConfig& config, PlannedStage stage, const ExecutionOptions& execution) {
  const std::optional<int64_t> available = AvailableMemory(execution);
  if (!available) return;
  const PlannedRequest request = DefaultRequest(config);
  StageMemory plan;
  try {
    plan = PlanStage(config, stage, request, execution);
  } catch (const c10::Error&) {
    return;  // an operation that the meta device does not know is no reason to refuse a model
  }
  if (plan.total_bytes() <= *available) return;
  std::string text = std::string("model ") + config.name + " takes " +
                     FormatGigabytes(plan.total_bytes()) + " of device memory for " +
                     std::string(PlannedStageName(stage)) + " at " + std::to_string(request.width) +
                     "x" + std::to_string(request.height) + " (weights " +
                     FormatGigabytes(plan.weights_bytes) + ", activations " +
                     FormatGigabytes(plan.activations_bytes()) + ", allowance " +
                     FormatGigabytes(plan.allowance_bytes) + "), but there are " +
                     FormatGigabytes(*available) + "; ";
  const std::vector<CheaperPlan> plans = CheaperPlans(stage, execution);
  for (size_t i = 1; i < plans.size(); ++i) {
    const int64_t total = PlanStage(config, stage, request, plans[i].execution).total_bytes();
    if (total > *available) continue;
    throw ModelError(ModelError::Kind::kInvalidArgument,
                     text + "with " + plans[i].flags + " it takes " + FormatGigabytes(total));
  }
  throw ModelError(ModelError::Kind::kInvalidArgument,
                   text + "no option makes it fit (kandinsky-plan memory shows all)");
}

std::optional<CheaperPlan> NextPlan(PlannedStage stage, const ExecutionOptions& execution) {
  const std::vector<CheaperPlan> plans = CheaperPlans(stage, execution);
  for (size_t i = 1; i < plans.size(); ++i) {
    if (plans[i].running) return plans[i];
  }
  return std::nullopt;
}

bool IsOutOfMemory(const c10::Error& error) {
  if (dynamic_cast<const c10::OutOfMemoryError*>(&error) != nullptr) return true;
  const std::string text = error.what_without_backtrace();
  return std::any_of(std::begin(kPhrases), std::end(kPhrases),
                     [&](const char* phrase) { return text.find(phrase) != std::string::npos; });
}

void ReleaseCachedMemory(at::Device device) {
  if (device.is_cpu() || device.is_meta()) return;
  auto* allocator = dynamic_cast<c10::DeviceAllocator*>(c10::GetAllocator(device.type()));
  if (allocator != nullptr && allocator->initialized()) allocator->emptyCache();
}

std::string FormatGigabytes(int64_t bytes) {
  char text[32];
  std::snprintf(text, sizeof(text), bytes < 100000000 ? "%.3f GB" : "%.1f GB",
                static_cast<double>(bytes) / 1e9);
  return text;
}

}  // namespace kandinsky::model
