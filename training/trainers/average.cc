#include "training/trainers/average.h"

#include <ATen/ATen.h>

#include <map>
#include <memory>

#include "training/trainers/export.h"
#include "worker/model/checkpoint/tensor_source.h"
#include "worker/model/error.h"

namespace kandinsky::training {
namespace {

[[noreturn]] void Refuse(const std::string& message) {
  throw model::ModelError(model::ModelError::Kind::kInvalidArgument, message);
}

// All of `source` must be in `first`, and in the same shape.
void CheckPart(const model::TensorSource& source, const model::TensorSource& first) {
  for (const std::string& name : source.Names()) {
    const model::TensorMeta& meta = *source.Find(name);
    const model::TensorMeta* wanted = first.Find(name);
    const std::string tensor = source.path() + ": " + name + " is " + ToString(meta);
    if (wanted == nullptr) Refuse(tensor + ", " + first.path() + " has no such tensor");
    if (meta.shape != wanted->shape)
      Refuse(tensor + ", in " + first.path() + " " + ToString(*wanted));
    if (!at::isFloatingType(meta.dtype)) Refuse(tensor + ", must be of floating point");
  }
}

}  // namespace

void AverageWeights(const std::vector<std::string>& checkpoints, const std::string& path) {
  if (checkpoints.size() < 2) {
    Refuse("the number of weight files is " + std::to_string(checkpoints.size()) +
           ", must be at least 2");
  }
  std::vector<std::unique_ptr<model::TensorSource>> sources;
  for (const std::string& checkpoint : checkpoints) {
    sources.push_back(model::OpenCheckpoint(checkpoint));
    CheckPart(*sources.back(), *sources.front());
    CheckPart(*sources.front(), *sources.back());
  }
  std::map<std::string, at::Tensor> means;
  for (const std::string& name : sources.front()->Names()) {
    at::Tensor sum = sources.front()->Read(name, at::kFloat);
    for (size_t i = 1; i < sources.size(); ++i) sum.add_(sources[i]->Read(name, at::kFloat));
    means[name] = sum.div_(static_cast<double>(sources.size())).to(at::kHalf);
  }
  ExportTensors(means, path);
}

}  // namespace kandinsky::training
