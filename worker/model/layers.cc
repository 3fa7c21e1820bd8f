#include "worker/model/layers.h"

#include <cmath>
#include <vector>

#include "worker/model/error.h"
#include "worker/model/norm.h"
#include "worker/model/reproducible.h"

namespace kandinsky::model::blocks {
namespace {

// True where the CPU has no instructions for the tensor's type. LibTorch's fallbacks are ten and
// more times slower than float32, so products are then computed in float32 from the narrow weights
// and rounded once.
bool ComputesWide(const at::Tensor& x) {
  if (!x.is_cpu()) return false;
#if defined(__x86_64__)
  if (x.scalar_type() == at::kBFloat16) return __builtin_cpu_supports("avx512bf16") == 0;
#endif
  return x.scalar_type() == at::kHalf || x.scalar_type() == at::kBFloat16;
}

// product(x, weight, bias) in the type in which it is fast; the result has x's type.
template <typename Product>
at::Tensor Multiply(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                    const Product& product) {
  if (!ComputesWide(x)) return product(x, weight, bias);
  return product(x.to(at::kFloat), weight.to(at::kFloat),
                 bias.defined() ? bias.to(at::kFloat) : bias)
      .to(x.scalar_type());
}

// Convolution of [N, C, H, W] (2D) or [N, C, T, H, W] (3D) with zero padding.
at::Tensor Convolve(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                    int64_t stride, at::IntArrayRef padding) {
  return Multiply(x, weight, bias, [&](const auto& a, const auto& w, const auto& b) {
    // One number stands for every axis, as in at::conv2d.
    return Convolution(a, w, b, std::vector<int64_t>(padding.size(), stride), padding);
  });
}

}  // namespace

at::Tensor Tokens(const at::Tensor& x) {
  return x.permute({0, 2, 3, 1}).contiguous().flatten(1, 2);
}

at::Tensor Image(const at::Tensor& tokens, int64_t height, int64_t width) {
  return tokens.unflatten(1, {height, width}).permute({0, 3, 1, 2});
}

at::Tensor Sinusoid(const at::Tensor& x, int64_t dim) {
  const int64_t half = dim / 2;
  const double rate = -std::log(10000.0) / static_cast<double>(half - 1);
  const at::Tensor frequencies = at::exp(at::arange(half, x.options().dtype(at::kFloat)).mul(rate));
  const at::Tensor angles = x.to(at::kFloat).unsqueeze(1) * frequencies;  // [N, h]
  return at::cat({angles.sin(), angles.cos()}, 1);
}

Linear::Linear(int64_t in, int64_t out, bool with_bias, const at::TensorOptions& options)
    : weight(register_parameter("weight", at::empty({out, in}, options))),
      bias(with_bias ? register_parameter("bias", at::empty({out}, options)) : at::Tensor()) {}

at::Tensor Linear::forward(const at::Tensor& x) const {
  return Multiply(x, weight, bias, [](const auto& a, const auto& w, const auto& b) {
    return LinearProduct(a, w, b);
  });
}

Conv2d::Conv2d(int64_t in, int64_t out, int64_t kernel, bool with_bias,
               const at::TensorOptions& options)
    : weight(register_parameter("weight",
                                at::empty({out, in, kernel, kernel},
                                          options.memory_format(at::MemoryFormat::ChannelsLast)))),
      bias(with_bias ? register_parameter("bias", at::empty({out}, options)) : at::Tensor()),
      kernel_(kernel) {}

at::Tensor Conv2d::forward(const at::Tensor& x) const {
  const int64_t stride = kernel_ == 2 ? 2 : 1;
  const int64_t padding = kernel_ == 3 ? 1 : 0;
  return Convolve(x.contiguous(at::MemoryFormat::ChannelsLast), weight, bias, stride,
                  {padding, padding});
}

UpConv2d::UpConv2d(int64_t channels, const at::TensorOptions& options)
    : weight(register_parameter("weight",
                                at::empty({channels, channels, 2, 2},
                                          options.memory_format(at::MemoryFormat::ChannelsLast)))),
      bias(register_parameter("bias", at::empty({channels}, options))) {}

at::Tensor UpConv2d::forward(const at::Tensor& x) const {
  return Multiply(x.contiguous(at::MemoryFormat::ChannelsLast), weight, bias,
                  [](const auto& a, const auto& w, const auto& b) {
                    return TransposedConvolution(a, w, b, {2, 2}, {0, 0});
                  });
}

FrameConv::FrameConv(int64_t in, int64_t out, int64_t time_kernel, int64_t spatial_kernel,
                     const at::TensorOptions& options)
    : weight(register_parameter(
          "weight", at::empty({out, in, time_kernel, spatial_kernel, spatial_kernel},
                              options.memory_format(at::MemoryFormat::ChannelsLast3d)))),
      bias(register_parameter("bias", at::empty({out}, options))) {}

at::Tensor FrameConv::forward(const at::Tensor& x, int64_t frames) const {
  const int64_t height = x.size(2), width = x.size(3);
  if (weight.size(2) == 1 && weight.size(3) == 1) {
    return Convolve(x.contiguous(at::MemoryFormat::ChannelsLast), weight.squeeze(4), bias, 1,
                    {0, 0});
  }
  const at::Tensor tokens = Tokens(x);  // [B*T, HW, C]
  if (weight.size(3) == 1) {
    // Time and pixels as the two axes of a 2D convolution: [B, C, T, HW] in channels-last order, no
    // copy.
    const at::Tensor clip = tokens.unflatten(0, {-1, frames}).permute({0, 3, 1, 2});
    const at::Tensor out =
        Convolve(clip, weight.squeeze(4), bias, 1, {weight.size(2) / 2, int64_t{0}});
    return Image(out.permute({0, 2, 3, 1}).contiguous().flatten(0, 1), height, width);
  }
  const at::Tensor clip =
      tokens.unflatten(1, {height, width}).unflatten(0, {-1, frames}).permute({0, 4, 1, 2, 3});
  const at::Tensor out =
      Convolve(clip, weight, bias, 1,
               {weight.size(2) / 2, weight.size(3) / 2, weight.size(4) / 2});  // [B, C, T, H, W]
  return out.permute({0, 2, 3, 4, 1}).contiguous().flatten(0, 1).permute({0, 3, 1, 2});
}

GroupNorm::GroupNorm(int64_t channels, int64_t groups, const at::TensorOptions& options)
    : weight(register_parameter("weight", at::empty({channels}, options))),
      bias(register_parameter("bias", at::empty({channels}, options))),
      groups_(groups) {}

at::Tensor GroupNorm::forward(const at::Tensor& x) const {
  const int64_t channels = x.size(1);
  return NormScaleShift(x, groups_, weight.expand({x.size(0), channels}),
                        bias.expand({x.size(0), channels}), /*silu=*/false);
}

Embedding::Embedding(int64_t count, int64_t width, const at::TensorOptions& options)
    : weight(register_parameter("weight", at::empty({count, width}, options))) {}

ConditionalGroupNorm::ConditionalGroupNorm(int64_t channels, int64_t groups, int64_t embed_dim,
                                           const at::TensorOptions& options)
    : groups_(groups) {
  auto context_mlp = register_module("context_mlp", std::make_shared<Slots>());
  linear_ = context_mlp->Put("1", std::make_shared<Linear>(embed_dim, 2 * channels, true, options));
}

at::Tensor ConditionalGroupNorm::forward(const at::Tensor& x, const at::Tensor& activated,
                                         bool silu) const {
  at::Tensor scale_shift = linear_->forward(activated);  // [N, 2C]
  if (scale_shift.scalar_type() != at::kDouble) scale_shift = scale_shift.to(at::kFloat);
  const int64_t channels = x.size(1);
  return NormScaleShift(x, groups_, scale_shift.narrow(1, 0, channels) + 1,
                        scale_shift.narrow(1, channels, channels), silu);
}

}  // namespace kandinsky::model::blocks
