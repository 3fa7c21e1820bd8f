// The text side: T5 encoder in the shape of Flan-UL2, projection to the width of the U-Nets,
// masking and trimming.
//
// Axes: B prompts, L = config().max_length tokens, D = d_model, N heads, K = d_kv, W = context_dim,
// n visible length. Parameter names equal those of the published checkpoints (`encoder.block...`,
// `shared.weight`; `t5.0.weight`...).
//
// Thread rule: construct and load, then const use from any number of threads.
#ifndef KANDINSKY_WORKER_MODEL_TEXT_TEXT_ENCODER_H_
#define KANDINSKY_WORKER_MODEL_TEXT_TEXT_ENCODER_H_

#include <torch/nn/module.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "worker/model/text/stored_matrix.h"

namespace kandinsky::model {

struct TextEncoderConfig {
  int64_t d_model = 4096;
  int64_t d_kv = 256;  // per head; num_heads * d_kv may differ from d_model
  int64_t num_heads = 16;
  int64_t num_layers = 32;
  int64_t d_ff = 16384;
  int64_t vocab_size = 32128;
  std::string feed_forward_proj = "gated-silu";  // or "gated-gelu" (tanh approximation)
  int64_t relative_attention_num_buckets = 32;
  int64_t relative_attention_max_distance = 128;
  double layer_norm_epsilon = 1e-6;
  int64_t context_dim = 4096;
  int64_t max_length = 128;

  // Accepts the fields above (also as Hugging Face's config.json names them). Throws
  // ModelError::kInvalidArgument.
  static TextEncoderConfig FromJson(const nlohmann::json& json,
                                    const std::string& path = "text_encoder");
  nlohmann::json ToJson() const;
};

// What the U-Nets take: one row per token, the last one usually a zero, masked row.
struct TextContext {
  at::Tensor context;  // [B, n, W] float32
  at::Tensor mask;     // [B, n] bool, true = visible
};

// One T5 encoder stack. forward: ids [B, L] int64, mask [B, L] (1 = visible) -> [B, L, D] in the
// type of the weights, or of ComputeOn.
class T5Encoder : public torch::nn::Module {
 public:
  explicit T5Encoder(const TextEncoderConfig& config, at::TensorOptions options = {});
  at::Tensor forward(const at::Tensor& ids, const at::Tensor& mask) const;

  // Where and in which type activations are computed, whatever the weights have. Weights that lie
  // elsewhere are copied there matrix by matrix, for each product (see StoredMatrix). Default: as
  // the weights.
  void ComputeOn(at::Device device, at::ScalarType dtype);
  // Calls `visit` with every matrix of the blocks, in order.
  void ForEachMatrix(const std::function<void(StoredMatrix&)>& visit);

 private:
  class Block;
  const TextEncoderConfig config_;
  std::optional<at::TensorOptions> compute_;  // device and type of activations
  at::Tensor shared_;                         // [vocab, D]
  std::shared_ptr<torch::nn::Module> encoder_;
  std::vector<std::shared_ptr<Block>> blocks_;
  at::Tensor relative_bias_;  // [buckets, N]
  at::Tensor final_norm_;     // [D]
};

// The "projections" entry of the checkpoint: Linear without bias and LayerNorm. forward: [B, L, D]
// -> [B, L, W].
class TextProjection : public torch::nn::Module {
 public:
  explicit TextProjection(const TextEncoderConfig& config, at::TensorOptions options = {});
  at::Tensor forward(const at::Tensor& embeddings) const;

 private:
  at::Tensor weight_, norm_weight_, norm_bias_;
};

// Encoder and projection and the rules between them:
//  * in float16, hidden states are clamped after attention and feed-forward of every block;
//  * a prompt whose embeddings hold an infinity or NaN becomes all zero, its mask too;
//  * masked rows of the projected context are zero;
//  * context and mask are cut to the longest visible length + 1 (at most L).
class TextEncoder {
 public:
  // The T5 stack has `options`' type; the projection is float32 on the same device.
  explicit TextEncoder(const TextEncoderConfig& config, at::TensorOptions options = {});

  // ids, mask [B, L] int64 -> context on the device of the projection, where activations must be
  // computed, too.
  TextContext Encode(const at::Tensor& ids, const at::Tensor& mask) const;

  // The two halves, for loading and for tests.
  T5Encoder& t5() { return *t5_; }
  TextProjection& projection() { return *projection_; }
  const TextEncoderConfig& config() const { return config_; }

 private:
  const TextEncoderConfig config_;
  std::shared_ptr<T5Encoder> t5_;
  std::shared_ptr<TextProjection> projection_;
};

}  // namespace kandinsky::model

#endif  // KANDINSKY_WORKER_MODEL_TEXT_TEXT_ENCODER_H_
