#include "worker/model/text/stored_matrix.h"

#include <ATen/core/grad_mode.h>

#include "worker/model/checkpoint/load.h"

namespace kandinsky::model {

StoredMatrix::StoredMatrix(int64_t out, int64_t in, const at::TensorOptions& options)
    : weight(register_parameter("weight", at::empty({out, in}, options))) {}

at::Tensor StoredMatrix::Multiply(const at::Tensor& x) const {
  // On the meta device, too, a fetched matrix takes memory of its own.
  at::Tensor matrix = fetched_ ? weight.to(x.device(), weight.scalar_type(), /*non_blocking=*/false,
                                           /*copy=*/true)
                               : weight;
  if (scale.defined()) {
    at::Tensor wide = at::empty(matrix.sizes(), x.options());
    at::mul_out(wide, matrix, scale.to(x.device()));
    matrix = wide;
  } else if (matrix.scalar_type() != x.scalar_type()) {
    matrix = matrix.to(x.scalar_type());
  }
  return at::linear(x, matrix);
}

void StoredMatrix::Keep(at::Device device, bool fetched) {
  fetched_ = fetched;
  if (weight.device() != device) ReplaceStorage(weight, weight.to(device));
  if (scale.defined()) scale = scale.to(device);
}

void StoredMatrix::Quantize() {
  if (scale.defined()) return;
  at::NoGradGuard no_grad;
  constexpr double kMost = 127;
  const at::Tensor wide = weight.to(at::kFloat);
  const at::Tensor largest = wide.abs().amax(1, /*keepdim=*/true);  // [out, 1]
  // A row of zeros has any scale.
  const at::Tensor step = largest.div(kMost).clamp_min(1e-30);
  const at::Tensor rounded = wide.div(step).round().clamp(-kMost, kMost).to(at::kChar);
  weight.set_requires_grad(false);
  ReplaceStorage(weight, rounded);
  scale = step;
}

}  // namespace kandinsky::model
