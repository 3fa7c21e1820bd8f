#include "worker/model/norm.h"

#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

#include "worker/model/norm_kernel.h"

namespace kandinsky::model {
namespace {

constexpr double kEps = 1e-5;

// pixels [N, H, W, C], scale and shift [N, C], all contiguous float32 on the CPU. The backward pass
// measures each item again, which is quicker than to read what the forward pass would have kept.
class FusedNorm : public torch::autograd::Function<FusedNorm> {
 public:
  using Context = torch::autograd::AutogradContext;

  static at::Tensor forward(Context* context, const at::Tensor& pixels, int64_t groups,
                            const at::Tensor& scale, const at::Tensor& shift, bool silu) {
    context->save_for_backward({pixels, scale, shift});
    context->saved_data["groups"] = groups;
    context->saved_data["silu"] = silu;
    at::Tensor out = at::empty_like(pixels);
    const int64_t channels = pixels.size(3), count = pixels.size(1) * pixels.size(2);
    const float* in = pixels.const_data_ptr<float>();
    const float* gain = scale.const_data_ptr<float>();
    const float* offset = shift.const_data_ptr<float>();
    float* result = out.mutable_data_ptr<float>();
    at::parallel_for(0, pixels.size(0), 1, [&](int64_t begin, int64_t end) {
      for (int64_t n = begin; n < end; ++n) {
        NormItem(in + n * count * channels, result + n * count * channels, count, channels, groups,
                 gain + n * channels, offset + n * channels, silu, static_cast<float>(kEps));
      }
    });
    return out;
  }

  static torch::autograd::variable_list backward(Context* context,
                                                 const torch::autograd::variable_list& gradients) {
    const auto saved = context->get_saved_variables();
    const at::Tensor &pixels = saved[0], &scale = saved[1], &shift = saved[2];
    const at::Tensor gradient = gradients[0].contiguous();
    at::Tensor dx = at::empty_like(pixels);
    at::Tensor dscale = at::empty_like(scale), dshift = at::empty_like(shift);
    const int64_t groups = context->saved_data["groups"].toInt();
    const bool silu = context->saved_data["silu"].toBool();
    const int64_t channels = pixels.size(3), count = pixels.size(1) * pixels.size(2);
    const float* in = pixels.const_data_ptr<float>();
    const float* dy = gradient.const_data_ptr<float>();
    const float* gain = scale.const_data_ptr<float>();
    const float* offset = shift.const_data_ptr<float>();
    float* out = dx.mutable_data_ptr<float>();
    float* out_scale = dscale.mutable_data_ptr<float>();
    float* out_shift = dshift.mutable_data_ptr<float>();
    at::parallel_for(0, pixels.size(0), 1, [&](int64_t begin, int64_t end) {
      for (int64_t n = begin; n < end; ++n) {
        const int64_t item = n * count * channels, row = n * channels;
        NormItemBackward(in + item, dy + item, out + item, out_scale + row, out_shift + row, count,
                         channels, groups, gain + row, offset + row, silu,
                         static_cast<float>(kEps));
      }
    });
    return {dx, at::Tensor(), dscale, dshift, at::Tensor()};
  }
};

}  // namespace

at::Tensor NormScaleShift(const at::Tensor& x, int64_t groups, const at::Tensor& scale,
                          const at::Tensor& shift, bool silu) {
  const at::ScalarType wide = x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  const int64_t items = x.size(0), channels = x.size(1), height = x.size(2), width = x.size(3);
  const at::Tensor pixels =
      x.to(wide).permute({0, 2, 3, 1}).contiguous();  // [N, H, W, C], channels-last memory
  const at::Tensor a = scale.to(wide), b = shift.to(wide);
  if (x.is_cpu() && wide == at::kFloat) {
    return FusedNorm::apply(pixels, groups, a.contiguous(), b.contiguous(), silu)
        .to(x.scalar_type())
        .permute({0, 3, 1, 2});
  }
  // ATen's group norm leaves channels-last order on CUDA; statistics and one multiply-add do not.
  const at::Tensor grouped = pixels.view({items, height * width, groups, channels / groups});
  const auto [variance, mean] = at::var_mean(grouped, {1, 3}, /*unbiased=*/false, /*keepdim=*/true);
  const at::Tensor gain =
      at::rsqrt(variance + kEps).squeeze(1) * a.view({items, groups, -1});  // [N, G, C/G]
  const at::Tensor offset = b.view({items, groups, -1}) - mean.squeeze(1) * gain;
  at::Tensor y = at::addcmul(offset.view({items, 1, channels}), pixels.view({items, -1, channels}),
                             gain.view({items, 1, channels}));  // [N, HW, C]
  if (silu) y = at::silu_(y);
  return y.to(x.scalar_type()).view({items, height, width, channels}).permute({0, 3, 1, 2});
}

}  // namespace kandinsky::model
