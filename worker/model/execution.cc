#include "worker/model/execution.h"

#include <ATen/Context.h>
#include <torch/cuda.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <utility>

#include "worker/model/error.h"

namespace kandinsky::model {
namespace {

constexpr int64_t kMostBytes = int64_t{1} << 50;
constexpr int64_t kMostGroups = 1 << 20;

template <typename Value>
using Names = std::array<std::pair<std::string_view, Value>, 3>;

using TextEncoderDevice = ExecutionOptions::TextEncoderDevice;
constexpr Names<TextEncoderDevice> kTextEncoderDevices = {
    {{"same", TextEncoderDevice::kSame},
     {"cpu", TextEncoderDevice::kCpu},
     {"offload", TextEncoderDevice::kOffload}}};
using TextEncoderWeights = ExecutionOptions::TextEncoderWeights;
constexpr Names<TextEncoderWeights> kTextEncoderWeights = {
    {{"same", TextEncoderWeights::kSame},
     {"bfloat16", TextEncoderWeights::kBfloat16},
     {"int8", TextEncoderWeights::kInt8}}};

[[noreturn]] void Invalid(const std::string& message) {
  throw ModelError(ModelError::Kind::kInvalidArgument, message);
}

template <typename Value>
Value Choose(const std::string& field, const std::string& text, const Names<Value>& names) {
  for (const auto& [name, value] : names) {
    if (name == text) return value;
  }
  Invalid(field + " is \"" + text + "\", must be " + std::string(names[0].first) + ", " +
          std::string(names[1].first) + " or " + std::string(names[2].first));
}

// The whole text as a decimal number from `least` to `most`.
int64_t ParseInt(const std::string& field, const std::string& text, int64_t least, int64_t most) {
  int64_t value = 0;
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc() || stop != end || value < least || value > most) {
    Invalid(field + " is \"" + text + "\", must be a number from " + std::to_string(least) +
            " to " + std::to_string(most));
  }
  return value;
}

}  // namespace

Placement ParsePlacement(const std::string& device, const std::string& dtype) {
  Placement placement;
  const auto devices =
      static_cast<int64_t>(torch::cuda::is_available() ? torch::cuda::device_count() : 0);
  if (device == "auto") {
    placement.device = devices > 0 ? at::Device(at::kCUDA, 0) : at::Device(at::kCPU);
  } else if (device == "cpu") {
    placement.device = at::kCPU;
  } else if (device == "cuda" || device.rfind("cuda:", 0) == 0) {
    int64_t index = 0;
    if (device != "cuda") {
      const char *begin = device.data() + 5, *end = device.data() + device.size();
      const auto [stop, error] = std::from_chars(begin, end, index);
      if (error != std::errc() || stop != end || index < 0) {
        Invalid("device is \"" + device + "\", must be auto, cpu, cuda or cuda:N");
      }
    }
    if (index >= devices) {
      Invalid("device is \"" + device + "\", but this machine offers " + std::to_string(devices) +
              " CUDA devices");
    }
    placement.device = at::Device(at::kCUDA, static_cast<c10::DeviceIndex>(index));
  } else {
    Invalid("device is \"" + device + "\", must be auto, cpu, cuda or cuda:N");
  }
  if (dtype == "float32") {
    placement.dtype = at::kFloat;
  } else if (dtype == "bfloat16") {
    placement.dtype = at::kBFloat16;
  } else if (dtype == "float16") {
    placement.dtype = at::kHalf;
  } else {
    Invalid("dtype is \"" + dtype + "\", must be float32, bfloat16 or float16");
  }
  return placement;
}

Placement ParsePlacements(const std::string& device, const std::string& dtype,
                          std::optional<at::Device>* second) {
  second->reset();
  const size_t comma = device.find(',');
  if (comma == std::string::npos) return ParsePlacement(device, dtype);
  const std::string names[] = {device.substr(0, comma), device.substr(comma + 1)};
  for (const std::string& name : names) {
    if (name == "auto") {
      Invalid("device is \"" + device + "\", must name both devices, such as cuda:0,cuda:1");
    }
  }
  const Placement placement = ParsePlacement(names[0], dtype);
  *second = ParsePlacement(names[1], dtype).device;
  const at::Device first = placement.device;
  if (first.type() != (*second)->type() || (first.is_cuda() && first == **second)) {
    Invalid("device is \"" + device + "\", must be two CUDA devices, such as cuda:0,cuda:1");
  }
  return placement;
}

TextPlacement PlaceText(const ExecutionOptions& options) {
  using Device = ExecutionOptions::TextEncoderDevice;
  using Weights = ExecutionOptions::TextEncoderWeights;
  const Placement& placement = options.placement;
  TextPlacement text = {placement.device, placement.dtype, false, placement.device,
                        placement.dtype};
  if (options.text_encoder_weights == Weights::kBfloat16) {
    text.kept_dtype = at::kBFloat16;
    if (placement.dtype != at::kFloat) text.computed_dtype = at::kBFloat16;
  }
  text.int8 = options.text_encoder_weights == Weights::kInt8;
  if (placement.device.is_cpu() || options.text_encoder_device == Device::kSame) return text;
  text.kept = at::kCPU;
  if (options.text_encoder_device == Device::kCpu) {
    text.computed = at::kCPU;
    text.computed_dtype = at::kFloat;
  } else {
    text.fetched = true;
  }
  return text;
}

