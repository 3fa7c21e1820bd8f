#include "worker/model/weights_init.h"

#include <ATen/Context.h>
#include <ATen/core/grad_mode.h>

#include <cmath>
#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "worker/model/checkpoint/load.h"
#include "worker/model/checkpoint/safetensors.h"
#include "worker/model/error.h"
#include "worker/model/noise.h"
#include "worker/model/write_file.h"

namespace kandinsky::model {
namespace {

namespace fs = std::filesystem;

// FNV-1a over the name, started from the seed.
uint64_t Hash(const std::string& name, uint64_t seed) {
  uint64_t hash = 0xcbf29ce484222325u ^ (seed * 0x9e3779b97f4a7c15u);
  for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return hash;
}

bool Contains(const std::string& name, const char* part) {
  return name.find(part) != std::string::npos;
}

// Standard normal values as those of this parameter.
at::Tensor Scaled(const std::string& name, const at::Tensor& normal) {
  if (normal.numel() == 1) return normal.tanh() * 0.15 + 0.35;  // merge scalars
  if (normal.dim() == 1) {
    if (Contains(name, "null_embedding")) return normal;
    return name.ends_with("bias") ? normal * 0.05 : normal * 0.1 + 1;
  }
  if (name.ends_with("shared.weight") || Contains(name, "embeddings")) return normal;
  if (Contains(name, "relative_attention_bias")) return normal * 0.3;
  double scale = 1 / std::sqrt(static_cast<double>(normal.numel() / normal.size(0)));
  // T5 does not scale its logits, so its query matrices are small instead.
  if (name.ends_with("SelfAttention.q.weight")) scale /= std::sqrt(32.0);
  return normal * scale;
}

// What one weight file holds: names and shapes.
using Contents = std::map<std::string, std::vector<int64_t>>;

void AddModule(Contents& contents, const std::string& prefix, const torch::nn::Module& module) {
  for (const auto& parameter : module.named_parameters()) {
    contents[prefix + parameter.key()] = parameter.value().sizes().vec();
  }
}

[[noreturn]] void CannotWrite(const std::string& path, const std::string& reason) {
  throw ModelError(ModelError::Kind::kDataLoss, path + " cannot be written: " + reason);
}

}  // namespace

at::Tensor RandomParameter(const std::string& name, at::IntArrayRef shape, uint64_t seed) {
  return Scaled(name, SeededNoise(Hash(name, seed)).Draw({}, shape));
}

at::Tensor RandomParameter(const std::string& name, at::IntArrayRef shape, uint64_t seed,
                           at::Generator generator) {
  generator.set_current_seed(Hash(name, seed));
  return Scaled(name, at::randn(shape, generator, at::TensorOptions(generator.device())));
}

void InitializeWeights(torch::nn::Module& module, uint64_t seed, const std::string& prefix) {
  at::NoGradGuard no_grad;
  for (auto& parameter : module.named_parameters()) {
    parameter.value().copy_(
        RandomParameter(prefix + parameter.key(), parameter.value().sizes(), seed));
  }
}

void MakeRandomWeights(torch::nn::Module& module, uint64_t seed, const std::string& prefix,
                       at::ScalarType dtype, at::Device device) {
  at::NoGradGuard no_grad;
  at::Generator generator;
  if (device.is_cuda()) generator = at::globalContext().defaultGenerator(device).clone();
  for (auto& parameter : module.named_parameters()) {
    const std::string name = prefix + parameter.key();
    const at::IntArrayRef shape = parameter.value().sizes();
    ReplaceStorage(parameter.value(),
                   (generator.defined() ? RandomParameter(name, shape, seed, generator)
                                        : RandomParameter(name, shape, seed))
                       .to(device, dtype));
  }
}

void WriteRandomModel(const ModelConfig& config, const std::string& preset_directory,
                      const std::string& out_directory, uint64_t seed) {
  const at::TensorOptions meta(at::kMeta);
  std::map<std::string, Contents> files;
  const auto add = [&](const WeightSource& source, const torch::nn::Module& module) {
    AddModule(files[source.file], source.prefix, module);
  };
  const WeightSources& weights = config.weights;
  add(weights.text_encoder, T5Encoder(config.text_encoder, meta));
  add(weights.projection, TextProjection(config.text_encoder, meta));
  add(weights.keyframe_unet, Unet(config.keyframe_unet, meta));
  add(weights.interpolation_unet, Unet(config.interpolation_unet, meta));
  add(weights.movq, Movq(config.movq, meta));
  if (config.video_movq && config.decoder == DecoderKind::kVideo) {
    add(*weights.video_movq, Movq(*config.video_movq, meta));
  }
  files[weights.keyframe_null.file][weights.keyframe_null.prefix] = {
      config.keyframe_unet.context_dim};
  files[weights.interpolation_null.file][weights.interpolation_null.prefix] = {
      config.interpolation_unet.context_dim};

  std::error_code error;
  fs::create_directories(out_directory, error);
  if (error) CannotWrite(out_directory, error.message());
  const std::string model_json = out_directory + "/model.json";
  const std::string tokenizer = out_directory + "/" + config.tokenizer;
  if (!fs::equivalent(preset_directory, out_directory, error)) {
    fs::remove(model_json, error);
    fs::create_directories(fs::path(tokenizer).parent_path(), error);
    fs::copy_file(preset_directory + "/" + config.tokenizer, tokenizer,
                  fs::copy_options::overwrite_existing, error);
    if (error) CannotWrite(tokenizer, error.message());
  }
  for (const auto& [file, contents] : files) {
    const std::string path = out_directory + "/" + file;
    if (!fs::path(path).has_extension()) {
      CannotWrite(path, "random weights are written as single files, not as folders");
    }
    fs::create_directories(fs::path(path).parent_path(), error);
    std::vector<std::pair<std::string, TensorMeta>> tensors;
    for (const auto& [name, shape] : contents) tensors.push_back({name, {at::kHalf, shape}});
    SafetensorsWriter writer(path, tensors, {{"format", "pt"}, {"seed", std::to_string(seed)}});
    for (const auto& [name, shape] : contents) {
      writer.Write(name, RandomParameter(file + ":" + name, shape, seed).to(at::kHalf));
    }
    writer.Finish();
  }
  WriteModelJson(config, out_directory);
}

void WriteModelJson(const ModelConfig& config, const std::string& model_directory) {
  WriteFile(model_directory + "/model.json", config.ToJson().dump(2) + "\n");
}

}  // namespace kandinsky::model
