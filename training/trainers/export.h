// Weights from and to a model directory, for trainers.
#ifndef KANDINSKY_TRAINING_TRAINERS_EXPORT_H_
#define KANDINSKY_TRAINING_TRAINERS_EXPORT_H_

#include <ATen/ATen.h>
#include <torch/nn/module.h>

#include <map>
#include <string>

#include "worker/model/model_config.h"

namespace kandinsky::training {

// The parameters of a module as float16 under the names that a checkpoint gives them.
void Collect(const torch::nn::Module& module, const std::string& prefix,
             std::map<std::string, at::Tensor>& tensors);

// Writes one weight file of a model directory as a whole, atomically.
void ExportTensors(const std::map<std::string, at::Tensor>& tensors, const std::string& path);
void ExportModule(const torch::nn::Module& module, const model::WeightSource& to,
                  const std::string& model_directory);

// Fills a module with float32 parameters on `device` from a model directory; they want no gradients
// then. Throws ModelError.
void LoadModule(torch::nn::Module& module, const std::string& model_directory,
                const model::WeightSource& from, at::Device device);

// Copies model.json and tokenizer of a preset into a model directory that has none yet. Throws
// ModelError::kInvalidArgument if it has another model.json; the temporal variant may differ, which
// is that of the keyframe weights there.
void PrepareModelDirectory(const model::ModelConfig& config, const std::string& preset,
                           const std::string& model_directory);

}  // namespace kandinsky::training

#endif  // KANDINSKY_TRAINING_TRAINERS_EXPORT_H_
