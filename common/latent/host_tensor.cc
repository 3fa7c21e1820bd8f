#include "common/latent/host_tensor.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace kandinsky {

std::string_view Name(DataType dtype) {
  switch (dtype) {
    case DataType::kFloat32:
      return "float32";
    case DataType::kFloat16:
      return "float16";
    case DataType::kBFloat16:
      return "bfloat16";
  }
  return "unknown";
}

std::optional<DataType> ParseDataType(std::string_view name) {
  for (const DataType dtype : {DataType::kFloat32, DataType::kFloat16, DataType::kBFloat16}) {
    if (name == Name(dtype)) return dtype;
  }
  return std::nullopt;
}

size_t ByteWidth(DataType dtype) { return dtype == DataType::kFloat32 ? 4 : 2; }

absl::StatusOr<uint64_t> CheckedByteSize(DataType dtype, const std::vector<int64_t>& shape,
                                         uint64_t limit) {
  if (shape.size() > 8) {
    return absl::InvalidArgumentError(
        absl::StrCat("tensor has ", shape.size(), " dimensions, at most 8 are allowed"));
  }
  uint64_t size = ByteWidth(dtype);
  bool too_large = false;
  for (const int64_t dimension : shape) {
    if (dimension < 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("tensor has a negative dimension: [", absl::StrJoin(shape, ", "), "]"));
    }
    // A later dimension of zero makes any product zero, so go on to look at all of them.
    if (__builtin_mul_overflow(size, static_cast<uint64_t>(dimension), &size)) too_large = true;
  }
  if (too_large || size > limit) {
    return absl::InvalidArgumentError(
        absl::StrCat("tensor [", absl::StrJoin(shape, ", "), "] is larger than ", limit, " bytes"));
  }
  return size;
}

absl::StatusOr<HostTensor> HostTensor::Create(DataType dtype, std::vector<int64_t> shape,
                                              std::string bytes) {
  const absl::StatusOr<uint64_t> size = CheckedByteSize(dtype, shape, UINT64_MAX);
  if (!size.ok()) return size.status();
  if (*size != bytes.size()) {
    return absl::InvalidArgumentError(absl::StrCat("tensor [", absl::StrJoin(shape, ", "),
                                                   "] of type ", std::string(Name(dtype)), " has ",
                                                   bytes.size(), " bytes, not ", *size));
  }
  HostTensor tensor;
  tensor.dtype_ = dtype;
  tensor.shape_ = std::move(shape);
  tensor.bytes_ = std::make_shared<const std::string>(std::move(bytes));
  return tensor;
}

}  // namespace kandinsky
