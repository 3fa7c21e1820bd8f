// What the fake device can compute: a few operators of its own (memory, copies, convolution), and
// for all others the CPU's kernel, called on the shadows of the arguments.
#include <ATen/ATen.h>
#include <ATen/EmptyTensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/set_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/DeviceGuard.h>
#include <torch/library.h>

#include <cstring>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tests/support/fake_device/fake_device.h"
#include "tests/support/fake_device/fake_memory.h"
#include "tests/support/fake_device/fake_streams.h"

namespace kandinsky::fake {
namespace {

constexpr c10::DispatchKeySet kFakeKey(c10::DispatchKey::PrivateUse1);

bool OnFake(const at::Tensor& tensor) { return tensor.defined() && tensor.is_privateuseone(); }

void CountKernel(const std::string& name, c10::Device device) {
  BeforeKernel(CurrentStream(device));
  Count([&](Counters& counters) {
    ++counters.kernels;
    ++counters.kernel_names[name];
  });
}

// The tensor with its memory's shadow: what a kernel of the CPU may work on.
at::Tensor ShadowOf(const at::Tensor& tensor) {
  if (!OnFake(tensor)) return tensor;
  c10::Storage storage(c10::Storage::use_byte_size_t(), tensor.storage().nbytes(),
                       c10::DataPtr(Shadow(tensor.storage().data()), at::kCPU));
  at::Tensor shadow = at::detail::make_tensor<c10::TensorImpl>(
      std::move(storage), c10::DispatchKeySet(c10::DispatchKey::CPU), tensor.dtype());
  shadow.unsafeGetTensorImpl()->set_sizes_and_strides(tensor.sizes(), tensor.strides(),
                                                      tensor.storage_offset());
  return shadow;
}

at::Tensor Empty(at::IntArrayRef sizes, std::optional<at::ScalarType> dtype,
                 std::optional<at::Layout>, std::optional<at::Device> device, std::optional<bool>,
                 std::optional<at::MemoryFormat> format) {
  const c10::OptionalDeviceGuard guard(device);
  return at::detail::empty_generic(sizes, &DeviceAllocator(), kFakeKey,
                                   c10::dtype_or_default(dtype), format);
}

at::Tensor EmptyStrided(at::IntArrayRef sizes, at::IntArrayRef strides,
                        std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
                        std::optional<at::Device> device, std::optional<bool>) {
  const c10::OptionalDeviceGuard guard(device);
  return at::detail::empty_strided_generic(sizes, strides, &DeviceAllocator(), kFakeKey,
                                           c10::dtype_or_default(dtype));
}

// Gives the storage room for `bytes`, keeping what it holds.
void Grow(const at::Tensor& tensor, size_t bytes) {
  c10::StorageImpl* const storage = tensor.storage().unsafeGetStorageImpl();
  if (bytes <= storage->nbytes()) return;
  const c10::DeviceGuard guard(tensor.device());
  c10::DataPtr larger = DeviceAllocator().allocate(bytes);
  if (storage->nbytes() > 0) {
    std::memcpy(Shadow(larger.get()), Shadow(storage->data()), storage->nbytes());
  }
  storage->set_data_ptr_noswap(std::move(larger));
  storage->set_nbytes(bytes);
}

const at::Tensor& Resize(const at::Tensor& self, at::IntArrayRef sizes,
                         std::optional<at::MemoryFormat> format) {
  c10::TensorImpl* const impl = self.unsafeGetTensorImpl();
  impl->set_sizes_contiguous(sizes);
  if (format) impl->empty_tensor_restride(*format);
  Grow(self, at::detail::computeStorageNbytes(self.sizes(), self.strides(), self.itemsize(),
                                              static_cast<size_t>(self.storage_offset())));
  return self;
}

at::Tensor& SetStorage(at::Tensor& self, at::Storage source, int64_t offset, at::IntArrayRef sizes,
                       at::IntArrayRef strides) {
  c10::TensorImpl* const impl = self.unsafeGetTensorImpl();
  impl->set_storage_keep_dtype(std::move(source));
  if (strides.data() == nullptr) {
    impl->set_storage_offset(offset);
    impl->set_sizes_contiguous(sizes);
  } else {
    impl->set_sizes_and_strides(sizes, strides, offset);
  }
  return self;
}

bool SameLayout(const at::Tensor& a, const at::Tensor& b) {
  return a.scalar_type() == b.scalar_type() && a.sizes() == b.sizes() &&
         a.strides() == b.strides() && a.is_non_overlapping_and_dense();
}

// A copy between host and device: postponed if CUDA would do it beside the host.
void CopyAcross(const at::Tensor& from, const at::Tensor& to, bool non_blocking) {
  const bool to_device = OnFake(to);
  const at::Tensor& host = to_device ? from : to;
  const c10::Device device = to_device ? to.device() : from.device();
  const auto bytes = static_cast<int64_t>(host.nbytes());
  Count([&](Counters& counters) {
    ++(to_device ? counters.to_device : counters.to_host);
    (to_device ? counters.to_device_bytes : counters.to_host_bytes) += bytes;
  });
  const c10::Stream stream = CurrentStream(device);
  if (!non_blocking || !IsPinned(host.storage().data()) || !SameLayout(from, to)) {
    CountSynchronisation(to_device ? "copy to device" : "copy to host");
    Finish(stream);
    ShadowOf(to).copy_(ShadowOf(from));
    return;
  }
  BeforeKernel(stream);
  if (to_device) {
    // Reads the host's memory as late as it may, and holds both tensors until then.
    const at::Tensor target = ShadowOf(to);
    std::memset(target.mutable_data_ptr(), 0xFF, target.nbytes());
    Postpone(stream, Later::kToDevice, [from, to, target] { target.copy_(from); });
  } else {
    const at::Tensor now = ShadowOf(from).clone();
    std::memset(to.mutable_data_ptr(), 0xFF, to.nbytes());
    Postpone(stream, Later::kToHost, [now, to] { to.copy_(now); });
  }
}

at::Tensor CopyFrom(const at::Tensor& from, const at::Tensor& to, bool non_blocking) {
  if (from.device() == to.device()) {
    CountKernel("copy_", to.device());
    ShadowOf(to).copy_(ShadowOf(from));
  } else if (OnFake(from) && OnFake(to)) {
    Finish(CurrentStream(from.device()));
    BeforeKernel(CurrentStream(to.device()));
    Count([&](Counters& counters) {
      ++counters.between_devices;
      counters.between_devices_bytes += static_cast<int64_t>(from.nbytes());
    });
    ShadowOf(to).copy_(ShadowOf(from));
  } else {
    CopyAcross(from, to, non_blocking);
  }
  return to;
}

at::Tensor CopyFromAndResize(const at::Tensor& from, const at::Tensor& to) {
  to.resize_(from.sizes());
  return CopyFrom(from, to, false);
}

at::Scalar LocalScalar(const at::Tensor& self) {
  CountSynchronisation("_local_scalar_dense");
  Count([&](Counters& counters) {
    ++counters.to_host;
    counters.to_host_bytes += static_cast<int64_t>(self.itemsize());
  });
  Finish(CurrentStream(self.device()));
  return ShadowOf(self).item();
}

// The result of a CPU kernel on a device.
at::Tensor Adopt(const at::Tensor& result, c10::Device device) {
  const at::Tensor adopted =
      at::empty_strided(result.sizes(), result.strides(), result.options().device(device));
  ShadowOf(adopted).copy_(result);
  return adopted;
}

at::Tensor Convolution(const at::Tensor& input, const at::Tensor& weight,
                       const std::optional<at::Tensor>& bias, c10::SymIntArrayRef stride,
                       c10::SymIntArrayRef padding, c10::SymIntArrayRef dilation, bool transposed,
                       c10::SymIntArrayRef output_padding, c10::SymInt groups) {
  const bool together = input.device() == weight.device() &&
                        (!bias || !bias->defined() || bias->device() == input.device());
  TORCH_CHECK(together, "Expected all tensors of a convolution to be on the same device");
  CountKernel("convolution", input.device());
  const std::optional<at::Tensor> shadow =
      bias && bias->defined() ? std::optional(ShadowOf(*bias)) : std::nullopt;
  return Adopt(at::convolution_symint(ShadowOf(input), ShadowOf(weight), shadow, stride, padding,
                                      dilation, transposed, output_padding, std::move(groups)),
               input.device());
}

// One kernel that keeps no attention weights, as on CUDA.
at::Tensor Attention(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
                     const std::optional<at::Tensor>& mask, double dropout, bool causal,
                     std::optional<double> scale, bool grouped) {
  const at::Device device = query.device();
  const bool masked = mask && mask->defined();
  TORCH_CHECK(
      key.device() == device && value.device() == device && (!masked || mask->device() == device),
      "Expected all tensors of an attention to be on the same device");
  CountKernel("scaled_dot_product_attention", device);
  const std::optional<at::Tensor> shadow = masked ? std::optional(ShadowOf(*mask)) : std::nullopt;
  return Adopt(at::scaled_dot_product_attention(ShadowOf(query), ShadowOf(key), ShadowOf(value),
                                                shadow, dropout, causal, scale, grouped),
               device);
}

void RecordStream(at::Tensor&, at::Stream) {}

// "add.out" -> "add"; in-place forms without their underscore.
std::string_view BaseName(std::string_view name) {
  name = name.substr(0, name.find('.'));
  return name.ends_with('_') ? name.substr(0, name.size() - 1) : name;
}

// Element-wise operations, in which CUDA takes 0-dimensional tensors of the host.
bool TakesHostScalars(std::string_view name) {
  static const std::set<std::string_view> names = {"add",
                                                   "sub",
                                                   "rsub",
                                                   "mul",
                                                   "div",
                                                   "pow",
                                                   "remainder",
                                                   "fmod",
                                                   "floor_divide",
                                                   "true_divide",
                                                   "atan2",
                                                   "eq",
                                                   "ne",
                                                   "lt",
                                                   "le",
                                                   "gt",
                                                   "ge",
                                                   "maximum",
                                                   "minimum",
                                                   "fmax",
                                                   "fmin",
                                                   "where",
                                                   "masked_fill",
                                                   "lerp",
                                                   "addcmul",
                                                   "addcdiv",
                                                   "clamp",
                                                   "clamp_min",
                                                   "clamp_max",
                                                   "fill",
                                                   "bitwise_and",
                                                   "bitwise_or",
                                                   "bitwise_xor",
                                                   "logical_and",
                                                   "logical_or",
                                                   "logical_xor",
                                                   "bitwise_left_shift",
                                                   "bitwise_right_shift",
                                                   "copysign",
                                                   "hypot",
                                                   "xlogy"};
  return names.contains(BaseName(name));
}

// Operations after which the host must know something of the result: its size, or the result.
bool Waits(std::string_view name, const c10::FunctionSchema& schema,
           const std::vector<at::Tensor>& inputs) {
  static const std::set<std::string_view> names = {
      "nonzero",  "masked_select",     "_unique",
      "_unique2", "unique_dim",        "unique_consecutive",
      "bincount", "repeat_interleave", "_unique_with_counts",
      "histc"};
  const std::string_view base = BaseName(name);
  if (names.contains(base)) return true;
  if (base == "index_put" || base == "_index_put_impl") {
    // Masks are turned into indices first (for "index" by an operation of its own).
    for (const at::Tensor& input : inputs) {
      if (input.scalar_type() == at::kBool || input.scalar_type() == at::kByte) return true;
    }
  }
  for (const c10::Argument& result : schema.returns()) {
    const c10::TypeKind kind = result.type()->kind();
    if (kind == c10::TypeKind::BoolType || kind == c10::TypeKind::IntType ||
        kind == c10::TypeKind::FloatType || kind == c10::TypeKind::NumberType) {
      return true;
    }
  }
  return false;
}

// One call of a CPU kernel on the shadows of device tensors.
class ShadowCall {
 public:
  ShadowCall(const c10::OperatorHandle& op, torch::jit::Stack& stack)
      : op_(op), stack_(stack), schema_(op.schema()) {
    name_ = op.operator_name().name.substr(sizeof("aten::") - 1);
    if (!op.operator_name().overload_name.empty()) name_ += "." + op.operator_name().overload_name;
  }

