// Interpolation in latent space: three frames between each pair of neighbouring keyframes, T ->
// 4T-3. G = T-1 groups; a group is a pair of neighbouring keyframes and the three frames between
// them.
#ifndef KANDINSKY_WORKER_MODEL_INTERPOLATION_H_
#define KANDINSKY_WORKER_MODEL_INTERPOLATION_H_

#include <ATen/ATen.h>

#include <cstdint>

#include "worker/model/denoising.h"
#include "worker/model/unet.h"

namespace kandinsky::model {

constexpr int64_t kFramesPerGroup = 3;

// How far apart the interpolated frames of a pass are, in frames of the finished 30 fps clip: 3 in
// the first pass (2 -> 8 fps), 1 in the second (8 -> 30 fps). Throws for any other pass.
int64_t SkipFrames(int pass);

// Frames after one pass over t: 4t-3.
inline int64_t InterpolatedFrames(int64_t t) { return 4 * t - 3; }

// video [T, 4, H, W] -> the left and right keyframe of every group, [G, 4, H, W] each (views).
at::Tensor LeftKeyframes(const at::Tensor& video);
at::Tensor RightKeyframes(const at::Tensor& video);

// video [T, 4, H, W], groups [G, 12, H, W] (frame-major) -> [4T-3, 4, H, W]; frames 0, 4, 8, .. are
// the video's.
at::Tensor MergeGroups(const at::Tensor& video, const at::Tensor& groups);

// Denoiser for x [G, 12, H, W] over all groups of one video at once. Guidance acts on the
// keyframes: the unconditional half gets zeros for left and right. The text in both halves is two
// tokens: `null_embedding` ([D] or [1, D]) and a masked zero. `unet` must outlive the result.
//
// Temporal convolutions mix across all groups of the video: each of the 4 of a ResNet block reaches
// one group further, so that after the 48 blocks of the published network (192 convolutions) a
// group depends on all 60. Cutting the video into windows with a halo would therefore compute
// nearly everything again for each window, or change the result. Memory is bounded with
// guidance.two_passes, which halves the batch, and with guidance.window, which keeps the maps
// between layers whole and runs each layer window by window. At full size and 512x512 the largest
// maps are [768, 64, 64] a group (6 MiB in bfloat16, and a handful of them live at once).
Denoiser MakeInterpolationDenoiser(Unet& unet, const at::Tensor& video,
                                   const at::Tensor& null_embedding, int64_t skip_frames,
                                   const GuidanceConfig& guidance);

}  // namespace kandinsky::model

#endif  // KANDINSKY_WORKER_MODEL_INTERPOLATION_H_
