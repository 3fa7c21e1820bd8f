#include "worker/model/movq.h"

#include <ATen/ATen.h>
#include <ATen/TensorIndexing.h>

#include <algorithm>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "worker/model/error.h"
#include "worker/model/json_reader.h"
#include "worker/model/memory_tracker.h"
#include "worker/model/movq_norm.h"
#include "worker/model/reproducible.h"

namespace kandinsky::model {

MovqConfig MovqConfig::FromJson(const nlohmann::json& json, const std::string& path) {
  ObjectReader reader(json, path);
  MovqConfig config;
  config.z_channels = reader.Int("z_channels", 1, 64);
  config.resolution = reader.Int("resolution", 1, 1 << 16);
  config.in_channels = reader.Int("in_channels", 1, 16, 3);
  config.out_ch = reader.Int("out_ch", 1, 16, 3);
  config.ch = reader.Int("ch", kMovqGroups, 4096);
  if (config.ch % kMovqGroups != 0) reader.Refuse("ch", "a multiple of 32");
  config.ch_mult = reader.Ints("ch_mult", 1, 8, 1, 64);
  config.num_res_blocks = reader.Int("num_res_blocks", 1, 16);
  config.attn_resolutions = reader.Ints("attn_resolutions", 0, 8, 1, 1 << 16);
  config.dropout = reader.Double("dropout", 0, 0.999, 0.0);
  config.temporal = reader.Bool("temporal", false);
  config.temporal_mid_blocks = reader.Bool("temporal_mid_blocks", true);
  config.temporal_attention_block = reader.Bool("temporal_attention_block", false);
  config.flicker_augmentation = reader.Bool("flicker_augmentation", false);
  if (reader.Has("temporal_kernel_size")) {
    const std::vector<int64_t> kernel = reader.Ints("temporal_kernel_size", 3, 3, 1, 7);
    for (int axis = 0; axis < 3; ++axis) {
      if (kernel[axis] % 2 == 0) reader.Refuse("temporal_kernel_size", "three odd numbers");
      config.temporal_kernel_size[axis] = kernel[axis];
    }
  }
  if (reader.Has("temporal_conv_padding")) {
    const std::vector<int64_t> padding = reader.Ints("temporal_conv_padding", 3, 3, 0, 3);
    for (int axis = 0; axis < 3; ++axis) {
      if (padding[axis] != config.temporal_kernel_size[axis] / 2) {
        reader.Refuse("temporal_conv_padding", "half of temporal_kernel_size, rounded down");
      }
    }
  }
  // Options of the published code that its models leave off and that would change the network.
  for (const char* name : {"double_z", "build_3D_decoder", "temporal_blocks"}) {
    if (reader.Bool(name, false)) reader.Refuse(name, "false");
  }
  reader.Finish();
  return config;
}

nlohmann::json MovqConfig::ToJson() const {
  nlohmann::json json = {{"z_channels", z_channels},
                         {"resolution", resolution},
                         {"in_channels", in_channels},
                         {"out_ch", out_ch},
                         {"ch", ch},
                         {"ch_mult", ch_mult},
                         {"num_res_blocks", num_res_blocks},
                         {"attn_resolutions", attn_resolutions},
                         {"dropout", dropout}};
  if (temporal || temporal_attention_block) {
    json["temporal"] = temporal;
    json["temporal_mid_blocks"] = temporal_mid_blocks;
    json["temporal_kernel_size"] = temporal_kernel_size;
    json["temporal_attention_block"] = temporal_attention_block;
    json["flicker_augmentation"] = flicker_augmentation;
  }
  return json;
}

namespace {

// Runs the layers of a decoder on whole maps or in strips of rows; see DecodeOptions.
class StripRunner {
 public:
  using Layer = std::function<at::Tensor(const at::Tensor& rows, int64_t first_row)>;

  StripRunner(int64_t max_bytes, at::Device compute)
      : max_bytes_(max_bytes), compute_(compute), bounded_(max_bytes > 0) {}

  // Where maps live between layers.
  at::Tensor Store(const at::Tensor& map) const {
    if (!bounded_ || compute_.is_cpu()) return map;
    if (!compute_.is_meta()) return map.to(at::kCPU);
    const HostMemoryScope host;
    return map.to(compute_, map.scalar_type(), /*non_blocking=*/false, /*copy=*/true);
  }

  // A stored map on the compute device.
  at::Tensor Fetch(const at::Tensor& map) const {
    if (!bounded_ || !compute_.is_meta()) return map.to(compute_);
    return map.to(compute_, map.scalar_type(), /*non_blocking=*/false, /*copy=*/true);
  }

