#include "worker/stages/stages.h"

#include <ATen/Parallel.h>

#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/log.h"
#include "worker/media/video_encoder.h"
#include "worker/model/pipeline.h"
#include "worker/process/processors.h"
#include "worker/runtime/failure.h"
#include "worker/stages/frame_encoder.h"
#include "worker/stages/preview.h"
#include "worker/stages/status_translation.h"
#include "worker/stages/tensor_codec.h"

namespace kandinsky {
namespace {

model::GenerationRequest ToRequest(const GenerationParameters& parameters) {
  model::GenerationRequest request;
  request.prompt = parameters.prompt;
  request.negative_prompt = parameters.negative_prompt;
  request.seed = parameters.seed;
  request.width = parameters.width;
  request.height = parameters.height;
  request.steps = parameters.steps;
  request.guidance_scale = parameters.guidance_scale;
  request.interpolation_guidance_scale = parameters.interpolation_guidance_scale;
  request.passes = Passes(parameters.level);
  return request;
}

std::function<void(const std::string&, const std::string&)> PlanLogger(const std::string& job_id) {
  return [job_id](const std::string& flags, const std::string& why) {
    Log(LogLevel::kWarning, "out of memory: beginning again with a cheaper plan, kept from now on",
        {{"job", job_id}, {"options", flags}, {"why", why}});
  };
}

// Of a denoising stage. `context` must outlive them.
model::StageHooks MakeHooks(Stage stage, const std::string& job_id, StageContext& context) {
  model::StageHooks hooks;
  hooks.cancelled = [&context] { return context.ShouldStop(); };
  hooks.progress = [&context](const model::StageProgress& at) {
    StageProgress progress;
    progress.pass = at.pass + 1;
    progress.passes = at.passes;
    progress.step = static_cast<int>(at.step);
    progress.steps = static_cast<int>(at.steps);
    context.ReportProgress(progress);
  };
  hooks.checkpoint_due = [&context] { return context.CheckpointDue(); };
  hooks.plan_changed = PlanLogger(job_id);
  hooks.checkpoint = [&context, stage](const model::StageCheckpoint& checkpoint) {
    context.SaveCheckpoint(EncodeCheckpoint(stage, checkpoint));
  };
  return hooks;
}

// Nothing when there is none or it cannot be used: the stage then begins anew.
std::optional<model::StageCheckpoint> Resume(Stage stage, const StageInput& input) {
  if (!input.checkpoint) return std::nullopt;
  absl::StatusOr<model::StageCheckpoint> checkpoint = DecodeCheckpoint(stage, *input.checkpoint);
  if (!checkpoint.ok()) {
    Log(LogLevel::kWarning, "checkpoint is not used",
        {{"job", input.job_id}, {"why", std::string(checkpoint.status().message())}});
    return std::nullopt;
  }
  return *std::move(checkpoint);
}

absl::Status CheckLatents(const StageInput& input, int64_t frames,
                          const model::GenerationRequest& request,
                          const model::ModelConfig& config) {
  if (!input.latents) return absl::InvalidArgumentError("the stage needs latents");
  const int64_t cell = config.movq.downsampling();
  const std::vector<int64_t> want = {frames, config.movq.z_channels, request.height / cell,
                                     request.width / cell};
  if (input.latents->shape() != want) {
    return absl::InvalidArgumentError("latents have another shape than the request asks for");
  }
  return absl::OkStatus();
}

absl::StatusOr<StageOutput> RunKeyframes(model::KeyframeStage& stage, const StageInput& input,
                                         StageContext& context, int preview_side) {
  const at::Tensor latents =
      stage.Run(ToRequest(input.parameters), MakeHooks(Stage::kKeyframes, input.job_id, context),
                Resume(Stage::kKeyframes, input));  // [T, 4, h, w]
  // A job is fine without a preview.
  const auto preview =
      CatchStatus([&] { return MakePreview(stage.Preview(latents), preview_side); });
  if (preview.ok() && preview->ok()) {
    context.PublishPreview(**preview);
  } else {
    Log(LogLevel::kWarning, "no preview",
        {{"job", input.job_id},
         {"why", std::string((preview.ok() ? preview->status() : preview.status()).message())}});
  }
  absl::StatusOr<HostTensor> host = ToHostTensor(latents);
  if (!host.ok()) return host.status();
  StageOutput output;
  output.latents = *std::move(host);
  return output;
}

absl::StatusOr<StageOutput> RunInterpolation(model::InterpolationStage& stage,
                                             const StageInput& input, StageContext& context) {
  const model::GenerationRequest request = ToRequest(input.parameters);
  const absl::Status checked =
      CheckLatents(input, stage.config().keyframes, request, stage.config());
  if (!checked.ok()) return checked;
  const at::Tensor latents = stage.Run(FromHostTensor(*input.latents), request,
                                       MakeHooks(Stage::kInterpolation, input.job_id, context),
                                       Resume(Stage::kInterpolation, input));  // [T', 4, h, w]
  absl::StatusOr<HostTensor> host = ToHostTensor(latents);
  if (!host.ok()) return host.status();
  StageOutput output;
  output.latents = *std::move(host);
  return output;
}

absl::Status EncoderError(absl::Status status) {
  if (status.GetPayload("kandinsky/reason").has_value()) return status;  // of the video store
  return WithReason(std::move(status), "ENCODER_ERROR");
}

absl::StatusOr<StageOutput> RunDecoding(model::DecodingStage& stage, const StageInput& input,
                                        StageContext& context) {
  const model::GenerationRequest request = ToRequest(input.parameters);
  const int64_t frames = model::FrameCount(stage.config().keyframes, request.passes);
  const absl::Status checked = CheckLatents(input, frames, request, stage.config());
  if (!checked.ok()) return checked;

  media::VideoEncoder::Options options;
  options.format = static_cast<media::Format>(input.parameters.format);
  options.width = input.parameters.width;
  options.height = input.parameters.height;
  options.expected_frames = static_cast<int>(frames);
  const absl::StatusOr<media::FrameRate> fps = media::FrameRate::FromDouble(input.parameters.fps);
  if (!fps.ok()) return EncoderError(fps.status());
  options.fps = *fps;
  absl::StatusOr<std::unique_ptr<media::VideoEncoder>> created = media::VideoEncoder::Create(
      options, [&context](std::string_view data) { return context.WriteVideo(data); });
  if (!created.ok()) return EncoderError(created.status());
  FrameEncoder encoder(*std::move(created));

  model::StageHooks hooks;
  hooks.cancelled = [&context] { return context.ShouldStop(); };
  hooks.plan_changed = PlanLogger(input.job_id);
  stage.Run(FromHostTensor(*input.latents), hooks,
            [&](int64_t first, const at::Tensor& decoded) {  // uint8 [n, H, W, 3]
              const absl::Status status = encoder.Add(decoded);
              if (!status.ok()) throw StatusException(EncoderError(status));
              StageProgress progress;
              progress.step = static_cast<int>(first + decoded.size(0));
              progress.steps = static_cast<int>(frames);
              context.ReportProgress(progress);
            });
  const absl::StatusOr<media::VideoEncoder::Totals> totals = encoder.Finish();
  if (!totals.ok()) return EncoderError(totals.status());

  VideoInfo video;
  video.mime_type = std::string(media::MimeType(options.format));
  video.frames = totals->frames;
  video.width = options.width;
  video.height = options.height;
  video.fps = fps->ToDouble();
  StageOutput output;
  output.video = std::move(video);
  return output;
}

// One stage over several models. ModelStage: one of the three stages of model/pipeline.h.
template <typename ModelStage>
class ModelRunner : public StageRunner {
 public:
  ModelRunner(Stage stage, StageOptions options, model::ExecutionOptions execution)
      : stage_(stage), options_(std::move(options)), execution_(std::move(execution)) {}

