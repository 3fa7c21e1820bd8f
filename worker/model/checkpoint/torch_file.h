// Checkpoints as torch.save writes them since PyTorch 1.6: a zip archive of a pickle and one stored
// record a storage.
#ifndef KANDINSKY_WORKER_MODEL_CHECKPOINT_TORCH_FILE_H_
#define KANDINSKY_WORKER_MODEL_CHECKPOINT_TORCH_FILE_H_

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "worker/model/checkpoint/mapped_file.h"
#include "worker/model/checkpoint/pickle.h"
#include "worker/model/checkpoint/tensor_source.h"
#include "worker/model/checkpoint/zip.h"

namespace kandinsky::model {

// Reader. Tensors that share a storage (tied weights, slices) are read as what they are: windows
// into one record.
class TorchFile : public TensorSource {
 public:
  explicit TorchFile(std::shared_ptr<const MappedFile> file);

  const std::string& path() const override { return file_->path(); }
  std::vector<std::string> Names() const override;
  const TensorMeta* Find(const std::string& name) const override;

  at::Tensor View(const std::string& name) const override;
  void Release(const std::string& name) const override;

 private:
  struct Entry {
    TensorMeta meta;
    std::vector<int64_t> strides;
    int64_t begin = 0;  // of the first element, bytes from the start of the file
    ZipEntry record;
  };

  std::shared_ptr<const MappedFile> file_;
  std::map<std::string, Entry> entries_;
};

}  // namespace kandinsky::model

#endif  // KANDINSKY_WORKER_MODEL_CHECKPOINT_TORCH_FILE_H_
