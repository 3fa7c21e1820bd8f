#include "worker/model/mfi.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "worker/model/error.h"
#include "worker/model/interpolation.h"

namespace kandinsky::model {
namespace {

constexpr int64_t kTextTokens = 2;

[[noreturn]] void Refuse(const std::string& message) {
  throw ModelError(ModelError::Kind::kInvalidArgument, message);
}

void CheckVideo(const at::Tensor& video) {
  if (video.dim() != 4 || video.size(0) < 2) {
    Refuse("video must be [T, C, H, W] with at least 2 frames");
  }
}

}  // namespace

UnetConfig MfiUnetConfig(UnetConfig base) {
  base.num_channels = 2 * base.out_channels + 1;
  base.num_frames = kMfiFrames;
  if (!base.keyframes()) base.temporal_variant = TemporalVariant::kConv1dAttn1dBlocks;
  return base;
}

at::Tensor MfiCondition(const at::Tensor& video) {
  CheckVideo(video);
  const int64_t groups = video.size(0) - 1;
  const at::Tensor condition = at::zeros(
      {groups, kMfiFrames, video.size(1) + 1, video.size(2), video.size(3)}, video.options());
  const auto give = [&](int64_t frame, const at::Tensor& keyframes) {
    const at::Tensor slot = condition.select(1, frame);  // [G, C+1, H, W]
    slot.narrow(1, 0, video.size(1)).copy_(keyframes);
    slot.select(1, video.size(1)).fill_(1);
  };
  give(0, LeftKeyframes(video));
  give(kMfiFrames - 1, RightKeyframes(video));
  return condition.flatten(0, 1);
}

Denoiser MakeMfiDenoiser(Unet& unet, const at::Tensor& video, const at::Tensor& null_embedding,
                         const GuidanceConfig& guidance, int64_t groups_per_batch) {
  const at::Device device = unet.parameters().front().device();
  const TextCondition text = NullCondition(null_embedding, kTextTokens);
  const at::Tensor condition = MfiCondition(video.to(device, at::kFloat));
  const int64_t groups = condition.size(0) / kMfiFrames;
  const int64_t batch = groups_per_batch > 0 ? std::min(groups_per_batch, groups) : groups;
  UnetInput input;
  input.context = text.context.to(device);
  input.context_mask = text.mask;
  input.frames = kMfiFrames;
  const GuidedUnet guided(unet, input, input, guidance);
  return [guided, condition, batch, device](const at::Tensor& x, const StepTime& step) {
    const at::Tensor noisy = x.to(device), time = step.On(device);
    std::vector<at::Tensor> parts;
    for (int64_t first = 0; first < noisy.size(0); first += batch * kMfiFrames) {
      const int64_t count = std::min(batch * kMfiFrames, noisy.size(0) - first);
      const at::Tensor given = condition.narrow(0, first, count);
      const at::Tensor some = noisy.narrow(0, first, count);
      parts.push_back(guided.ForwardGuided(at::cat({some, given}, 1),  // [n*5, 9, H, W]
                                           at::cat({some, at::zeros_like(given)}, 1), time));
    }
    return parts.size() == 1 ? parts.front() : at::cat(parts, 0);
  };
}

at::Tensor MergeMfi(const at::Tensor& video, const at::Tensor& sequences) {
  CheckVideo(video);
  if (sequences.size(0) != (video.size(0) - 1) * kMfiFrames) {
    Refuse("sequences must be [(T-1)*5, C, H, W] for a video [T, C, H, W]");
  }
  // The three predicted frames of each sequence, as one group of 3C channels.
  const at::Tensor predicted =
      sequences.unflatten(0, {-1, kMfiFrames}).narrow(1, 1, kMfiFrames - 2).flatten(1, 2);
  return MergeGroups(video, predicted);
}

}  // namespace kandinsky::model