  bool Fits(const at::Tensor& map, int64_t channels) const {
    return !bounded_ || RowBytes(map, channels) * map.size(2) <= max_bytes_;
  }

  // `layer` maps rows of `map` [N, C, rows, W] to scale times as many rows, each of which depends
  // on `halo` rows above and below (outside of the map it pads with zeros). `channels`: how many
  // channels of the map's size it keeps alive.
  at::Tensor Run(const at::Tensor& map, int64_t halo, int64_t scale, int64_t channels,
                 const Layer& layer) const {
    if (Fits(map, channels)) return Store(layer(Fetch(map), 0));
    const int64_t height = map.size(2);
    const int64_t rows = std::max<int64_t>(1, max_bytes_ / RowBytes(map, channels) - 2 * halo);
    at::Tensor whole;
    for (int64_t first = 0; first < height; first += rows) {
      const int64_t last = std::min(height, first + rows);
      const int64_t above = std::min(halo, first), below = std::min(halo, height - last);
      const at::Tensor strip =
          layer(ToCompute(map.narrow(2, first - above, last - first + above + below)),
                first - above)
              .narrow(2, above * scale, (last - first) * scale);
      if (!whole.defined()) {
        std::optional<HostMemoryScope> host;
        if (compute_.is_meta()) host.emplace();
        whole = at::empty({strip.size(0), strip.size(1), height * scale, strip.size(3)},
                          map.options().memory_format(at::MemoryFormat::ChannelsLast));
      }
      whole.narrow(2, first * scale, strip.size(2)).copy_(strip);
    }
    return whole;
  }

  GroupStatistics Statistics(const at::Tensor& map) const {
    // In float32 for the statistics.
    const int64_t channels = map.size(1) * (map.scalar_type() == at::kFloat ? 1 : 3);
    if (Fits(map, channels)) return ComputeGroupStatistics(Fetch(map));
    const int64_t height = map.size(2);
    const int64_t rows = std::max<int64_t>(1, max_bytes_ / RowBytes(map, channels));
    // Strip by strip: means and mean squares around them combine exactly.
    at::Tensor mean, squares;  // float64 [N, 32], squares: sum of squared differences
    double count = 0;
    for (int64_t first = 0; first < height; first += rows) {
      const int64_t n = std::min(rows, height - first);
      const GroupStatistics part = ComputeGroupStatistics(ToCompute(map.narrow(2, first, n)));
      const double part_count = static_cast<double>(n) * map.size(3) * (map.size(1) / kMovqGroups);
      const at::Tensor part_mean = part.mean.to(at::kDouble);
      const at::Tensor part_squares =
          (part.rstd.to(at::kDouble).pow(-2) - kMovqEpsilon) * part_count;
      if (!mean.defined()) {
        mean = part_mean;
        squares = part_squares;
      } else {
        const at::Tensor delta = part_mean - mean;
        const double total = count + part_count;
        mean = mean + delta * (part_count / total);
        squares = squares + part_squares + delta * delta * (count * part_count / total);
      }
      count += part_count;
    }
    return {mean.to(at::kFloat), (squares / count + kMovqEpsilon).rsqrt().to(at::kFloat)};
  }

  at::Tensor ToCompute(const at::Tensor& map) const {
    return Fetch(map).contiguous(at::MemoryFormat::ChannelsLast);
  }

  at::Device compute() const { return compute_; }

 private:
  int64_t RowBytes(const at::Tensor& map, int64_t channels) const {
    return map.size(0) * channels * map.size(3) * map.element_size();
  }

  const int64_t max_bytes_;
  const at::Device compute_;
  const bool bounded_;
};

at::TensorOptions WeightOptions(const at::TensorOptions& options, size_t dimensions) {
  if (dimensions == 4) return options.memory_format(at::MemoryFormat::ChannelsLast);
  if (dimensions == 5) return options.memory_format(at::MemoryFormat::ChannelsLast3d);
  return options;
}

// A convolution with stride 1 and zero padding that keeps the size.
class Conv : public torch::nn::Module {
 public:
  Conv(int64_t in, int64_t out, std::vector<int64_t> kernel, const at::TensorOptions& options) {
    std::vector<int64_t> shape = {out, in};
    for (const int64_t side : kernel) {
      shape.push_back(side);
      padding_.push_back(side / 2);
    }
    weight_ = register_parameter("weight", at::empty(shape, WeightOptions(options, shape.size())));
    bias_ = register_parameter("bias", at::empty({out}, options));
  }

