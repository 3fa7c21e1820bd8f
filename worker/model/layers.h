// Leaf modules of the U-Net. Parameters are created uninitialised (see Unet). Axes as in unet.h.
#ifndef KANDINSKY_WORKER_MODEL_LAYERS_H_
#define KANDINSKY_WORKER_MODEL_LAYERS_H_

#include <ATen/ATen.h>
#include <torch/nn/module.h>

#include <cstdint>
#include <memory>
#include <string>
#include <utility>

namespace kandinsky::model::blocks {

// x [N, C, H, W] in channels-last order -> the same memory as [N, H*W, C]; copies only if x has
// another order.
at::Tensor Tokens(const at::Tensor& x);
// tokens [N, H*W, C] -> [N, C, H, W] in channels-last order, never copies.
at::Tensor Image(const at::Tensor& tokens, int64_t height, int64_t width);

// [sin(x f_0).., cos(x f_0)..] with f_j = 10000^(-j/(h-1)), h = dim/2. x [N] of any dtype ->
// float32 [N, dim].
at::Tensor Sinusoid(const at::Tensor& x, int64_t dim);

// A container whose children are named freely ("0", "2"), for checkpoint keys such as
// `feed_forward.2.weight`.
class Slots : public torch::nn::Module {
 public:
  template <typename M>
  std::shared_ptr<M> Put(const std::string& name, std::shared_ptr<M> child) {
    return register_module(name, std::move(child));
  }
};

class Linear : public torch::nn::Module {
 public:
  Linear(int64_t in, int64_t out, bool with_bias, const at::TensorOptions& options);
  // x [..., in] -> [..., out]
  at::Tensor forward(const at::Tensor& x) const;

  at::Tensor weight;  // [out, in]
  at::Tensor bias;    // [out] or undefined
};

// Kernel 1, 2 (stride 2, no padding) or 3 (padding 1).
class Conv2d : public torch::nn::Module {
 public:
  Conv2d(int64_t in, int64_t out, int64_t kernel, bool with_bias, const at::TensorOptions& options);
  // x [N, in, H, W] -> [N, out, H, W], H and W halved by kernel 2
  at::Tensor forward(const at::Tensor& x) const;

  at::Tensor weight;  // [out, in, kernel, kernel]
  at::Tensor bias;    // [out] or undefined

 private:
  const int64_t kernel_;
};

// Transposed convolution 2x2 with stride 2.
class UpConv2d : public torch::nn::Module {
 public:
  UpConv2d(int64_t channels, const at::TensorOptions& options);
  // x [N, C, H, W] -> [N, C, 2H, 2W]
  at::Tensor forward(const at::Tensor& x) const;

  at::Tensor weight;  // [C in, C out, 2, 2]
  at::Tensor bias;    // [C out]
};

// Convolution over (time, height, width) of the frames of each video; odd kernel, zero padding that
// keeps the size.
class FrameConv : public torch::nn::Module {
 public:
  // `spatial_kernel` is the extent in height and width.
  FrameConv(int64_t in, int64_t out, int64_t time_kernel, int64_t spatial_kernel,
            const at::TensorOptions& options);
  // x [B*T, in, H, W] -> [B*T, out, H, W]
  at::Tensor forward(const at::Tensor& x, int64_t frames) const;

  at::Tensor weight;  // [out, in, time_kernel, spatial_kernel, spatial_kernel]
  at::Tensor bias;    // [out]
};

// Affine group norm, eps 1e-5.
class GroupNorm : public torch::nn::Module {
 public:
  GroupNorm(int64_t channels, int64_t groups, const at::TensorOptions& options);
  // x [N, C, H, W] -> the same in x's dtype
  at::Tensor forward(const at::Tensor& x) const;

  at::Tensor weight, bias;  // [C]

 private:
  const int64_t groups_;
};

class Embedding : public torch::nn::Module {
 public:
  Embedding(int64_t count, int64_t width, const at::TensorOptions& options);
  // index [N] integer -> [N, width]
  at::Tensor forward(const at::Tensor& index) const { return at::embedding(weight, index); }

  at::Tensor weight;  // [count, width]
};

// Group norm without affine part, eps 1e-5, then x * (1 + scale) + shift with [scale, shift] =
// Linear(embedding), then SiLU if asked. Statistics and arithmetic are float32 (float64 for float64
// input).
class ConditionalGroupNorm : public torch::nn::Module {
 public:
  ConditionalGroupNorm(int64_t channels, int64_t groups, int64_t embed_dim,
                       const at::TensorOptions& options);
  // x [N, C, H, W], activated [N, E] = SiLU(embedding) -> [N, C, H, W] channels-last, x's dtype
  at::Tensor forward(const at::Tensor& x, const at::Tensor& activated, bool silu) const;

 private:
  const int64_t groups_;
  std::shared_ptr<Linear> linear_;  // key context_mlp.1
};

}  // namespace kandinsky::model::blocks

#endif  // KANDINSKY_WORKER_MODEL_LAYERS_H_
