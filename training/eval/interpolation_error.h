// How well the frames between keyframes are filled in: by blending latents linearly, by the
// interpolation U-Net, by masked frame interpolation.
//
// The truth is the latents of all 241 frames of a clip. Three questions:
//   first   16 true keyframes -> 61 frames;
//   second  61 true frames -> 241;
//   both    16 true keyframes -> 61 -> 241, as the service does it: the second pass starts from
//           what the first one made.
// Only frames that were filled in count.
#ifndef KANDINSKY_TRAINING_EVAL_INTERPOLATION_ERROR_H_
#define KANDINSKY_TRAINING_EVAL_INTERPOLATION_ERROR_H_

#include <ATen/ATen.h>

#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "training/eval/result.h"
#include "worker/model/model_config.h"

namespace kandinsky::training {

struct InterpolationMethod {
  std::string name;   // of figures: "linear", "ours", "mfi"
  std::string title;  // of rows
  // video [T, z, h, w] -> [4 T - 3, z, h, w], float32 on the CPU; frames 0, 4, 8, … are the video's
  std::function<at::Tensor(const at::Tensor& video, int pass, uint64_t seed)> run;
};

struct InterpolationSampling {
  int64_t steps = 0;
  double guidance_scale = 0;
};

InterpolationMethod LinearBlending();
// The interpolation U-Net of a model directory with the sampler of model.json. Throws ModelError.
InterpolationMethod UnetInterpolation(const model::ModelConfig& config,
                                      const std::string& directory, at::Device device,
                                      const InterpolationSampling& sampling);
// The network that `kandinsky-train interpolation --baseline mfi` wrote, with the sampler of the
// keyframes. Throws ModelError.
InterpolationMethod MaskedFrameInterpolation(const model::ModelConfig& config,
                                             const std::string& file, at::Device device,
                                             const InterpolationSampling& sampling);

// truth [241, z, h, w] (in general 16 n + 1); decode: latents -> uint8 [T, H, W, 3], or empty: only
// latents are compared. Returns {"fast", method: {"first": {"error" (mean squared, of latents),
// "squared_error" (levels squared, against the decoded truth), "flicker"}, "second": …, "both": …,
// "seconds" (both passes)}}.
nlohmann::ordered_json InterpolationRecord(
    const std::vector<InterpolationMethod>& methods, const at::Tensor& truth, bool fast,
    uint64_t seed, const std::function<at::Tensor(const at::Tensor& latents)>& decode);

void SummarizeInterpolation(const std::vector<InterpolationMethod>& methods,
                            const std::vector<nlohmann::ordered_json>& records, uint64_t seed,
                            Result& result);

}  // namespace kandinsky::training

#endif  // KANDINSKY_TRAINING_EVAL_INTERPOLATION_ERROR_H_
