// GroupNorm with 32 groups and the decoder's spatial conditioning, followed by the activation x *
// sigmoid(x).
//
// The statistics of a map and their application are separate calls, so that a large map can be
// normalised in strips. Channels-last float32 maps on the CPU that need no gradient take a fused
// path: one pass over the map for the statistics and one for norm, conditioning and activation
// together.
#ifndef KANDINSKY_WORKER_MODEL_MOVQ_NORM_H_
#define KANDINSKY_WORKER_MODEL_MOVQ_NORM_H_

#include <ATen/ATen.h>

#include <cstdint>

namespace kandinsky::model {

inline constexpr int64_t kMovqGroups = 32;
inline constexpr double kMovqEpsilon = 1e-6;

// Per frame and group, float32 [N, 32] each.
struct GroupStatistics {
  at::Tensor mean;
  at::Tensor rstd;  // 1 / sqrt(variance + epsilon)
};

// What a norm does after normalising. scale and shift are undefined for a plain norm; otherwise
// they are the conditioning maps conv_y(z) and conv_b(z), [N or 1, C, h, w] at the size of the
// latent (1: the same for all frames).
struct NormParameters {
  at::Tensor weight, bias;  // [C]
  at::Tensor scale, shift;
  bool activate = true;
};

// x [N, C, H, W] -> its statistics, computed in float32 (sums in float64 on the fused path).
GroupStatistics ComputeGroupStatistics(const at::Tensor& x);

// Normalises rows [first_row, first_row + x.size(2)) of a map of `height` rows. Differentiable.
at::Tensor ApplyNorm(const at::Tensor& x, const GroupStatistics& statistics,
                     const NormParameters& parameters, int64_t first_row, int64_t height);

// Both steps on a whole map.
at::Tensor NormActivate(const at::Tensor& x, const NormParameters& parameters);

}  // namespace kandinsky::model

#endif  // KANDINSKY_WORKER_MODEL_MOVQ_NORM_H_
