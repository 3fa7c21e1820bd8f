// How well the autoencoder and its decoders give frames back.
//
// Frames are uint8 [T, H, W, 3] on the CPU. Throws ModelError.
#ifndef KANDINSKY_TRAINING_EVAL_RECONSTRUCTION_H_
#define KANDINSKY_TRAINING_EVAL_RECONSTRUCTION_H_

#include <ATen/ATen.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "training/data/clip_source.h"
#include "training/eval/result.h"
#include "training/trainers/perceptual.h"

namespace kandinsky::training {

// The mean over frames [N, H, W, 3] of PerceptualDistance (frechet.h).
double MeanPerceptualDistance(const at::Tensor& frames, const at::Tensor& truth,
                              PerceptualNetwork& network);

// {"squared_error" (levels squared), "ssim", "flicker", "perceptual" (with a network)}; null where
// the frames are too small or too few. `perceptual` may be null.
nlohmann::ordered_json CompareFrames(const at::Tensor& frames, const at::Tensor& truth,
                                     PerceptualNetwork* perceptual);

// Encodes and decodes; equal frames give equal results.
struct Reconstructor {
  std::string name;   // of figures: "image", "video"
  std::string title;  // of rows
  std::function<at::Tensor(const at::Tensor& frames)> run;
};

// One record of a clip: {name: CompareFrames and "right": {"shape", "color", "background"}}, which
// says whether the judge (judge.h) still sees what the clip's description says; what that does not
// say is left out.
nlohmann::ordered_json ReconstructionRecord(const std::vector<Reconstructor>& reconstructors,
                                            const Clip& clip, PerceptualNetwork* perceptual);

// Tables, figures and clips of the result. Figures of held-out pairs begin with "held-out.".
void SummarizeReconstruction(const std::vector<Reconstructor>& reconstructors,
                             const std::vector<nlohmann::ordered_json>& records, bool held_out,
                             uint64_t seed, Result& result);

// A number of a record; NaN for null.
double NumberOf(const nlohmann::ordered_json& value);

}  // namespace kandinsky::training

#endif  // KANDINSKY_TRAINING_EVAL_RECONSTRUCTION_H_
