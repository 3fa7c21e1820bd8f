// A file mapped read-only into memory.
#ifndef KANDINSKY_WORKER_MODEL_CHECKPOINT_MAPPED_FILE_H_
#define KANDINSKY_WORKER_MODEL_CHECKPOINT_MAPPED_FILE_H_

#include <ATen/ATen.h>

#include <cstdint>
#include <memory>
#include <string>

namespace kandinsky::model {

// Immutable and thread-safe. Shared, because tensors over the mapping outlive the reader that made
// them.
class MappedFile : public std::enable_shared_from_this<MappedFile> {
 public:
  // Throws ModelError::kNotFound when the file cannot be opened (or is not a regular file).
  static std::shared_ptr<const MappedFile> Open(const std::string& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const std::string& path() const { return path_; }
  const uint8_t* data() const { return data_; }
  int64_t size() const { return size_; }

  // A tensor of `shape` and element `strides` whose element 0 lies at byte `offset`. The caller has
  // checked that all elements lie inside the file. Memory that is not aligned for `dtype` is copied
  // first.
  at::Tensor Tensor(int64_t offset, at::ScalarType dtype, at::IntArrayRef shape,
                    at::IntArrayRef strides) const;

  // Tells the system that bytes [offset, offset + length) will not be needed soon.
  void Release(int64_t offset, int64_t length) const;

 private:
  MappedFile(std::string path, const uint8_t* data, int64_t size)
      : path_(std::move(path)), data_(data), size_(size) {}

  const std::string path_;
  const uint8_t* const data_;
  const int64_t size_;
};

}  // namespace kandinsky::model

#endif  // KANDINSKY_WORKER_MODEL_CHECKPOINT_MAPPED_FILE_H_