  void Run() {
    ReplaceArguments();
    CheckDevices();
    BeforeKernel(CurrentStream(*device_));
    if (Waits(name_, schema_, inputs_)) {
      CountSynchronisation(name_);
      Finish(CurrentStream(*device_));
    }
    op_.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::CPU), &stack_);
    bool computed = schema_.returns().empty();
    ReplaceResults(computed);
    if (computed) CountKernel(name_, *device_);
  }

 private:
  struct Written {
    at::Tensor device, shadow;
  };

  at::Tensor Replace(const at::Tensor& tensor, bool written) {
    if (!tensor.defined()) {
      if (written) written_.push_back({tensor, tensor});
      return tensor;
    }
    inputs_.push_back(tensor);
    at::Tensor shadow = ShadowOf(tensor);
    // An empty output may be given its size by the kernel; shadows cannot grow.
    if (written && OnFake(tensor) && tensor.numel() == 0) {
      shadow = at::empty(tensor.sizes(), tensor.options().device(at::kCPU));
    }
    shadows_.push_back(shadow);
    if (written) written_.push_back({tensor, shadow});
    return shadow;
  }

  void ReplaceArguments() {
    const size_t count = schema_.arguments().size(), first = stack_.size() - count;
    for (size_t i = 0; i < count; ++i) {
      c10::IValue& value = stack_[first + i];
      const c10::AliasInfo* alias = schema_.arguments()[i].alias_info();
      const bool written = alias != nullptr && alias->isWrite();
      if (value.isTensor()) {
        value = Replace(value.toTensor(), written);
      } else if (value.isTensorList()) {
        std::vector<at::Tensor> list = value.toTensorVector();
        for (at::Tensor& tensor : list) tensor = Replace(tensor, false);
        value = c10::IValue(c10::List<at::Tensor>(list));
      } else if (value.isOptionalTensorList()) {
        c10::List<std::optional<at::Tensor>> list = value.toOptionalTensorList().copy();
        for (size_t k = 0; k < list.size(); ++k) {
          const std::optional<at::Tensor> tensor = list.get(k);
          if (tensor) list.set(k, Replace(*tensor, false));
        }
        value = list;
      } else if (value.isDevice() && value.toDevice().is_privateuseone()) {
        device_ = value.toDevice();
        value = c10::Device(at::kCPU);
      }
    }
  }

