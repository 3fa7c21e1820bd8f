#include "worker/model/norm.h"

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>

#include "worker/model/norm_kernel.h"

namespace kandinsky::model {
namespace {

constexpr double kEps = 1e-5;

bool NeedsGradient(const at::Tensor& x, const at::Tensor& scale, const at::Tensor& shift) {
  return at::GradMode::is_enabled() &&
         (x.requires_grad() || scale.requires_grad() || shift.requires_grad());
}

// pixels [N, H, W, C] contiguous; scale, shift [N, C]; all float32 on the CPU.
at::Tensor Fused(const at::Tensor& pixels, int64_t groups, const at::Tensor& scale,
                 const at::Tensor& shift, bool silu) {
  const int64_t channels = pixels.size(3), count = pixels.size(1) * pixels.size(2);
  at::Tensor out = at::empty_like(pixels);
  const at::Tensor a = scale.contiguous(), b = shift.contiguous();
  const float* in = pixels.const_data_ptr<float>();
  const float* gain = a.const_data_ptr<float>();
  const float* offset = b.const_data_ptr<float>();
  float* result = out.mutable_data_ptr<float>();
  at::parallel_for(0, pixels.size(0), 1, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      NormItem(in + n * count * channels, result + n * count * channels, count, channels, groups,
               gain + n * channels, offset + n * channels, silu, static_cast<float>(kEps));
    }
  });
  return out;
}

}  // namespace

at::Tensor NormScaleShift(const at::Tensor& x, int64_t groups, const at::Tensor& scale,
                          const at::Tensor& shift, bool silu) {
  const at::ScalarType wide = x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  const int64_t items = x.size(0), channels = x.size(1), height = x.size(2), width = x.size(3);
  const at::Tensor pixels =
      x.to(wide).permute({0, 2, 3, 1}).contiguous();  // [N, H, W, C], channels-last memory
  const at::Tensor a = scale.to(wide), b = shift.to(wide);
  at::Tensor y;  // [N, HW, C]
  if (x.is_cpu() && wide == at::kFloat && !NeedsGradient(x, scale, shift)) {
    return Fused(pixels, groups, a, b, silu).to(x.scalar_type()).permute({0, 3, 1, 2});
  }
  if (x.is_cpu()) {
    const at::Tensor normed = at::group_norm(pixels.permute({0, 3, 1, 2}), groups, {}, {}, kEps);
    y = at::addcmul(b.unsqueeze(1), normed.permute({0, 2, 3, 1}).reshape({items, -1, channels}),
                    a.unsqueeze(1));
  } else {
    // ATen's group norm leaves channels-last order on CUDA; statistics and one multiply-add do not.
    const at::Tensor grouped = pixels.view({items, height * width, groups, channels / groups});
    const auto [variance, mean] =
        at::var_mean(grouped, {1, 3}, /*unbiased=*/false, /*keepdim=*/true);
    const at::Tensor gain =
        at::rsqrt(variance + kEps).squeeze(1) * a.view({items, groups, -1});  // [N, G, C/G]
    const at::Tensor offset = b.view({items, groups, -1}) - mean.squeeze(1) * gain;
    y = at::addcmul(offset.view({items, 1, channels}), pixels.view({items, -1, channels}),
                    gain.view({items, 1, channels}));
  }
  if (silu) y = at::silu_(y);
  return y.to(x.scalar_type()).view({items, height, width, channels}).permute({0, 3, 1, 2});
}

}  // namespace kandinsky::model
