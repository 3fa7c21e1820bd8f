#include "worker/model/tools/parity_manifest.h"

#include <torch/nn/module.h>

#include <cstdlib>
#include <functional>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string_view>
#include <vector>

#include "worker/model/checkpoint/shape.h"
#include "worker/model/checkpoint/tensor_source.h"
#include "worker/model/error.h"
#include "worker/model/json_reader.h"
#include "worker/model/movq.h"
#include "worker/model/text/text_encoder.h"
#include "worker/model/unet.h"

namespace kandinsky::model {
namespace {

constexpr int64_t kMillion = 1'000'000;
constexpr int64_t kBillion = 1'000 * kMillion;

using NameFilter = std::function<bool(std::string_view)>;

// Which parameters a part of the manifest's "split" counts.
const std::map<std::string, NameFilter>& Parts() {
  const auto has = [](const char* what) -> NameFilter {
    return [what](std::string_view name) { return name.find(what) != std::string_view::npos; };
  };
  const auto begins = [](const char* what) -> NameFilter {
    return [what](std::string_view name) { return name.starts_with(what); };
  };
  static const std::map<std::string, NameFilter> parts = {
      {"spatial", [](auto name) { return !Unet::IsTemporalParameter(name); }},
      {"temporal", [](auto name) { return Unet::IsTemporalParameter(name); }},
      {"temporal_resnet_blocks", has("temporal_resnet_blocks")},
      {"temporal_attention_blocks", has("temporal_attention_block")},
      {"to_temporal_embed", begins("to_temporal_embed.")},
      {"temporal_projections_and_merges",
       [=](auto name) { return has("temporal_projection")(name) || has("temporal_merge")(name); }},
      {"perturbation_to_time_embed", begins("perturbation_to_time_embed.")},
      {"skip_and_merge_scalars",
       [](auto name) {
         return name == "skip_embeddings.weight" || name == "skip_merge" ||
                name == "time_embed_merge";
       }},
      {"encoder", begins("encoder.")},
      {"decoder", begins("decoder.")},
      {"decoder_spatial",
       [=](auto name) { return begins("decoder.")(name) && !has("temporal")(name); }},
      {"decoder_temporal",
       [=](auto name) { return begins("decoder.")(name) && has("temporal")(name); }},
      {"quant_convs",
       [=](auto name) { return begins("quant_conv.")(name) || begins("post_quant_conv.")(name); }},
      {"embedding", begins("shared.")},
      {"blocks", begins("encoder.")},
  };
  return parts;
}

// A size that the article (or its table 1) states, to the digits that it states.
struct Published {
  const char* kind;  // which network
  const char* part;  // "" is the whole
  int64_t count;
  int64_t unit;  // of the last stated digit
};

constexpr Published kPublished[] = {
    {"text encoder", "blocks", 8'600 * kMillion, 100 * kMillion},
    {"keyframe U-Net", "spatial", 3 * kBillion, kBillion},
    {"keyframe U-Net", "temporal", 1 * kBillion, kBillion},
    {"interpolation U-Net", "spatial", 3 * kBillion, kBillion},
    {"interpolation U-Net", "temporal_projections_and_merges", 831 * kMillion, kMillion},
    {"interpolation U-Net", "", 3'900 * kMillion, 100 * kMillion},
    {"text-to-image U-Net", "", 3 * kBillion, kBillion},
    {"MoVQ", "decoder", 161 * kMillion, kMillion},
    {"video MoVQ", "decoder_spatial", 161 * kMillion, kMillion},
    {"video MoVQ", "decoder_temporal", 395 * kMillion, kMillion},
    {"video MoVQ", "decoder", 556 * kMillion, kMillion},
};

struct Built {
  std::string kind;
  std::shared_ptr<torch::nn::Module> module;
  bool full_size = false;  // the article's dimensions
};

Built Build(const nlohmann::json& config) {
  const at::TensorOptions meta = at::TensorOptions(at::kMeta).dtype(at::kFloat);
  if (config.contains("model_dims")) {
    ObjectReader reader(config, "config");
    TextEncoderConfig text;
    text.d_model =
        ObjectReader(reader.Object("model_dims"), "config.model_dims").Int("t5", 1, 65536);
    text.context_dim = reader.Int("context_dim", 1, 65536);
    return {"projection", std::make_shared<TextProjection>(text, meta), false};
  }
  if (config.contains("d_model")) {
    nlohmann::json full = config;
    if (!full.contains("context_dim")) full["context_dim"] = full["d_model"];
    const TextEncoderConfig text = TextEncoderConfig::FromJson(full, "config");
    return {"text encoder", std::make_shared<T5Encoder>(text, meta),
            text.d_model == 4096 && text.num_layers == 32};
  }
  if (config.contains("ch_mult")) {
    const MovqConfig movq = MovqConfig::FromJson(config, "config");
    return {movq.temporal ? "video MoVQ" : "MoVQ", std::make_shared<Movq>(movq, meta),
            movq.ch == 256 && movq.num_res_blocks == 2};
  }
  const UnetConfig unet = UnetConfig::FromJson(config, "config");
  const char* kind = unet.interpolation() ? "interpolation U-Net"
                     : unet.keyframes()   ? "keyframe U-Net"
                                          : "text-to-image U-Net";
  return {kind, std::make_shared<Unet>(unet, meta),
          unet.model_channels == 384 && unet.levels() == 4};
}

}  // namespace

void CheckManifest(const std::string& path, ParityReport& report) {
  const nlohmann::json manifest = ReadJsonFile(path, int64_t{64} << 20);
  const bool usable = manifest.is_object() && manifest.contains("config") &&
                      manifest["config"].is_object() && manifest.contains("tensors") &&
                      manifest["tensors"].is_object();
  if (!usable) {
    throw ModelError(ModelError::Kind::kDataLoss,
                     path + ": not a manifest: needs the objects \"config\" and \"tensors\"");
  }
  const Built built = Build(manifest["config"]);

  std::map<std::string, TensorMeta> recorded;
  for (const auto& [name, value] : manifest["tensors"].items()) {
    std::optional<at::ScalarType> dtype;
    if (value.is_array() && value.size() == 2 && value[0].is_string() && value[1].is_array()) {
      dtype = ParseDtype(value[0].get<std::string>());
    }
    if (!dtype) {
      throw ModelError(ModelError::Kind::kDataLoss,
                       path + ": tensor " + Quote(name) + " needs [dtype, [extents]]");
    }
    TensorMeta meta = {*dtype, {}};
    for (const auto& extent : value[1]) {
      if (!extent.is_number_integer()) {
        throw ModelError(ModelError::Kind::kDataLoss,
                         path + ": tensor " + Quote(name) + " has an extent that is no integer");
      }
      meta.shape.push_back(extent.get<int64_t>());
    }
    recorded.emplace(name, std::move(meta));
  }

  std::map<std::string, TensorMeta> ours;
  for (const auto& item : built.module->named_parameters()) {
    ours.emplace(item.key(), TensorMeta{item.value().scalar_type(), item.value().sizes().vec()});
  }
  for (const auto& item : built.module->named_buffers()) {
    ours.emplace(item.key(), TensorMeta{item.value().scalar_type(), item.value().sizes().vec()});
  }
  int64_t agreeing = 0;
  for (const auto& [name, meta] : recorded) {
    const auto found = ours.find(name);
    if (found == ours.end()) {
      report.CheckTrue(name, false, "missing, recorded " + ToString(meta));
    } else if (ToString(found->second) != ToString(meta)) {
      report.CheckTrue(name, false, ToString(found->second) + ", recorded " + ToString(meta));
    } else {
      ++agreeing;
    }
  }
  for (const auto& [name, meta] : ours) {
    if (!recorded.contains(name)) {
      report.CheckTrue(name, false, ToString(meta) + " is not in the manifest");
    }
  }
  report.CheckTrue(built.kind + " tensors", agreeing == static_cast<int64_t>(recorded.size()),
                   Grouped(agreeing) + " of " + Grouped(static_cast<int64_t>(recorded.size())) +
                       " names, shapes and types agree");

  const auto count = [&](const NameFilter& filter) {
    int64_t sum = 0;
    for (const auto& [name, meta] : ours) {
      if (filter(name)) sum += meta.numel();
    }
    return sum;
  };
  const auto check_count = [&](const std::string& part, int64_t parameters,
                               std::optional<int64_t> wanted) {
    const std::string label = built.kind + " " + (part.empty() ? "parameters" : part);
    if (wanted) report.CheckEqual(label, parameters, *wanted);
    if (!built.full_size) return;
    for (const Published& published : kPublished) {
      if (built.kind != published.kind || part != published.part) continue;
      report.CheckTrue(label + ", published",
                       std::abs(parameters - published.count) < published.unit,
                       Grouped(parameters) + ", the article says " + Grouped(published.count) +
                           " to the nearest " + Grouped(published.unit));
    }
  };
  std::optional<int64_t> total;
  if (manifest.contains("parameters") && manifest["parameters"].is_number_integer()) {
    total = manifest["parameters"].get<int64_t>();
  }
  check_count("", count([](auto) { return true; }), total);
  if (manifest.contains("split") && manifest["split"].is_object()) {
    for (const auto& [part, value] : manifest["split"].items()) {
      const auto filter = Parts().find(part);
      if (filter == Parts().end() || !value.is_number_integer()) {
        throw ModelError(ModelError::Kind::kDataLoss,
                         path + ": split " + Quote(part) + " is not a known part");
      }
      check_count(part, count(filter->second), value.get<int64_t>());
    }
  }
}

}  // namespace kandinsky::model
