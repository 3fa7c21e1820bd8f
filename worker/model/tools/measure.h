// Measurements of a model on a device, as kandinsky-measure prints them: speed, memory, and whether
// the same comes out again. The stages that run are those that serve (pipeline.h).
//
// Everything here is synchronous and runs on the calling thread. Errors are those of pipeline.h.
#ifndef KANDINSKY_WORKER_MODEL_TOOLS_MEASURE_H_
#define KANDINSKY_WORKER_MODEL_TOOLS_MEASURE_H_

#include <ATen/ATen.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "worker/model/execution.h"
#include "worker/model/pipeline.h"

namespace kandinsky::model {

// Tensor memory of a device from construction to destruction, in bytes. On the CPU: what this
// thread allocates (the networks' tensors; not the scratch memory of libraries). Elsewhere: what
// the device's caching allocator has handed out. One at a time; use on the constructing thread.
class MemoryMeter {
 public:
  explicit MemoryMeter(at::Device device);
  ~MemoryMeter();

  // The peak is counted from here on.
  void ResetPeak();
  int64_t current() const;
  int64_t peak() const;
  // What the allocator holds of the device at most, free blocks included; 0 where it keeps none.
  int64_t reserved_peak() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Waits until the device has done what it was given. Nothing to do on the CPU.
void Synchronize(at::Device device);

// How fast the device multiplies square matrices in each type: the best of several sizes, each
// repeated, about `seconds` for each type. A list of
//   {"type": "float32" | "tf32" | "bfloat16" | "float16", "size": N, "flops_per_second": X}
// tf32 (CUDA only) is float32 whose products the device may round to 10 bits first, which this
// project never allows it to; the other three are what its networks compute in.
nlohmann::json MeasurePeaks(at::Device device, double seconds);

struct MeasureSetup {
  std::string model_directory;
  ExecutionOptions execution;
  GenerationRequest request;
};

// A stage, the finished parts of it and all of them.
using MeasureProgress = std::function<void(const std::string& stage, int64_t done, int64_t parts)>;

// One request through all three stages, each loaded for itself and dropped before the next, as
// three workers on three cards would have it:
//   {"frames": 241, "seconds": S (of all stages without loading), "flops": F, "flops_per_second",
//    "stages": [{"stage": "keyframes", "load_seconds", "seconds", "text_seconds" (keyframes: until
//      the first step), "first_step_seconds", "step_seconds" (median of the rest), "flops" (counted
//      on the meta device, request_flops.h), "counted_flops" (by what ran; less where a CUDA graph
//      was replayed), "flops_per_second", "weights_bytes", "peak_bytes", "reserved_bytes",
//      "finite" (every number is), "hash"}, ...]}
nlohmann::json MeasureRun(const MeasureSetup& setup, const MeasureProgress& progress);

// Does the same come out again? A list of {"name", "passed", "text"}: each stage twice with the
// same request, a stage that is loaded anew and resumed from a checkpoint halfway (the same bits),
// and guidance in two passes against one (the same up to rounding; `passes_tolerance` is the root
// mean square of the difference over that of the latents, after all of the request's steps).
nlohmann::json MeasureRepeats(const MeasureSetup& setup, double passes_tolerance,
                              const MeasureProgress& progress);

// RequestFlops as JSON: {"text", "keyframes", "interpolation" [a pass], "decoding", "total",
// "keyframe", "group", "frame"}, each a number.
nlohmann::json DescribeFlops(const MeasureSetup& setup);

}  // namespace kandinsky::model

#endif  // KANDINSKY_WORKER_MODEL_TOOLS_MEASURE_H_