  // [N, in, H, W] -> [N, out, H, W]; with a three-sided kernel [N, in, T, H, W].
  at::Tensor operator()(const at::Tensor& x) const {
    return Convolution(x, weight_, bias_, std::vector<int64_t>(padding_.size(), 1), padding_);
  }

  // The same on the map enlarged twofold by nearest neighbours: [N, in, H, W] -> [N, out, 2 H, 2 W]
  // (3x3 kernels only). Of the nine taps, several fall on one source pixel; added up they are a
  // transposed convolution with a 4x4 kernel and stride 2, which costs 4/9 of the arithmetic and
  // never stores the enlarged map.
  at::Tensor Enlarged(const at::Tensor& x) const {
    // [0 0 1; 0 1 1; 1 1 0; 1 0 0], made where the weights are.
    const at::Tensor ones = at::zeros({12}, weight_.options().dtype(at::kFloat));
    for (const auto& [first, count] : {std::pair(2, 1), std::pair(4, 4), std::pair(9, 1)}) {
      ones.narrow(0, first, count).fill_(1);
    }
    const at::Tensor sums = ones.view({4, 3});
    const at::Tensor kernel = at::matmul(at::matmul(sums, weight_.to(at::kFloat)), sums.t())
                                  .to(weight_.scalar_type())
                                  .transpose(0, 1);  // [in, out, 4, 4]
    return TransposedConvolution(x, kernel, bias_, {2, 2}, {1, 1});
  }

  // The same without padding and with stride 2: [N, in, 2 H + 1, 2 W + 1] -> [N, out, H, W].
  at::Tensor Stride2(const at::Tensor& x) const {
    return Convolution(x, weight_, bias_, {2, 2}, {0, 0});
  }

  at::ScalarType dtype() const { return weight_.scalar_type(); }

 private:
  at::Tensor weight_, bias_;
  std::vector<int64_t> padding_;
};

class GroupNorm : public torch::nn::Module {
 public:
  GroupNorm(int64_t channels, const at::TensorOptions& options) {
    weight = register_parameter("weight", at::empty({channels}, options));
    bias = register_parameter("bias", at::empty({channels}, options));
  }
  at::Tensor weight, bias;  // [C]
};

// GroupNorm, in the decoder conditioned on the latent: GN(f) * conv_y(z) + conv_b(z). The 1x1
// convolutions run at the latent's size; resizing their result is the same as resizing their input.
class Norm : public torch::nn::Module {
 public:
  // z_channels 0: plain.
  Norm(int64_t channels, int64_t z_channels, const at::TensorOptions& options) {
    norm_layer_ = register_module("norm_layer", std::make_shared<GroupNorm>(channels, options));
    if (z_channels > 0) {
      const std::vector<int64_t> kernel = {1, 1};
      conv_y_ =
          register_module("conv_y", std::make_shared<Conv>(z_channels, channels, kernel, options));
      conv_b_ =
          register_module("conv_b", std::make_shared<Conv>(z_channels, channels, kernel, options));
    }
  }

  // z [N or 1, z, h, w]; undefined: without conditioning.
  NormParameters Parameters(const at::Tensor& z, bool activate) const {
    NormParameters parameters = {norm_layer_->weight, norm_layer_->bias, {}, {}, activate};
    if (z.defined()) {
      parameters.scale = (*conv_y_)(z);
      parameters.shift = (*conv_b_)(z);
    }
    return parameters;
  }