  void CheckDevices() {
    for (const at::Tensor& tensor : inputs_) {
      if (OnFake(tensor) && !device_) device_ = tensor.device();
    }
    TORCH_CHECK(device_, name_, " has no tensor on the fake device");
    for (const at::Tensor& tensor : inputs_) {
      if (tensor.device() == *device_) continue;
      const bool scalar = tensor.is_cpu() && tensor.dim() == 0 && TakesHostScalars(name_);
      TORCH_CHECK(scalar,
                  "Expected all tensors to be on the same device, but found at least two devices, ",
                  *device_, " and ", tensor.device(), " (in ", name_, ")");
    }
  }

  // A tensor that the kernel returned -> the device's. `computed` becomes true unless it is a view.
  at::Tensor Result(const at::Tensor& result, bool& computed) {
    if (!result.defined()) return result;
    for (size_t i = 0; i < shadows_.size(); ++i) {
      if (OnFake(inputs_[i]) && shadows_[i].is_same(result)) return inputs_[i];
    }
    if (InShadow(result.storage().data())) {
      for (const at::Tensor& input : inputs_) {
        if (!OnFake(input) || Shadow(input.storage().data()) != result.storage().data()) continue;
        at::Tensor view = at::detail::make_tensor<c10::TensorImpl>(
            c10::TensorImpl::VIEW, c10::Storage(input.storage()), input.key_set(), result.dtype());
        view.unsafeGetTensorImpl()->set_sizes_and_strides(result.sizes(), result.strides(),
                                                          result.storage_offset());
        return view;
      }
    }
    computed = true;
    return Adopt(result, *device_);
  }

