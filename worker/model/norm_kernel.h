// The CPU kernels behind NormScaleShift: plain loops that the compiler turns into vector code for
// the machine at hand.
#ifndef KANDINSKY_WORKER_MODEL_NORM_KERNEL_H_
#define KANDINSKY_WORKER_MODEL_NORM_KERNEL_H_

#include <cstdint>

namespace kandinsky::model {

// One item. x, y [pixels, channels] contiguous (they may be the same memory), scale and shift
// [channels]. Two passes for the statistics (exact where the mean is far from zero), one for the
// result. eps is added to the variance.
void NormItem(const float* x, float* y, int64_t pixels, int64_t channels, int64_t groups,
              const float* scale, const float* shift, bool silu, float eps);

// The gradients of NormItem at the same x, scale, shift: dy -> dx, both [pixels, channels], and
// dscale, dshift [channels]; dx may be dy, but not x.
void NormItemBackward(const float* x, const float* dy, float* dx, float* dscale, float* dshift,
                      int64_t pixels, int64_t channels, int64_t groups, const float* scale,
                      const float* shift, bool silu, float eps);

}  // namespace kandinsky::model

#endif  // KANDINSKY_WORKER_MODEL_NORM_KERNEL_H_