 private:
  std::shared_ptr<GroupNorm> norm_layer_;
  std::shared_ptr<Conv> conv_y_, conv_b_;
};

// norm, activation, convolution: [N, in, H, W] -> [N, out, H, W], in strips where needed.
at::Tensor NormConv(const StripRunner& runner, const at::Tensor& x, const Norm& norm,
                    const at::Tensor& z, const std::function<at::Tensor(const at::Tensor&)>& conv,
                    int64_t out_channels) {
  const NormParameters parameters = norm.Parameters(z, /*activate=*/true);
  const int64_t channels = 2 * x.size(1) + out_channels;
  if (runner.Fits(x, channels)) {
    return runner.Store(conv(NormActivate(runner.Fetch(x), parameters)));
  }
  const GroupStatistics statistics = runner.Statistics(x);
  return runner.Run(x, /*halo=*/1, /*scale=*/1, channels,
                    [&](const at::Tensor& rows, int64_t first) {
                      return conv(ApplyNorm(rows, statistics, parameters, first, x.size(2)));
                    });
}

// The frames of clips as a fifth axis: [B T, C, H, W] -> [B, C, T, H, W], a view.
at::Tensor ToVolume(const at::Tensor& x, int64_t frames) {
  return x.view({x.size(0) / frames, frames, x.size(1), x.size(2), x.size(3)})
      .permute({0, 2, 1, 3, 4});
}

at::Tensor FromVolume(const at::Tensor& x) {
  return x.permute({0, 2, 1, 3, 4})
      .reshape({x.size(0) * x.size(2), x.size(1), x.size(3), x.size(4)});
}

// What the layers of one decode share.
struct DecodeState {
  const StripRunner& runner;
  at::Tensor z;            // [N, z, h, w], undefined in the encoder
  at::Tensor attention_z;  // [N or 1, z, h, w], what the norms of spatial attention see
  int64_t frames = 1;      // T, of a clip
};

struct ResnetOptions {
  int64_t z_channels = 0;
  bool temporal = false;
  std::array<int64_t, 3> temporal_kernel = {3, 3, 3};
  bool flicker = false;
  double dropout = 0;
};

class ResnetBlock : public torch::nn::Module {
 public:
  ResnetBlock(int64_t in, int64_t out, const ResnetOptions& resnet,
              const at::TensorOptions& options)
      : out_(out), temporal_halo_(resnet.temporal_kernel[1] / 2), dropout_(resnet.dropout) {
    const std::vector<int64_t> kernel = {3, 3};
    norm1_ = register_module("norm1", std::make_shared<Norm>(in, resnet.z_channels, options));
    conv1_ = register_module("conv1", std::make_shared<Conv>(in, out, kernel, options));
    norm2_ = register_module("norm2", std::make_shared<Norm>(out, resnet.z_channels, options));
    conv2_ = register_module("conv2", std::make_shared<Conv>(out, out, kernel, options));
    if (in != out) {
      nin_shortcut_ = register_module(
          "nin_shortcut", std::make_shared<Conv>(in, out, std::vector<int64_t>{1, 1}, options));
    }
    if (resnet.temporal) {
      const std::vector<int64_t> volume(resnet.temporal_kernel.begin(),
                                        resnet.temporal_kernel.end());
      merge1_ = register_parameter("temporal_merge1", at::empty({1}, options));
      temporal1_ = register_module("temporal_projection1",
                                   std::make_shared<Conv>(out, out, volume, options));
      merge2_ = register_parameter("temporal_merge2", at::empty({1}, options));
      temporal2_ = register_module("temporal_projection2",
                                   std::make_shared<Conv>(out, out, volume, options));
      if (resnet.flicker) register_module("temporal_flicker_proj", MakeFlicker(out, options));
    }
  }

  // [N, in, H, W] -> [N, out, H, W]
  at::Tensor operator()(const at::Tensor& x, const DecodeState& state) const {
    at::Tensor h = NormConv(
        state.runner, x, *norm1_, state.z, [&](const at::Tensor& y) { return (*conv1_)(y); }, out_);
    h = Mix(h, state, temporal1_, merge1_);
    h = NormConv(
        state.runner, h, *norm2_, state.z,
        [&](const at::Tensor& y) {
          return (*conv2_)(dropout_ > 0 && is_training() ? at::dropout(y, dropout_, true) : y);
        },
        out_);
    h = Mix(h, state, temporal2_, merge2_);
    if (state.runner.Fits(x, x.size(1) + 2 * out_)) {
      return state.runner.Store(
          (nin_shortcut_ ? (*nin_shortcut_)(state.runner.Fetch(x)) : state.runner.Fetch(x)) +
          state.runner.Fetch(h));
    }
    return state.runner.Run(x, 0, 1, x.size(1) + 3 * out_,
                            [&](const at::Tensor& rows, int64_t first) {
                              return (nin_shortcut_ ? (*nin_shortcut_)(rows) : rows) +
                                     state.runner.ToCompute(h.narrow(2, first, rows.size(2)));
                            });
  }

 private:
  static std::shared_ptr<torch::nn::Module> MakeFlicker(int64_t out,
                                                        const at::TensorOptions& options) {
    auto linear = std::make_shared<torch::nn::Module>();
    linear->register_parameter("weight", at::empty({out, 1}, options));
    linear->register_parameter("bias", at::empty({out}, options));
    return linear;
  }

  // (1 - m) * h + m * conv over the frames of each clip.
  at::Tensor Mix(const at::Tensor& h, const DecodeState& state, const std::shared_ptr<Conv>& conv,
                 const at::Tensor& merge) const {
    if (!conv) return h;
    return state.runner.Run(h, temporal_halo_, 1, 4 * out_, [&](const at::Tensor& rows, int64_t) {
      const at::Tensor mixed = FromVolume((*conv)(ToVolume(rows, state.frames)));
      return (1 - merge) * rows + merge * mixed;
    });
  }

