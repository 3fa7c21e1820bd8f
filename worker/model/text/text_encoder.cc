#include "worker/model/text/text_encoder.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "worker/model/error.h"
#include "worker/model/json_reader.h"
#include "worker/model/reproducible.h"

namespace kandinsky::model {

TextEncoderConfig TextEncoderConfig::FromJson(const nlohmann::json& json, const std::string& path) {
  ObjectReader reader(json, path);
  TextEncoderConfig config;
  config.d_model = reader.Int("d_model", 1, 1 << 16);
  config.d_kv = reader.Int("d_kv", 1, 1 << 12);
  config.num_heads = reader.Int("num_heads", 1, 1 << 10);
  config.num_layers = reader.Int("num_layers", 1, 1 << 10);
  config.d_ff = reader.Int("d_ff", 1, 1 << 20);
  config.vocab_size = reader.Int("vocab_size", 1, 1 << 22);
  config.feed_forward_proj =
      reader.Choice("feed_forward_proj", {"gated-silu", "gated-gelu"}, "gated-gelu");
  config.relative_attention_num_buckets =
      reader.Int("relative_attention_num_buckets", 4, 1 << 12, 32);
  if (config.relative_attention_num_buckets % 4 != 0) {
    reader.Refuse("relative_attention_num_buckets", "a multiple of 4");
  }
  config.relative_attention_max_distance =
      reader.Int("relative_attention_max_distance", config.relative_attention_num_buckets / 4 + 1,
                 1 << 20, 128);
  config.layer_norm_epsilon = reader.Double("layer_norm_epsilon", 0, 1, 1e-6);
  config.context_dim = reader.Int("context_dim", 1, 1 << 16);
  config.max_length = reader.Int("max_length", 2, 1 << 12, 128);
  for (const char* name : {"tie_word_embeddings", "dropout_rate"}) reader.Ignore(name);
  reader.Finish();
  return config;
}

nlohmann::json TextEncoderConfig::ToJson() const {
  return {{"d_model", d_model},
          {"d_kv", d_kv},
          {"num_heads", num_heads},
          {"num_layers", num_layers},
          {"d_ff", d_ff},
          {"vocab_size", vocab_size},
          {"feed_forward_proj", feed_forward_proj},
          {"relative_attention_num_buckets", relative_attention_num_buckets},
          {"relative_attention_max_distance", relative_attention_max_distance},
          {"layer_norm_epsilon", layer_norm_epsilon},
          {"context_dim", context_dim},
          {"max_length", max_length}};
}

namespace {

// A module whose only content is a parameter called "weight".
struct Weight : torch::nn::Module {
  Weight(at::IntArrayRef shape, const at::TensorOptions& options)
      : weight(register_parameter("weight", at::empty(shape, options))) {}
  at::Tensor weight;
};

at::Tensor AddWeight(torch::nn::Module& parent, const std::string& name, at::IntArrayRef shape,
                     const at::TensorOptions& options) {
  return parent.register_module(name, std::make_shared<Weight>(shape, options))->weight;
}

std::shared_ptr<torch::nn::Module> Container(torch::nn::Module& parent, const std::string& name) {
  return parent.register_module(name, std::make_shared<torch::nn::Module>());
}

// x / sqrt(mean(x^2) + epsilon) * gain over the last axis, statistics in float32.
at::Tensor RmsNorm(const at::Tensor& x, const at::Tensor& gain, double epsilon) {
  const at::Tensor weight = gain.to(x.options());
  const at::Tensor wide = x.to(at::kFloat);
  const at::Tensor normed = wide * at::rsqrt(wide.pow(2).mean(-1, /*keepdim=*/true) + epsilon);
  return weight * normed.to(weight.scalar_type());
}

// Keeps float16 hidden states finite, as the published code does.
at::Tensor ClampHalf(const at::Tensor& x) {
  if (x.scalar_type() != at::kHalf) return x;
  constexpr double kMax = 65504;
  // Without asking the device which of the two it is.
  const at::Tensor bound =
      at::full({}, kMax, x.options()).masked_fill(at::isinf(x).any(), kMax - 1000);
  return x.clamp(-bound, bound);
}

// Bucket of key - query for every pair of positions: int64 [L, L]. Half of the buckets for each
// direction; of those, half for exact distances and the rest in logarithmic steps up to the maximum
// distance.
at::Tensor RelativeBuckets(int64_t length, int64_t buckets, int64_t max_distance) {
  const int64_t half = buckets / 2, exact = half / 2;
  std::vector<int64_t> table(static_cast<size_t>(length * length));
  for (int64_t query = 0; query < length; ++query) {
    for (int64_t key = 0; key < length; ++key) {
      const int64_t distance = std::abs(key - query);
      int64_t bucket = distance;
      if (distance >= exact) {
        // In float32, as the published code computes it: a bucket border may hang on a rounding.
        const float ratio = std::log(static_cast<float>(distance) / static_cast<float>(exact)) /
                            static_cast<float>(std::log(static_cast<double>(max_distance) /
                                                        static_cast<double>(exact)));
        bucket = std::min(exact + static_cast<int64_t>(ratio * static_cast<float>(half - exact)),
                          half - 1);
      }
      table[query * length + key] = bucket + (key > query ? half : 0);
    }
  }
  return at::tensor(table, at::kLong).view({length, length});
}

}  // namespace

class T5Encoder::Block : public torch::nn::Module {
 public:
  Block(const TextEncoderConfig& config, bool has_relative_bias, const at::TensorOptions& options)
      : config_(config) {
    const int64_t d = config.d_model, inner = config.num_heads * config.d_kv;
    const auto layer = Container(*this, "layer");
    const auto first = Container(*layer, "0"), second = Container(*layer, "1");
    const auto attention = Container(*first, "SelfAttention");
    const auto matrix = [&](torch::nn::Module& parent, const char* name, int64_t out, int64_t in) {
      return parent.register_module(name, std::make_shared<StoredMatrix>(out, in, options));
    };
    q_ = matrix(*attention, "q", inner, d);
    k_ = matrix(*attention, "k", inner, d);
    v_ = matrix(*attention, "v", inner, d);
    o_ = matrix(*attention, "o", d, inner);
    if (has_relative_bias) {
      relative_bias = AddWeight(*attention, "relative_attention_bias",
                                {config.relative_attention_num_buckets, config.num_heads}, options);
    }
    norm1_ = AddWeight(*first, "layer_norm", {d}, options);
    const auto feed_forward = Container(*second, "DenseReluDense");
    wi_0_ = matrix(*feed_forward, "wi_0", config.d_ff, d);
    wi_1_ = matrix(*feed_forward, "wi_1", config.d_ff, d);
    wo_ = matrix(*feed_forward, "wo", d, config.d_ff);
    norm2_ = AddWeight(*second, "layer_norm", {d}, options);
  }

