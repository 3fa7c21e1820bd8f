// Masked frame interpolation (after Video LDM): the baseline that FusionFrames-style interpolation
// is compared with.
//
// A sequence of five frames is denoised as a video of its own: the outer two are given, the three
// between them are predicted. The network is a keyframe U-Net with 2*4+1 input channels: [noisy
// frames 4, zero-padded video 4, mask 1]; the padded video holds the given frames (zeros
// elsewhere), the mask is 1 where a frame is given. Two stages carry T keyframes to 4T-3 and on to
// 16T-15 frames, as the interpolation model does.
#ifndef KANDINSKY_WORKER_MODEL_MFI_H_
#define KANDINSKY_WORKER_MODEL_MFI_H_

#include <ATen/ATen.h>

#include <cstdint>

#include "worker/model/denoising.h"
#include "worker/model/unet.h"

namespace kandinsky::model {

constexpr int64_t kMfiFrames = 5;  // of a sequence

// The U-Net config of an MFI network made from a text-to-image or keyframe config: five frames,
// nine input channels.
UnetConfig MfiUnetConfig(UnetConfig base);

// video [T, 4, H, W] -> [G*5, 5, H, W]: per frame the zero-padded video (4 channels) and the mask
// (1); G = T-1.
at::Tensor MfiCondition(const at::Tensor& video);

// Denoiser for x [G*5, 4, H, W], G sequences of five frames (sequence outermost). Guidance acts on
// the given frames: the unconditional half gets zeros for video and mask. Context as in
// MakeInterpolationDenoiser. `groups_per_batch` bounds the memory: sequences are independent of
// each other, so any value gives the same result (0: all at once).
Denoiser MakeMfiDenoiser(Unet& unet, const at::Tensor& video, const at::Tensor& null_embedding,
                         const GuidanceConfig& guidance, int64_t groups_per_batch = 0);

// x_0 [G*5, 4, H, W] and the video it was made from -> [4T-3, 4, H, W]; given frames are the
// video's, unchanged.
at::Tensor MergeMfi(const at::Tensor& video, const at::Tensor& sequences);

}  // namespace kandinsky::model

#endif  // KANDINSKY_WORKER_MODEL_MFI_H_