  Stage stage() const override { return stage_; }

  std::vector<std::string> models() const override {
    std::vector<std::string> names;
    for (const auto& [name, loaded] : loaded_) names.push_back(name);
    return names;
  }

  absl::Status Load() override {
    // OpenMP keeps this number, and a team of threads, for each thread that computes: Run is called
    // from this one, too.
    const int threads = ThreadsOrAuto(options_.threads);
    at::set_num_threads(threads);
    Log(LogLevel::kInfo, "loading", {{"stage", Name(stage_)}, {"threads", threads}});
    for (const std::string& directory : options_.model_dirs) {
      auto loaded =
          CatchStatus([&] { return std::make_unique<ModelStage>(directory, execution_); });
      if (!loaded.ok()) {
        return absl::Status(loaded.status().code(),
                            absl::StrCat(directory, ": ", loaded.status().message()));
      }
      const std::string name = (*loaded)->config().name;
      if (!loaded_.try_emplace(name, *std::move(loaded)).second) {
        return absl::InvalidArgumentError(
            absl::StrCat(directory, ": there is another model \"", name, "\""));
      }
      Log(LogLevel::kInfo, "model loaded", {{"model", name}, {"stage", Name(stage_)}});
    }
    return absl::OkStatus();
  }

  absl::StatusOr<StageOutput> Run(const StageInput& input, StageContext& context) override {
    const auto it = loaded_.find(input.parameters.model);
    if (it == loaded_.end()) {
      return absl::UnavailableError(absl::StrCat("no model \"", input.parameters.model, "\""));
    }
    try {
      model::ValidateRequest(ToRequest(input.parameters), it->second->config());
      absl::StatusOr<StageOutput> output = RunModel(*it->second, input, context);
      ReportGraphs(*it->second);
      return output;
    } catch (...) {
      return CurrentExceptionToStatus();
    }
  }

