// Step rules: from x_t and the network's prediction to the next x.
#ifndef KANDINSKY_WORKER_MODEL_SAMPLER_H_
#define KANDINSKY_WORKER_MODEL_SAMPLER_H_

#include <ATen/ATen.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "worker/model/diffusion.h"

namespace kandinsky::model {

enum class SamplerType {
  kDdpm,        // ancestral; the published one
  kDdim,        // eta 0: deterministic, eta 1: ancestral
  kDpmSolver2M  // DPM-Solver++(2M): second order, deterministic, keeps the previous x_0
};

std::string_view SamplerName(SamplerType type);       // "ddpm" | "ddim" | "dpm++"
SamplerType ParseSamplerType(std::string_view name);  // throws ModelError::kInvalidArgument

struct SamplerConfig {
  SamplerType type = SamplerType::kDdpm;
  ScheduleType schedule = ScheduleType::kCosine;
  int64_t steps = 50;
  // T of the noise schedule. 0: as many as steps, which is how the published model samples. Larger:
  // the loop visits `steps` evenly spaced timesteps of it, the last of all (T-1) first.
  int64_t schedule_steps = 0;
  PredictionType prediction = PredictionType::kEpsilon;
  // Dynamic thresholding, ProcessX0 (diffusion.h). No percentile: clip to the floor.
  std::optional<double> percentile = 0.98;
  double threshold_floor = 1;
  double eta = 0;  // DDIM only, 0..1
};

// What a loop carries from step to step, and all that a resumed loop needs. float32.
struct LoopState {
  int64_t next_step = 0;   // 0..steps; finished when equal to steps
  at::Tensor x;            // [B, C, H, W] x_t of step next_step
  at::Tensor previous_x0;  // [B, C, H, W] x_0 of the step before; undefined at step 0 and if the
                           // rule needs none
};

// Immutable and thread-safe.
class Sampler {
 public:
  explicit Sampler(const SamplerConfig& config);

  int64_t steps() const { return config_.steps; }
  const SamplerConfig& config() const { return config_; }
  const NoiseSchedule& schedule() const { return schedule_; }

  // Timestep of step k (k = 0 is the noisiest), and the value that the network gets for it.
  int64_t timestep(int64_t k) const { return timesteps_.at(static_cast<size_t>(k)); }
  int64_t network_time(int64_t k) const { return timestep(k) * schedule_.time_scale(); }

  // True if Advance wants noise in step k. DDPM draws in every step, the last one too, as the
  // published loop does.
  bool NeedsNoise(int64_t k) const;

  // One step: `prediction` [B, C, H, W] is the network's answer for state.x at
  // network_time(state.next_step), `noise` of the same shape may be undefined where NeedsNoise is
  // false.
  void Advance(LoopState& state, const at::Tensor& prediction, const at::Tensor& noise) const;

 private:
  at::Tensor StepDdpm(const at::Tensor& x, const at::Tensor& x0, int64_t k,
                      const at::Tensor& noise) const;
  at::Tensor StepDdim(const at::Tensor& x, const at::Tensor& x0, int64_t k,
                      const at::Tensor& noise) const;
  at::Tensor StepDpmSolver2M(const LoopState& state, const at::Tensor& x0) const;
  // Timestep after step k; -1 after the last.
  int64_t next_timestep(int64_t k) const { return k + 1 < steps() ? timestep(k + 1) : -1; }

  const SamplerConfig config_;
  const NoiseSchedule schedule_;
  const std::vector<int64_t> timesteps_;  // descending
};

}  // namespace kandinsky::model

#endif  // KANDINSKY_WORKER_MODEL_SAMPLER_H_