  // Sizes and, where it was empty before, values that the kernel gave an output.
  void TakeBack(const Written& output) {
    if (!OnFake(output.device)) return;
    c10::TensorImpl* const impl = output.device.unsafeGetTensorImpl();
    const at::Tensor& shadow = output.shadow;
    if (!InShadow(shadow.storage().data())) {
      if (shadow.numel() == 0 && output.device.sizes() == shadow.sizes()) return;
      impl->set_sizes_and_strides(shadow.sizes(), shadow.strides());
      Grow(output.device,
           at::detail::computeStorageNbytes(shadow.sizes(), shadow.strides(), shadow.itemsize()));
      ShadowOf(output.device).copy_(shadow);
    } else if (shadow.sizes() != output.device.sizes() ||
               shadow.strides() != output.device.strides()) {
      impl->set_sizes_and_strides(shadow.sizes(), shadow.strides(), shadow.storage_offset());
    }
  }

  void ReplaceResults(bool& computed) {
    for (const Written& output : written_) TakeBack(output);
    computed = computed || !written_.empty();
    const size_t count = schema_.returns().size(), first = stack_.size() - count;
    size_t next = 0;  // of written_
    for (size_t i = 0; i < count; ++i) {
      c10::IValue& value = stack_[first + i];
      const c10::AliasInfo* alias = schema_.returns()[i].alias_info();
      if (alias != nullptr && alias->isWrite() && next < written_.size()) {
        value = written_[next++].device;
      } else if (value.isTensor()) {
        value = Result(value.toTensor(), computed);
      } else if (value.isTensorList()) {
        std::vector<at::Tensor> list = value.toTensorVector();
        for (at::Tensor& tensor : list) tensor = Result(tensor, computed);
        value = c10::IValue(c10::List<at::Tensor>(list));
      } else {
        computed = true;
      }
    }
  }

