#include "worker/model/unet_blocks.h"

#include <algorithm>
#include <array>
#include <numeric>
#include <utility>

namespace kandinsky::model::blocks {
namespace {

constexpr std::array<int64_t, 4> kKernels = {1, 3, 3, 1};
constexpr size_t kUpBlock = 1, kDownBlock = 2;

// One call of the module if it exists; its absence is the identity.
template <typename M, typename... Args>
at::Tensor Apply(const std::shared_ptr<M>& module, const at::Tensor& x, const Args&... args) {
  return module ? module->forward(x, args...) : x;
}

// Rows first .. first + count - 1; one row stands for all.
at::Tensor Rows(const at::Tensor& x, int64_t first, int64_t count) {
  if (!x.defined() || x.size(0) == count || x.size(0) == 1) return x;
  return x.narrow(0, first, count);
}

// The text of items first .. first + count - 1 of `items`, which are of one video.
TextKeys TextRows(const TextKeys& text, int64_t items, int64_t first, int64_t count) {
  const int64_t rows = text.context.size(0), per_row = items / rows;
  if (count == items) return text;
  const int64_t row = first / per_row, taken = (first + count - 1) / per_row - row + 1;
  const auto rows_of = [&](const at::Tensor& x) {
    return x.defined() && x.size(0) != 1 ? x.narrow(0, row, taken) : x;
  };
  return {rows_of(text.context), {rows_of(text.mask.bias), rows_of(text.mask.keep)}};
}

bool InWindows(const Pass& pass, int64_t items) { return pass.window > 0 && pass.window < items; }

// What layer(first, count) -> [count, C, H, W] gives for all items at once, or window by window. No
// window reaches over the end of a video.
template <typename Layer>
at::Tensor InWindows(const Pass& pass, int64_t items, const Layer& layer) {
  if (!InWindows(pass, items)) return layer(0, items);
  at::Tensor joined;
  for (int64_t video = 0; video < items; video += pass.frames) {
    for (int64_t first = video; first < video + pass.frames; first += pass.window) {
      const int64_t count = std::min(pass.window, video + pass.frames - first);
      const at::Tensor part = layer(first, count);
      if (!joined.defined()) {
        joined = at::empty({items, part.size(1), part.size(2), part.size(3)},
                           part.options().memory_format(at::MemoryFormat::ChannelsLast));
      }
      joined.narrow(0, first, count).copy_(part);
    }
  }
  return joined;
}

// An attention block, in windows unless it looks over frames; its absence is the identity.
at::Tensor Attend(const std::shared_ptr<AttentionBlock>& block, const at::Tensor& x,
                  const Pass& pass, bool over_text) {
  if (!block) return x;
  if (block->looks_over_frames()) {
    return block->forward(x, pass.time, over_text ? &pass.text : nullptr, pass.temporal,
                          pass.frames);
  }
  const int64_t items = x.size(0);
  return InWindows(pass, items, [&](int64_t first, int64_t count) {
    const TextKeys text = over_text ? TextRows(pass.text, items, first, count) : TextKeys();
    return block->forward(Rows(x, first, count), Rows(pass.time, first, count),
                          over_text ? &text : nullptr, pass.temporal, pass.frames);
  });
}

}  // namespace

Block::Block(int64_t in, int64_t out, int64_t kernel, Resize resize, bool temporal,
             const UnetConfig& config, const at::TensorOptions& options) {
  if (temporal) {
    temporal_merge_ = register_parameter("temporal_merge", at::empty({1}, options));
    temporal_projection_ = register_module("temporal_projection",
                                           std::make_shared<FrameConv>(out, out, 3, 1, options));
  }
  group_norm_ = register_module(
      "group_norm",
      std::make_shared<ConditionalGroupNorm>(in, config.groups, config.time_embed_dim, options));
  if (resize == Resize::kUp) {
    up_sample_ = register_module("up_sample", std::make_shared<UpConv2d>(in, options));
  }
  projection_ =
      register_module("projection", std::make_shared<Conv2d>(in, out, kernel, true, options));
  if (resize == Resize::kDown) {
    down_sample_ =
        register_module("down_sample", std::make_shared<Conv2d>(out, out, 2, true, options));
  }
}

at::Tensor Block::Merged(const at::Tensor& y, int64_t frames, int64_t first, int64_t count) const {
  // (1-m)*y + m*conv(y)
  if (count == y.size(0)) {
    return at::lerp(y, temporal_projection_->forward(y, frames), temporal_merge_);
  }
  // With the neighbours in time that the kernel reaches; beyond the ends of the video it pads.
  const int64_t reach = temporal_projection_->weight.size(2) / 2;
  const int64_t video = first - first % frames;
  const int64_t begin = std::max(video, first - reach);
  const int64_t end = std::min(video + frames, first + count + reach);
  const at::Tensor convolved =
      temporal_projection_->forward(y.narrow(0, begin, end - begin), end - begin);
  return at::lerp(y.narrow(0, first, count), convolved.narrow(0, first - begin, count),
                  temporal_merge_);
}

at::Tensor Block::forward(const at::Tensor& x, const Pass& pass) const {
  const auto spatial = [&](int64_t first, int64_t count) {
    at::Tensor y = group_norm_->forward(Rows(x, first, count), Rows(pass.time, first, count),
                                        /*silu=*/true);
    y = Apply(up_sample_, y);
    return projection_->forward(y);
  };
  if (!temporal_projection_) {
    return InWindows(pass, x.size(0), [&](int64_t first, int64_t count) {
      return Apply(down_sample_, spatial(first, count));
    });
  }
  if (!InWindows(pass, x.size(0))) {
    const at::Tensor y = spatial(0, x.size(0));
    return Apply(down_sample_, Merged(y, pass.frames, 0, y.size(0)));
  }
  const at::Tensor y = InWindows(pass, x.size(0), spatial);
  return InWindows(pass, x.size(0), [&](int64_t first, int64_t count) {
    return Apply(down_sample_, Merged(y, pass.frames, first, count));
  });
}

ResNetBlock::ResNetBlock(int64_t in, int64_t out, Resize resize, const UnetConfig& config,
                         const at::TensorOptions& options) {
  const int64_t hidden = std::max(in, out) / config.compression_ratio;
  const bool temporal =
      config.interpolation() || config.temporal_variant == TemporalVariant::kConv1dAttn1dLayers;
  const std::array<int64_t, 5> widths = {in, hidden, hidden, hidden, out};
  auto slots = register_module("resnet_blocks", std::make_shared<Slots>());
  for (size_t i = 0; i < kKernels.size(); ++i) {
    const bool here =
        (resize == Resize::kUp && i == kUpBlock) || (resize == Resize::kDown && i == kDownBlock);
    blocks_.push_back(slots->Put(
        std::to_string(i),
        std::make_shared<Block>(widths[i], widths[i + 1], kKernels[i],
                                here ? resize : Resize::kNone, temporal, config, options)));
  }
  if (resize == Resize::kUp) {
    shortcut_up_sample_ =
        register_module("shortcut_up_sample", std::make_shared<UpConv2d>(in, options));
  }
  if (in != out) {
    shortcut_projection_ =
        register_module("shortcut_projection", std::make_shared<Conv2d>(in, out, 1, true, options));
  }
  if (resize == Resize::kDown) {
    shortcut_down_sample_ = register_module("shortcut_down_sample",
                                            std::make_shared<Conv2d>(out, out, 2, true, options));
  }
}

at::Tensor ResNetBlock::forward(const at::Tensor& x, const Pass& pass) const {
  at::Tensor y = x;
  for (const auto& block : blocks_) y = block->forward(y, pass);
  at::Tensor shortcut = Apply(shortcut_up_sample_, x);
  shortcut = Apply(shortcut_projection_, shortcut);
  shortcut = Apply(shortcut_down_sample_, shortcut);
  return y.add_(shortcut);
}

TemporalResNetBlock::TemporalResNetBlock(int64_t channels, const UnetConfig& config,
                                         const at::TensorOptions& options) {
  const bool conv3d = config.temporal_variant == TemporalVariant::kConv3dAttn1dBlocks;
  const int64_t inner = conv3d ? channels / config.compression_ratio : channels;
  const int64_t hidden = inner / config.compression_ratio;
  if (conv3d) {
    temporal_down_projection_ = register_module(
        "temporal_down_projection", std::make_shared<Linear>(channels, inner, true, options));
  }
  auto slots = register_module("temporal_resnet_blocks", std::make_shared<Slots>());
  const std::array<int64_t, 5> widths = {inner, hidden, hidden, hidden, inner};
  for (size_t i = 0; i < kKernels.size(); ++i) {
    auto slot = slots->Put(std::to_string(i), std::make_shared<Slots>());
    // The reduced width of Conv3dAttn1dBlocks need not be a multiple of the groups.
    const int64_t groups = std::gcd(config.groups, widths[i]);
    norms_.push_back(slot->Put("0", std::make_shared<ConditionalGroupNorm>(
                                        widths[i], groups, config.time_embed_dim, options)));
    convs_.push_back(
        slot->Put("2", std::make_shared<FrameConv>(widths[i], widths[i + 1], kKernels[i],
                                                   conv3d ? kKernels[i] : 1, options)));
  }
  if (conv3d) {
    temporal_up_projection_ = register_module(
        "temporal_up_projection", std::make_shared<Linear>(inner, channels, true, options));
  }
}

at::Tensor TemporalResNetBlock::forward(const at::Tensor& x, const Pass& pass) const {
  const int64_t height = x.size(2), width = x.size(3);
  at::Tensor y = x;
  if (temporal_down_projection_) {
    y = Image(temporal_down_projection_->forward(Tokens(y)), height, width);
  }
  for (size_t i = 0; i < convs_.size(); ++i) {
    y = convs_[i]->forward(norms_[i]->forward(y, pass.time, /*silu=*/true), pass.frames);
  }
  if (temporal_up_projection_) {
    y = Image(temporal_up_projection_->forward(Tokens(y)), height, width);
  }
  return y.add_(x);
}

}  // namespace kandinsky::model::blocks

