#include "worker/model/flop_counter.h"

#include <ATen/ATen.h>
#include <ATen/record_function.h>

#include <array>
#include <atomic>
#include <memory>
#include <stdexcept>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace kandinsky::model {
namespace {

using Inputs = c10::ArrayRef<const c10::IValue>;

enum Kind { kProduct, kConvolution, kAttention, kKinds };

// What has been counted since the process began, by kind; a counter takes differences. Callbacks
// have no state of their own, so this is the process's.
std::array<std::atomic<int64_t>, kKinds> g_counted;
std::atomic<bool> g_counting = false;
// Counted operations that this thread is inside of; what these dispatch counts nothing.
thread_local int64_t t_inside = 0;

at::Tensor Operand(Inputs inputs, size_t index) { return inputs.at(index).toTensor(); }

// a [..., M, K] times b [..., K, N] or [K]
int64_t MatrixProduct(const at::Tensor& a, const at::Tensor& b) {
  return 2 * a.numel() * (b.dim() > 1 ? b.size(-1) : 1);
}

// input [..., K] times the transpose of weight [N, K] or [K]
int64_t LinearLayer(const at::Tensor& input, const at::Tensor& weight) {
  return 2 * input.numel() * (weight.dim() > 1 ? weight.size(0) : 1);
}

// Every element of the weight [., ., k...] is multiplied once at each place of `map` [N, C, ...] or
// [C, ...]: the output's places of a convolution, the input's of a transposed one.
int64_t AtPlaces(at::IntArrayRef map, const at::Tensor& weight) {
  const size_t axes = static_cast<size_t>(weight.dim()) - 2;
  int64_t places = map.size() == axes + 2 ? map[0] : 1;
  for (const int64_t size : map.slice(map.size() - axes)) places *= size;
  return 2 * places * weight.numel();
}

// aten::convolution(input, weight, bias, stride, padding, dilation, transposed, ...)
int64_t Convolution(Inputs inputs) {
  const at::Tensor input = Operand(inputs, 0), weight = Operand(inputs, 1);
  std::vector<int64_t> map = input.sizes().vec();
  if (!inputs.at(6).toBool()) {
    const auto axis = [](const std::vector<int64_t>& values, size_t i) {
      return values.size() == 1 ? values[0] : values.at(i);
    };
    const std::vector<int64_t> stride = inputs.at(3).toIntVector(),
                               padding = inputs.at(4).toIntVector(),
                               dilation = inputs.at(5).toIntVector();
    const size_t axes = static_cast<size_t>(weight.dim()) - 2;
    for (size_t i = 0; i < axes; ++i) {
      int64_t& size = map[map.size() - axes + i];
      const int64_t reach = axis(dilation, i) * (weight.sizes()[2 + i] - 1) + 1;
      size = (size + 2 * axis(padding, i) - reach) / axis(stride, i) + 1;
    }
  }
  return AtPlaces(map, weight);
}

// aten::convolution_backward(grad_output, input, weight, bias_sizes, stride, padding, dilation,
// transposed, output_padding, groups, output_mask)
int64_t ConvolutionBackward(Inputs inputs) {
  const bool transposed = inputs.at(7).toBool();
  const c10::List<bool> wanted = inputs.at(10).toBoolList();
  return AtPlaces(Operand(inputs, transposed ? 1 : 0).sizes(), Operand(inputs, 2)) *
         (int64_t{wanted.get(0)} + int64_t{wanted.get(1)});
}

// query [..., L, E], key [..., S, E], value [..., S, V] from operand `first` on.
int64_t Attention(Inputs inputs, size_t first) {
  const at::Tensor query = Operand(inputs, first), key = Operand(inputs, first + 1),
                   value = Operand(inputs, first + 2);
  if (query.size(-1) == 0) return 0;
  const int64_t queries = query.numel() / query.size(-1);
  return 2 * queries * key.size(-2) * (query.size(-1) + value.size(-1));
}

struct Rule {
  Kind kind;
  int64_t (*count)(Inputs);
};

Rule Products(int64_t (*count)(Inputs)) { return {kProduct, count}; }

const Rule* FindRule(std::string_view name) {
  static const auto* const kRules = new std::unordered_map<std::string_view, Rule>{
      {"aten::linear",
       Products([](Inputs in) { return LinearLayer(Operand(in, 0), Operand(in, 1)); })},
      {"aten::mm",
       Products([](Inputs in) { return MatrixProduct(Operand(in, 0), Operand(in, 1)); })},
      {"aten::bmm",
       Products([](Inputs in) { return MatrixProduct(Operand(in, 0), Operand(in, 1)); })},
      {"aten::mv",
       Products([](Inputs in) { return MatrixProduct(Operand(in, 0), Operand(in, 1)); })},
      {"aten::dot",
       Products([](Inputs in) { return MatrixProduct(Operand(in, 0), Operand(in, 1)); })},
      {"aten::_int_mm",
       Products([](Inputs in) { return MatrixProduct(Operand(in, 0), Operand(in, 1)); })},
      {"aten::addmm",
       Products([](Inputs in) { return MatrixProduct(Operand(in, 1), Operand(in, 2)); })},
      {"aten::_addmm_activation",
       Products([](Inputs in) { return MatrixProduct(Operand(in, 1), Operand(in, 2)); })},
      {"aten::addmv",
       Products([](Inputs in) { return MatrixProduct(Operand(in, 1), Operand(in, 2)); })},
      {"aten::addbmm",
       Products([](Inputs in) { return MatrixProduct(Operand(in, 1), Operand(in, 2)); })},
      {"aten::baddbmm",
       Products([](Inputs in) { return MatrixProduct(Operand(in, 1), Operand(in, 2)); })},
      {"aten::_weight_int8pack_mm",
       Products([](Inputs in) { return LinearLayer(Operand(in, 0), Operand(in, 1)); })},
      {"aten::convolution", {kConvolution, Convolution}},
      {"aten::convolution_backward", {kConvolution, ConvolutionBackward}},
      {"aten::scaled_dot_product_attention",
       {kAttention, [](Inputs in) { return Attention(in, 0); }}},
  };
  const auto found = kRules->find(name);
  if (found != kRules->end()) return &found->second;
  // One name a backend: _scaled_dot_product_flash_attention_for_cpu_backward and so on, all of
  // which begin with (grad_output, query, key, value).
  static constexpr Rule kBackward = {kAttention, [](Inputs in) { return 2 * Attention(in, 1); }};
  if (name.starts_with("aten::_scaled_dot_product_") && name.ends_with("_backward")) {
    return &kBackward;
  }
  return nullptr;
}

// An operation that counts, from its start to its end.
class Inside : public at::ObserverContext {
 public:
  Inside() { ++t_inside; }
  ~Inside() override { --t_inside; }
};

std::unique_ptr<at::ObserverContext> Start(const at::RecordFunction& function) {
  const Rule* rule = FindRule(function.name());
  if (rule == nullptr) return nullptr;
  if (t_inside == 0) {
    g_counted[rule->kind].fetch_add(rule->count(function.inputs()), std::memory_order_relaxed);
  }
  return std::make_unique<Inside>();
}

Flops Counted() {
  return {g_counted[kProduct].load(), g_counted[kConvolution].load(), g_counted[kAttention].load()};
}

}  // namespace

FlopCounter::FlopCounter() {
  if (g_counting.exchange(true)) {
    throw std::logic_error("a FlopCounter exists already; there may be one in a process");
  }
  start_ = Counted();
  handle_ = at::addThreadLocalCallback(
      at::RecordFunctionCallback(Start).needsInputs(true).scopes({at::RecordScope::FUNCTION}));
}

FlopCounter::~FlopCounter() {
  at::removeCallback(handle_);
  g_counting = false;
}

Flops FlopCounter::flops() const { return Counted() - start_; }

}  // namespace kandinsky::model
