#include "worker/model/unet.h"

#include <ATen/CPUGeneratorImpl.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <set>
#include <utility>

#include "worker/model/error.h"
#include "worker/model/json_reader.h"
#include "worker/model/layers.h"
#include "worker/model/reproducible.h"
#include "worker/model/unet_attention.h"
#include "worker/model/unet_blocks.h"

namespace kandinsky::model {

namespace blocks {

// Sinusoid (key 0, no parameters), Linear, SiLU, Linear.
class TimeEmbedding : public Slots {
 public:
  TimeEmbedding(int64_t sinusoid_dim, int64_t embed_dim, const at::TensorOptions& options)
      : sinusoid_dim_(sinusoid_dim),
        in_(Put("1", std::make_shared<Linear>(sinusoid_dim, embed_dim, true, options))),
        out_(Put("3", std::make_shared<Linear>(embed_dim, embed_dim, true, options))) {}

  // x [N] -> [N, E]. `path` is empty if only the result is to be traced by the caller.
  at::Tensor forward(const at::Tensor& x, const Pass& pass, const std::string& path) const {
    const auto trace = [&](const char* name, const at::Tensor& y) {
      if (!path.empty()) pass.Trace(path + name, y);
    };
    at::Tensor y = Sinusoid(x, sinusoid_dim_);
    trace(".0", y);
    y = in_->forward(y.to(in_->weight.options()));
    trace(".1", y);
    y = Silu(y);
    trace(".2", y);
    y = out_->forward(y);
    trace(".3", y);
    trace("", y);
    return y;
  }

