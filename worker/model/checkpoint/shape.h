// Arithmetic on shapes that come from files: nothing overflows, nothing is negative.
#ifndef KANDINSKY_WORKER_MODEL_CHECKPOINT_SHAPE_H_
#define KANDINSKY_WORKER_MODEL_CHECKPOINT_SHAPE_H_

#include <ATen/ATen.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace kandinsky::model {

inline constexpr size_t kMaxDimensions = 32;

// Bytes of a dense tensor; nullopt when an extent is negative, when there are more than
// kMaxDimensions, or when the product of the extents (zeros left out, so that strides cannot
// overflow either) exceeds int64.
std::optional<int64_t> CheckedBytes(at::ScalarType dtype, at::IntArrayRef shape);

// Row-major strides in elements. The shape must have passed CheckedBytes.
std::vector<int64_t> ContiguousStrides(at::IntArrayRef shape);

// `text` in double quotes, for messages: control characters escaped, cut after 200 characters.
std::string Quote(const std::string& text);

}  // namespace kandinsky::model

#endif  // KANDINSKY_WORKER_MODEL_CHECKPOINT_SHAPE_H_