namespace kandinsky::model {

using blocks::Apply;
using blocks::AttentionBlock;
using blocks::Pass;
using blocks::Resize;
using blocks::ResNetBlock;
using blocks::Slots;
using blocks::TemporalAttentionBlock;
using blocks::TemporalResNetBlock;

ResNetLevel::StageShape ResNetLevel::StageShapeOf(const Shape& shape, int64_t index) {
  const bool first = index == 0, last = index + 1 == shape.blocks;
  if (shape.up) {  // the last one narrows
    const int64_t in = first ? shape.in + shape.skip : shape.in;
    return {in, in, last ? shape.out : shape.in,
            first && shape.resize ? Resize::kUp : Resize::kNone, Resize::kNone};
  }
  return {first ? shape.in : shape.out, shape.out, shape.out, Resize::kNone,
          last && shape.resize ? Resize::kDown : Resize::kNone};
}

ResNetLevel::ResNetLevel(const Shape& shape, std::string path, const UnetConfig& config,
                         const at::TensorOptions& options)
    : up_(shape.up), path_(std::move(path)) {
  const bool blocks_over_time =
      config.keyframes() && config.temporal_variant != TemporalVariant::kConv1dAttn1dLayers;
  const auto attention = [&](int64_t channels) {
    return blocks::AttentionConfig{channels, config.time_embed_dim, config.groups, config.head_dim,
                                   config.expansion_ratio};
  };

  auto list = register_module("resnet_attn_blocks", std::make_shared<Slots>());
  for (int64_t i = 0; i < shape.blocks; ++i) {
    const auto [in, middle, out, resize_in, resize_out] = StageShapeOf(shape, i);
    auto slots = list->Put(std::to_string(i), std::make_shared<Slots>());
    Stage stage;
    stage.in =
        slots->Put("0", std::make_shared<ResNetBlock>(in, middle, resize_in, config, options));
    if (shape.cross_attention) {
      stage.cross_attention =
          slots->Put("1", std::make_shared<AttentionBlock>(attention(middle), config.context_dim,
                                                           /*temporal_layer=*/false, options));
    }
    stage.out =
        slots->Put("2", std::make_shared<ResNetBlock>(middle, out, resize_out, config, options));
    if (blocks_over_time) {
      // Going down they follow the ResNet blocks, going up they precede them.
      stage.temporal_in =
          slots->Put("3", std::make_shared<TemporalResNetBlock>(middle, config, options));
      stage.temporal_out = slots->Put(
          "4", std::make_shared<TemporalResNetBlock>(shape.up ? middle : out, config, options));
    }
    stages_.push_back(std::move(stage));
  }

  if (shape.self_attention) {
    const blocks::AttentionConfig ends = attention(shape.up ? shape.out : shape.in);
    self_attention_block_ = register_module(
        "self_attention_block",
        std::make_shared<AttentionBlock>(
            ends, 0, config.temporal_variant == TemporalVariant::kConv1dAttn1dLayers, options));
    if (blocks_over_time) {
      temporal_attention_block_ = register_module(
          "temporal_attention_block",
          std::make_shared<TemporalAttentionBlock>(
              ends, config.temporal_variant == TemporalVariant::kConv1dAttn3dBlocks, options));
    }
  }
}

at::Tensor ResNetLevel::forward(at::Tensor x, const Pass& pass) const {
  x = up_ ? Up(std::move(x), pass) : Down(std::move(x), pass);
  pass.Trace(path_, x);
  return x;
}

at::Tensor ResNetLevel::SelfAttention(const at::Tensor& x, const Pass& pass) const {
  const at::Tensor y = blocks::Attend(self_attention_block_, x, pass, /*over_text=*/false);
  pass.Trace(path_ + ".self_attention_block", y);
  return y;
}

at::Tensor ResNetLevel::TemporalAttention(const at::Tensor& x, const Pass& pass) const {
  const at::Tensor y = Apply(temporal_attention_block_, x, pass.time, pass.temporal, pass.frames);
  pass.Trace(path_ + ".temporal_attention_block", y);
  return y;
}

at::Tensor ResNetLevel::Down(at::Tensor x, const Pass& pass) const {
  x = TemporalAttention(SelfAttention(x, pass), pass);
  for (size_t i = 0; i < stages_.size(); ++i) {
    const Stage& stage = stages_[i];
    const std::string path = path_ + ".resnet_attn_blocks." + std::to_string(i);
    x = stage.in->forward(x, pass);
    pass.Trace(path + ".0", x);
    x = Apply(stage.temporal_in, x, pass);
    pass.Trace(path + ".3", x);
    x = blocks::Attend(stage.cross_attention, x, pass, /*over_text=*/true);
    pass.Trace(path + ".1", x);
    x = stage.out->forward(x, pass);
    pass.Trace(path + ".2", x);
    x = Apply(stage.temporal_out, x, pass);
    pass.Trace(path + ".4", x);
  }
  return x;
}

at::Tensor ResNetLevel::Up(at::Tensor x, const Pass& pass) const {
  for (size_t i = 0; i < stages_.size(); ++i) {
    const Stage& stage = stages_[i];
    const std::string path = path_ + ".resnet_attn_blocks." + std::to_string(i);
    x = Apply(stage.temporal_in, x, pass);
    pass.Trace(path + ".3", x);
    x = stage.in->forward(x, pass);
    pass.Trace(path + ".0", x);
    x = blocks::Attend(stage.cross_attention, x, pass, /*over_text=*/true);
    pass.Trace(path + ".1", x);
    x = Apply(stage.temporal_out, x, pass);
    pass.Trace(path + ".4", x);
    x = stage.out->forward(x, pass);
    pass.Trace(path + ".2", x);
  }
  return SelfAttention(TemporalAttention(x, pass), pass);
}

}  // namespace kandinsky::model
