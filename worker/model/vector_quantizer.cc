#include "worker/model/vector_quantizer.h"

#include <ATen/core/grad_mode.h>

#include <cmath>
#include <memory>
#include <string>

#include "worker/model/error.h"

namespace kandinsky::model {

VectorQuantizer::VectorQuantizer(int64_t codebook_size, int64_t dimension, double beta,
                                 at::TensorOptions options)
    : beta_(beta) {
  if (codebook_size < 1 || dimension < 1) {
    throw ModelError(ModelError::Kind::kInvalidArgument,
                     "a codebook has " + std::to_string(codebook_size) + " vectors of " +
                         std::to_string(dimension) + " numbers, must have at least one of each");
  }
  const auto embedding = register_module("embedding", std::make_shared<torch::nn::Module>());
  const double bound = 1.0 / static_cast<double>(codebook_size);
  embedding_ = embedding->register_parameter(
      "weight", at::empty({codebook_size, dimension}, options).uniform_(-bound, bound));
}

QuantizedLatents VectorQuantizer::forward(const at::Tensor& latents) const {
  if (latents.dim() != 4 || latents.size(1) != embedding_.size(1)) {
    throw ModelError(ModelError::Kind::kInvalidArgument,
                     "latents have shape " + c10::str(latents.sizes()) + ", must be [N, " +
                         std::to_string(embedding_.size(1)) + ", h, w]");
  }
  at::Tensor indices;
  {
    at::NoGradGuard no_grad;
    const at::Tensor flat = latents.permute({0, 2, 3, 1}).reshape({-1, latents.size(1)});
    // |z - e|^2 without |z|^2, which is the same for all entries.
    const at::Tensor distances =
        embedding_.pow(2).sum(1).unsqueeze(0) - 2 * at::matmul(flat, embedding_.t());
    indices = distances.argmin(1).view({latents.size(0), latents.size(2), latents.size(3)});
  }
  const at::Tensor quantized = Lookup(indices);
  const at::Tensor loss = (quantized.detach() - latents).pow(2).mean() * beta_ +
                          (quantized - latents.detach()).pow(2).mean();
  return {latents + (quantized - latents).detach(), indices, loss};
}

at::Tensor VectorQuantizer::Lookup(const at::Tensor& indices) const {
  return at::embedding(embedding_, indices).permute({0, 3, 1, 2});
}

double VectorQuantizer::Perplexity(const at::Tensor& indices) const {
  const at::Tensor share = at::bincount(indices.flatten(), {}, embedding_.size(0)).to(at::kDouble) /
                           static_cast<double>(indices.numel());
  return std::exp(-(share * share.clamp_min(1e-12).log()).sum().item<double>());
}

}  // namespace kandinsky::model