  const int64_t out_;
  const int64_t temporal_halo_;
  const double dropout_;
  std::shared_ptr<Norm> norm1_, norm2_;
  std::shared_ptr<Conv> conv1_, conv2_, nin_shortcut_, temporal1_, temporal2_;
  at::Tensor merge1_, merge2_;  // [1]
};

// Single-head attention, over the pixels of a frame or over the frames of a pixel, with a residual.
class AttentionBlock : public torch::nn::Module {
 public:
  AttentionBlock(int64_t channels, int64_t z_channels, const at::TensorOptions& options) {
    const std::vector<int64_t> kernel = {1, 1};
    norm_ = register_module("norm", std::make_shared<Norm>(channels, z_channels, options));
    q_ = register_module("q", std::make_shared<Conv>(channels, channels, kernel, options));
    k_ = register_module("k", std::make_shared<Conv>(channels, channels, kernel, options));
    v_ = register_module("v", std::make_shared<Conv>(channels, channels, kernel, options));
    proj_out_ =
        register_module("proj_out", std::make_shared<Conv>(channels, channels, kernel, options));
  }

  at::Tensor Spatial(const at::Tensor& map, const DecodeState& state) const {
    const at::Tensor x = state.runner.Fetch(map);
    const int64_t n = x.size(0), c = x.size(1), height = x.size(2), width = x.size(3);
    const at::Tensor h = NormActivate(x, norm_->Parameters(state.attention_z, false));
    const auto tokens = [&](const Conv& conv) {  // [N, 1, H W, C]
      return conv(h).permute({0, 2, 3, 1}).reshape({n, 1, height * width, c});
    };
    const at::Tensor attended = AttentionProduct(tokens(*q_), tokens(*k_), tokens(*v_));
    return state.runner.Store(
        x + (*proj_out_)(attended.view({n, height, width, c}).permute({0, 3, 1, 2})));
  }

  at::Tensor Temporal(const at::Tensor& map, const DecodeState& state) const {
    const at::Tensor x = state.runner.Fetch(map);
    const int64_t n = x.size(0), c = x.size(1), height = x.size(2), width = x.size(3);
    const int64_t t = state.frames, b = n / t;
    const at::Tensor h = NormActivate(x, norm_->Parameters({}, false));
    const auto tokens = [&](const Conv& conv) {  // [B H W, 1, T, C]
      return conv(h)
          .permute({0, 2, 3, 1})
          .reshape({b, t, height * width, c})
          .transpose(1, 2)
          .reshape({b * height * width, 1, t, c});
    };
    const at::Tensor attended = AttentionProduct(tokens(*q_), tokens(*k_), tokens(*v_))
                                    .view({b, height * width, t, c})
                                    .transpose(1, 2)
                                    .reshape({n, height, width, c})
                                    .permute({0, 3, 1, 2});  // [N, C, H, W]
    return state.runner.Store(x + (*proj_out_)(attended));
  }

 private:
  std::shared_ptr<Norm> norm_;
  std::shared_ptr<Conv> q_, k_, v_, proj_out_;
};

// A container for modules that exist in the checkpoints' names only ("down.0.block", "mid").
std::shared_ptr<torch::nn::Module> Container(torch::nn::Module& parent, const std::string& name) {
  return parent.register_module(name, std::make_shared<torch::nn::Module>());
}

bool HasAttention(const MovqConfig& config, size_t level) {
  const int64_t resolution = config.resolution >> level;
  return std::count(config.attn_resolutions.begin(), config.attn_resolutions.end(), resolution) > 0;
}

}  // namespace

class MovqEncoder : public torch::nn::Module {
 public:
  MovqEncoder(const MovqConfig& config, const at::TensorOptions& options) {
    const ResnetOptions resnet = {.dropout = config.dropout};
    const std::vector<int64_t> kernel = {3, 3};
    int64_t channels = config.ch;
    conv_in_ = register_module(
        "conv_in", std::make_shared<Conv>(config.in_channels, channels, kernel, options));
    const auto down = Container(*this, "down");
    for (size_t i = 0; i < config.ch_mult.size(); ++i) {
      Level& level = levels_.emplace_back();
      const auto module = Container(*down, std::to_string(i));
      const auto blocks = Container(*module, "block"), attentions = Container(*module, "attn");
      const int64_t out = config.ch * config.ch_mult[i];
      for (int64_t j = 0; j < config.num_res_blocks; ++j) {
        level.blocks.push_back(blocks->register_module(
            std::to_string(j), std::make_shared<ResnetBlock>(channels, out, resnet, options)));
        channels = out;
        if (HasAttention(config, i)) {
          level.attentions.push_back(attentions->register_module(
              std::to_string(j), std::make_shared<AttentionBlock>(channels, 0, options)));
        }
      }
      if (i + 1 < config.ch_mult.size()) {
        level.downsample = Container(*module, "downsample")
                               ->register_module("conv", std::make_shared<Conv>(channels, channels,
                                                                                kernel, options));
      }
    }
    const auto mid = Container(*this, "mid");
    block_1_ = mid->register_module(
        "block_1", std::make_shared<ResnetBlock>(channels, channels, resnet, options));
    attn_1_ =
        mid->register_module("attn_1", std::make_shared<AttentionBlock>(channels, 0, options));
    block_2_ = mid->register_module(
        "block_2", std::make_shared<ResnetBlock>(channels, channels, resnet, options));
    norm_out_ = register_module("norm_out", std::make_shared<Norm>(channels, 0, options));
    conv_out_ = register_module(
        "conv_out", std::make_shared<Conv>(channels, config.z_channels, kernel, options));
  }

