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

  // Where the text encoder is. It has more than two thirds of the parameters of the keyframe stage
  // at full size (8.6 billion, 17.2 GB in 16 bits) and runs once a prompt.
  //   kSame     on the device.
  //   kCpu      weights and products on the CPU, in float32 whatever type the weights are kept in.
  //             No device memory; seconds a prompt at full size, and texts differ from kSame by the
  //             rounding of the device's type.
  //   kOffload  weights in host memory; each matrix is copied to the device for its product, one
  //             after the other. Device memory for one matrix (134 MB at full size in 16 bits);
  //             costs the transfer of all weights a prompt (17.2 GB in 16 bits: about 1 to 2 s over
  //             PCIe 4), the result is that of kSame. On the CPU as a device the same as kSame.
  // Prompts that were encoded before come from a cache and cost nothing (embedding_cache.h).
  enum class TextEncoderDevice { kSame, kCpu, kOffload };
  TextEncoderDevice text_encoder_device = TextEncoderDevice::kSame;

  // What the text encoder's weights are kept in.
  //   kSame      placement.dtype.
  //   kBfloat16  bfloat16: half of float32; in place of float16 the same size with float32's range.
  //              Products in bfloat16 where placement.dtype is a 16-bit type, else in float32.
  //   kInt8      the matrices in int8 with one scale an output channel, half of 16 bits;
  //   embeddings,
  //              norms and biases as kSame. Before each product a matrix is widened to the type of
  //              the activations (a pass over it). Contexts then differ from float32 by about 1 %
  //              of their root mean square (tests/unit/model/text_test.cc holds the bar at 3 %), so
  //              videos differ, too. Loading reads float32 on the CPU, one matrix at a time.
  enum class TextEncoderWeights { kSame, kBfloat16, kInt8 };
  TextEncoderWeights text_encoder_weights = TextEncoderWeights::kSame;

  // UnetInput::window of interpolation, in groups; 0: all groups at once. The maps between layers
  // stay whole, so every convolution over time sees its neighbours and the result is that of 0 up
  // to rounding: a device may choose other kernels for fewer items.
  int64_t interpolation_window = 0;

  // Bytes of device memory that a stage may take, weights and activations together. 0: what the
  // device has free when the stage is made; on the CPU then no limit. A stage that cannot fit at
  // the model's default size is refused (memory_plan.h).
  int64_t device_memory_bytes = 0;

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
// What the options come to for the text encoder.
struct TextPlacement {
  at::Device kept = at::kCPU;  // where the weights lie
  at::ScalarType kept_dtype = at::kFloat;
  bool int8 = false;  // of the matrices, whatever kept_dtype says
  at::Device computed = at::kCPU;
  at::ScalarType computed_dtype = at::kFloat;
  bool fetched = false;  // each matrix is copied from `kept` to `computed` for its product
};
TextPlacement PlaceText(const ExecutionOptions& options);

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
