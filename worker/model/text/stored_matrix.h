// A matrix of the text encoder that may be kept in another type, or in another place, than it is
// multiplied in: as bfloat16 or int8, in host memory while the products run on a device.
#ifndef KANDINSKY_WORKER_MODEL_TEXT_STORED_MATRIX_H_
#define KANDINSKY_WORKER_MODEL_TEXT_STORED_MATRIX_H_

#include <ATen/ATen.h>
#include <torch/nn/module.h>

#include <cstdint>

namespace kandinsky::model {

// Thread rule: load, Quantize and Keep from one thread, then Multiply from any number.
class StoredMatrix : public torch::nn::Module {
 public:
  StoredMatrix(int64_t out, int64_t in, const at::TensorOptions& options);

  // x [..., in] -> [..., out] in x's type on x's device. Where the matrix is kept otherwise, a copy
  // in x's type exists on x's device while the product runs: at most one matrix at a time.
  at::Tensor Multiply(const at::Tensor& x) const;

  // From now on the matrix lies on `device`. `fetched`: products run elsewhere.
  void Keep(at::Device device, bool fetched);

  // Rounds the weights to int8, symmetrically, with one scale for each output: scale = max |row| /
  // 127, so that no weight changes by more than scale / 2. Products use scale * int8, computed in
  // float32 and rounded once to x's type. Nothing if it has been done.
  void Quantize();

  at::Tensor weight;  // [out, in]
  at::Tensor scale;   // [out, 1] float32; undefined unless the weight is int8

 private:
  bool fetched_ = false;
};

}  // namespace kandinsky::model

#endif  // KANDINSKY_WORKER_MODEL_TEXT_STORED_MATRIX_H_
