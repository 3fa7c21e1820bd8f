#include "worker/model/unet_attention.h"

#include <limits>
#include <optional>

#include "worker/model/reproducible.h"

namespace kandinsky::model::blocks {
namespace {

double Lowest(at::ScalarType dtype) {
  switch (dtype) {
    case at::kHalf:
      return -65504.0;
    case at::kBFloat16:
      return -3.3895313892515355e38;
    case at::kDouble:
      return std::numeric_limits<double>::lowest();
    default:
      return std::numeric_limits<float>::lowest();
  }
}

// [B, S, N*d] -> [B, N, S, d], a view.
at::Tensor Heads(const at::Tensor& x, int64_t head_dim) {
  return x.unflatten(2, {-1, head_dim}).transpose(1, 2);
}

// [B, N, S, d] -> [B, S, N*d]
at::Tensor JoinHeads(const at::Tensor& x) { return x.transpose(1, 2).flatten(2); }

}  // namespace

KeyMask MakeKeyMask(const at::Tensor& mask, const at::TensorOptions& options) {
  if (!mask.defined()) return {};
  const at::Tensor hidden = mask.to(at::kCPU).eq(0);  // [B, L]
  const at::Tensor blind = hidden.all(1, true);       // [B, 1]
  KeyMask result;
  if (blind.any().item<bool>()) {
    result.keep = blind.logical_not().to(options).unsqueeze(2);
  }
  if (hidden.any().item<bool>()) {
    const double lowest = Lowest(c10::typeMetaToScalarType(options.dtype()));
    result.bias = at::zeros(hidden.sizes(), hidden.options().dtype(options.dtype()))
                      .masked_fill(hidden.logical_and(blind.logical_not()), lowest)
                      .to(options.device())
                      .unsqueeze(1)
                      .unsqueeze(1);
  }
  return result;
}

Attention::Attention(int64_t query_dim, int64_t key_dim, int64_t inner_dim, int64_t head_dim,
                     const at::TensorOptions& options)
    : head_dim_(head_dim),
      to_query_(register_module("to_query",
                                std::make_shared<Linear>(query_dim, inner_dim, false, options))),
      to_key_(
          register_module("to_key", std::make_shared<Linear>(key_dim, inner_dim, false, options))),
      to_value_(register_module("to_value",
                                std::make_shared<Linear>(key_dim, inner_dim, false, options))),
      output_layer_(register_module(
          "output_layer", std::make_shared<Linear>(inner_dim, inner_dim, false, options))) {}

at::Tensor Attention::forward(const at::Tensor& query, const at::Tensor& context,
                              const KeyMask& mask) const {
  at::Tensor key = to_key_->forward(context);
  if (mask.keep.defined()) key = key * mask.keep;
  std::optional<at::Tensor> bias;
  if (mask.bias.defined()) bias = mask.bias.expand({-1, -1, query.size(1), -1});
  const at::Tensor out =
      AttentionProduct(Heads(to_query_->forward(query), head_dim_), Heads(key, head_dim_),
                       Heads(to_value_->forward(context), head_dim_), bias);
  return output_layer_->forward(JoinHeads(out));
}

at::Tensor Attention::OverFrames(const at::Tensor& x, int64_t frames) const {
  const int64_t pixels = x.size(1), channels = to_query_->weight.size(0);
  // [B*T, HW, C] -> [B, HW*N, T, d], a view: pixels and heads form one batch-like axis of one
  // stride.
  const auto split = [&](const at::Tensor& t) {
    return t.reshape({-1, frames, pixels * channels / head_dim_, head_dim_}).transpose(1, 2);
  };
  const at::Tensor out = AttentionProduct(split(to_query_->forward(x)), split(to_key_->forward(x)),
                                          split(to_value_->forward(x)));
  return output_layer_->forward(out.transpose(1, 2).reshape({-1, pixels, channels}));
}

FeedForward::FeedForward(int64_t channels, int64_t expansion, const at::TensorOptions& options)
    : in_(Put("0", std::make_shared<Conv2d>(channels, expansion * channels, 1, false, options))),
      out_(Put("2", std::make_shared<Conv2d>(expansion * channels, channels, 1, false, options))) {}

at::Tensor FeedForward::forward(const at::Tensor& x) const {
  at::Tensor hidden = in_->forward(x);
  SiluInPlace(hidden);
  return out_->forward(hidden);
}

AttentionBlock::AttentionBlock(const AttentionConfig& config, int64_t context_dim,
                               bool temporal_layer, const at::TensorOptions& options) {
  const int64_t channels = config.channels;
  const auto norm = [&] {
    return std::make_shared<ConditionalGroupNorm>(channels, config.groups, config.embed_dim,
                                                  options);
  };
  in_norm_ = register_module("in_norm", norm());
  attention_ = register_module(
      "attention", std::make_shared<Attention>(channels, context_dim > 0 ? context_dim : channels,
                                               channels, config.head_dim, options));
  if (temporal_layer) {
    temporal_norm_ = register_module("temporal_norm", norm());
    temporal_attention_ = register_module(
        "temporal_attention",
        std::make_shared<Attention>(channels, channels, channels, config.head_dim, options));
  }
  out_norm_ = register_module("out_norm", norm());
  feed_forward_ = register_module(
      "feed_forward", std::make_shared<FeedForward>(channels, config.expansion, options));
}

at::Tensor AttentionBlock::forward(const at::Tensor& x, const at::Tensor& time,
                                   const TextKeys* text, const at::Tensor& temporal,
                                   int64_t frames) const {
  const int64_t height = x.size(2), width = x.size(3);
  const at::Tensor query = Tokens(in_norm_->forward(x, time, false));  // [N, HW, C]
  at::Tensor attended;
  if (text == nullptr) {
    attended = attention_->forward(query, query);
  } else {
    // Frames that share a text row ask as one long sequence.
    const int64_t rows = text->context.size(0);
    attended =
        attention_->forward(query.reshape({rows, -1, query.size(2)}), text->context, text->mask);
  }
  at::Tensor y = Image(attended.reshape_as(query), height, width).add_(x);
  if (temporal_attention_) {
    const at::Tensor tokens = Tokens(temporal_norm_->forward(y, temporal, false));
    y = Image(temporal_attention_->OverFrames(tokens, frames), height, width).add_(y);
  }
  return feed_forward_->forward(out_norm_->forward(y, time, false)).add_(y);
}

TemporalAttentionBlock::TemporalAttentionBlock(const AttentionConfig& config, bool windows,
                                               const at::TensorOptions& options)
    : windows_(windows) {
  const int64_t channels = config.channels;
  const auto norm = [&] {
    return std::make_shared<ConditionalGroupNorm>(channels, config.groups, config.embed_dim,
                                                  options);
  };
  in_norm_ = register_module("in_norm", norm());
  attention_ = register_module(
      "temporal_attention",
      std::make_shared<Attention>(channels, channels, channels, config.head_dim, options));
  out_norm_ = register_module("out_norm", norm());
  feed_forward_ = register_module(
      "feed_forward", std::make_shared<FeedForward>(channels, config.expansion, options));
}

at::Tensor TemporalAttentionBlock::forward(const at::Tensor& x, const at::Tensor& time,
                                           const at::Tensor& temporal, int64_t frames) const {
  const at::Tensor normed = in_norm_->forward(x, temporal, false);
  at::Tensor attended =
      windows_ ? OverWindows(normed, frames)
               : Image(attention_->OverFrames(Tokens(normed), frames), x.size(2), x.size(3));
  const at::Tensor y = attended.add_(x);
  return feed_forward_->forward(out_norm_->forward(y, time, false)).add_(y);
}

at::Tensor TemporalAttentionBlock::OverWindows(const at::Tensor& x, int64_t frames) const {
  const int64_t height = x.size(2), width = x.size(3), channels = x.size(1);
  const int64_t rows = (height + 1) / 2, columns = (width + 1) / 2;  // of windows
  at::Tensor padded = x;
  KeyMask mask;
  const auto to_windows = [&](const at::Tensor& t, int64_t videos, int64_t depth) {
    // [B*T, C, 2R, 2Q] -> [B*R*Q, T*4, C]
    return t.reshape({videos, depth, t.size(1), rows, 2, columns, 2})
        .permute({0, 3, 5, 1, 4, 6, 2})
        .reshape({videos * rows * columns, depth * 4, t.size(1)});
  };
  const int64_t videos = x.size(0) / frames;
  if (height % 2 != 0 || width % 2 != 0) {
    padded = at::constant_pad_nd(x, {0, width % 2, 0, height % 2});
    const at::Tensor inside = at::constant_pad_nd(at::ones({1, 1, height, width}, x.options()),
                                                  {0, width % 2, 0, height % 2});
    const at::Tensor hidden =
        to_windows(inside, 1, 1).squeeze(2).eq(0).repeat({videos, frames});  // [B*R*Q, T*4]
    mask.bias = at::zeros(hidden.sizes(), x.options())
                    .masked_fill(hidden, Lowest(x.scalar_type()))
                    .unsqueeze(1)
                    .unsqueeze(1);
  }
  const at::Tensor tokens = to_windows(padded, videos, frames);
  at::Tensor out = attention_->forward(tokens, tokens, mask)
                       .reshape({videos, rows, columns, frames, 2, 2, channels})
                       .permute({0, 3, 1, 4, 2, 5, 6})
                       .reshape({videos * frames, 2 * rows, 2 * columns, channels});
  if (mask.bias.defined()) out = out.narrow(1, 0, height).narrow(2, 0, width);
  return out.permute({0, 3, 1, 2});
}

TextPooling::TextPooling(int64_t context_dim, int64_t embed_dim, int64_t head_dim,
                         const at::TensorOptions& options)
    : attention_(register_module(
          "attention",
          std::make_shared<Attention>(context_dim, context_dim, embed_dim, head_dim, options))) {}

at::Tensor TextPooling::forward(const at::Tensor& embedding, const TextKeys& text) const {
  const at::Tensor query = text.context.mean(1, /*keepdim=*/true);  // [B, 1, D]
  const at::Tensor pooled = attention_->forward(query, text.context, text.mask).squeeze(1);
  return embedding + pooled.repeat_interleave(embedding.size(0) / pooled.size(0), 0);
}

}  // namespace kandinsky::model::blocks
