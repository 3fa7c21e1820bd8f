#include "worker/model/pipeline_parts.h"

#include <ATen/core/grad_mode.h>

#include <utility>
#include <vector>

#include "worker/model/error.h"
#include "worker/model/interpolation.h"

namespace kandinsky::model {
namespace {

[[noreturn]] void Invalid(const std::string& message) {
  throw ModelError(ModelError::Kind::kInvalidArgument, message);
}

at::Device DeviceOf(const Unet& unet) { return unet.parameters().front().device(); }

// Runs one loop with a stage's hooks, from the beginning or from a checkpoint of this very pass.
at::Tensor RunLoop(const DenoisingLoop& loop, const Sampler& sampler, at::IntArrayRef shape,
                   int pass, int passes, const at::Tensor& video, const StageHooks& hooks,
                   const std::optional<StageCheckpoint>& resume) {
  LoopState state;
  if (resume) {
    if (!resume->x.defined() || resume->x.sizes() != shape) {
      Invalid("checkpoint.x has shape " +
              (resume->x.defined() ? c10::str(resume->x.sizes()) : std::string("nothing")) +
              ", must be " + c10::str(shape));
    }
    if (resume->next_step < 0 || resume->next_step > sampler.steps()) {
      Invalid("checkpoint.next_step is " + std::to_string(resume->next_step) + ", must be 0 to " +
              std::to_string(sampler.steps()));
    }
    if (resume->previous_x0.defined() && resume->previous_x0.sizes() != shape) {
      Invalid("checkpoint.previous_x0 has shape " + c10::str(resume->previous_x0.sizes()) +
              ", must be " + c10::str(shape));
    }
    state = {resume->next_step, resume->x, resume->previous_x0};
  } else {
    state = loop.Start(shape);
  }
  DenoisingLoop::Hooks loop_hooks;
  loop_hooks.cancelled = hooks.cancelled;
  loop_hooks.step = [&](const LoopState& after, double seconds) {
    if (hooks.progress) {
      hooks.progress({pass, passes, after.next_step, sampler.steps(), seconds});
    }
    if (hooks.checkpoint && hooks.checkpoint_due && hooks.checkpoint_due()) {
      const auto copy = [](const at::Tensor& tensor) {
        return tensor.defined() ? tensor.to(at::kCPU, at::kFloat, false, /*copy=*/true) : tensor;
      };
      StageCheckpoint checkpoint = {pass, after.next_step};
      if (after.previous_x0.defined()) {
        // In one copy, as each makes the host wait for the device.
        const at::Tensor both = copy(at::stack({after.x, after.previous_x0}));
        checkpoint.x = both[0];
        checkpoint.previous_x0 = both[1];
      } else {
        checkpoint.x = copy(after.x);
      }
      checkpoint.video = copy(video);
      hooks.checkpoint(checkpoint);
    }
  };
  return loop.Run(std::move(state), loop_hooks).to(at::kCPU, at::kFloat);
}

}  // namespace

EncodedPrompt EncodePrompt(const Tokenizer& tokenizer, const TextEncoder& encoder,
                           const std::string& prompt, const std::string* negative_prompt) {
  at::NoGradGuard no_grad;
  const int64_t length = encoder.config().max_length;
  const TokenSequence positive = tokenizer.EncodePadded(prompt, length);
  std::vector<int64_t> ids = positive.ids, mask = positive.mask;
  if (negative_prompt != nullptr) {
    const TokenSequence negative = tokenizer.EncodeNegative(*negative_prompt, positive);
    ids.insert(ids.end(), negative.ids.begin(), negative.ids.end());
    mask.insert(mask.end(), negative.mask.begin(), negative.mask.end());
  }
  const TextContext text = encoder.Encode(at::tensor(ids, at::kLong).view({-1, length}),
                                          at::tensor(mask, at::kLong).view({-1, length}));
  const auto row = [&](int64_t i) -> TextContext {
    return {text.context.narrow(0, i, 1).to(at::kCPU).clone(),
            text.mask.narrow(0, i, 1).to(at::kCPU).clone()};
  };
  EncodedPrompt encoded;
  encoded.positive = row(0);
  if (negative_prompt != nullptr) encoded.negative = row(1);
  return encoded;
}

at::Tensor SampleKeyframes(Unet& unet, const EncodedPrompt& prompt,
                           const at::Tensor& null_embedding, int64_t frames, int64_t height,
                           int64_t width, const SamplerConfig& sampling,
                           const GuidanceConfig& guidance, const NoiseSource& noise,
                           const StageHooks& hooks, const std::optional<StageCheckpoint>& resume) {
  at::NoGradGuard no_grad;
  if (resume && resume->pass != 0) {
    Invalid("checkpoint.pass is " + std::to_string(resume->pass) + ", must be 0");
  }
  const TextCondition conditional = {prompt.positive.context, prompt.positive.mask.to(at::kLong)};
  const TextCondition unconditional =
      prompt.negative.context.defined()
          ? TextCondition{prompt.negative.context, prompt.negative.mask.to(at::kLong)}
          : NullCondition(null_embedding.to(at::kCPU), prompt.positive.context.size(1));
  const Sampler sampler(sampling);
  const DenoisingLoop loop(sampler,
                           MakeKeyframeDenoiser(unet, conditional, unconditional, guidance), noise,
                           NoiseStage::kKeyframes, 0, DeviceOf(unet));
  return RunLoop(loop, sampler, {frames, unet.config().num_channels, height, width}, 0, 1, {},
                 hooks, resume);
}

at::Tensor SampleGroups(Unet& unet, const at::Tensor& video, const at::Tensor& null_embedding,
                        const InterpolationPass& pass, const SamplerConfig& sampling,
                        const GuidanceConfig& guidance, const NoiseSource& noise,
                        const StageHooks& hooks, const std::optional<StageCheckpoint>& resume) {
  at::NoGradGuard no_grad;
  if (video.dim() != 4 || video.size(0) < 2) {
    Invalid("video has shape " + c10::str(video.sizes()) + ", must be [T, C, h, w] with T >= 2");
  }
  const at::Device device = DeviceOf(unet);
  const Sampler sampler(sampling);
  const DenoisingLoop loop(
      sampler,
      MakeInterpolationDenoiser(unet, video.to(device, at::kFloat), null_embedding.to(device),
                                pass.skip_frames, guidance),
      noise, NoiseStage::kInterpolation, pass.pass, device);
  return RunLoop(loop, sampler,
                 {video.size(0) - 1, unet.config().out_channels, video.size(2), video.size(3)},
                 pass.pass, pass.passes, video, hooks, resume);
}

void DecodeChunks(const Movq& movq, at::Device device, const at::Tensor& latents,
                  const DecodeOptions& options, const std::function<bool()>& cancelled,
                  const std::function<void(int64_t first, const at::Tensor& decoded)>& sink,
                  int64_t first_frame) {
  at::NoGradGuard no_grad;
  if (latents.dim() != 4) {
    Invalid("latents have shape " + c10::str(latents.sizes()) + ", must be [T, C, h, w]");
  }
  if (first_frame < 0 || first_frame > latents.size(0)) {
    Invalid("first_frame is " + std::to_string(first_frame) + ", must be 0 to " +
            std::to_string(latents.size(0)));
  }
  int64_t first = 0;
  for (const int64_t length : DecodeChunkLengths(latents.size(0))) {
    if (first >= first_frame) {
      if (cancelled && cancelled()) {
        throw ModelError(ModelError::Kind::kCancelled,
                         "cancelled before frame " + std::to_string(first));
      }
      sink(first, movq.Decode(latents.narrow(0, first, length).to(device), options));
    } else if (first + length > first_frame) {
      Invalid("first_frame is " + std::to_string(first_frame) +
              ", must be a chunk border such as " + std::to_string(first));
    }
    first += length;
  }
}

}  // namespace kandinsky::model
