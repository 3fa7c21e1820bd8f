// Checkpoints that are spread over several files and listed in an index, as Hugging Face lays them
// out.
#ifndef KANDINSKY_WORKER_MODEL_CHECKPOINT_INDEX_H_
#define KANDINSKY_WORKER_MODEL_CHECKPOINT_INDEX_H_

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "worker/model/checkpoint/mapped_file.h"
#include "worker/model/checkpoint/tensor_source.h"

namespace kandinsky::model {

// `{"metadata": {...}, "weight_map": {tensor name: file name, ...}}`. File names must be plain
// names of files in the index's own directory. Opens every shard at once and checks that it holds
// what the index says.
class ShardedSource : public TensorSource {
 public:
  explicit ShardedSource(const MappedFile& index);

  const std::string& path() const override { return path_; }
  std::vector<std::string> Names() const override;
  const TensorMeta* Find(const std::string& name) const override;

  // Reads the index alone: tensor name -> shard's file name.
  static std::map<std::string, std::string> ParseIndex(const MappedFile& index);

  at::Tensor View(const std::string& name) const override;
  void Release(const std::string& name) const override;

 private:
  const std::string path_;
  std::vector<std::unique_ptr<TensorSource>> shards_;
  std::map<std::string, const TensorSource*> owner_;  // by tensor name
};

}  // namespace kandinsky::model

#endif  // KANDINSKY_WORKER_MODEL_CHECKPOINT_INDEX_H_
