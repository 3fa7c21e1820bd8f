#include "worker/model/checkpoint/load.h"

#include <torch/nn/module.h>

#include <algorithm>
#include <set>
#include <utility>

#include "worker/model/checkpoint/parallel_read.h"
#include "worker/model/checkpoint/shape.h"
#include "worker/model/error.h"

namespace kandinsky::model {
namespace {

constexpr size_t kMostListed = 200;  // of each kind, in one message

// What goes where, and what does not fit.
struct Plan {
  struct Step {
    std::string name;  // in the module
    at::Tensor tensor;
    std::string stored;  // name in the source
  };
  std::vector<Step> steps;
  std::vector<std::string> missing;
  std::vector<std::string> unexpected;
  std::vector<std::string> misshapen;

  bool fits() const { return missing.empty() && unexpected.empty() && misshapen.empty(); }
};

Plan MakePlan(const torch::nn::Module& module, const TensorSource& source,
              const LoadOptions& options) {
  Plan plan;
  std::set<std::string> used;
  const auto place = [&](const std::string& name, const at::Tensor& tensor, bool required) {
    std::vector<std::string> candidates = {name};
    if (const auto found = options.aliases.find(name); found != options.aliases.end()) {
      candidates.insert(candidates.end(), found->second.begin(), found->second.end());
    }
    std::string chosen;
    for (const std::string& candidate : candidates) {
      const std::string stored = options.prefix + candidate;
      if (source.Find(stored) == nullptr) continue;
      used.insert(stored);
      if (chosen.empty()) chosen = stored;
    }
    if (chosen.empty()) {
      if (required) {
        plan.missing.push_back(options.prefix + name + " " + ShapeToString(tensor.sizes()));
      }
      return;
    }
    const TensorMeta& meta = *source.Find(chosen);
    if (meta.shape != tensor.sizes()) {
      plan.misshapen.push_back(chosen + " is " + ShapeToString(meta.shape) + ", must be " +
                               ShapeToString(tensor.sizes()));
    } else if (c10::isFloatingType(meta.dtype) != tensor.is_floating_point()) {
      plan.misshapen.push_back(chosen + " is " + DtypeName(meta.dtype) + ", must be " +
                               DtypeName(tensor.scalar_type()));
    } else {
      plan.steps.push_back({name, tensor, chosen});
    }
  };
  for (const auto& item : module.named_parameters()) place(item.key(), item.value(), true);
  for (const auto& item : module.named_buffers()) place(item.key(), item.value(), false);

  for (const std::string& name : source.Names()) {
    if (!name.starts_with(options.prefix) || used.contains(name)) continue;
    const std::string rest = name.substr(options.prefix.size());
    const bool ignored = std::any_of(options.ignored.begin(), options.ignored.end(),
                                     [&](const auto& start) { return rest.starts_with(start); });
    if (!ignored) plan.unexpected.push_back(name + " " + ShapeToString(source.Find(name)->shape));
  }
  std::sort(plan.missing.begin(), plan.missing.end());
  std::sort(plan.unexpected.begin(), plan.unexpected.end());
  std::sort(plan.misshapen.begin(), plan.misshapen.end());
  return plan;
}

std::string Describe(const Plan& plan, const TensorSource& source) {
  if (plan.fits()) return "";
  std::string text = source.path() +
                     " does not fit the model: " + std::to_string(plan.missing.size()) +
                     " missing, " + std::to_string(plan.unexpected.size()) + " unexpected, " +
                     std::to_string(plan.misshapen.size()) + " mis-shaped";
  const auto list = [&text](const char* kind, const std::vector<std::string>& items) {
    for (size_t i = 0; i < items.size() && i < kMostListed; ++i) {
      text += std::string("\n  ") + kind + ": " + items[i];
    }
    if (items.size() > kMostListed) {
      text += std::string("\n  ") + kind + ": and " + std::to_string(items.size() - kMostListed) +
              " more";
    }
  };
  list("missing", plan.missing);
  list("unexpected", plan.unexpected);
  list("mis-shaped", plan.misshapen);
  return text;
}

}  // namespace

std::map<std::string, std::string> MatchTensors(const torch::nn::Module& module,
                                                const TensorSource& source,
                                                const LoadOptions& options) {
  const Plan plan = MakePlan(module, source, options);
  if (!plan.fits()) throw ModelError(ModelError::Kind::kDataLoss, Describe(plan, source));
  std::map<std::string, std::string> names;
  for (const Plan::Step& step : plan.steps) names[step.name] = step.stored;
  return names;
}

std::string DescribeMismatch(const torch::nn::Module& module, const TensorSource& source,
                             const LoadOptions& options) {
  return Describe(MakePlan(module, source, options), source);
}

void LoadInto(torch::nn::Module& module, const TensorSource& source, const LoadOptions& options) {
  const Plan plan = MakePlan(module, source, options);
  if (!plan.fits()) throw ModelError(ModelError::Kind::kDataLoss, Describe(plan, source));
  std::vector<ReadJob> jobs;
  for (const Plan::Step& step : plan.steps) {
    jobs.push_back({step.stored, options.dtype.value_or(step.tensor.scalar_type()),
                    step.tensor.suggest_memory_format()});
  }
  ReadTensors(
      source, jobs,
      {.device = options.device,
       .threads = options.threads,
       .staging_bytes = options.staging_bytes},
      [&plan](size_t i, const at::Tensor& value) { ReplaceStorage(plan.steps[i].tensor, value); });
}

void ReplaceStorage(at::Tensor tensor, const at::Tensor& value) {
  if (tensor.sizes() != value.sizes()) {
    throw ModelError(ModelError::Kind::kInvalidArgument,
                     "cannot put " + ShapeToString(value.sizes()) + " in place of " +
                         ShapeToString(tensor.sizes()));
  }
  // The order of the axes in memory stays that of the parameter (channels-last convolutions).
  const at::Tensor dense = value.detach().contiguous(tensor.suggest_memory_format());
  // Tensor::set_data refuses to leave the meta device; these are the steps that it would take.
  at::TensorImpl* const impl = tensor.unsafeGetTensorImpl();
  impl->set_storage_and_dtype(dense.storage(), dense.dtype());
  impl->_change_backend_component_keys(dense.device());
  impl->set_sizes_and_strides(dense.sizes(), dense.strides(), dense.storage_offset());
}

at::Tensor LoadNullEmbedding(const TensorSource& source, const std::string& name, int64_t width,
                             at::ScalarType dtype, at::Device device) {
  const TensorMeta* meta = source.Find(name);
  if (meta == nullptr) {
    throw ModelError(ModelError::Kind::kNotFound, source.path() + ": no tensor " + Quote(name));
  }
  const bool right_shape =
      meta->shape == std::vector<int64_t>{width} || meta->shape == std::vector<int64_t>{1, width};
  if (!right_shape || !c10::isFloatingType(meta->dtype)) {
    throw ModelError(ModelError::Kind::kDataLoss,
                     source.path() + ": " + name + " is " + ToString(*meta) + ", must be [" +
                         std::to_string(width) + "] or [1, " + std::to_string(width) + "]");
  }
  return source.Read(name, dtype, device).reshape({width});
}

}  // namespace kandinsky::model
