// Fills a module's parameters from a checkpoint, one tensor at a time.
#ifndef KANDINSKY_WORKER_MODEL_CHECKPOINT_LOAD_H_
#define KANDINSKY_WORKER_MODEL_CHECKPOINT_LOAD_H_

#include <ATen/ATen.h>

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "worker/model/checkpoint/tensor_source.h"

namespace torch::nn {
class Module;
}  // namespace torch::nn

namespace kandinsky::model {

struct LoadOptions {
  // What the checkpoint's names carry in front of the module's ("unet."). Tensors without it are
  // somebody else's.
  std::string prefix;
  // Tensors whose name (behind `prefix`) begins with one of these may be there and are not loaded
  // ("decoder.").
  std::vector<std::string> ignored;
  // Other names (behind `prefix`) that a module's tensor may have in the checkpoint, in order of
  // preference after its own. Those that are not needed may be there too.
  std::map<std::string, std::vector<std::string>> aliases;
  // Type of all floating-point parameters afterwards; nullopt: each parameter's own.
  std::optional<at::ScalarType> dtype;
  at::Device device = at::kCPU;
  // Of reading: see ParallelReadOptions (parallel_read.h).
  int threads = 0;
  int64_t staging_bytes = int64_t{64} << 20;
};

// Every parameter of `module` gets its tensor from `source`, as options.dtype on options.device; so
// does every buffer that the checkpoint holds. Parameters may be on the meta device (then they are
// materialised) or real (then their memory is replaced). Several threads read (parallel_read.h);
// peak host memory is the module's own, if it is on the CPU, plus about the largest tensor a
// thread, and options.staging_bytes for a device.
//
// Names and shapes are all compared before the first byte is read: throws one ModelError::kDataLoss
// that lists what is missing, unexpected and mis-shaped, in order, and leaves the module untouched.
void LoadInto(torch::nn::Module& module, const TensorSource& source,
              const LoadOptions& options = {});

// Where LoadInto would take each tensor from: the module's name -> the checkpoint's. Throws as
// LoadInto does.
std::map<std::string, std::string> MatchTensors(const torch::nn::Module& module,
                                                const TensorSource& source,
                                                const LoadOptions& options = {});

// The comparison alone: the text of that error, or an empty string when everything fits.
std::string DescribeMismatch(const torch::nn::Module& module, const TensorSource& source,
                             const LoadOptions& options = {});

// Replaces the memory of a parameter or buffer in place, so that every holder of the tensor sees
// `value` (same shape; any type and device; autograd's flags stay).
void ReplaceStorage(at::Tensor tensor, const at::Tensor& value);

// The null embedding `name`, stored as [C] or [1, C] in any floating-point type -> [C] as `dtype`
// on `device`.
at::Tensor LoadNullEmbedding(const TensorSource& source, const std::string& name, int64_t width,
                             at::ScalarType dtype = at::kFloat, at::Device device = at::kCPU);

}  // namespace kandinsky::model

#endif  // KANDINSKY_WORKER_MODEL_CHECKPOINT_LOAD_H_
