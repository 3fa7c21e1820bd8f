// ResNet blocks and levels of the U-Net. Axes as in unet.h.
#ifndef KANDINSKY_WORKER_MODEL_UNET_BLOCKS_H_
#define KANDINSKY_WORKER_MODEL_UNET_BLOCKS_H_

#include <ATen/ATen.h>
#include <torch/nn/module.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "worker/model/layers.h"
#include "worker/model/unet.h"
#include "worker/model/unet_attention.h"

namespace kandinsky::model::blocks {

// What all blocks of a forward pass share.
struct Pass {
  at::Tensor time;      // [N, E] SiLU(time embedding)
  at::Tensor temporal;  // [N, E] SiLU(temporal embedding); undefined without attention over frames
  int64_t frames = 1;   // T
  int64_t window = 0;   // UnetInput::window
  TextKeys text;
  const TraceSink* trace = nullptr;

  void Trace(const std::string& path, const at::Tensor& x) const {
    if (trace != nullptr && *trace) (*trace)(path, x);
  }
};

enum class Resize { kNone, kUp, kDown };

// Norm, SiLU, [up 2x2], convolution, [temporal convolution], [down 2x2].
class Block : public torch::nn::Module {
 public:
  // `temporal`: x = (1-m)*x + m*conv(x) over neighbouring frames (or groups) follows the
  // convolution.
  Block(int64_t in, int64_t out, int64_t kernel, Resize resize, bool temporal,
        const UnetConfig& config, const at::TensorOptions& options);
  at::Tensor forward(const at::Tensor& x,
                     const Pass& pass) const;  // [N, in, H, W] -> [N, out, H', W']

 private:
  std::shared_ptr<ConditionalGroupNorm> group_norm_;
  std::shared_ptr<UpConv2d> up_sample_;
  std::shared_ptr<Conv2d> projection_, down_sample_;
  // Rows first .. first + count - 1 of lerp(y, convolution of y over the frames of a video).
  at::Tensor Merged(const at::Tensor& y, int64_t frames, int64_t first, int64_t count) const;

  std::shared_ptr<FrameConv> temporal_projection_;
  at::Tensor temporal_merge_;  // [1]
};

// Four Blocks (kernels 1, 3, 3, 1) beside a shortcut.
class ResNetBlock : public torch::nn::Module {
 public:
  ResNetBlock(int64_t in, int64_t out, Resize resize, const UnetConfig& config,
              const at::TensorOptions& options);
  at::Tensor forward(const at::Tensor& x,
                     const Pass& pass) const;  // [N, in, H, W] -> [N, out, H', W']

 private:
  std::vector<std::shared_ptr<Block>> blocks_;
  std::shared_ptr<UpConv2d> shortcut_up_sample_;
  std::shared_ptr<Conv2d> shortcut_projection_, shortcut_down_sample_;
};

// x + four times (norm, SiLU, convolution over frames). Variant Conv3dAttn1dBlocks: the four work
// on C/compression_ratio channels, between a linear down and up projection of each pixel, with
// 3x3x3 kernels.
class TemporalResNetBlock : public torch::nn::Module {
 public:
  TemporalResNetBlock(int64_t channels, const UnetConfig& config, const at::TensorOptions& options);
  at::Tensor forward(const at::Tensor& x, const Pass& pass) const;  // [N, C, H, W] -> the same

 private:
  std::shared_ptr<Linear> temporal_down_projection_, temporal_up_projection_;
  std::vector<std::shared_ptr<ConditionalGroupNorm>> norms_;
  std::vector<std::shared_ptr<FrameConv>> convs_;
};

}  // namespace kandinsky::model::blocks

namespace kandinsky::model {

// One level of either side of the U-Net.
class ResNetLevel : public torch::nn::Module {
 public:
  struct Shape {
    bool up = false;  // side
    int64_t in = 0, skip = 0, out = 0;
    int64_t blocks = 0;
    bool cross_attention = false, self_attention = false;
    bool resize = false;  // halves (down) or doubles (up) the map
  };

  // Widths of one entry of resnet_attn_blocks: its ResNet blocks map in -> middle -> out.
  struct StageShape {
    int64_t in, middle, out;
    blocks::Resize resize_in = blocks::Resize::kNone, resize_out = blocks::Resize::kNone;
  };
  static StageShape StageShapeOf(const Shape& shape, int64_t index);

  ResNetLevel(const Shape& shape, std::string path, const UnetConfig& config,
              const at::TensorOptions& options);

  // down: x [N, in, H, W] -> [N, out, H', W']. up: x [N, in+skip, H, W] -> [N, out, H', W'].
  at::Tensor forward(at::Tensor x, const blocks::Pass& pass) const;

 private:
  // Entries of resnet_attn_blocks.i; keys 0..4.
  struct Stage {
    std::shared_ptr<blocks::ResNetBlock> in, out;                            // 0, 2
    std::shared_ptr<blocks::AttentionBlock> cross_attention;                 // 1
    std::shared_ptr<blocks::TemporalResNetBlock> temporal_in, temporal_out;  // 3, 4
  };
  at::Tensor Down(at::Tensor x, const blocks::Pass& pass) const;
  at::Tensor Up(at::Tensor x, const blocks::Pass& pass) const;
  at::Tensor SelfAttention(const at::Tensor& x, const blocks::Pass& pass) const;
  at::Tensor TemporalAttention(const at::Tensor& x, const blocks::Pass& pass) const;

  const bool up_;
  const std::string path_;  // "down_samples.0"
  std::vector<Stage> stages_;
  std::shared_ptr<blocks::AttentionBlock> self_attention_block_;
  std::shared_ptr<blocks::TemporalAttentionBlock> temporal_attention_block_;
};

}  // namespace kandinsky::model

#endif  // KANDINSKY_WORKER_MODEL_UNET_BLOCKS_H_
