// Trainers of the MoVQ-GAN image autoencoder, and of the temporal layers of its video decoder.
#ifndef KANDINSKY_TRAINING_TRAINERS_MOVQ_TASK_H_
#define KANDINSKY_TRAINING_TRAINERS_MOVQ_TASK_H_

#include <cstdint>
#include <memory>
#include <string>

#include "training/core/task.h"
#include "training/data/clip_source.h"
#include "worker/model/model_config.h"

namespace kandinsky::training {

// loss = |y - x| + squared_weight (y - x)^2 + range_weight relu(|z| - 1)^2
//        [+ gradient_weight (|dy - dx| over rows + over columns)] [+ commitment and codebook]
//        [+ perceptual] [+ adversarial] [+ anchor_weight h (z - z0)^2], means over all elements,
//        where d are differences of neighbours (Mathieu et al. 2016, exponent 1), z0 the latents of
//        the anchor, h 1 for clips that it holds and 0 for others, and
// z = Encode(x) and y = Decode(z + latent_noise * n), or Decode of the nearest codebook vectors.
struct MovqTaskOptions {
  int64_t height = 64, width = 64;
  // The first steps see crops of this side around the shape, which teach edges sooner; 0: none.
  int64_t crop = 32;
  double crop_part = 0.6;  // part of all steps

  double squared_weight = 2;
  double gradient_weight = 0;  // sharpens edges
  double latent_noise = 0.1;   // makes the decoder forgive what diffusion gets wrong
  // Keeps latents within about [-1, 1], so that dynamic thresholding does not cut them.
  double range_weight = 5;

  int64_t codebook_size = 0;  // vectors of the quantiser (vector_quantizer.h); 0: no quantisation
  double commitment = 0.25;
  // TorchScript file (perceptual.h), such as VGG's or extractors/perceptual.pt: the perceptual loss
  // is the mean squared difference of its activations, summed over layers; empty: none.
  std::string perceptual_extractor;
  double perceptual_weight = 1;
  double adversarial_weight = 0;   // of a patch discriminator with hinge loss; 0: none
  double adversarial_start = 0.5;  // part of all steps after which it takes part
  // Model directory whose `weights.movq` training starts from; empty: random weights.
  std::string from;
  // Model directory of an autoencoder whose latents of clips with one of the eight colours in their
  // captions stay what they are, so that networks that were trained on them remain of use while the
  // encoder learns more; empty: none. For the moving shapes only.
  std::string anchor;
  double anchor_weight = 5;
  // Train the decoder only, so that latents and what was trained on them stay as they are. Needs
  // `from`; not together with a codebook.
  bool freeze_encoder = false;
};

// State "movq"; exports the file of `weights.movq`.
std::unique_ptr<Task> MakeMovqTask(const model::ModelConfig& config,
                                   std::shared_ptr<const ClipSource> source,
                                   const MovqTaskOptions& options, uint64_t seed,
                                   at::Device device);

struct DecoderTaskOptions {
  int64_t height = 64, width = 64;
  int64_t frames = 8;  // of a clip
  double spacing = 1;  // frames of 30 a second
  double squared_weight = 2;
  double latent_noise = 0.1;
  bool temporal_only = false;  // the spatial layers of the decoder stay as they are
};

// Starts from the image autoencoder of `model_directory`, whose encoder stays frozen; added layers
// start as the identity. State "decoder"; exports the file of `weights.video_movq`. The config must
// have a video_movq.
std::unique_ptr<Task> MakeDecoderTask(const model::ModelConfig& config,
                                      const std::string& model_directory,
                                      std::shared_ptr<const ClipSource> source,
                                      const DecoderTaskOptions& options, uint64_t seed,
                                      at::Device device);

}  // namespace kandinsky::training

#endif  // KANDINSKY_TRAINING_TRAINERS_MOVQ_TASK_H_
