#include "training/trainers/initialize.h"

#include <ATen/CPUGeneratorImpl.h>

#include <cmath>
#include <string_view>

namespace kandinsky::training {
namespace {

bool EndsWith(std::string_view name, std::string_view end) { return name.ends_with(end); }

bool Contains(std::string_view name, std::string_view part) {
  return name.find(part) != std::string_view::npos;
}

void Normal(at::Tensor parameter, double deviation, at::Generator& generator) {
  parameter.copy_(
      at::randn(parameter.sizes(), generator, at::TensorOptions(at::kFloat)).mul_(deviation));
}

double FanIn(const at::Tensor& parameter) {
  return static_cast<double>(parameter.numel()) / static_cast<double>(parameter.size(0));
}

bool IsTemporal(std::string_view name) { return Contains(name, "temporal"); }

void InitializeMovqParameter(at::Tensor value, std::string_view name, at::Generator& generator) {
  if (Contains(name, "temporal_merge")) {
    value.zero_();
  } else if (EndsWith(name, "conv_y.bias") || EndsWith(name, "norm_layer.weight") ||
             EndsWith(name, "norm.weight") || EndsWith(name, "norm_out.weight")) {
    value.fill_(1);
  } else if (EndsWith(name, ".bias")) {
    value.zero_();
  } else if (Contains(name, "conv_y.") || Contains(name, "conv_b.")) {
    Normal(value, 0.1 / std::sqrt(FanIn(value)), generator);
  } else if (EndsWith(name, "proj_out.weight") && IsTemporal(name)) {
    value.zero_();
  } else {
    Normal(value, 1 / std::sqrt(3 * FanIn(value)), generator);
  }
}

}  // namespace

void InitializeMovq(model::Movq& movq, uint64_t seed) {
  at::NoGradGuard no_grad;
  at::Generator generator = at::detail::createCPUGenerator(seed);
  for (auto& parameter : movq.named_parameters()) {
    if (!IsTemporal(parameter.key())) {
      InitializeMovqParameter(parameter.value(), parameter.key(), generator);
    }
  }
  InitializeTemporal(movq, seed + 1);
}

void InitializeTemporal(model::Movq& movq, uint64_t seed) {
  at::NoGradGuard no_grad;
  at::Generator generator = at::detail::createCPUGenerator(seed);
  for (auto& parameter : movq.named_parameters()) {
    if (IsTemporal(parameter.key())) {
      InitializeMovqParameter(parameter.value(), parameter.key(), generator);
    }
  }
}

void InitializeTextEncoder(model::TextEncoder& encoder, uint64_t seed) {
  at::NoGradGuard no_grad;
  at::Generator generator = at::detail::createCPUGenerator(seed);
  const double head = static_cast<double>(encoder.config().d_kv);
  for (auto& parameter : encoder.t5().named_parameters()) {
    const std::string& name = parameter.key();
    at::Tensor value = parameter.value();
    if (Contains(name, "layer_norm")) {
      value.fill_(1);
    } else if (name == "shared.weight") {
      Normal(value, 1, generator);
    } else if (Contains(name, "relative_attention_bias")) {
      Normal(value, 0.1, generator);
    } else if (EndsWith(name, "SelfAttention.q.weight")) {
      Normal(value, 1 / std::sqrt(FanIn(value) * head), generator);
    } else {
      Normal(value, 1 / std::sqrt(FanIn(value)), generator);
    }
  }
  for (auto& parameter : encoder.projection().named_parameters()) {
    at::Tensor value = parameter.value();
    if (value.dim() == 2) {
      Normal(value, 1 / std::sqrt(FanIn(value)), generator);
    } else {
      value.fill_(EndsWith(parameter.key(), "bias") ? 0 : 1);
    }
  }
}

bool IsEncoderParameter(const std::string& name) {
  return name.starts_with("encoder.") || name.starts_with("quant_conv.");
}

std::vector<NamedTensor> ParametersOf(torch::nn::Module& module, const std::string& prefix) {
  std::vector<NamedTensor> parameters;
  for (auto& parameter : module.named_parameters()) {
    parameters.push_back({prefix + parameter.key(), parameter.value()});
  }
  return parameters;
}

}  // namespace kandinsky::training
