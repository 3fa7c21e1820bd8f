// The denoiser: one U-Net that serves as text-to-image model, keyframe generator and interpolation
// model.
//
// Axes: B videos, T frames (interpolation: T groups, a group being a pair of neighbouring
// keyframes), N = B*T with the video index outermost, C channels, H W latent height and width, L
// text tokens, D text width, E embedding width.
//
// Thread rule: forward is const over the parameters; several threads may call it on one object at
// once. Activations are kept in channels-last memory order throughout; inputs may have any order.
#ifndef KANDINSKY_WORKER_MODEL_UNET_H_
#define KANDINSKY_WORKER_MODEL_UNET_H_

#include <ATen/ATen.h>
#include <torch/nn/module.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "worker/model/text_keys.h"

namespace kandinsky::model {

// How frames of one video see each other.
enum class TemporalVariant {
  kNone,                // text-to-image: frames are independent
  kConv1dAttn1dLayers,  // layers inside the spatial blocks
  kConv1dAttn1dBlocks,  // blocks after the spatial blocks; the published keyframe generator
  kConv1dAttn3dBlocks,  // as above, attention in windows of 2x2 pixels x all frames; same
                        // parameters
  kConv3dAttn1dBlocks,  // 3x3x3 convolutions at a reduced width between a linear down and up
                        // projection
  kInterpolation,  // convolution over groups inside each spatial block; the published interpolation
                   // model
};

// "Conv1dAttn1dBlocks" and so on; "none", "interpolation".
std::string_view TemporalVariantName(TemporalVariant variant);
TemporalVariant ParseTemporalVariant(std::string_view name);  // throws ModelError::kInvalidArgument

// Defaults are those of Kandinsky 3.0's text-to-image model.
struct UnetConfig {
  int64_t model_channels = 384;
  int64_t init_channels = 192;  // also the width of the sinusoidal embeddings; even and at least 4
  int64_t num_channels = 4;     // in
  int64_t out_channels = 4;
  int64_t time_embed_dim = 1536;  // E
  int64_t context_dim = 4096;     // D
  int64_t groups = 32;            // of the group norms
  int64_t head_dim = 64;
  int64_t expansion_ratio = 4;
  int64_t compression_ratio = 2;
  std::vector<int64_t> dim_mult = {1, 2, 4, 8};  // one entry a level, finest first
  std::vector<int64_t> num_blocks = {3, 3, 3, 3};
  std::vector<bool> add_cross_attention = {false, true, true, true};
  std::vector<bool> add_self_attention = {false, true, true, true};
  int64_t num_frames = 0;  // frames per video that forward assumes when it is not told; 0: none
  TemporalVariant temporal_variant = TemporalVariant::kNone;

  // Reads the published keys (see parity/README.md); `num_frames` may be null. "interpolation":
  // true chooses kInterpolation; else a number in "num_frames" chooses the keyframe generator,
  // whose variant is the optional "temporal_variant" (default Conv1dAttn1dBlocks). Calls Validate.
  // `path` names the object in messages.
  static UnetConfig FromJson(const nlohmann::json& json, const std::string& path = "unet");
  nlohmann::json ToJson() const;

  // Throws ModelError::kInvalidArgument naming the first field that no network can be built from.
  void Validate(const std::string& path = "unet") const;