  const c10::OperatorHandle& op_;
  torch::jit::Stack& stack_;
  const c10::FunctionSchema& schema_;
  std::string name_;
  std::vector<at::Tensor> inputs_, shadows_;  // one for one
  std::vector<Written> written_;
  std::optional<c10::Device> device_;
};

void Fallback(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  ShadowCall(op, *stack).Run();
}

void RegisterOperators() {
  // Registrations last as long as these objects: for ever.
  static auto* const others = new torch::Library(torch::Library::IMPL, "_",
                                                 c10::DispatchKey::PrivateUse1, __FILE__, __LINE__);
  others->fallback(torch::CppFunction::makeFromBoxedFunction<&Fallback>());
  static auto* const own = new torch::Library(torch::Library::IMPL, "aten",
                                              c10::DispatchKey::PrivateUse1, __FILE__, __LINE__);
  own->impl("empty.memory_format", &Empty);
  own->impl("empty_strided", &EmptyStrided);
  own->impl("as_strided", &at::native::as_strided_tensorimpl);
  own->impl("view", &at::native::view);
  own->impl("_reshape_alias", &at::native::_reshape_alias);
  own->impl("resize_", &Resize);
  own->impl("set_.source_Storage_storage_offset", &SetStorage);
  own->impl("set_.source_Tensor", &at::native::set_tensor_);
  own->impl("_copy_from", &CopyFrom);
  own->impl("_copy_from_and_resize", &CopyFromAndResize);
  own->impl("_local_scalar_dense", &LocalScalar);
  own->impl("convolution_overrideable", &Convolution);
  own->impl("scaled_dot_product_attention", &Attention);
  // Not of simpler operations, as LibTorch would, but in one, as on CUDA.
  own->impl("native_group_norm", torch::CppFunction::makeFromBoxedFunction<&Fallback>());
  own->impl("native_layer_norm", torch::CppFunction::makeFromBoxedFunction<&Fallback>());
  own->impl("record_stream", &RecordStream);
}

}  // namespace

void RegisterFakeDevice() {
  static const bool once = [] {
    c10::register_privateuse1_backend("fake");
    c10::SetAllocator(c10::kPrivateUse1, &DeviceAllocator());
    RegisterStreams();
    RegisterOperators();
    return true;
  }();
  static_cast<void>(once);
}

c10::Device FakeDevice(int index) {
  TORCH_CHECK(index >= 0 && index < kDevices, "fake device ", index, " is not there, must be 0 to ",
              kDevices - 1);
  return {c10::kPrivateUse1, static_cast<c10::DeviceIndex>(index)};
}

}  // namespace kandinsky::fake
