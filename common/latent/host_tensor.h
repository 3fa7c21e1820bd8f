// A tensor in host memory, without LibTorch: what travels between workers and lies in latent stores
// and checkpoints.
#ifndef KANDINSKY_COMMON_LATENT_HOST_TENSOR_H_
#define KANDINSKY_COMMON_LATENT_HOST_TENSOR_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace kandinsky {

enum class DataType { kFloat32, kFloat16, kBFloat16 };

std::string_view Name(DataType dtype);  // "float32", "float16", "bfloat16"
std::optional<DataType> ParseDataType(std::string_view name);
size_t ByteWidth(DataType dtype);

// Bytes of a tensor; INVALID_ARGUMENT if a dimension is negative, there are more than 8, or the
// product overflows or exceeds `limit`.
absl::StatusOr<uint64_t> CheckedByteSize(DataType dtype, const std::vector<int64_t>& shape,
                                         uint64_t limit);

// Value type; copies share the immutable bytes (little endian, row major).
class HostTensor {
 public:
  HostTensor() = default;
  // INVALID_ARGUMENT if bytes.size() is not what dtype and shape ask for.
  static absl::StatusOr<HostTensor> Create(DataType dtype, std::vector<int64_t> shape,
                                           std::string bytes);

  DataType dtype() const { return dtype_; }
  const std::vector<int64_t>& shape() const { return shape_; }
  std::string_view bytes() const { return bytes_ ? std::string_view(*bytes_) : std::string_view(); }

 private:
  DataType dtype_ = DataType::kFloat32;
  std::vector<int64_t> shape_ = {0};
  std::shared_ptr<const std::string> bytes_;
};

}  // namespace kandinsky

#endif  // KANDINSKY_COMMON_LATENT_HOST_TENSOR_H_