 private:
  const int64_t sinusoid_dim_;
  std::shared_ptr<Linear> in_, out_;
};

}  // namespace blocks

using blocks::Pass;

namespace {

constexpr std::array<std::pair<std::string_view, TemporalVariant>, 6> kVariants = {{
    {"none", TemporalVariant::kNone},
    {"Conv1dAttn1dLayers", TemporalVariant::kConv1dAttn1dLayers},
    {"Conv1dAttn1dBlocks", TemporalVariant::kConv1dAttn1dBlocks},
    {"Conv1dAttn3dBlocks", TemporalVariant::kConv1dAttn3dBlocks},
    {"Conv3dAttn1dBlocks", TemporalVariant::kConv3dAttn1dBlocks},
    {"interpolation", TemporalVariant::kInterpolation},
}};

constexpr int64_t kPositionRange = 180;
constexpr int64_t kSkipEmbeddings = 20;

[[noreturn]] void Refuse(const std::string& message) {
  throw ModelError(ModelError::Kind::kInvalidArgument, message);
}

std::string Shape(const at::Tensor& tensor) {
  if (!tensor.defined()) return "undefined";
  std::string text = "[";
  for (int64_t i = 0; i < tensor.dim(); ++i) {
    text += (i > 0 ? ", " : "") + std::to_string(tensor.size(i));
  }
  return text + "]";
}

bool EndsWith(std::string_view text, std::string_view end) {
  return text.size() >= end.size() && text.substr(text.size() - end.size()) == end;
}

// Shapes of the levels on both sides, in the order in which they run.
std::vector<ResNetLevel::Shape> LevelShapes(const UnetConfig& config) {
  const int64_t levels = config.levels();
  const auto width = [&](int64_t level) {  // width entering down level `level`
    return level == 0 ? config.init_channels
                      : config.model_channels * config.dim_mult[static_cast<size_t>(level - 1)];
  };
  std::vector<ResNetLevel::Shape> shapes;
  const auto add = [&](bool up, int64_t level, bool resize, int64_t in, int64_t skip, int64_t out) {
    const auto i = static_cast<size_t>(level);
    shapes.push_back({up, in, skip, out, config.num_blocks[i], config.add_cross_attention[i],
                      config.add_self_attention[i], resize});
  };
  for (int64_t i = 0; i < levels; ++i) add(false, i, i + 1 < levels, width(i), 0, width(i + 1));
  for (int64_t i = 0; i < levels; ++i) {
    // The coarsest level comes first; every later one also gets the output of its down twin.
    const int64_t level = levels - 1 - i;
    add(true, level, i > 0, width(level + 1), i > 0 ? width(level + 1) : 0, width(level));
  }
  return shapes;
}

}  // namespace

std::string_view TemporalVariantName(TemporalVariant variant) {
  for (const auto& [name, value] : kVariants) {
    if (value == variant) return name;
  }
  return "unknown";
}

TemporalVariant ParseTemporalVariant(std::string_view name) {
  std::string known;
  for (const auto& [candidate, value] : kVariants) {
    if (candidate == name) return value;
    known += (known.empty() ? "" : ", ") + std::string(candidate);
  }
  Refuse("temporal_variant is \"" + std::string(name) + "\", must be one of " + known);
}

UnetConfig UnetConfig::FromJson(const nlohmann::json& json, const std::string& path) {
  constexpr int64_t kMaxWidth = 1 << 16;
  ObjectReader reader(json, path);
  UnetConfig config;
  config.model_channels = reader.Int("model_channels", 1, kMaxWidth);
  config.init_channels = reader.Int("init_channels", 1, kMaxWidth);
  config.num_channels = reader.Int("num_channels", 1, 1024);
  config.out_channels = reader.Int("out_channels", 1, 1024);
  config.time_embed_dim = reader.Int("time_embed_dim", 1, kMaxWidth);
  config.context_dim = reader.Int("context_dim", 1, kMaxWidth);
  config.groups = reader.Int("groups", 1, kMaxWidth);
  config.head_dim = reader.Int("head_dim", 1, kMaxWidth);
  config.expansion_ratio = reader.Int("expansion_ratio", 1, 64);
  config.compression_ratio = reader.Int("compression_ratio", 1, 64);
  config.dim_mult = reader.Ints("dim_mult", 1, 8, 1, 1024);
  config.num_blocks = reader.Ints("num_blocks", 1, 8, 1, 64);
  const auto flags = [&](const std::string& name) {
    std::vector<bool> values;
    for (const nlohmann::json& value : reader.Array(name, 1, 8)) {
      if (!value.is_boolean()) reader.Refuse(name, "a list of booleans");
      values.push_back(value.get<bool>());
    }
    return values;
  };
  config.add_cross_attention = flags("add_cross_attention");
  config.add_self_attention = flags("add_self_attention");
  const bool interpolation = reader.Bool("interpolation", false);
  if (json.contains("num_frames") && !json["num_frames"].is_null()) {
    config.num_frames = reader.Int("num_frames", 1, 4096);
  }
  reader.Ignore("num_frames");
  TemporalVariant variant =
      config.num_frames > 0 ? TemporalVariant::kConv1dAttn1dBlocks : TemporalVariant::kNone;
  if (interpolation) variant = TemporalVariant::kInterpolation;
  config.temporal_variant = ParseTemporalVariant(
      reader.String("temporal_variant", 64, std::string(TemporalVariantName(variant))));
  if (interpolation && !config.interpolation()) {
    reader.Refuse("temporal_variant", "\"interpolation\" where interpolation is true");
  }
  if (config.interpolation()) config.num_frames = 0;
  reader.Finish();
  config.Validate(path);
  return config;
}

nlohmann::json UnetConfig::ToJson() const {
  nlohmann::json json = {
      {"model_channels", model_channels},
      {"init_channels", init_channels},
      {"num_channels", num_channels},
      {"out_channels", out_channels},
      {"time_embed_dim", time_embed_dim},
      {"context_dim", context_dim},
      {"groups", groups},
      {"head_dim", head_dim},
      {"expansion_ratio", expansion_ratio},
      {"compression_ratio", compression_ratio},
      {"dim_mult", dim_mult},
      {"num_blocks", num_blocks},
      {"add_cross_attention", add_cross_attention},
      {"add_self_attention", add_self_attention},
      {"num_frames", nullptr},
      {"interpolation", interpolation()},
      {"temporal_variant", std::string(TemporalVariantName(temporal_variant))},
  };
  if (num_frames > 0) json["num_frames"] = num_frames;
  return json;
}

void UnetConfig::Validate(const std::string& path) const {
  const auto require = [&](bool holds, const std::string& field, int64_t value,
                           const std::string& limit) {
    if (!holds) Refuse(path + "." + field + " is " + std::to_string(value) + ", must be " + limit);
  };
  const auto positive = [&](const char* field, int64_t value) {
    require(value >= 1, field, value, "at least 1");
  };
  positive("model_channels", model_channels);
  positive("num_channels", num_channels);
  positive("out_channels", out_channels);
  positive("time_embed_dim", time_embed_dim);
  positive("context_dim", context_dim);
  positive("groups", groups);
  positive("head_dim", head_dim);
  positive("expansion_ratio", expansion_ratio);
  positive("compression_ratio", compression_ratio);
  require(num_frames >= 0, "num_frames", num_frames, "at least 0");
  require(init_channels >= 4 && init_channels % 2 == 0, "init_channels", init_channels,
          "an even number of at least 4");
  require(init_channels % groups == 0, "init_channels", init_channels,
          "a multiple of groups (" + std::to_string(groups) + ")");
  require(time_embed_dim % head_dim == 0, "time_embed_dim", time_embed_dim,
          "a multiple of head_dim (" + std::to_string(head_dim) + ")");
  const auto count = static_cast<int64_t>(dim_mult.size());
  require(count >= 1 && count <= 8, "dim_mult", count, "1 to 8 entries long");
  const auto same_length = [&](const char* field, size_t size) {
    require(static_cast<int64_t>(size) == count, field, static_cast<int64_t>(size),
            "as many entries as dim_mult has (" + std::to_string(count) + ")");
  };
  same_length("num_blocks", num_blocks.size());
  same_length("add_cross_attention", add_cross_attention.size());
  same_length("add_self_attention", add_self_attention.size());
  for (size_t i = 0; i < num_blocks.size(); ++i) {
    require(num_blocks[i] >= 2, "num_blocks[" + std::to_string(i) + "]", num_blocks[i],
            "at least 2");
    require(dim_mult[i] >= 1, "dim_mult[" + std::to_string(i) + "]", dim_mult[i], "at least 1");
  }
  const auto multiple = [&](int64_t width, int64_t divisor, const char* what) {
    require(width >= 1 && width % divisor == 0, "dim_mult", width,
            "such that the width of every " + std::string(what) + " is a multiple of " +
                std::to_string(divisor));
  };
  const auto resnet_block = [&](int64_t in, int64_t out) {
    const int64_t widest = std::max(in, out);
    require(widest % compression_ratio == 0, "compression_ratio", compression_ratio,
            "a divisor of every width (" + std::to_string(widest) + ")");
    multiple(in, groups, "ResNet block");
    multiple(widest / compression_ratio, groups, "ResNet block's hidden part");
  };
  for (const ResNetLevel::Shape& level : LevelShapes(*this)) {
    for (int64_t i = 0; i < level.blocks; ++i) {
      const ResNetLevel::StageShape stage = ResNetLevel::StageShapeOf(level, i);
      resnet_block(stage.in, stage.middle);
      resnet_block(stage.middle, stage.out);
      if (level.cross_attention) multiple(stage.middle, head_dim, "cross attention");
      if (temporal_variant == TemporalVariant::kConv3dAttn1dBlocks) {
        require(stage.middle % (compression_ratio * compression_ratio) == 0, "compression_ratio",
                compression_ratio, "such that its square divides every width");
      }
    }
    if (level.self_attention) {
      const int64_t width = level.up ? level.out : level.in;
      multiple(width, head_dim, "self attention");
      multiple(width, groups, "self attention");
    }
  }
  if (interpolation()) {
    require(out_channels % 3 == 0, "out_channels", out_channels, "a multiple of 3");
    require(num_channels == out_channels / 3 * 5, "num_channels", num_channels,
            "5/3 of out_channels: two keyframes and three frames");
  }
}

at::Tensor TemporalPositions(int64_t frames, at::Device device) {
  if (frames < 1) Refuse("frames is " + std::to_string(frames) + ", must be at least 1");
  return at::arange(frames, at::TensorOptions(at::kDouble).device(device))
      .mul(kPositionRange)
      .div(frames)
      .to(at::kFloat);
}

Unet::Unet(UnetConfig config, const at::TensorOptions& options) : config_(std::move(config)) {
  config_.Validate();
  const UnetConfig& c = config_;
  const auto embedding = [&] {
    return std::make_shared<blocks::TimeEmbedding>(c.init_channels, c.time_embed_dim, options);
  };
  if (c.interpolation()) {
    time_embed_merge_ = register_parameter("time_embed_merge", at::empty({1}, options));
    skip_merge_ = register_parameter("skip_merge", at::empty({1}, options));
    perturbation_to_time_embed_ = register_module("perturbation_to_time_embed", embedding());
    skip_embeddings_ = register_module(
        "skip_embeddings",
        std::make_shared<blocks::Embedding>(kSkipEmbeddings, c.time_embed_dim, options));
  }
  to_time_embed_ = register_module("to_time_embed", embedding());
  feature_pooling_ = register_module(
      "feature_pooling",
      std::make_shared<blocks::TextPooling>(c.context_dim, c.time_embed_dim, c.head_dim, options));
  if (c.keyframes()) to_temporal_embed_ = register_module("to_temporal_embed", embedding());
  in_layer_ = register_module("in_layer", std::make_shared<blocks::Conv2d>(
                                              c.num_channels, c.init_channels, 3, true, options));
  auto down = register_module("down_samples", std::make_shared<blocks::Slots>());
  auto up = register_module("up_samples", std::make_shared<blocks::Slots>());
  for (const ResNetLevel::Shape& shape : LevelShapes(c)) {
    auto& levels = shape.up ? up_samples_ : down_samples_;
    const std::string index = std::to_string(levels.size());
    const std::string path = (shape.up ? "up_samples." : "down_samples.") + index;
    levels.push_back(
        (shape.up ? up : down)->Put(index, std::make_shared<ResNetLevel>(shape, path, c, options)));
  }
  auto out = register_module("out_layer", std::make_shared<blocks::Slots>());
  out_norm_ =
      out->Put("0", std::make_shared<blocks::GroupNorm>(c.init_channels, c.groups, options));
  out_conv_ = out->Put(
      "2", std::make_shared<blocks::Conv2d>(c.init_channels, c.out_channels, 3, true, options));
}

blocks::TextKeys Unet::PrepareText(const at::Tensor& context, const at::Tensor& mask) const {
  if (!context.defined() || context.dim() != 3 || context.size(0) < 1 || context.size(1) < 1 ||
      context.size(2) != config_.context_dim) {
    Refuse("context is " + Shape(context) + ", must be [N, L, " +
           std::to_string(config_.context_dim) + "]");
  }
  if (mask.defined() && mask.sizes() != context.sizes().slice(0, 2)) {
    Refuse("context_mask is " + Shape(mask) + ", must be as long as context " + Shape(context));
  }
  const at::TensorOptions options = in_layer_->weight.options();
  return {context.to(options), blocks::MakeKeyMask(mask, options)};
}

at::Tensor Unet::forward(const UnetInput& input, const TraceSink& trace) {
  const at::Tensor& weight = in_layer_->weight;
  const int64_t multiple = config_.size_multiple();
  if (!input.x.defined() || input.x.dim() != 4 || input.x.size(0) < 1 ||
      input.x.size(1) != config_.num_channels || input.x.size(2) < 1 || input.x.size(3) < 1 ||
      input.x.size(2) % multiple != 0 || input.x.size(3) % multiple != 0) {
    Refuse("x is " + Shape(input.x) + ", must be [N, " + std::to_string(config_.num_channels) +
           ", H, W] with H and W multiples of " + std::to_string(multiple));
  }
  const int64_t items = input.x.size(0);

  Pass pass;
  pass.trace = &trace;
  if (input.window < 0) {
    Refuse("window is " + std::to_string(input.window) + ", must be 0 or more");
  }
  pass.window = input.window;
  pass.frames =
      input.frames > 0 ? input.frames : (config_.num_frames > 0 ? config_.num_frames : items);
  if (items % pass.frames != 0) {
    Refuse("x has " + std::to_string(items) + " items, must be a multiple of the " +
           std::to_string(pass.frames) + " frames of a video");
  }
  pass.text =
      input.text.context.defined() ? input.text : PrepareText(input.context, input.context_mask);
  if (items % pass.text.context.size(0) != 0) {
    Refuse("context is " + Shape(pass.text.context) + ", must be [N, L, " +
           std::to_string(config_.context_dim) + "] with N = " + std::to_string(items) +
           " or a divisor of it");
  }
  // [N], [T] or a single value -> [N] on the network's device.
  const auto per_item = [&](const at::Tensor& value, const char* name) {
    const int64_t count = value.defined() ? value.numel() : 0;
    if (count < 1 || items % count != 0 || (count != 1 && count != items && count != pass.frames)) {
      Refuse(std::string(name) + " is " + Shape(value) + ", must hold 1, " +
             std::to_string(pass.frames) + " or " + std::to_string(items) + " values");
    }
    return value.reshape({-1}).to(weight.device()).repeat({items / count});
  };

  at::Tensor embedding =
      to_time_embed_->forward(per_item(input.time, "time"), pass, "to_time_embed");  // [N, E]
  embedding = feature_pooling_->forward(embedding, pass.text);
  pass.Trace("feature_pooling", embedding);

  at::Tensor x = in_layer_->forward(input.x.to(weight.options()));  // [N, init, H, W]
  pass.Trace("in_layer", x);

  if (to_temporal_embed_) {
    const at::Tensor positions = input.temporal_positions.defined()
                                     ? input.temporal_positions
                                     : TemporalPositions(pass.frames, weight.device());
    pass.temporal = at::silu(to_temporal_embed_->forward(per_item(positions, "temporal_positions"),
                                                         pass, "to_temporal_embed"));
  }
  if (config_.interpolation()) {
    const at::Tensor level = input.perturbation.defined()
                                 ? per_item(input.perturbation, "perturbation")
                                 : at::zeros({items}, weight.options().dtype(at::kFloat));
    const at::Tensor perturbation = perturbation_to_time_embed_->forward(level, pass, "");
    pass.Trace("perturbation_to_time_embed", perturbation);
    const at::Tensor skip =
        skip_embeddings_->forward(per_item(input.skip_frames, "skip_frames").to(at::kLong));
    pass.Trace("skip_embeddings", skip);
    embedding = at::lerp(embedding, perturbation, time_embed_merge_) + skip_merge_ * skip;
  }
  pass.time = at::silu(embedding);

  std::vector<at::Tensor> skips;
  for (const auto& level : down_samples_) {
    x = level->forward(std::move(x), pass);
    skips.push_back(x);
  }
  skips.pop_back();  // the coarsest map is x itself
  for (size_t i = 0; i < up_samples_.size(); ++i) {
    if (i > 0) {
      x = at::cat({x, skips.back()}, 1);
      skips.pop_back();
    }
    x = up_samples_[i]->forward(std::move(x), pass);
  }

  x = out_norm_->forward(x);
  pass.Trace("out_layer.0", x);
  x = out_conv_->forward(Silu(x));
  pass.Trace("out_layer", x);
  return x;
}

bool Unet::IsTemporalParameter(std::string_view name) {
  return name.find("temporal") != std::string_view::npos || name == "skip_merge" ||
         name.substr(0, 15) == "skip_embeddings" || name == "time_embed_merge" ||
         name.substr(0, 26) == "perturbation_to_time_embed";
}

namespace {

// True for the layer of a temporal part whose zero makes that part the identity.
bool ClosesTemporalPart(std::string_view name, TemporalVariant variant) {
  if (EndsWith(name, "embed_merge") || EndsWith(name, "skip_merge")) return true;
  if (EndsWith(name, "temporal_attention.output_layer.weight")) return true;
  if (variant == TemporalVariant::kConv3dAttn1dBlocks) {
    return name.find(".temporal_up_projection.") != std::string_view::npos;
  }
  return name.find(".temporal_resnet_blocks.3.2.") != std::string_view::npos;
}

// True for the last layer of any other residual branch.
bool ClosesResidualBranch(std::string_view name) {
  return EndsWith(name, ".resnet_blocks.3.projection.weight") ||
         EndsWith(name, "_attention_block.attention.output_layer.weight") ||
         EndsWith(name, ".1.attention.output_layer.weight") ||
         EndsWith(name, ".feed_forward.2.weight");
}

// True for parameters of the blocks of attention over frames (not for the layers of
// Conv1dAttn1dLayers).
bool InAttentionBlock(std::string_view name) {
  return name.find("temporal_attention_block.") != std::string_view::npos;
}

// True for norms of attention over frames, which see the positions of the frames.
bool SeesPosition(std::string_view name) {
  return name.find("temporal_norm.") != std::string_view::npos ||
         name.find("temporal_attention_block.in_norm.") != std::string_view::npos;
}

// True for norms of temporal blocks that see time and text.
bool SeesText(std::string_view name) {
  return name.find(".temporal_resnet_blocks.") != std::string_view::npos ||
         name.find("temporal_attention_block.out_norm.") != std::string_view::npos;
}

// Variance of a weight times its fan-in. Positions must reach the attention over frames in full
// strength: where all frames look alike it averages over them, which tells no frame from another
// and gives the way there almost no gradient.
double VarianceOf(std::string_view name) {
  if (name.substr(0, 17) == "to_temporal_embed" || SeesPosition(name)) return 2;
  if (EndsWith(name, "temporal_attention.to_query.weight") ||
      EndsWith(name, "temporal_attention.to_key.weight")) {
    return 1;
  }
  return 1.0 / 3;
}

void FillRandom(at::Tensor parameter, std::string_view name, at::Generator& generator) {
  const bool condition = name.find(".context_mlp.") != std::string_view::npos;
  if (EndsWith(name, ".bias") || ClosesResidualBranch(name) || (condition && !SeesPosition(name))) {
    parameter.zero_();
  } else if (name == "out_layer.0.weight") {
    parameter.fill_(1);
  } else {
    const double fan_in =
        EndsWith(name, "skip_embeddings.weight")
            ? static_cast<double>(parameter.size(1))
            : static_cast<double>(parameter.numel()) / static_cast<double>(parameter.size(0));
    parameter.copy_(at::randn(parameter.sizes(), generator, at::TensorOptions(at::kFloat))
                        .mul_(std::sqrt(VarianceOf(name) / fan_in)));
  }
}

}  // namespace

void Unet::ResetParameters(uint64_t seed) {
  at::NoGradGuard no_grad;
  at::Generator generator = at::detail::createCPUGenerator(seed);
  for (const auto& parameter : named_parameters()) {
    if (!IsTemporalParameter(parameter.key())) {
      FillRandom(parameter.value(), parameter.key(), generator);
    }
  }
  ResetTemporalParameters(seed + 1);
}

void Unet::ResetTemporalParameters(uint64_t seed) {
  at::NoGradGuard no_grad;
  at::Generator generator = at::detail::createCPUGenerator(seed);
  for (const auto& parameter : named_parameters()) {
    if (!IsTemporalParameter(parameter.key())) continue;
    at::Tensor value = parameter.value();
    const std::string& name = parameter.key();
    if (ClosesTemporalPart(name, config_.temporal_variant)) {
      value.zero_();
    } else if (EndsWith(name, ".temporal_merge")) {
      value.fill_(0.5);
    } else if (EndsWith(name, ".temporal_projection.weight")) {
      // [C, C, 3, 1, 1], the identity. A random kernel would hold its merge near 0, where neither
      // of the two learns.
      value.zero_();
      value.select(2, 1).copy_(at::eye(value.size(0)).unflatten(1, {-1, 1, 1}));
    } else {
      FillRandom(value, name, generator);
    }
  }
}

void Unet::OpenTemporalBlocks(uint64_t seed) {
  // Variances times fan-in: of positions, of what attention adds, of time and text.
  constexpr double kPosition = 8, kOutput = 4, kText = 1.0 / 12;
  at::NoGradGuard no_grad;
  at::Generator generator = at::detail::createCPUGenerator(seed);
  const auto parameters = named_parameters();
  for (const auto& parameter : parameters) {
    const std::string& name = parameter.key();
    at::Tensor value = parameter.value();
    const auto fill = [&](double variance) {
      value.copy_(at::randn(value.sizes(), generator, at::TensorOptions(at::kFloat))
                      .mul_(std::sqrt(variance / static_cast<double>(value.size(1)))));
    };
    constexpr std::string_view kKey = "key.weight";
    if (EndsWith(name, ".context_mlp.1.weight") && (InAttentionBlock(name) || SeesText(name))) {
      fill(SeesText(name) ? kText : kPosition);
    } else if (InAttentionBlock(name) && EndsWith(name, ".output_layer.weight")) {
      fill(kOutput);
    } else if (InAttentionBlock(name) && EndsWith(name, kKey)) {
      value.copy_(parameters[name.substr(0, name.size() - kKey.size()) + "query.weight"]);
    }
  }
}

void Unet::CopySpatialParameters(const Unet& source) {
  at::NoGradGuard no_grad;
  const auto theirs = source.named_parameters();
  for (const auto& parameter : named_parameters()) {
    const std::string& name = parameter.key();
    if (IsTemporalParameter(name)) continue;
    at::Tensor value = parameter.value();
    const at::Tensor* found = theirs.find(name);
    if (found == nullptr) Refuse("the source network has no parameter " + name);
    if (name == "in_layer.weight" && value.size(1) > found->size(1)) {
      // [out, in, 3, 3]: the source's input becomes the middle noisy frame, or the first channels.
      const int64_t first = config_.interpolation() ? 2 * found->size(1) : 0;
      if (first + found->size(1) > value.size(1)) Refuse("in_layer.weight does not fit");
      value.zero_();
      value.narrow(1, first, found->size(1)).copy_(*found);
    } else if (name.rfind("out_layer.2.", 0) == 0 && value.size(0) > found->size(0) &&
               value.size(0) % found->size(0) == 0) {
      std::vector<int64_t> repeats(static_cast<size_t>(value.dim()), 1);
      repeats[0] = value.size(0) / found->size(0);
      value.copy_(found->repeat(repeats));
    } else if (value.sizes() == found->sizes()) {
      value.copy_(*found);
    } else {
      Refuse(name + " is " + Shape(value) + ", the source network has " + Shape(*found));
    }
  }
}

}  // namespace kandinsky::model
