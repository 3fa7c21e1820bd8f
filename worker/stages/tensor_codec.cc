#include "worker/stages/tensor_codec.h"

#include <ATen/ATen.h>

#include <cstring>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/crc32c.h"

namespace kandinsky {
namespace {

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "tensors travel as they lie in memory");

constexpr char kMagic[] = {'K', 'V', 'C', 'P'};
constexpr uint32_t kVersion = 1;
constexpr uint32_t kUndefined = 0xffffffff;
constexpr uint32_t kMaxRank = 8;

at::ScalarType ToTorch(DataType dtype) {
  switch (dtype) {
    case DataType::kFloat32:
      return at::kFloat;
    case DataType::kFloat16:
      return at::kHalf;
    case DataType::kBFloat16:
      return at::kBFloat16;
  }
  return at::kFloat;
}

template <typename T>
void Put(std::string* out, T value) {
  out->append(reinterpret_cast<const char*>(&value), sizeof(value));
}

void PutTensor(std::string* out, const at::Tensor& tensor) {
  if (!tensor.defined()) {
    Put(out, kUndefined);
    return;
  }
  const at::Tensor host = tensor.detach().to(at::kCPU, at::kFloat).contiguous();
  Put(out, static_cast<uint32_t>(host.dim()));
  for (const int64_t size : host.sizes()) Put(out, size);
  out->append(static_cast<const char*>(host.const_data_ptr()), host.nbytes());
}

// Reads from the front of a view; never past its end.
class Reader {
 public:
  explicit Reader(std::string_view data) : data_(data) {}

  template <typename T>
  bool Take(T* value) {
    if (data_.size() < sizeof(T)) return false;
    std::memcpy(value, data_.data(), sizeof(T));
    data_.remove_prefix(sizeof(T));
    return true;
  }

  bool TakeTensor(at::Tensor* tensor) {
    uint32_t rank = 0;
    if (!Take(&rank)) return false;
    if (rank == kUndefined) {
      *tensor = at::Tensor();
      return true;
    }
    if (rank > kMaxRank) return false;
    std::vector<int64_t> shape(rank);
    for (int64_t& size : shape) {
      if (!Take(&size)) return false;
    }
    const absl::StatusOr<uint64_t> bytes = CheckedByteSize(DataType::kFloat32, shape, data_.size());
    if (!bytes.ok()) return false;
    *tensor = at::empty(shape, at::kFloat);
    if (*bytes > 0) std::memcpy(tensor->data_ptr(), data_.data(), *bytes);
    data_.remove_prefix(*bytes);
    return true;
  }

  bool empty() const { return data_.empty(); }

 private:
  std::string_view data_;
};

}  // namespace

absl::StatusOr<HostTensor> ToHostTensor(const at::Tensor& tensor) {
  DataType dtype;
  switch (tensor.scalar_type()) {
    case at::kFloat:
      dtype = DataType::kFloat32;
      break;
    case at::kHalf:
      dtype = DataType::kFloat16;
      break;
    case at::kBFloat16:
      dtype = DataType::kBFloat16;
      break;
    default:
      return absl::InvalidArgumentError(
          absl::StrCat("latents of type ", c10::toString(tensor.scalar_type())));
  }
  const at::Tensor host = tensor.detach().to(at::kCPU).contiguous();
  std::string bytes(host.nbytes(), '\0');
  if (!bytes.empty()) std::memcpy(bytes.data(), host.const_data_ptr(), bytes.size());
  return HostTensor::Create(dtype, host.sizes().vec(), std::move(bytes));
}

at::Tensor FromHostTensor(const HostTensor& tensor) {
  at::Tensor host = at::empty(tensor.shape(), ToTorch(tensor.dtype()));
  if (!tensor.bytes().empty()) {
    std::memcpy(host.data_ptr(), tensor.bytes().data(), tensor.bytes().size());
  }
  return host.to(at::kFloat);
}

std::string EncodeCheckpoint(Stage stage, const model::StageCheckpoint& checkpoint) {
  std::string blob(kMagic, sizeof(kMagic));
  Put(&blob, kVersion);
  Put(&blob, static_cast<uint32_t>(stage));
  Put(&blob, static_cast<uint32_t>(checkpoint.pass));
  Put(&blob, static_cast<uint64_t>(checkpoint.next_step));
  Put(&blob, uint32_t{3});
  PutTensor(&blob, checkpoint.x);
  PutTensor(&blob, checkpoint.previous_x0);
  PutTensor(&blob, checkpoint.video);
  Put(&blob, Crc32c(blob));
  return blob;
}

absl::StatusOr<model::StageCheckpoint> DecodeCheckpoint(Stage stage, std::string_view blob) {
  if (blob.size() < sizeof(kMagic) + 4 || std::memcmp(blob.data(), kMagic, sizeof(kMagic)) != 0) {
    return absl::DataLossError("not a checkpoint");
  }
  uint32_t crc32c = 0;
  std::memcpy(&crc32c, blob.data() + blob.size() - sizeof(crc32c), sizeof(crc32c));
  blob.remove_suffix(sizeof(crc32c));
  if (Crc32c(blob) != crc32c) return absl::DataLossError("checkpoint is damaged");
  Reader reader(blob.substr(sizeof(kMagic)));
  uint32_t version = 0, its_stage = 0, pass = 0, tensors = 0;
  uint64_t step = 0;
  if (!reader.Take(&version)) return absl::DataLossError("checkpoint is too short");
  if (version != kVersion) {
    return absl::FailedPreconditionError(absl::StrCat("checkpoint of version ", version));
  }
  model::StageCheckpoint checkpoint;
  if (!reader.Take(&its_stage) || !reader.Take(&pass) || !reader.Take(&step) ||
      !reader.Take(&tensors) || tensors != 3 || pass > 1000 || step > 1000000000 ||
      !reader.TakeTensor(&checkpoint.x) || !reader.TakeTensor(&checkpoint.previous_x0) ||
      !reader.TakeTensor(&checkpoint.video) || !reader.empty()) {
    return absl::DataLossError("checkpoint is not as its header says");
  }
  if (its_stage != static_cast<uint32_t>(stage)) {
    return absl::FailedPreconditionError("checkpoint of another stage");
  }
  if (!checkpoint.x.defined()) return absl::DataLossError("checkpoint has no state");
  checkpoint.pass = static_cast<int>(pass);
  checkpoint.next_step = static_cast<int64_t>(step);
  return checkpoint;
}

}  // namespace kandinsky