  // x [B, L, D], bias [B, N, L, L] (position and mask) -> [B, L, D]
  at::Tensor forward(at::Tensor x, const at::Tensor& bias) const {
    const int64_t b = x.size(0), l = x.size(1);
    at::Tensor h = RmsNorm(x, norm1_, config_.layer_norm_epsilon);
    const auto heads = [&](const StoredMatrix& matrix) {  // [B, N, L, K]
      return matrix.Multiply(h).view({b, l, config_.num_heads, config_.d_kv}).transpose(1, 2);
    };
    const at::Tensor logits = at::matmul(heads(*q_), heads(*k_).transpose(2, 3)) + bias;
    const at::Tensor attention =
        at::softmax(logits, -1, at::kFloat).to(logits.scalar_type());  // [B, N, L, L]
    x = x + o_->Multiply(at::matmul(attention, heads(*v_)).transpose(1, 2).reshape({b, l, -1}));
    x = ClampHalf(x);

    h = RmsNorm(x, norm2_, config_.layer_norm_epsilon);
    const at::Tensor gate = wi_0_->Multiply(h);  // [B, L, d_ff]
    const at::Tensor activated =
        config_.feed_forward_proj == "gated-silu" ? Silu(gate) : GeluTanh(gate);
    x = x + wo_->Multiply(activated * wi_1_->Multiply(h));
    return ClampHalf(x);
  }

  void ForEachMatrix(const std::function<void(StoredMatrix&)>& visit) {
    for (const auto& matrix : {q_, k_, v_, o_, wi_0_, wi_1_, wo_}) visit(*matrix);
  }

  at::Tensor relative_bias;  // [buckets, N], in the first block only

