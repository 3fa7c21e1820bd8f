// Attention modules of the U-Net. Axes as in unet.h; S tokens that ask, L tokens that answer, N
// heads.
#ifndef KANDINSKY_WORKER_MODEL_UNET_ATTENTION_H_
#define KANDINSKY_WORKER_MODEL_UNET_ATTENTION_H_

#include <ATen/ATen.h>
#include <torch/nn/module.h>

#include <cstdint>
#include <memory>
#include <string>

#include "worker/model/layers.h"
#include "worker/model/text_keys.h"

namespace kandinsky::model::blocks {

// mask [B, L], nonzero = visible; undefined: all are. Read on the host: what is made of it depends
// on what it holds.
KeyMask MakeKeyMask(const at::Tensor& mask, const at::TensorOptions& options);

// Multi-head attention without biases, scale head_dim^-0.5, channel layout (head, dim).
class Attention : public torch::nn::Module {
 public:
  Attention(int64_t query_dim, int64_t key_dim, int64_t inner_dim, int64_t head_dim,
            const at::TensorOptions& options);

  // query [B, S, query_dim], context [B, L, key_dim] -> [B, S, inner_dim]
  at::Tensor forward(const at::Tensor& query, const at::Tensor& context,
                     const KeyMask& mask = {}) const;

  // Every pixel attends to the same pixel of the other frames. x [B*T, HW, C] -> the same shape.
  at::Tensor OverFrames(const at::Tensor& x, int64_t frames) const;

 private:
  const int64_t head_dim_;
  std::shared_ptr<Linear> to_query_, to_key_, to_value_, output_layer_;
};

// Conv 1x1 to expansion * C, SiLU, conv 1x1, no biases. Keys `.0`, `.2`.
class FeedForward : public Slots {
 public:
  FeedForward(int64_t channels, int64_t expansion, const at::TensorOptions& options);
  at::Tensor forward(const at::Tensor& x) const;  // [N, C, H, W] -> the same

 private:
  std::shared_ptr<Conv2d> in_, out_;
};

struct AttentionConfig {
  int64_t channels;
  int64_t embed_dim;  // E
  int64_t groups, head_dim, expansion;
};

// x += Attention(norm(x)); x += FeedForward(norm(x)); over pixels (self) or text (cross).
class AttentionBlock : public torch::nn::Module {
 public:
  // context_dim 0: self attention. `temporal_layer`: an attention over frames stands between the
  // two (variant Conv1dAttn1dLayers).
  AttentionBlock(const AttentionConfig& config, int64_t context_dim, bool temporal_layer,
                 const at::TensorOptions& options);

  // x [N, C, H, W], time and temporal [N, E] activated embeddings, `text` null for self attention.
  at::Tensor forward(const at::Tensor& x, const at::Tensor& time, const TextKeys* text,
                     const at::Tensor& temporal, int64_t frames) const;

  bool looks_over_frames() const { return temporal_attention_ != nullptr; }

 private:
  std::shared_ptr<ConditionalGroupNorm> in_norm_, temporal_norm_, out_norm_;
  std::shared_ptr<Attention> attention_, temporal_attention_;
  std::shared_ptr<FeedForward> feed_forward_;
};

// The same over the frames of a video: at each pixel, or in windows of 2x2 pixels x all frames
// (maps of odd size are padded with tokens that nobody attends to). The attention's norm is
// conditioned by the temporal embedding, the feed forward's by time.
class TemporalAttentionBlock : public torch::nn::Module {
 public:
  TemporalAttentionBlock(const AttentionConfig& config, bool windows,
                         const at::TensorOptions& options);

  at::Tensor forward(const at::Tensor& x, const at::Tensor& time, const at::Tensor& temporal,
                     int64_t frames) const;

 private:
  at::Tensor OverWindows(const at::Tensor& x, int64_t frames) const;  // [B*T, C, H, W] -> the same

  const bool windows_;
  std::shared_ptr<ConditionalGroupNorm> in_norm_, out_norm_;
  std::shared_ptr<Attention> attention_;  // key temporal_attention
  std::shared_ptr<FeedForward> feed_forward_;
};

// te + Attention(mean of all tokens; context). The mean counts masked tokens, too.
class TextPooling : public torch::nn::Module {
 public:
  TextPooling(int64_t context_dim, int64_t embed_dim, int64_t head_dim,
              const at::TensorOptions& options);
  // embedding [N, E] -> [N, E]
  at::Tensor forward(const at::Tensor& embedding, const TextKeys& text) const;

 private:
  std::shared_ptr<Attention> attention_;
};

}  // namespace kandinsky::model::blocks

#endif  // KANDINSKY_WORKER_MODEL_UNET_ATTENTION_H_
