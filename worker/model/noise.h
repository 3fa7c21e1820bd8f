// Noise for the denoising loops, independent of device, machine and process.
#ifndef KANDINSKY_WORKER_MODEL_NOISE_H_
#define KANDINSKY_WORKER_MODEL_NOISE_H_

#include <ATen/ATen.h>

#include <cstdint>

namespace kandinsky::model {

enum class NoiseStage : uint32_t { kKeyframes = 0, kInterpolation = 1 };

// Where in a generation a noise tensor belongs. step -1 is x_T, the tensor that a loop starts from;
// steps 0.. count iterations in the order in which the loop runs them (0 is the highest timestep).
struct NoiseKey {
  NoiseStage stage = NoiseStage::kKeyframes;
  int pass = 0;
  int64_t step = -1;
};

class NoiseSource {
 public:
  virtual ~NoiseSource() = default;

  // Standard normal float32 tensor of `shape` on the CPU. Const and thread-safe: equal keys and
  // shapes give equal bits.
  virtual at::Tensor Draw(const NoiseKey& key, at::IntArrayRef shape) const = 0;
};

// A counter-based generator (the key and the seed choose the stream), so that any draw can be made
// without the ones before it.
class SeededNoise : public NoiseSource {
 public:
  explicit SeededNoise(uint64_t seed) : seed_(seed) {}
  at::Tensor Draw(const NoiseKey& key, at::IntArrayRef shape) const override;

 private:
  const uint64_t seed_;
};

}  // namespace kandinsky::model

#endif  // KANDINSKY_WORKER_MODEL_NOISE_H_
