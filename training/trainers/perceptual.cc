#include "training/trainers/perceptual.h"

#include <torch/script.h>

#include "worker/model/error.h"

namespace kandinsky::training {

using model::ModelError;

struct PerceptualNetwork::Impl {
  torch::jit::Module module;
  at::Device device;
};

PerceptualNetwork::PerceptualNetwork(const std::string& path, at::Device device) {
  try {
    impl_.reset(new Impl{torch::jit::load(path, device), device});
  } catch (const c10::Error& error) {
    throw ModelError(ModelError::Kind::kDataLoss, path + " is no TorchScript file: " +
                                                      std::string(error.what_without_backtrace()));
  }
  impl_->module.eval();
  for (at::Tensor parameter : impl_->module.parameters()) parameter.set_requires_grad(false);
}

PerceptualNetwork::~PerceptualNetwork() = default;

std::vector<at::Tensor> PerceptualNetwork::Activations(const at::Tensor& images) {
  const c10::IValue out = impl_->module.forward({images.to(impl_->device)});
  std::vector<at::Tensor> layers;
  if (out.isTensor()) layers.push_back(out.toTensor());
  if (out.isTensorList()) layers = out.toTensorVector();
  if (out.isTuple()) {
    for (const c10::IValue& layer : out.toTupleRef().elements()) {
      if (layer.isTensor()) layers.push_back(layer.toTensor());
    }
  }
  if (layers.empty()) {
    throw ModelError(ModelError::Kind::kInvalidArgument,
                     "the perceptual network must give a tensor, or a tuple or list of tensors");
  }
  return layers;
}

}  // namespace kandinsky::training
