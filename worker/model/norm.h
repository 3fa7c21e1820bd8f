// Group norm, per-channel scale and shift, and SiLU as one operation.
#ifndef KANDINSKY_WORKER_MODEL_NORM_H_
#define KANDINSKY_WORKER_MODEL_NORM_H_

#include <ATen/ATen.h>

#include <cstdint>

namespace kandinsky::model {

// act(norm(x) * scale + shift): norm is over the H, W and channels of each of `groups` groups, eps
// 1e-5; act is SiLU or nothing. x [N, C, H, W] of any float dtype, scale and shift [N, C].
// Statistics and arithmetic in float32 (float64 if x is); the result has x's dtype and
// channels-last order. Differentiable.
at::Tensor NormScaleShift(const at::Tensor& x, int64_t groups, const at::Tensor& scale,
                          const at::Tensor& shift, bool silu);

}  // namespace kandinsky::model

#endif  // KANDINSKY_WORKER_MODEL_NORM_H_
