// The safetensors format: 8 bytes little-endian header length, a JSON header, then the tensors'
// bytes without gaps.
#ifndef KANDINSKY_WORKER_MODEL_CHECKPOINT_SAFETENSORS_H_
#define KANDINSKY_WORKER_MODEL_CHECKPOINT_SAFETENSORS_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "worker/model/checkpoint/mapped_file.h"
#include "worker/model/checkpoint/tensor_source.h"

namespace kandinsky::model {

using SafetensorsMetadata = std::map<std::string, std::string>;

// Reader. The constructor refuses anything that the format forbids: a header longer than the file,
// JSON of another shape, unknown types, duplicate names, sizes that do not match shapes,
// overlapping or unused bytes.
class SafetensorsFile : public TensorSource {
 public:
  explicit SafetensorsFile(const std::string& path);
  explicit SafetensorsFile(std::shared_ptr<const MappedFile> file);

  const std::string& path() const override { return file_->path(); }
  std::vector<std::string> Names() const override;
  const TensorMeta* Find(const std::string& name) const override;
  // The strings of the header's "__metadata__" entry.
  const SafetensorsMetadata& metadata() const { return metadata_; }

  // Whether a file that begins with these bytes and has this size can be one (the header's length
  // is plausible and it starts with a brace).
  static bool LooksLike(const MappedFile& file);

  at::Tensor View(const std::string& name) const override;
  void Release(const std::string& name) const override;

 private:
  struct Entry {
    TensorMeta meta;
    int64_t begin = 0;  // bytes from the start of the file
    int64_t end = 0;
  };
  class HeaderHandler;

  std::shared_ptr<const MappedFile> file_;
  std::map<std::string, Entry> entries_;
  SafetensorsMetadata metadata_;
};

// Writes one file tensor by tensor, so that a model never has to be in memory as a whole. The file
// appears under its name only when Finish has written, synced and renamed it; a writer that is
// destroyed before leaves nothing behind. Not thread-safe. Throws ModelError::kDataLoss with the
// system's reason when writing fails.
class SafetensorsWriter {
 public:
  // `tensors` is the whole directory of the file. Names must be unique and not "__metadata__".
  SafetensorsWriter(const std::string& path,
                    const std::vector<std::pair<std::string, TensorMeta>>& tensors,
                    const SafetensorsMetadata& metadata = {});
  ~SafetensorsWriter();
  SafetensorsWriter(const SafetensorsWriter&) = delete;
  SafetensorsWriter& operator=(const SafetensorsWriter&) = delete;

  // In any order, each name once. The tensor must have the announced type and shape; any device,
  // any strides.
  void Write(const std::string& name, const at::Tensor& tensor);
  // Throws kInvalidArgument when a tensor was announced and not written.
  void Finish();

 private:
  struct Slot {
    TensorMeta meta;
    int64_t begin = 0;
    bool written = false;
  };
  void WriteAt(const void* data, int64_t size, int64_t offset);

  const std::string path_;
  std::string temporary_;
  int fd_ = -1;
  std::map<std::string, Slot> slots_;
};

// All at once.
void WriteSafetensors(const std::string& path, const std::map<std::string, at::Tensor>& tensors,
                      const SafetensorsMetadata& metadata = {});

}  // namespace kandinsky::model

#endif  // KANDINSKY_WORKER_MODEL_CHECKPOINT_SAFETENSORS_H_
