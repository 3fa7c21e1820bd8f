#include "training/trainers/export.h"

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <system_error>

#include "worker/model/checkpoint/load.h"
#include "worker/model/checkpoint/safetensors.h"
#include "worker/model/checkpoint/tensor_source.h"
#include "worker/model/error.h"
#include "worker/model/weights_init.h"
#include "worker/model/write_file.h"

namespace kandinsky::training {

namespace fs = std::filesystem;
using model::ModelError;

void Collect(const torch::nn::Module& module, const std::string& prefix,
             std::map<std::string, at::Tensor>& tensors) {
  for (const auto& parameter : module.named_parameters()) {
    tensors[prefix + parameter.key()] = parameter.value().detach().to(at::kCPU, at::kHalf);
  }
}

void ExportTensors(const std::map<std::string, at::Tensor>& tensors, const std::string& path) {
  model::WriteSafetensors(path, tensors, {{"format", "pt"}});
}

void ExportModule(const torch::nn::Module& module, const model::WeightSource& to,
                  const std::string& model_directory) {
  std::map<std::string, at::Tensor> tensors;
  Collect(module, to.prefix, tensors);
  ExportTensors(tensors, model_directory + "/" + to.file);
}

void LoadModule(torch::nn::Module& module, const std::string& model_directory,
                const model::WeightSource& from, at::Device device) {
  const auto source = model::OpenCheckpoint(model_directory + "/" + from.file);
  model::LoadInto(module, *source, {.prefix = from.prefix, .dtype = at::kFloat, .device = device});
  for (at::Tensor& parameter : module.parameters()) parameter.set_requires_grad(false);
}

void PrepareModelDirectory(const model::ModelConfig& config, const std::string& preset,
                           const std::string& model_directory) {
  const std::string model_json = model_directory + "/model.json";
  if (fs::exists(model_json)) {
    model::ModelConfig present = model::ModelConfig::Load(model_directory);
    present.variant = config.variant;
    present.keyframe_unet.temporal_variant = config.keyframe_unet.temporal_variant;
    if (present.ToJson() != config.ToJson()) {
      throw ModelError(ModelError::Kind::kInvalidArgument,
                       model_json + " is not that of the preset " + preset);
    }
    return;
  }
  const std::string from = preset + "/" + config.tokenizer;
  const std::string to = model_directory + "/" + config.tokenizer;
  std::ifstream tokenizer(from, std::ios::binary);
  std::ostringstream bytes;
  bytes << tokenizer.rdbuf();
  if (!tokenizer) throw ModelError(ModelError::Kind::kDataLoss, from + ": cannot read");
  std::error_code error;
  fs::create_directories(fs::path(to).parent_path(), error);  // if that fails, so does the file
  // All processes of a run do this at once, so each file appears as a whole.
  model::WriteFile(to, bytes.str());
  model::WriteModelJson(config, model_directory);
}

}  // namespace kandinsky::training