  // [N, 3, H, W] -> [N, z, h, w]
  at::Tensor operator()(const at::Tensor& images) const {
    const StripRunner runner(0, images.device());
    const DecodeState state = {runner};
    at::Tensor h = (*conv_in_)(images);
    for (const Level& level : levels_) {
      for (size_t j = 0; j < level.blocks.size(); ++j) {
        h = (*level.blocks[j])(h, state);
        if (!level.attentions.empty()) h = level.attentions[j]->Spatial(h, state);
      }
      if (level.downsample) {
        h = level.downsample->Stride2(at::constant_pad_nd(h, {0, 1, 0, 1}));
      }
    }
    h = (*block_2_)(attn_1_->Spatial((*block_1_)(h, state), state), state);
    return (*conv_out_)(NormActivate(h, norm_out_->Parameters({}, true)));
  }

 private:
  struct Level {
    std::vector<std::shared_ptr<ResnetBlock>> blocks;
    std::vector<std::shared_ptr<AttentionBlock>> attentions;
    std::shared_ptr<Conv> downsample;
  };

  std::shared_ptr<Conv> conv_in_, conv_out_;
  std::vector<Level> levels_;
  std::shared_ptr<ResnetBlock> block_1_, block_2_;
  std::shared_ptr<AttentionBlock> attn_1_;
  std::shared_ptr<Norm> norm_out_;
};

class MovqDecoder : public torch::nn::Module {
 public:
  MovqDecoder(const MovqConfig& config, const at::TensorOptions& options)
      : temporal_(config.temporal || config.temporal_attention_block) {
    const std::vector<int64_t> kernel = {3, 3};
    const int64_t z = config.z_channels;
    ResnetOptions resnet = {z, config.temporal, config.temporal_kernel_size, false, config.dropout};
    ResnetOptions middle = resnet;
    middle.temporal = config.temporal && config.temporal_mid_blocks;
    int64_t channels = config.ch * config.ch_mult.back();
    conv_in_ = register_module("conv_in", std::make_shared<Conv>(z, channels, kernel, options));

    const auto mid = Container(*this, "mid");
    middle.flicker = config.flicker_augmentation;
    block_1_ = mid->register_module(
        "block_1", std::make_shared<ResnetBlock>(channels, channels, middle, options));
    attn_1_ =
        mid->register_module("attn_1", std::make_shared<AttentionBlock>(channels, z, options));
    if (config.temporal_attention_block) {
      temporal_attn_1_ = mid->register_module(
          "temporal_attn_1", std::make_shared<AttentionBlock>(channels, z, options));
    }
    middle.flicker = false;
    block_2_ = mid->register_module(
        "block_2", std::make_shared<ResnetBlock>(channels, channels, middle, options));

    const auto up = Container(*this, "up");
    levels_.resize(config.ch_mult.size());
    for (size_t i = config.ch_mult.size(); i-- > 0;) {
      Level& level = levels_[i];
      const auto module = std::make_shared<torch::nn::Module>();
      level.module = module;
      const auto blocks = Container(*module, "block"), attentions = Container(*module, "attn"),
                 temporal_attentions = Container(*module, "temporal_attn");
      const int64_t out = config.ch * config.ch_mult[i];
      for (int64_t j = 0; j <= config.num_res_blocks; ++j) {
        const std::string name = std::to_string(j);
        level.blocks.push_back(blocks->register_module(
            name, std::make_shared<ResnetBlock>(channels, out, resnet, options)));
        channels = out;
        if (!HasAttention(config, i)) continue;
        level.attentions.push_back(attentions->register_module(
            name, std::make_shared<AttentionBlock>(channels, z, options)));
        if (!config.temporal_attention_block) continue;
        level.temporal_attentions.push_back(temporal_attentions->register_module(
            name, std::make_shared<AttentionBlock>(channels, z, options)));
      }
      if (i > 0) {
        level.upsample = Container(*module, "upsample")
                             ->register_module("conv", std::make_shared<Conv>(channels, channels,
                                                                              kernel, options));
      }
    }
    for (size_t i = 0; i < levels_.size(); ++i) {
      up->register_module(std::to_string(i), levels_[i].module);
    }
    norm_out_ = register_module("norm_out", std::make_shared<Norm>(channels, z, options));
    conv_out_ = register_module("conv_out",
                                std::make_shared<Conv>(channels, config.out_ch, kernel, options));
    out_channels_ = config.out_ch;
  }

