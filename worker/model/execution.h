// How a model is run: where, in which types, and what is traded for memory or speed. Not a part of
// the request: options that change nothing but memory and time give the same videos (where one
// does more, it says so).
//
// To add an option: a field here, a line in execution_flags.h, and its reading and checking in
// execution.cc. Every program that runs a model then has the flag.
#ifndef KANDINSKY_WORKER_MODEL_EXECUTION_H_
#define KANDINSKY_WORKER_MODEL_EXECUTION_H_

#include <ATen/ATen.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "worker/model/execution_flags.h"

namespace kandinsky::model {

// Where a model runs and in which type its networks compute. Schedules, x_t and softmax/norm
// statistics stay float32.
struct Placement {
  at::Device device = at::kCPU;
  at::ScalarType dtype = at::kFloat;  // kFloat, kBFloat16 or kHalf
};

// "auto" (CUDA when there is one), "cpu", "cuda" or "cuda:N"; anything else, or a device that is
// not there, is ModelError::kInvalidArgument. The dtype is "float32", "bfloat16" or "float16".
Placement ParsePlacement(const std::string& device, const std::string& dtype);

// As ParsePlacement, but `device` may also be two names with a comma between them ("cuda:0,cuda:1",
// "cpu,cpu"): neither "auto", both of one type, and not the same CUDA device twice. `second` is
// then the second device, otherwise nullopt.
Placement ParsePlacements(const std::string& device, const std::string& dtype,
                          std::optional<at::Device>* second);

// A plain value. The defaults change nothing: everything on one device, in one type, at once.
struct ExecutionOptions {
  Placement placement;

  // 1, or 2: the halves of classifier-free guidance one after the other (GuidanceConfig::
  // two_passes), in keyframes and interpolation. Half the memory of activations. The result is
  // that of one pass up to rounding: a device may choose other kernels for half the batch.
  int guidance_passes = 1;

  // DecodeOptions::max_bytes of the decoder; nullopt: ModelConfig::decode_max_bytes. 0: no bound.
  // A lower bound decodes fewer frames at once (the same bits where kernels do not depend on the
  // batch), then in strips of rows (equal up to rounding; maps between layers move to host memory
  // and back, which costs most of the time).
  std::optional<int64_t> decode_bytes;

  // The seed of random weights, made on the device (MakeRandomWeights in weights_init.h), instead
  // of the model directory's, which need not be there: for measuring. Not a flag of any program
  // that serves.
  std::optional<uint64_t> random_weights;

  // Keyframes and interpolation: a second copy of the U-Net on this device computes the
  // unconditional half of guidance, while that of placement.device computes the conditional one and
  // combines both. The bits of guidance_passes = 2 (which it implies) on one device of the kind.
  // All else is on placement.device alone. nullopt: none.
  std::optional<at::Device> second_device;

  // Keyframes and interpolation on a CUDA device, without a second one: steps are replayed as
  // graphs (graph_cache.h). The same bits. Costs the memory of the activations of the largest step,
  // which stays reserved between requests, and one comparison of a step's result for every shape.
  bool cuda_graphs = true;

  // Process-wide: cuDNN measures which of its convolutions (the deterministic ones) is fastest for
  // every new shape. What it finds may differ from process to process, and results with it, in
  // rounding: a resumed run is then not the same bits.
  bool cudnn_autotune = false;
};

// Sets what holds for the whole process: how cuDNN chooses. Call it before the first stage runs.
void ApplyToProcess(const ExecutionOptions& options);

// Every value of kExecutionFlags that is missing has its default. ModelError::kInvalidArgument
// names a flag that is unknown, or flag, value and what it must be.
ExecutionOptions ParseExecutionOptions(const ExecutionFlagValues& values);

// Throws ModelError::kInvalidArgument naming the first field out of its range. The stages call it.
void ValidateExecutionOptions(const ExecutionOptions& options);

// "1500", "1.5GB", "512 MiB" -> bytes, at most 2^50. K, M, G, T with B are powers of 1000, with
// iB of 1024. Otherwise ModelError::kInvalidArgument, naming `field`.
int64_t ParseBytes(std::string_view field, std::string_view text);

}  // namespace kandinsky::model

#endif  // KANDINSKY_WORKER_MODEL_EXECUTION_H_
