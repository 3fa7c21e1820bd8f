// Trainer of the small feature extractors of the shipped domain, which stand in for I3D, Inception
// and CLIP in FVD, IS and CLIPSIM (training/eval/extractor.h). Figures that come from them compare
// models of this domain with each other; they are no published figures.
#ifndef KANDINSKY_TRAINING_TRAINERS_EXTRACTOR_TASK_H_
#define KANDINSKY_TRAINING_TRAINERS_EXTRACTOR_TASK_H_

#include <cstdint>
#include <memory>
#include <string>

#include "training/core/task.h"
#include "training/data/clip_source.h"
#include "worker/model/model_config.h"

namespace kandinsky::training {

struct ExtractorOptions {
  int64_t height = 64, width = 64;  // pixels of the clips
  int64_t frames = 16;              // of a clip
  double spacing = 16;              // of the frames, in frames of 30 a second
  double contrast_weight = 1;       // of the loss that brings frames and captions together
};

// One convolutional network with three ends, trained on real clips:
//   clips      -> features -> shape, colour, background and motion (cross entropy)
//   one frame  -> embedding \ symmetric contrastive loss as CLIP's; negatives are the other samples
//   caption    -> embedding / of the same process
// State "extractor"; exports TorchScript files to extractors/ of the model directory:
//   video.pt       [B, 3, T, H, W] in 0 to 1 -> features [B, 64]; with return_features = False the
//                  probabilities of shape and colour [B, 24]
//   image.pt       [N, 3, H, W] in 0 to 1 -> embedding [N, 32]
//   text.pt        ids of the model's tokenizer [N, L], padding 0 -> embedding [N, 32]
//   perceptual.pt  [N, 3, H, W] in -1 to 1 -> activations of four layers, for LPIPS-style distances
std::unique_ptr<Task> MakeExtractorTask(const model::ModelConfig& config,
                                        const std::string& model_directory,
                                        std::shared_ptr<const ClipSource> source,
                                        const ExtractorOptions& options, uint64_t seed,
                                        at::Device device);

}  // namespace kandinsky::training

#endif  // KANDINSKY_TRAINING_TRAINERS_EXTRACTOR_TASK_H_
