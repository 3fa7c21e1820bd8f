#include "worker/model/interpolation.h"

#include <string>
#include <vector>

#include "worker/model/error.h"

namespace kandinsky::model {
namespace {

constexpr int64_t kTextTokens = 2;

[[noreturn]] void Refuse(const std::string& message) {
  throw ModelError(ModelError::Kind::kInvalidArgument, message);
}

}  // namespace

int64_t SkipFrames(int pass) {
  if (pass == 0) return 3;
  if (pass == 1) return 1;
  Refuse("pass is " + std::to_string(pass) + ", must be 0 or 1");
}

at::Tensor LeftKeyframes(const at::Tensor& video) { return video.narrow(0, 0, video.size(0) - 1); }

at::Tensor RightKeyframes(const at::Tensor& video) { return video.narrow(0, 1, video.size(0) - 1); }

at::Tensor MergeGroups(const at::Tensor& video, const at::Tensor& groups) {
  const int64_t channels = video.size(1);
  if (video.size(0) != groups.size(0) + 1 || groups.size(1) != kFramesPerGroup * channels) {
    Refuse("groups must be [T-1, 3C, H, W] for a video [T, C, H, W]");
  }
  // [G, 1 + 3, C, H, W]: each left keyframe before its three frames.
  const at::Tensor frames = groups.unflatten(1, {kFramesPerGroup, channels}).to(video.options());
  const at::Tensor merged = at::cat({LeftKeyframes(video).unsqueeze(1), frames}, 1).flatten(0, 1);
  return at::cat({merged, video.narrow(0, video.size(0) - 1, 1)}, 0);
}

Denoiser MakeInterpolationDenoiser(Unet& unet, const at::Tensor& video,
                                   const at::Tensor& null_embedding, int64_t skip_frames,
                                   const GuidanceConfig& guidance) {
  if (video.dim() != 4 || video.size(0) < 2) {
    Refuse("video must be [T, C, H, W] with at least 2 frames");
  }
  const at::Device device = unet.parameters().front().device();
  const TextCondition text = NullCondition(null_embedding, kTextTokens);
  UnetInput input;
  input.context = text.context.to(device);
  input.context_mask = text.mask;
  input.frames = video.size(0) - 1;
  input.window = guidance.window;
  input.skip_frames = at::full({1}, skip_frames, at::TensorOptions(at::kLong).device(device));
  const at::Tensor on_device = video.to(device, at::kFloat);
  const at::Tensor left = LeftKeyframes(on_device), right = RightKeyframes(on_device);
  const at::Tensor none = at::zeros_like(left);
  const GuidedUnet guided(unet, input, input, guidance);
  return [guided, left, right, none, device](const at::Tensor& x, const StepTime& time) {
    return guided.Run("", {x.to(device), time.On(device), left, right},
                      [none](const GuidedUnet& halves_of, const std::vector<at::Tensor>& inputs) {
                        const at::Tensor& noisy = inputs[0];
                        return halves_of.ForwardGuided(
                            at::cat({inputs[2], noisy, inputs[3]}, 1),  // [G, 20, H, W]
                            at::cat({none, noisy, none}, 1), inputs[1]);
                      });
  };
}

}  // namespace kandinsky::model
