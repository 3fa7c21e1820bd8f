// A strict reader for the pickles inside torch.save files.
//
// It builds tensors, dicts, lists, tuples, strings, numbers, booleans and None, and nothing else. A
// pickle is a program: every global that it names is compared with a short list (OrderedDict,
// torch.Size, the tensor rebuilders, storage and dtype names) and refused by name when it is not on
// it; the calls that are allowed are emulated here, so no code that a file chooses ever runs.
#ifndef KANDINSKY_WORKER_MODEL_CHECKPOINT_PICKLE_H_
#define KANDINSKY_WORKER_MODEL_CHECKPOINT_PICKLE_H_

#include <ATen/ATen.h>

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace kandinsky::model {

// A tensor as a strided window into a storage. All elements lie inside the storage, and there are
// not more of them than the storage has, so that reading one never needs more memory than the file
// has bytes.
struct PickledTensor {
  std::string storage;        // key: the record "data/<storage>" of the archive
  int64_t storage_bytes = 0;  // what that record must hold
  at::ScalarType dtype = at::kFloat;
  int64_t offset = 0;  // elements
  std::vector<int64_t> shape;
  std::vector<int64_t> strides;  // elements, never negative
};

// All tensors of the pickled object by name. Keys of nested dicts (strings or integers) and indices
// of lists and tuples are joined by dots; everything that is not a tensor is skipped; a lone tensor
// at the top is called "". Two tensors of one name, cycles, and structures that unfold to far more
// than the pickle's own length are refused. Throws ModelError::kDataLoss; `path` is for its
// message.
std::map<std::string, PickledTensor> ReadTensorPickle(const std::string& path,
                                                      std::string_view pickle);

}  // namespace kandinsky::model

#endif  // KANDINSKY_WORKER_MODEL_CHECKPOINT_PICKLE_H_