  bool temporal() const { return temporal_; }

  // post_quant_conv(z), z [N, z, h, w] -> [N, 3, H, W]; clips of `frames` frames.
  at::Tensor operator()(const at::Tensor& latent, const at::Tensor& z, int64_t frames,
                        const StripRunner& runner) const {
    DecodeState state = {runner, z, z, frames};
    if (temporal_) {
      // The published video decoder conditions the norms of spatial attention on the first frame of
      // a clip.
      const int64_t clips = z.size(0) / frames;
      const at::Tensor first =
          z.view({clips, frames, z.size(1), z.size(2), z.size(3)}).narrow(1, 0, 1);
      state.attention_z = clips == 1
                              ? first.squeeze(1)
                              : first.expand({clips, frames, z.size(1), z.size(2), z.size(3)})
                                    .reshape(z.sizes())
                                    .contiguous(at::MemoryFormat::ChannelsLast);
    }
    at::Tensor h = runner.Store((*conv_in_)(latent));
    h = (*block_1_)(h, state);
    h = attn_1_->Spatial(h, state);
    if (temporal_attn_1_) h = temporal_attn_1_->Temporal(h, state);
    h = (*block_2_)(h, state);
    for (size_t i = levels_.size(); i-- > 0;) {
      const Level& level = levels_[i];
      for (size_t j = 0; j < level.blocks.size(); ++j) {
        h = (*level.blocks[j])(h, state);
        if (!level.attentions.empty()) h = level.attentions[j]->Spatial(h, state);
        if (!level.temporal_attentions.empty())
          h = level.temporal_attentions[j]->Temporal(h, state);
      }
      if (level.upsample) {
        h = runner.Run(h, 1, 2, 5 * h.size(1), [&](const at::Tensor& rows, int64_t) {
          return level.upsample->Enlarged(rows);
        });
      }
    }
    return NormConv(
        runner, h, *norm_out_, z, [&](const at::Tensor& y) { return (*conv_out_)(y); },
        out_channels_);
  }

 private:
  struct Level {
    std::shared_ptr<torch::nn::Module> module;
    std::vector<std::shared_ptr<ResnetBlock>> blocks;
    std::vector<std::shared_ptr<AttentionBlock>> attentions, temporal_attentions;
    std::shared_ptr<Conv> upsample;
  };