 private:
  const TextEncoderConfig config_;
  std::shared_ptr<StoredMatrix> q_, k_, v_, o_, wi_0_, wi_1_, wo_;
  at::Tensor norm1_, norm2_;  // [D]
};

T5Encoder::T5Encoder(const TextEncoderConfig& config, at::TensorOptions options) : config_(config) {
  shared_ = AddWeight(*this, "shared", {config.vocab_size, config.d_model}, options);
  encoder_ = Container(*this, "encoder");
  const auto blocks = Container(*encoder_, "block");
  for (int64_t i = 0; i < config.num_layers; ++i) {
    blocks_.push_back(blocks->register_module(std::to_string(i),
                                              std::make_shared<Block>(config, i == 0, options)));
  }
  relative_bias_ = blocks_.front()->relative_bias;
  final_norm_ = AddWeight(*encoder_, "final_layer_norm", {config.d_model}, options);
}

void T5Encoder::ComputeOn(at::Device device, at::ScalarType dtype) {
  compute_ = at::TensorOptions(device).dtype(dtype);
}

void T5Encoder::ForEachMatrix(const std::function<void(StoredMatrix&)>& visit) {
  for (const auto& block : blocks_) block->ForEachMatrix(visit);
}

at::Tensor T5Encoder::forward(const at::Tensor& ids, const at::Tensor& mask) const {
  if (ids.dim() != 2 || ids.scalar_type() != at::kLong || mask.sizes() != ids.sizes()) {
    throw ModelError(ModelError::Kind::kInvalidArgument,
                     "token ids have shape " + c10::str(ids.sizes()) +
                         ", must be int64 [B, L] with a mask of the same shape");
  }
  if (ids.numel() > 0 &&
      (ids.min().item<int64_t>() < 0 || ids.max().item<int64_t>() >= config_.vocab_size)) {
    throw ModelError(ModelError::Kind::kInvalidArgument,
                     "a token id is outside of the vocabulary of " +
                         std::to_string(config_.vocab_size) + " entries");
  }
  const int64_t length = ids.size(1);
  const at::TensorOptions compute = compute_.value_or(shared_.options());
  at::Tensor x = at::embedding(shared_, ids.to(shared_.device())).to(compute);  // [B, L, D]
  const at::Tensor buckets = RelativeBuckets(length, config_.relative_attention_num_buckets,
                                             config_.relative_attention_max_distance)
                                 .to(relative_bias_.device());
  const double lowest = x.scalar_type() == at::kHalf ? -65504.0
                        : x.scalar_type() == at::kBFloat16
                            ? static_cast<double>(std::numeric_limits<c10::BFloat16>::lowest())
                            : static_cast<double>(std::numeric_limits<float>::lowest());
  const at::Tensor masked = ((1 - mask.to(x.device(), x.scalar_type())) * lowest)
                                .view({ids.size(0), 1, 1, length});  // [B, 1, 1, L]
  const at::Tensor bias =
      at::embedding(relative_bias_, buckets).to(compute).permute({2, 0, 1}).unsqueeze(0) + masked;
  for (const auto& block : blocks_) x = block->forward(x, bias);
  return RmsNorm(x, final_norm_, config_.layer_norm_epsilon);
}

TextProjection::TextProjection(const TextEncoderConfig& config, at::TensorOptions options) {
  const auto t5 = Container(*this, "t5");
  weight_ = AddWeight(*t5, "0", {config.context_dim, config.d_model}, options);
  const auto norm = Container(*t5, "1");
  norm_weight_ = norm->register_parameter("weight", at::empty({config.context_dim}, options));
  norm_bias_ = norm->register_parameter("bias", at::empty({config.context_dim}, options));
}

at::Tensor TextProjection::forward(const at::Tensor& embeddings) const {
  return at::layer_norm(at::linear(embeddings, weight_), {weight_.size(0)}, norm_weight_,
                        norm_bias_, 1e-5);
}

TextEncoder::TextEncoder(const TextEncoderConfig& config, at::TensorOptions options)
    : config_(config),
      t5_(std::make_shared<T5Encoder>(config, options)),
      projection_(std::make_shared<TextProjection>(config, options.dtype(at::kFloat))) {}

TextContext TextEncoder::Encode(const at::Tensor& ids, const at::Tensor& mask) const {
  at::Tensor embeddings = t5_->forward(ids, mask);  // [B, L, D]
  at::Tensor visible = mask.to(embeddings.device()).to(at::kBool);
  const at::Tensor finite = at::isfinite(embeddings).flatten(1).all(1);  // [B]
  embeddings = at::where(finite.view({-1, 1, 1}), embeddings, at::zeros({}, embeddings.options()));
  // A prompt that came out as all zeros, for whatever reason, has nothing to look at.
  const at::Tensor some = embeddings.ne(0).flatten(1).any(1);  // [B]
  visible = visible.logical_and(some.unsqueeze(1));

  at::Tensor context = projection_->forward(embeddings.to(at::kFloat));  // [B, L, W]
  context = at::where(visible.unsqueeze(2), context, at::zeros({}, context.options()));
  const int64_t longest = visible.numel() == 0 ? 0 : visible.sum(1).max().item<int64_t>();
  const int64_t length = std::min<int64_t>(longest + 1, visible.size(1));
  return {context.narrow(1, 0, length).contiguous(), visible.narrow(1, 0, length).contiguous()};
}

}  // namespace kandinsky::model