 private:
  absl::StatusOr<StageOutput> RunModel(model::KeyframeStage& stage, const StageInput& input,
                                       StageContext& context) {
    return RunKeyframes(stage, input, context, options_.preview_side);
  }
  absl::StatusOr<StageOutput> RunModel(model::InterpolationStage& stage, const StageInput& input,
                                       StageContext& context) {
    return RunInterpolation(stage, input, context);
  }
  absl::StatusOr<StageOutput> RunModel(model::DecodingStage& stage, const StageInput& input,
                                       StageContext& context) {
    return RunDecoding(stage, input, context);
  }

  // Says once for each model that its steps are not replayed as graphs, or not all of them, and
  // why.
  void ReportGraphs(const ModelStage& stage) {
    if constexpr (requires { stage.graph_stats(); }) {
      const model::GraphStats stats = stage.graph_stats();
      if (stats.reason.empty() || !without_graphs_.insert(stage.config().name).second) return;
      Log(LogLevel::kWarning, "steps run without CUDA graphs",
          {{"model", stage.config().name}, {"stage", Name(stage_)}, {"why", stats.reason}});
    }
  }

  const Stage stage_;
  const StageOptions options_;
  const model::ExecutionOptions execution_;
  std::map<std::string, std::unique_ptr<ModelStage>> loaded_;
  std::set<std::string> without_graphs_;  // models of which ReportGraphs has told
};

}  // namespace

absl::StatusOr<std::unique_ptr<StageRunner>> MakeStage(Stage stage, const StageOptions& options) {
  if (options.model_dirs.empty()) {
    return absl::InvalidArgumentError("--model_dirs: at least one is needed");
  }
  if (options.threads < 0 || options.threads > kMaxThreads) {
    return absl::InvalidArgumentError(
        absl::StrCat("--threads: ", options.threads, " must be from 0 (auto) to ", kMaxThreads));
  }
  const absl::StatusOr<model::ExecutionOptions> execution =
      CatchStatus([&] { return model::ParseExecutionOptions(options.execution); });
  if (!execution.ok()) return execution.status();
  model::ApplyToProcess(*execution);
  switch (stage) {
    case Stage::kKeyframes:
      return std::make_unique<ModelRunner<model::KeyframeStage>>(stage, options, *execution);
    case Stage::kInterpolation:
      return std::make_unique<ModelRunner<model::InterpolationStage>>(stage, options, *execution);
    case Stage::kDecoding:
      return std::make_unique<ModelRunner<model::DecodingStage>>(stage, options, *execution);
  }
  return absl::InvalidArgumentError("--stage: unknown");
}

}  // namespace kandinsky
