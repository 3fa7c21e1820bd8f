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

  // Standard normal float32 tensor of `shape` on `device`. Const and thread-safe: equal keys and
  // shapes give equal bits on one type of device.
  at::Tensor Draw(const NoiseKey& key, at::IntArrayRef shape, at::Device device = at::kCPU) const {
    return DrawOn(key, shape, device);
  }

 private:
  virtual at::Tensor DrawOn(const NoiseKey& key, at::IntArrayRef shape,
                            at::Device device) const = 0;
};

// A counter-based generator (the key and the seed choose the stream), so that any draw can be made
// without the ones before it. On a device it is computed there, without a copy, from the same
// random bits: an element differs from the CPU's by the last bit of float32 at most, and only where
// the logarithm, sine or cosine of the device's float64 has another last bit. About a hundred small
// operations, and 20 bytes an element of temporary memory.
class SeededNoise : public NoiseSource {
 public:
  explicit SeededNoise(uint64_t seed) : seed_(seed) {}

 private:
  at::Tensor DrawOn(const NoiseKey& key, at::IntArrayRef shape, at::Device device) const override;

  const uint64_t seed_;
};

}  // namespace kandinsky::model

#endif  // KANDINSKY_WORKER_MODEL_NOISE_H_