  int64_t levels() const { return static_cast<int64_t>(dim_mult.size()); }
  // H and W must be multiples of this.
  int64_t size_multiple() const { return int64_t{1} << (levels() - 1); }
  bool interpolation() const { return temporal_variant == TemporalVariant::kInterpolation; }
  // True for the four keyframe variants.
  bool keyframes() const { return temporal_variant != TemporalVariant::kNone && !interpolation(); }
};

// Temporal position of keyframe i of n: i*180/n -> float32 [n]. Equal to the published rule (0, s,
// 2s, .. with s = 180/n) wherever n divides 180.
at::Tensor TemporalPositions(int64_t frames, at::Device device = at::kCPU);

// Told the output of every module that the published implementation would report, in execution
// order, under its path.
using TraceSink = std::function<void(const std::string& path, const at::Tensor& output)>;

struct UnetInput {
  at::Tensor x;             // [N, num_channels, H, W]
  at::Tensor time;          // [N], [1] or scalar: t * time_scale, an integer value in any dtype
  at::Tensor context;       // [N, L, D], or [B, L, D]: one for all frames of a video (faster)
  at::Tensor context_mask;  // [N, L] or [B, L], bool or integer, 1 = visible; undefined: all are
  // Unet::PrepareText of both, which are not read then.
  blocks::TextKeys text;
  int64_t frames = 0;  // T; 0: config.num_frames, or N if that is 0 too
  at::Tensor
      temporal_positions;  // [N], [T]; keyframe variants only; undefined: TemporalPositions(T)
  at::Tensor skip_frames;  // [N], [1] or scalar, 0..19; interpolation only
  // Layers that do not look over time (norms, spatial convolutions, attention over pixels and text)
  // and the convolutions over time of a ResNet block work on so many items at once; 0: on all. The
  // maps between layers hold all items, so convolutions over time see their neighbours: the result
  // is that of 0 up to the rounding of kernels that depend on the number of items, and nothing is
  // computed twice but the neighbours' part of a convolution over time (2 items more a window).
  // Saves what layers need beside their input and output; costs one more map of the layer's size.
  int64_t window = 0;
  // How many steps of noise the keyframes of a group have seen: [N], [1] or scalar; interpolation
  // only; undefined: none, as in generation.
  at::Tensor perturbation;
};

class ResNetLevel;
namespace blocks {
class Conv2d;
class Embedding;
class GroupNorm;
class TextPooling;
class TimeEmbedding;
}  // namespace blocks

// Parameter names are the keys of the published checkpoints: named_parameters() equals the
// manifests. The constructor does NOT fill the parameters: at::kMeta costs no memory, and on a real
// device pages stay untouched until a checkpoint is loaded or ResetParameters is called.
class Unet : public torch::nn::Module {
 public:
  // Parameters are created with `options` (device and dtype); the dtype is that of matmuls and
  // convolutions. Norm statistics, softmax and sinusoids are computed in float32 (float64 if that
  // is the dtype).
  explicit Unet(UnetConfig config, const at::TensorOptions& options = {});

  // -> [N, out_channels, H, W] in the parameters' dtype. Throws ModelError::kInvalidArgument on
  // shapes that do not fit.
  //
  // With `text` prepared and everything on the network's device, what is computed depends on shapes
  // and on which tensors are defined alone: nothing is copied from or to the host, and it waits for
  // nothing.
  at::Tensor forward(const UnetInput& input, const TraceSink& trace = nullptr);

  // context [B, L, D] and mask [B, L] (undefined: all is visible) for any number of forward passes.
  // Reads the mask on the host.
  blocks::TextKeys PrepareText(const at::Tensor& context, const at::Tensor& mask) const;

  // The start of training, from a generator seeded with `seed`: normal weights of variance
  // 1 / (3 fan-in) (that of the uniform start of He et al. 2015 as PyTorch ships it), norms that
  // ignore time and text, and residual branches whose last layer is zero (Dhariwal & Nichol 2021;
  // Peebles & Xie 2023), so that the network learns one branch after the other from a short path.
  // Temporal parts as below.
  void ResetParameters(uint64_t seed = 0);
  // Only the temporal parts, so that every frame gets exactly what the spatial network alone gives
  // it: convolutions start as the identity kernel, half merged in (both kernel and merge scalar
  // learn from there); of all else the last layer is zero.
  void ResetTemporalParameters(uint64_t seed = 0);
  // After ResetTemporalParameters: lets temporal blocks tell frames and texts apart from the first
  // step, at the price of no longer starting as the spatial network. Attention blocks over frames
  // get random output layers, keys equal to their queries and strong positions, so that a frame
  // attends to itself and learns which it is; norms of temporal blocks see time and text. Without
  // it, what depends on frame and text together ("grows" against "shrinks") has no gradient, as no
  // layer sees both and over all texts it cancels out (docs/training.md). Does nothing to
  // Conv1dAttn1dLayers, which has no temporal blocks.
  void OpenTemporalBlocks(uint64_t seed = 0);
  // Copies every spatial parameter from a text-to-image network. If this network has more input
  // channels, the additional ones get zero weights (interpolation: the source reads the middle one
  // of the three noisy frames); if it has k times the output channels, the source's are repeated k
  // times.
  void CopySpatialParameters(const Unet& source);

  // True if the parameter belongs to the temporal parts (those that text-to-image lacks).
  static bool IsTemporalParameter(std::string_view name);

  const UnetConfig& config() const { return config_; }

 private:
  const UnetConfig config_;
  std::shared_ptr<blocks::TimeEmbedding> to_time_embed_, to_temporal_embed_,
      perturbation_to_time_embed_;
  std::shared_ptr<blocks::TextPooling> feature_pooling_;
  std::shared_ptr<blocks::Embedding> skip_embeddings_;
  at::Tensor time_embed_merge_, skip_merge_;  // [1]
  std::shared_ptr<blocks::Conv2d> in_layer_, out_conv_;
  std::shared_ptr<blocks::GroupNorm> out_norm_;
  std::vector<std::shared_ptr<ResNetLevel>> down_samples_, up_samples_;
};

}  // namespace kandinsky::model

#endif  // KANDINSKY_WORKER_MODEL_UNET_H_
