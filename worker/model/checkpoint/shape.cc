#include "worker/model/checkpoint/shape.h"

#include <algorithm>
#include <cstdio>

namespace kandinsky::model {

std::optional<int64_t> CheckedBytes(at::ScalarType dtype, at::IntArrayRef shape) {
  if (shape.size() > kMaxDimensions) return std::nullopt;
  int64_t bytes = static_cast<int64_t>(c10::elementSize(dtype));
  bool empty = false;
  for (const int64_t extent : shape) {
    if (extent < 0) return std::nullopt;
    if (extent == 0) {
      empty = true;
    } else if (__builtin_mul_overflow(bytes, extent, &bytes)) {
      return std::nullopt;
    }
  }
  return empty ? 0 : bytes;
}

std::vector<int64_t> ContiguousStrides(at::IntArrayRef shape) {
  std::vector<int64_t> strides(shape.size(), 1);
  for (size_t i = shape.size(); i-- > 1;) {
    strides[i - 1] = strides[i] * std::max<int64_t>(shape[i], 1);
  }
  return strides;
}

std::string Quote(const std::string& text) {
  constexpr size_t kLongest = 200;
  std::string quoted = "\"";
  for (size_t i = 0; i < text.size(); ++i) {
    if (i == kLongest) {
      quoted += "...";
      break;
    }
    const unsigned char c = text[i];
    if (c < 0x20 || c == 0x7f || c == '"' || c == '\\') {
      char escaped[8];
      std::snprintf(escaped, sizeof(escaped), "\\x%02x", c);
      quoted += escaped;
    } else {
      quoted += static_cast<char>(c);
    }
  }
  return quoted + "\"";
}

}  // namespace kandinsky::model
