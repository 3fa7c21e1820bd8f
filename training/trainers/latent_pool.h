// Clips that went through the encoder once, because a step of diffusion training costs less than
// encoding its frames.
#ifndef KANDINSKY_TRAINING_TRAINERS_LATENT_POOL_H_
#define KANDINSKY_TRAINING_TRAINERS_LATENT_POOL_H_

#include <ATen/ATen.h>

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "training/data/clip_source.h"
#include "worker/model/movq.h"

namespace kandinsky::training {

// Immutable; read by any number of threads.
class LatentPool {
 public:
  // Encodes clips 0 … clips - 1 of the source, clip after clip, with `threads` clips at a time, or
  // reads them from `cache_file` if it was written for the same source, request and encoder; writes
  // it otherwise. Clip i has the spacing number i modulo their count instead of the request's.
  // float16 in memory and on disk.
  LatentPool(const model::Movq& encoder, const ClipSource& source, const ClipRequest& request,
             std::vector<double> spacings, int64_t clips, const std::string& cache_file,
             int threads);

  int64_t clips() const { return latents_.size(0); }
  at::Tensor Latents(int64_t clip) const { return latents_[clip].to(at::kFloat); }  // [T, z, h, w]
  const std::string& Caption(int64_t clip) const { return captions_[static_cast<size_t>(clip)]; }
  double Spacing(int64_t clip) const {
    return spacings_[static_cast<size_t>(clip) % spacings_.size()];
  }
  // As in Clip.
  const std::array<int64_t, 4>& Attributes(int64_t clip) const {
    return attributes_[static_cast<size_t>(clip)];
  }

 private:
  const std::vector<double> spacings_;
  at::Tensor latents_;  // float16 [clips, T, z, h, w]
  std::vector<std::string> captions_;
  std::vector<std::array<int64_t, 4>> attributes_;
};

}  // namespace kandinsky::training

#endif  // KANDINSKY_TRAINING_TRAINERS_LATENT_POOL_H_
