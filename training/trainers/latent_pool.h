// Clips that went through the encoder once, because a step of diffusion training costs less than
// encoding its frames.
#ifndef KANDINSKY_TRAINING_TRAINERS_LATENT_POOL_H_
#define KANDINSKY_TRAINING_TRAINERS_LATENT_POOL_H_

#include <ATen/ATen.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "training/core/distributed.h"
#include "training/data/clip_source.h"
#include "worker/model/movq.h"

namespace kandinsky::training {

// Read by any number of threads.
class LatentPool {
 public:
  // Clips 0 … clips - 1 of the source; clip i has the spacing number i modulo their count instead
  // of the request's. float16 in memory and on disk. Each clip is encoded when it is first asked
  // for. Encoder and source must live as long as the pool.
  LatentPool(const model::Movq& encoder, const ClipSource& source, const ClipRequest& request,
             std::vector<double> spacings, int64_t clips);

  // Encodes all clips now, `threads` at a time in each process, every process its part; or reads
  // them from `cache_file` if process 0 has one of the same source, request and encoder, which it
  // writes otherwise. Collective; before any other call.
  void Fill(ProcessGroup& group, const std::string& cache_file, int threads);

  int64_t clips() const { return latents_.size(0); }
  at::Tensor Latents(int64_t clip) const {  // [T, z, h, w]
    Need(clip);
    return latents_[clip].to(at::kFloat);
  }
  double Spacing(int64_t clip) const {
    return spacings_[static_cast<size_t>(clip) % spacings_.size()];
  }
  // The source's description of this variant, or the one that it has.
  Description Describe(int64_t clip, uint64_t variant) const;

 private:
  void Need(int64_t clip) const;
  void Encode(int64_t clip) const;
  bool ReadCache(const std::string& file, const std::string& fingerprint);
  void WriteCache(const std::string& file, const std::string& fingerprint) const;
  // Clips first, first + stride, … before end.
  void EncodePart(int64_t first, int64_t end, int64_t stride, int threads) const;
  // Gives all processes clips first … end - 1; each has those for which mine(clip) is true.
  void Exchange(ProcessGroup& group, int64_t first, int64_t end,
                const std::function<bool(int64_t)>& mine);

  const model::Movq& encoder_;
  const ClipSource& source_;
  const ClipRequest request_;
  const std::vector<double> spacings_;
  std::unique_ptr<std::once_flag[]> encoded_;  // one a clip; null when all are there
  // What Encode writes, once a clip.
  mutable at::Tensor latents_;  // float16 [clips, T, z, h, w]
  mutable std::vector<Description> descriptions_;
};

}  // namespace kandinsky::training

#endif  // KANDINSKY_TRAINING_TRAINERS_LATENT_POOL_H_
