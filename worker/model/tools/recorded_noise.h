// Noise that was drawn elsewhere, for repeating a recorded sampling run.
#ifndef KANDINSKY_WORKER_MODEL_TOOLS_RECORDED_NOISE_H_
#define KANDINSKY_WORKER_MODEL_TOOLS_RECORDED_NOISE_H_

#include <map>
#include <string>
#include <utility>

#include "worker/model/checkpoint/tensor_source.h"
#include "worker/model/error.h"
#include "worker/model/noise.h"

namespace kandinsky::model {

// One recording for each (stage, pass). Thread-safe once filled.
class RecordedNoise : public NoiseSource {
 public:
  // initial [N, C, h, w] is x_T; steps [S, N, C, h, w] holds the draw of each loop iteration.
  void Add(NoiseStage stage, int pass, at::Tensor initial, at::Tensor steps) {
    recordings_[{stage, pass}] = {std::move(initial), std::move(steps)};
  }

 private:
  // Throws ModelError::kDataLoss when nothing of this shape was recorded for the key.
  at::Tensor DrawOn(const NoiseKey& key, at::IntArrayRef shape, at::Device device) const override {
    at::Tensor noise;
    if (const auto found = recordings_.find({key.stage, key.pass}); found != recordings_.end()) {
      const Recording& recording = found->second;
      if (key.step < 0) {
        noise = recording.initial;
      } else if (recording.steps.dim() > 0 && key.step < recording.steps.size(0)) {
        noise = recording.steps.select(0, key.step);
      }
    }
    if (!noise.defined() || noise.sizes() != shape) {
      throw ModelError(
          ModelError::Kind::kDataLoss,
          "no recorded noise of shape " + ShapeToString(shape) + " for stage " +
              std::to_string(static_cast<uint32_t>(key.stage)) + ", pass " +
              std::to_string(key.pass) + ", step " + std::to_string(key.step) +
              (noise.defined() ? "; recorded shape " + ShapeToString(noise.sizes()) : ""));
    }
    return noise.to(device, at::kFloat, /*non_blocking=*/false, /*copy=*/true);
  }

  struct Recording {
    at::Tensor initial;
    at::Tensor steps;
  };
  std::map<std::pair<NoiseStage, int>, Recording> recordings_;
};

}  // namespace kandinsky::model

#endif  // KANDINSKY_WORKER_MODEL_TOOLS_RECORDED_NOISE_H_
