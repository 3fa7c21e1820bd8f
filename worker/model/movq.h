// MoVQ-GAN: the image autoencoder whose latents the U-Nets work on, and its video decoder with
// temporal layers.
//
// Axes: N frames, C channels, H W pixels or the map of the current level, h w the latent, T frames
// of one clip. Parameter names equal the keys of the published checkpoints.
//
// Thread rule: construct and load, then const use from any number of threads.
#ifndef KANDINSKY_WORKER_MODEL_MOVQ_H_
#define KANDINSKY_WORKER_MODEL_MOVQ_H_

#include <torch/nn/module.h>

#include <array>
#include <cstdint>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

namespace kandinsky::model {

struct MovqConfig {
  int64_t z_channels = 4;
  int64_t resolution = 256;  // nominal image side; only decides on which levels attention stands
  int64_t in_channels = 3;
  int64_t out_ch = 3;
  int64_t ch = 256;
  std::vector<int64_t> ch_mult = {1, 2, 2, 4};  // one entry a level, finest first
  int64_t num_res_blocks = 2;                   // the decoder has one more a level
  std::vector<int64_t> attn_resolutions = {32};
  double dropout = 0;  // training only

  // Video decoder.
  bool temporal =
      false;  // temporal convolution after each 3x3 convolution of a decoder ResNet block
  bool temporal_mid_blocks = true;                          // ... in the two middle blocks, too
  std::array<int64_t, 3> temporal_kernel_size = {3, 3, 3};  // time, height, width; odd
  bool temporal_attention_block = false;  // temporal attention after each spatial attention
  bool flicker_augmentation =
      false;  // one more Linear(1, C) in decoder.mid.block_1; not used for decoding

  // Side of a latent cell in pixels.
  int64_t downsampling() const { return int64_t{1} << (ch_mult.size() - 1); }

  // Accepts the fields above under the names of the published configs (and those that change
  // nothing there). `path` names the object in messages. Throws ModelError::kInvalidArgument.
  static MovqConfig FromJson(const nlohmann::json& json, const std::string& path = "movq");
  nlohmann::json ToJson() const;
};

struct DecodeOptions {
  // Upper bound of the memory, in bytes on the compute device, that one layer may use for its
  // inputs, intermediates and outputs. Layers that need more work in horizontal strips with a halo
  // of neighbouring rows, and the maps between layers then live in host memory. Norm statistics are
  // taken over the whole map, so the result equals that without a bound up to rounding (there are
  // no seams and nothing is blended). Attention always sees its whole map (of the coarsest levels).
  // 0: no bound.
  int64_t max_bytes = 0;
};

class MovqEncoder;
class MovqDecoder;

class Movq : public torch::nn::Module {
 public:
  // Weights are left uninitialised: load them or call InitializeWeights (weights_init.h). On the
  // meta device nothing is allocated. With `decoder_only` the encoder and quant_conv are left out
  // (inference never encodes).
  explicit Movq(MovqConfig config, at::TensorOptions options = {}, bool decoder_only = false);

  // images [N, 3, H, W] in [-1, 1], H and W multiples of config().downsampling() -> latents [N, z,
  // h, w], before quantisation.
  at::Tensor Encode(const at::Tensor& images) const;

  // latents [N, z, h, w] -> images [N, 3, H, W], about [-1, 1], in the type of the weights and on
  // the device of the latents. The image decoder treats frames on their own. The video decoder
  // mixes the frames of a clip: the N frames are N / clip_frames clips, clip after clip (0: one
  // clip).
  at::Tensor Decode(const at::Tensor& latents, const DecodeOptions& options = {},
                    int64_t clip_frames = 0) const;

  const MovqConfig& config() const { return config_; }

 private:
  const MovqConfig config_;
  std::shared_ptr<MovqEncoder> encoder_;
  std::shared_ptr<torch::nn::Module> quant_conv_, post_quant_conv_;
  std::shared_ptr<MovqDecoder> decoder_;
};

// Lengths of the chunks in which the published pipeline decodes `frames` frames: frames / 4 chunks
// of ceil(frames / (frames / 4)) frames, the last one shorter or missing. Fewer than 4 frames,
// which the published pipeline refuses, are one chunk.
std::vector<int64_t> DecodeChunkLengths(int64_t frames);

// decoded [N, 3, H, W] of any float type -> uint8 [N, H, W, 3]: clip((y + 1) / 2, 0, 1) * 255,
// truncated.
at::Tensor ToPixels(const at::Tensor& decoded);

}  // namespace kandinsky::model

#endif  // KANDINSKY_WORKER_MODEL_MOVQ_H_
