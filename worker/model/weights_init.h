// Random weights for networks that nobody has trained yet.
#ifndef KANDINSKY_WORKER_MODEL_WEIGHTS_INIT_H_
#define KANDINSKY_WORKER_MODEL_WEIGHTS_INIT_H_

#include <ATen/ATen.h>
#include <ATen/core/Generator.h>
#include <torch/nn/module.h>

#include <cstdint>
#include <string>

#include "worker/model/model_config.h"

namespace kandinsky::model {

// The float32 value of one parameter, from its name, shape and the seed alone: equal arguments give
// equal bits. Matrices and convolutions are normal with the standard deviation fan_in^-0.5,
// embeddings standard normal, norm weights around 1, biases small, merge scalars between 0.2 and
// 0.5, so that every layer takes part in the result.
at::Tensor RandomParameter(const std::string& name, at::IntArrayRef shape, uint64_t seed);

// The same with values drawn where `generator` draws (any device that has one; its state is lost):
// equal arguments give equal bits on equal devices, which are not those of the function above.
at::Tensor RandomParameter(const std::string& name, at::IntArrayRef shape, uint64_t seed,
                           at::Generator generator);

// Gives every parameter of a real (not meta) module its random value. `prefix` goes in front of the
// names.
void InitializeWeights(torch::nn::Module& module, uint64_t seed, const std::string& prefix = "");

// Gives every parameter of a module, on the meta device or real, memory on `device` in the
// floating-point type `dtype`, and its random value; one parameter at a time, so that nothing needs
// more memory than the module itself and its largest parameter in float32. CUDA devices draw the
// values themselves.
void MakeRandomWeights(torch::nn::Module& module, uint64_t seed, const std::string& prefix,
                       at::ScalarType dtype, at::Device device);

// Writes a model directory: model.json, the tokenizer and a random float16 weight file for every
// file that the config names, tensor by tensor. model.json comes last, so an interrupted directory
// is not taken for a model. Files that exist are replaced. Throws ModelError.
void WriteRandomModel(const ModelConfig& config, const std::string& preset_directory,
                      const std::string& out_directory, uint64_t seed);

// Replaces the model.json of a model directory as a whole. Throws ModelError.
void WriteModelJson(const ModelConfig& config, const std::string& model_directory);

}  // namespace kandinsky::model

#endif  // KANDINSKY_WORKER_MODEL_WEIGHTS_INIT_H_
