// Results that do not depend on the number of threads.
//
// Most operations of LibTorch on the CPU give the same bits with any number of threads: they share
// out results, not sums. Some do not: ATen picks another algorithm for 1x1 convolutions and for
// attention of one query when there is one thread, and oneDNN chooses the blocks of a convolution,
// and with them the order of its sums, by the number of threads. SiLU and GELU are rounded in
// another way at the end of each thread's part, where a vector is not full.
//
// Where a ReproducibleScope is, activations are computed in blocks of a fixed size, and the other
// operations give what two threads give. With another number,
// the first use of each shape tries the ways to compute it on random numbers of that shape and
// takes the first one whose bits are those of two threads; if none is, two threads compute it. So
// a shape costs a few more runs once a process (tenths of a second for a clip of models/tiny), and
// nothing with two threads. Where no scope is (training), everything runs as LibTorch does it.
//
// Thread rule: a scope counts for the thread that makes it; everything here may be used from
// several threads at once. CPU only: operations on other devices run as they are.
#ifndef KANDINSKY_WORKER_MODEL_REPRODUCIBLE_H_
#define KANDINSKY_WORKER_MODEL_REPRODUCIBLE_H_

#include <ATen/ATen.h>

#include <cstdint>
#include <optional>

namespace kandinsky::model {

class ReproducibleScope {
 public:
  ReproducibleScope();
  ~ReproducibleScope();
  ReproducibleScope(const ReproducibleScope&) = delete;
  ReproducibleScope& operator=(const ReproducibleScope&) = delete;
};

// at::conv2d or, for [N, C, T, H, W], at::conv3d. `bias` may be undefined.
at::Tensor Convolution(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                       at::IntArrayRef stride, at::IntArrayRef padding);
// at::conv_transpose2d
at::Tensor TransposedConvolution(const at::Tensor& x, const at::Tensor& weight,
                                 const at::Tensor& bias, at::IntArrayRef stride,
                                 at::IntArrayRef padding);
// at::linear
at::Tensor LinearProduct(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias);
// at::scaled_dot_product_attention: [B, N, S, d], [B, N, L, d], [B, N, L, d], bias [B, N, S, L]
at::Tensor AttentionProduct(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
                            const std::optional<at::Tensor>& bias = std::nullopt);

// at::silu, at::silu_ and at::gelu(x, "tanh")
at::Tensor Silu(const at::Tensor& x);
void SiluInPlace(at::Tensor& x);
at::Tensor GeluTanh(const at::Tensor& x);

}  // namespace kandinsky::model

#endif  // KANDINSKY_WORKER_MODEL_REPRODUCIBLE_H_