int64_t ParseBytes(std::string_view field, std::string_view text) {
  const auto refuse = [&]() {
    Invalid(std::string(field) + " is \"" + std::string(text) +
            "\", must be a number of bytes such as 1500, 1.5GB or 512MiB, at most 1024TiB");
  };
  double number = 0;
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, number, std::chars_format::fixed);
  if (error != std::errc() || !(number >= 0)) refuse();
  std::string_view unit(stop, static_cast<size_t>(end - stop));
  while (unit.starts_with(' ')) unit.remove_prefix(1);
  double factor = 1;
  if (!unit.empty() && unit != "B") {
    const size_t power = std::string_view("KMGT").find(unit.front());
    const std::string_view rest = unit.substr(1);
    if (power == std::string_view::npos || (rest != "B" && rest != "iB")) refuse();
    factor = std::pow(rest == "B" ? 1000.0 : 1024.0, static_cast<double>(power + 1));
  }
  const double bytes = number * factor;
  if (bytes > static_cast<double>(kMostBytes) || (factor == 1 && number != std::floor(number))) {
    refuse();
  }
  return std::llround(bytes);
}

ExecutionOptions ParseExecutionOptions(const ExecutionFlagValues& values) {
  for (const auto& [name, value] : values) {
    const bool known = std::any_of(kExecutionFlags.begin(), kExecutionFlags.end(),
                                   [&](const ExecutionFlag& flag) { return flag.name == name; });
    if (!known) Invalid("unknown option \"" + name + "\"");
  }
  const auto text = [&](std::string_view name) -> std::string {
    const auto given = values.find(std::string(name));
    if (given != values.end()) return given->second;
    const auto flag = std::find_if(kExecutionFlags.begin(), kExecutionFlags.end(),
                                   [&](const ExecutionFlag& f) { return f.name == name; });
    return flag->otherwise;
  };
  ExecutionOptions options;
  const auto choice = [&](std::string_view name, const char* yes, const char* no) {
    const std::string value = text(name);
    if (value != yes && value != no) {
      Invalid(std::string(name) + " is \"" + value + "\", must be " + yes + " or " + no);
    }
    return value == yes;
  };
  options.placement = ParsePlacements(text("device"), text("dtype"), &options.second_device);
  options.guidance_passes =
      static_cast<int>(ParseInt("guidance_passes", text("guidance_passes"), 1, 2));
  options.text_encoder_device =
      Choose("text_encoder_device", text("text_encoder_device"), kTextEncoderDevices);
  options.text_encoder_weights =
      Choose("text_encoder_weights", text("text_encoder_weights"), kTextEncoderWeights);
  options.interpolation_window =
      ParseInt("interpolation_window", text("interpolation_window"), 0, kMostGroups);
  options.device_memory_bytes = ParseBytes("device_memory_bytes", text("device_memory_bytes"));
  if (const std::string bytes = text("decode_bytes"); bytes != "model") {
    options.decode_bytes = ParseBytes("decode_bytes", bytes);
  }
  options.cuda_graphs = choice("cuda_graphs", "auto", "off");
  options.cudnn_autotune = choice("cudnn_autotune", "on", "off");
  ValidateExecutionOptions(options);
  return options;
}

void ApplyToProcess(const ExecutionOptions& options) {
  at::globalContext().setDeterministicCuDNN(true);
  at::globalContext().setBenchmarkCuDNN(options.cudnn_autotune);
}

void ValidateExecutionOptions(const ExecutionOptions& options) {
  const at::ScalarType dtype = options.placement.dtype;
  if (dtype != at::kFloat && dtype != at::kBFloat16 && dtype != at::kHalf) {
    Invalid(std::string("placement.dtype is ") + c10::toString(dtype) +
            ", must be Float, BFloat16 or Half");
  }
  if (options.second_device && options.second_device->type() != options.placement.device.type()) {
    Invalid("second_device is " + options.second_device->str() + ", must be of the type of " +
            options.placement.device.str());
  }
  if (options.guidance_passes < 1 || options.guidance_passes > 2) {
    Invalid("guidance_passes is " + std::to_string(options.guidance_passes) + ", must be 1 or 2");
  }
  if (options.interpolation_window < 0 || options.interpolation_window > kMostGroups) {
    Invalid("interpolation_window is " + std::to_string(options.interpolation_window) +
            ", must be from 0 to " + std::to_string(kMostGroups));
  }
  if (options.device_memory_bytes < 0 || options.device_memory_bytes > kMostBytes) {
    Invalid("device_memory_bytes is " + std::to_string(options.device_memory_bytes) +
            ", must be from 0 to " + std::to_string(kMostBytes));
  }
  if (options.decode_bytes && (*options.decode_bytes < 0 || *options.decode_bytes > kMostBytes)) {
    Invalid("decode_bytes is " + std::to_string(*options.decode_bytes) + ", must be from 0 to " +
            std::to_string(kMostBytes));
  }
}

}  // namespace kandinsky::model