  const bool temporal_;
  int64_t out_channels_ = 3;
  std::shared_ptr<Conv> conv_in_, conv_out_;
  std::shared_ptr<ResnetBlock> block_1_, block_2_;
  std::shared_ptr<AttentionBlock> attn_1_, temporal_attn_1_;
  std::vector<Level> levels_;
  std::shared_ptr<Norm> norm_out_;
};

namespace {

// The most that one layer of the decoder keeps alive for one frame; the same estimates as in the
// layers.
int64_t PeakLayerBytes(const MovqConfig& config, int64_t height, int64_t width,
                       int64_t element_size) {
  int64_t peak = 0;
  int64_t in = config.ch * config.ch_mult.back();
  for (size_t i = config.ch_mult.size(); i-- > 0;) {
    const int64_t out = config.ch * config.ch_mult[i];
    const int64_t channels = std::max(2 * in + out, (config.temporal ? 4 : 3) * out);
    peak = std::max({peak, std::max(channels, in + 3 * out) * height * width,
                     i > 0 ? 5 * out * height * width : 0});
    height *= 2;
    width *= 2;
    in = out;
  }
  return peak * element_size;
}

}  // namespace

Movq::Movq(MovqConfig config, at::TensorOptions options, bool decoder_only)
    : config_(std::move(config)) {
  const int64_t z = config_.z_channels;
  const std::vector<int64_t> kernel = {1, 1};
  if (!decoder_only) {
    encoder_ = register_module("encoder", std::make_shared<MovqEncoder>(config_, options));
    quant_conv_ = register_module("quant_conv", std::make_shared<Conv>(z, z, kernel, options));
  }
  post_quant_conv_ =
      register_module("post_quant_conv", std::make_shared<Conv>(z, z, kernel, options));
  decoder_ = register_module("decoder", std::make_shared<MovqDecoder>(config_, options));
}

at::Tensor Movq::Encode(const at::Tensor& images) const {
  if (!encoder_) {
    throw ModelError(ModelError::Kind::kInvalidArgument, "this MoVQ-GAN was built without encoder");
  }
  const int64_t cell = config_.downsampling();
  if (images.dim() != 4 || images.size(1) != config_.in_channels || images.size(2) % cell != 0 ||
      images.size(3) % cell != 0 || images.numel() == 0) {
    throw ModelError(ModelError::Kind::kInvalidArgument,
                     "images have shape " + c10::str(images.sizes()) + ", must be [N, " +
                         std::to_string(config_.in_channels) +
                         ", H, W] with H and W multiples of " + std::to_string(cell));
  }
  const auto& quant = dynamic_cast<const Conv&>(*quant_conv_);
  return quant((*encoder_)(images.to(quant.dtype()).contiguous(at::MemoryFormat::ChannelsLast)));
}

at::Tensor Movq::Decode(const at::Tensor& latents, const DecodeOptions& options,
                        int64_t clip_frames) const {
  if (latents.dim() != 4 || latents.size(1) != config_.z_channels || latents.numel() == 0) {
    throw ModelError(ModelError::Kind::kInvalidArgument,
                     "latents have shape " + c10::str(latents.sizes()) + ", must be [N, " +
                         std::to_string(config_.z_channels) + ", h, w]");
  }
  const int64_t frames = clip_frames == 0 ? latents.size(0) : clip_frames;
  if (frames < 0 || latents.size(0) % frames != 0) {
    throw ModelError(ModelError::Kind::kInvalidArgument,
                     "clips have " + std::to_string(clip_frames) + " frames, must divide the " +
                         std::to_string(latents.size(0)) + " frames");
  }
  const auto& post_quant = dynamic_cast<const Conv&>(*post_quant_conv_);
  const int64_t peak = PeakLayerBytes(config_, latents.size(2), latents.size(3),
                                      at::elementSize(post_quant.dtype()));  // of one frame
  const int64_t together = decoder_->temporal() ? latents.size(0) : 1;
  const bool bounded = options.max_bytes > 0 && peak > options.max_bytes / together;
  const int64_t batch =
      options.max_bytes > 0 ? std::max<int64_t>(1, options.max_bytes / peak) : latents.size(0);
  const StripRunner runner(bounded ? options.max_bytes : 0, latents.device());
  const at::Tensor z = latents.to(post_quant.dtype()).contiguous(at::MemoryFormat::ChannelsLast);
  if (!decoder_->temporal() && z.size(0) > batch) {
    // Frames are independent: take as many at once as the bound allows.
    std::vector<at::Tensor> decoded;
    for (const at::Tensor& part : z.split(batch)) {
      decoded.push_back((*decoder_)(post_quant(part), part, 1, runner).to(latents.device()));
    }
    return at::cat(decoded);
  }
  return (*decoder_)(post_quant(z), z, frames, runner).to(latents.device());
}

std::vector<int64_t> DecodeChunkLengths(int64_t frames) {
  if (frames <= 0) return {};
  const int64_t length = frames < 4 ? frames : (frames + frames / 4 - 1) / (frames / 4);
  std::vector<int64_t> lengths;
  for (int64_t first = 0; first < frames; first += length) {
    lengths.push_back(std::min(length, frames - first));
  }
  return lengths;
}

at::Tensor ToPixels(const at::Tensor& decoded) {
  // A NaN becomes black rather than whatever the conversion makes of it.
  return decoded.to(at::kFloat)
      .add(1)
      .div(2)
      .clamp(0, 1)
      .nan_to_num(0)
      .mul(255)
      .to(at::kByte)
      .permute({0, 2, 3, 1})
      .contiguous();
}

}  // namespace kandinsky::model
