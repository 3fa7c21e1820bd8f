// The flags that say how a model is run: one table for every program that runs one. No LibTorch
// here, so that a main that reads flags may include it; execution.h says what the values mean and
// parses them.
#ifndef KANDINSKY_WORKER_MODEL_EXECUTION_FLAGS_H_
#define KANDINSKY_WORKER_MODEL_EXECUTION_FLAGS_H_

#include <array>
#include <map>
#include <string>

// FLAG(name, default, help) of every flag. All are text; ParseExecutionOptions checks them.
// clang-format off
#define KANDINSKY_EXECUTION_FLAGS(FLAG)                                                           \
  FLAG(device, "auto",                                                                            \
       "auto (CUDA when there is one), cpu, cuda or cuda:N. Two such as cuda:0,cuda:1: the halves "\
       "of guidance on one each, both with the whole network.")                                   \
  FLAG(dtype, "float32", "Type of the networks: float32, bfloat16 or float16.")                   \
  FLAG(text_encoder_device, "same",                                                                \
       "Where the text encoder is: same (as the networks), cpu (it computes there, in float32), or "\
       "offload (its weights lie in host memory and are copied to the device matrix by matrix for "\
       "every encoding).")                                                                         \
  FLAG(text_encoder_weights, "same",                                                               \
       "Type of the text encoder's weights: same (as --dtype), bfloat16, or int8 with one scale an "\
       "output, which changes texts by about 1 %.")                                                \
  FLAG(interpolation_window, "0",                                                                  \
       "Groups that a layer of interpolation works on at once; 0: all. Less memory, more kernels.")\
  FLAG(device_memory_bytes, "0",                                                                   \
       "Device memory that the model may take, such as 24GB; a model that cannot fit is refused at "\
       "the start. 0: what the device has free; on the CPU there is no limit.")                    \
  FLAG(guidance_passes, "1",                                                                      \
       "1, or 2: the halves of guidance one after the other. Half the memory of activations in "  \
       "keyframes and interpolation; a little slower where the device has work enough.")          \
  FLAG(decode_bytes, "model",                                                                     \
       "Device memory that one layer of the decoder may take, in bytes or such as 2GB; model: as "\
       "model.json says; 0: no limit. Less: fewer frames at once, then strips.")               \
  FLAG(cuda_graphs, "auto",                                                                       \
       "auto or off: on one CUDA device a denoising step of a shape that came before is replayed "\
       "as a graph. The same bits; the memory of the largest step stays reserved.")               \
  FLAG(cudnn_autotune, "off",                                                                     \
       "on or off: cuDNN times its algorithms for every new shape and takes the fastest. Results "\
       "of two processes may then differ in their last bits.")
// clang-format on

namespace kandinsky::model {

struct ExecutionFlag {
  const char* name;  // with underscores
  const char* otherwise;
  const char* help;
};

#define KANDINSKY_EXECUTION_FLAG_ENTRY(name, otherwise, help) ExecutionFlag{#name, otherwise, help},
inline constexpr auto kExecutionFlags =
    std::to_array<ExecutionFlag>({KANDINSKY_EXECUTION_FLAGS(KANDINSKY_EXECUTION_FLAG_ENTRY)});
#undef KANDINSKY_EXECUTION_FLAG_ENTRY

// What was given, by name; what is missing has its default.
using ExecutionFlagValues = std::map<std::string, std::string>;

}  // namespace kandinsky::model

#endif  // KANDINSKY_WORKER_MODEL_EXECUTION_FLAGS_H_
