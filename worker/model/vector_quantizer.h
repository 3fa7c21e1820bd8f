// The codebook of MoVQ-GAN, for training the autoencoder. Generation never quantises: the U-Nets
// work on the latents before it.
#ifndef KANDINSKY_WORKER_MODEL_VECTOR_QUANTIZER_H_
#define KANDINSKY_WORKER_MODEL_VECTOR_QUANTIZER_H_

#include <ATen/ATen.h>
#include <torch/nn/module.h>

#include <cstdint>

namespace kandinsky::model {

struct QuantizedLatents {
  at::Tensor
      latents;  // [N, z, h, w] codebook vectors; gradients pass straight through to the input
  at::Tensor indices;  // int64 [N, h, w]
  // Scalar: mean |sg(e) - z|^2 * beta + mean |e - sg(z)|^2. The first term pulls the encoder to the
  // codebook, the second the codebook to the encoder.
  at::Tensor loss;
};

// Nearest-neighbour quantisation of each latent vector. Parameter name: embedding.weight [K, z].
// Thread rule: forward is const over the parameters.
class VectorQuantizer : public torch::nn::Module {
 public:
  // K = codebook_size vectors of `dimension` numbers; uniform in [-1/K, 1/K] until trained.
  VectorQuantizer(int64_t codebook_size, int64_t dimension, double beta = 0.25,
                  at::TensorOptions options = {});

  // latents [N, z, h, w]. Throws ModelError::kInvalidArgument on another width.
  QuantizedLatents forward(const at::Tensor& latents) const;

  // indices int64 [N, h, w] -> [N, z, h, w]
  at::Tensor Lookup(const at::Tensor& indices) const;

  // How evenly indices use the codebook: exp of the entropy, from 1 (one entry) to K.
  double Perplexity(const at::Tensor& indices) const;

 private:
  const double beta_;
  at::Tensor embedding_;  // [K, z]
};

}  // namespace kandinsky::model

#endif  // KANDINSKY_WORKER_MODEL_VECTOR_QUANTIZER_H_
