// How much device memory a model takes, before it takes it: weights and the peak of activations of
// each stage, found by running the stage's own code on the meta device (memory_tracker.h), and what
// to do when it is too much. `kandinsky-plan memory` prints it, stages check it at their start.
#ifndef KANDINSKY_WORKER_MODEL_MEMORY_PLAN_H_
#define KANDINSKY_WORKER_MODEL_MEMORY_PLAN_H_

#include <ATen/ATen.h>
#include <c10/util/Exception.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "worker/model/execution.h"
#include "worker/model/model_config.h"

namespace kandinsky::model {

// What a GPU adds to the tensors: context and loaded kernels (about 0.5 GB on CUDA), cuBLAS's and
// cuDNN's workspaces, and what lies between blocks of the caching allocator: kDeviceAllowanceBytes
// and kFragmentation of the activations. An estimate; `deploy/gpu/check` prints the plan beside the
// measured peak. Nothing is added on the CPU.
inline constexpr int64_t kDeviceAllowanceBytes = int64_t{1} << 30;
inline constexpr double kFragmentation = 0.05;

enum class PlannedStage { kKeyframes, kInterpolation, kDecoding };
std::string_view PlannedStageName(PlannedStage stage);  // "keyframes", ...

struct StageMemory {
  struct Phase {
    std::string name;        // "text", "denoising", "preview"; "denoising"; "decoding"
    int64_t peak_bytes = 0;  // of tensors above the weights
  };

  PlannedStage stage = PlannedStage::kKeyframes;
  int64_t weights_bytes = 0;       // on the device, as long as the stage exists
  int64_t host_weights_bytes = 0;  // of the text encoder when it lies in host memory
  std::vector<Phase> phases;       // one after the other
  int64_t allowance_bytes = 0;     // see above; 0 on the CPU

  int64_t activations_bytes() const;  // of the largest phase
  int64_t total_bytes() const;
};

// The size of a request, as far as memory depends on it.
struct PlannedRequest {
  int64_t width = 0, height = 0;  // pixels
  int passes = 0;                 // of the level
};

// The model's default size at its highest level.
PlannedRequest DefaultRequest(const ModelConfig& config);

// Takes a negative prompt and prompts of full length into account. The interpolation stage is
// planned for its last pass (with at least one). On the CPU in
// float32 keyframes and interpolation take what is planned within 10 %, decoding up to 1.8 times
// less (fused norms); 16-bit types are widened there and take more. Some 0.1 s for a full-size
// stage. Weights are not read: any config will do. Throws ModelError::kInvalidArgument for a size
// that the model cannot make.
StageMemory PlanStage(const ModelConfig& config, PlannedStage stage, const PlannedRequest& request,
                      const ExecutionOptions& execution);

// `execution` and what takes less memory, in the order of what it costs; each says which options
// it changes ("--guidance_passes=2").
struct CheaperPlan {
  ExecutionOptions execution;
  std::string flags;    // empty for the first
  bool running = true;  // can be changed while the stage runs, without loading anew
  bool same = true;     // the same result up to rounding
};
std::vector<CheaperPlan> CheaperPlans(PlannedStage stage, const ExecutionOptions& execution);

// Bytes of device memory that a stage may take: execution.device_memory_bytes, or what the device
// says it has free (LibTorch's DeviceAllocator); nullopt on the CPU and where nobody knows.
std::optional<int64_t> AvailableMemory(const ExecutionOptions& execution);

// Throws ModelError::kInvalidArgument if the stage cannot fit at the model's default size; says
// what it needs, what there is and the first plan that fits. Does nothing where AvailableMemory is
// nullopt or the stage cannot be planned.
void CheckMemory(const ModelConfig& config, PlannedStage stage, const ExecutionOptions& execution);

// The next plan after `execution` that can be had while the stage runs; nullopt: there is none.
std::optional<CheaperPlan> NextPlan(PlannedStage stage, const ExecutionOptions& execution);

// True for LibTorch's errors of memory, of the host and of devices.
bool IsOutOfMemory(const c10::Error& error);

// Gives cached device memory back to the device, where its allocator has a cache.
void ReleaseCachedMemory(at::Device device);

// "12.3 GB" (10^9).
std::string FormatGigabytes(int64_t bytes);

}  // namespace kandinsky::model

#endif  // KANDINSKY_WORKER_MODEL_MEMORY_PLAN_H_
