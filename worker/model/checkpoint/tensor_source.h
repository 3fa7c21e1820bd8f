// Named tensors in a file: one interface over every checkpoint format that the project reads.
//
// Opening a checkpoint reads and checks its directory (names, types, shapes, positions) and nothing
// else; the tensors stay in the mapped file until they are asked for, one at a time. A file is
// never trusted: whatever is wrong with it is a ModelError that names the file and the offending
// entry, and no allocation is larger than the file itself. Only tensors, dicts, lists, strings and
// numbers are understood; a pickle that wants to call anything is refused.
//
// Thread rule: const and thread-safe after construction. A file must not be truncated by others
// while it is open (writers in this project replace files by rename, which is safe).
#ifndef KANDINSKY_WORKER_MODEL_CHECKPOINT_TENSOR_SOURCE_H_
#define KANDINSKY_WORKER_MODEL_CHECKPOINT_TENSOR_SOURCE_H_

#include <ATen/ATen.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace kandinsky::model {

struct TensorMeta {
  at::ScalarType dtype = at::kFloat;
  std::vector<int64_t> shape;

  int64_t numel() const;
  int64_t bytes() const;
};

// "float32 [3, 4]"
std::string ToString(const TensorMeta& meta);
// "[3, 4]"
std::string ShapeToString(at::IntArrayRef shape);
// "float32", "bfloat16", "int64", ... as the manifests spell them.
std::string DtypeName(at::ScalarType dtype);
// Inverse of DtypeName; also takes safetensors' spelling ("F32", "BF16"). nullopt when unknown.
std::optional<at::ScalarType> ParseDtype(const std::string& name);

class TensorSource {
 public:
  virtual ~TensorSource() = default;

  // The path that was opened, for messages.
  virtual const std::string& path() const = 0;

  // Every tensor's name, sorted. Nested dicts and lists are joined by dots
  // ("unet.in_layer.weight").
  virtual std::vector<std::string> Names() const = 0;

  // nullptr when there is no such tensor. Valid as long as the source.
  virtual const TensorMeta* Find(const std::string& name) const = 0;

  // A new, contiguous tensor on `device` that owns its memory. `dtype` converts floating-point
  // tensors only; integers and booleans keep their type. ModelError::kNotFound names the tensor and
  // the file.
  at::Tensor Read(const std::string& name, std::optional<at::ScalarType> dtype = std::nullopt,
                  at::Device device = at::kCPU) const;

  // For readers of many tensors (parallel_read.h), which know that the name is there. View: a
  // tensor over the mapped file (read-only memory, any strides) that keeps the mapping alive.
  virtual at::Tensor View(const std::string& name) const = 0;
  // Lets the system drop the pages under `name` from this process; they are read again when
  // touched.
  virtual void Release(const std::string& name) const = 0;
};

// Opens a checkpoint and finds out by its content what it is:
//   * a safetensors file;
//   * an index (*.index.json) of safetensors or torch shards; shards are looked up next to it;
//   * a zip file as torch.save writes it (.pt, .pth, .bin, .ckpt);
//   * a directory that holds exactly one of, in this order: model.safetensors.index.json,
//   model.safetensors,
//     pytorch_model.bin.index.json, pytorch_model.bin, or any other single *.index.json,
//     *.safetensors, *.pt or *.bin.
// Throws ModelError::kNotFound (no such file) or kDataLoss (damaged, or none of these).
std::unique_ptr<TensorSource> OpenCheckpoint(const std::string& path);

}  // namespace kandinsky::model

#endif  // KANDINSKY_WORKER_MODEL_CHECKPOINT_TENSOR_SOURCE_H_
