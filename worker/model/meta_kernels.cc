#include "worker/model/meta_kernels.h"

#include <ATen/ATen.h>
#include <ATen/ExpandUtils.h>
#include <ATen/WrapDimUtils.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/library.h>

#include <algorithm>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

namespace kandinsky::model {
namespace {

at::Tensor Convolution(const at::Tensor& input, const at::Tensor& weight,
                       const std::optional<at::Tensor>& bias, at::IntArrayRef stride,
                       at::IntArrayRef padding, at::IntArrayRef dilation, bool transposed,
                       at::IntArrayRef output_padding, int64_t groups) {
  const auto axis = [](at::IntArrayRef values, size_t i) {
    return values.size() == 1 ? values[0] : values[i];
  };
  std::vector<int64_t> shape = {input.size(0),
                                transposed ? weight.size(1) * groups : weight.size(0)};
  for (int64_t d = 2; d < input.dim(); ++d) {
    const auto i = static_cast<size_t>(d - 2);
    const int64_t reach = axis(dilation, i) * (weight.size(d) - 1);
    shape.push_back(transposed
                        ? (input.size(d) - 1) * axis(stride, i) - 2 * axis(padding, i) + reach +
                              axis(output_padding, i) + 1
                        : (input.size(d) + 2 * axis(padding, i) - reach - 1) / axis(stride, i) + 1);
  }
  // Channels-last if either operand is, as cuDNN and oneDNN answer.
  at::MemoryFormat format = input.suggest_memory_format();
  if (format == at::MemoryFormat::Contiguous) format = weight.suggest_memory_format();
  return at::empty(shape, input.options().memory_format(format));
}

at::Tensor IndexSelect(const at::Tensor& self, int64_t dim, const at::Tensor& index) {
  std::vector<int64_t> shape = self.sizes().vec();
  if (!shape.empty()) shape[at::maybe_wrap_dim(dim, self.dim())] = index.numel();
  return at::empty(shape, self.options());
}

std::tuple<at::Tensor, at::Tensor> VarMean(const at::Tensor& self, at::OptionalIntArrayRef dims,
                                           const std::optional<at::Scalar>& correction,
                                           bool keepdim) {
  std::vector<bool> reduced(self.dim(), !dims || dims->empty());
  if (dims) {
    for (const int64_t dim : *dims) reduced[at::maybe_wrap_dim(dim, self.dim())] = true;
  }
  std::vector<int64_t> shape;
  for (int64_t i = 0; i < self.dim(); ++i) {
    if (!reduced[i]) {
      shape.push_back(self.size(i));
    } else if (keepdim) {
      shape.push_back(1);
    }
  }
  return {at::empty(shape, self.options()), at::empty(shape, self.options())};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> GroupNorm(const at::Tensor& input,
                                                         const std::optional<at::Tensor>& weight,
                                                         const std::optional<at::Tensor>& bias,
                                                         int64_t items, int64_t channels,
                                                         int64_t pixels, int64_t groups,
                                                         double epsilon) {
  return {at::empty_like(input), at::empty({items, groups}, input.options()),
          at::empty({items, groups}, input.options())};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> LayerNorm(const at::Tensor& input,
                                                         at::IntArrayRef normalized,
                                                         const std::optional<at::Tensor>& weight,
                                                         const std::optional<at::Tensor>& bias,
                                                         double epsilon) {
  std::vector<int64_t> shape = input.sizes().vec();
  std::fill(shape.end() - static_cast<int64_t>(normalized.size()), shape.end(), 1);
  return {at::empty_like(input), at::empty(shape, input.options()),
          at::empty(shape, input.options())};
}

at::Tensor Where(const at::Tensor& condition, const at::Tensor& a, const at::Tensor& b) {
  return at::empty(at::infer_size(condition.sizes(), at::infer_size(a.sizes(), b.sizes())),
                   at::TensorOptions(at::kMeta).dtype(at::result_type(a, b)));
}

at::Tensor Attention(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
                     const std::optional<at::Tensor>& mask, double dropout, bool causal,
                     std::optional<double> scale, bool grouped) {
  if (query.dim() != 4) {
    std::vector<int64_t> shape = query.sizes().vec();
    shape.back() = value.size(-1);
    return at::empty(shape, query.options());
  }
  // Fused kernels keep the logarithms of sums, and write tokens before heads.
  const at::Tensor sums =
      at::empty({query.size(0), query.size(1), query.size(2)}, query.options().dtype(at::kFloat));
  return at::empty({query.size(0), query.size(2), query.size(1), value.size(3)}, query.options())
      .transpose(1, 2);
}

at::Tensor Embedding(const at::Tensor& weight, const at::Tensor& indices, int64_t padding,
                     bool scale_by_frequency, bool sparse) {
  std::vector<int64_t> shape = indices.sizes().vec();
  shape.push_back(weight.size(1));
  return at::empty(shape, weight.options());
}

at::Tensor Abs(const at::Tensor& self) { return at::empty_like(self); }

at::Tensor NanToNum(const at::Tensor& self, std::optional<double> nan, std::optional<double> up,
                    std::optional<double> down) {
  return at::empty_like(self);
}

template <typename Function>
void Add(torch::Library& library, const char* name, const char* overload, Function&& kernel) {
  const auto schema = c10::Dispatcher::singleton().findSchema(
      {std::string("aten::") + name, std::string(overload)});
  if (!schema || schema->hasKernelForDispatchKey(c10::DispatchKey::Meta)) return;
  const std::string full = *overload == 0 ? name : std::string(name) + "." + overload;
  library.impl(full.c_str(), std::forward<Function>(kernel));
}

}  // namespace

void EnsureMetaKernels() {
  // Never destroyed: kernels stay as long as the process.
  static const auto* const library = [] {
    auto* lib = new torch::Library(torch::Library::IMPL, "aten", c10::DispatchKey::Meta, __FILE__,
                                   __LINE__);
    Add(*lib, "convolution", "", TORCH_FN(Convolution));
    Add(*lib, "index_select", "", TORCH_FN(IndexSelect));
    Add(*lib, "var_mean", "correction", TORCH_FN(VarMean));
    Add(*lib, "native_group_norm", "", TORCH_FN(GroupNorm));
    Add(*lib, "native_layer_norm", "", TORCH_FN(LayerNorm));
    Add(*lib, "scaled_dot_product_attention", "", TORCH_FN(Attention));
    Add(*lib, "where", "self", TORCH_FN(Where));
    Add(*lib, "embedding", "", TORCH_FN(Embedding));
    Add(*lib, "abs", "", TORCH_FN(Abs));
    Add(*lib, "nan_to_num", "", TORCH_FN(NanToNum));
    return lib;
  }();
  (void)library;
}

}  // namespace kandinsky::model
