// The forward process and what is derived from it: schedules, x_0 from a prediction, the posterior.
// B batch items: one frame (keyframes) or one group of 12 channels (interpolation) each.
#ifndef KANDINSKY_WORKER_MODEL_DIFFUSION_H_
#define KANDINSKY_WORKER_MODEL_DIFFUSION_H_

#include <ATen/ATen.h>

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace kandinsky::model {

enum class ScheduleType { kCosine, kLinear };
enum class PredictionType { kEpsilon, kV };

ScheduleType ParseScheduleType(std::string_view name);      // "cosine" | "linear"
PredictionType ParsePredictionType(std::string_view name);  // "epsilon" | "v"

// A noise schedule over timesteps 0..T-1. Immutable. The betas are computed in double and rounded
// to float32, as the published model has them; everything else follows from the rounded betas.
class NoiseSchedule {
 public:
  // T >= 2. A schedule with a beta above 1 (linear with T <= 20) is ModelError::kInvalidArgument.
  NoiseSchedule(ScheduleType type, int64_t steps);

  int64_t steps() const { return steps_; }
  // Timestep t reaches the network as t * time_scale: 1000 / T, rounded down, at least 1.
  int64_t time_scale() const { return steps_ >= 1000 ? 1 : 1000 / steps_; }

  // float32 [T] on the CPU. alphas_cumprod is alpha_bar.
  at::Tensor betas, alphas_cumprod, alphas_cumprod_prev, sqrt_alphas_cumprod,
      sqrt_one_minus_alphas_cumprod;
  at::Tensor posterior_variance, posterior_log_variance, posterior_mean_coef_1,
      posterior_mean_coef_2;

  // alpha_bar of timestep t as float32 holds it, for coefficients computed in double; 1 for t = -1.
  double alpha_bar(int64_t t) const;

  // Every tensor above under its name.
  std::map<std::string, at::Tensor> Tensors() const;

 private:
  const int64_t steps_;
};

// x_t = sqrt(alpha_bar) x_0 + sqrt(1 - alpha_bar) noise. x_start, noise [B, ...], t int64 [B].
at::Tensor QSample(const NoiseSchedule& schedule, const at::Tensor& x_start, const at::Tensor& t,
                   const at::Tensor& noise);

// The network's answer -> x_0. x, prediction [B, ...]; one timestep for all. float32 out.
at::Tensor PredictX0(const NoiseSchedule& schedule, PredictionType type, const at::Tensor& x,
                     const at::Tensor& prediction, int64_t t);

inline constexpr double kThresholdFloorMin = 0.01, kThresholdFloorMax = 100;

// Dynamic thresholding (Imagen, section 2.3): per batch item q = max(floor, quantile of |x_0|),
// x_0 = clip(x_0, -q, q) * floor / q. So [-floor, floor] holds the result, and an item whose
// quantile is below the floor is only clipped. Without a percentile: clip to [-floor, floor].
// x_start [B, ...]. The published model's floor is 1.
at::Tensor ProcessX0(const at::Tensor& x_start, std::optional<double> percentile, double floor = 1);

// What ProcessX0 takes: percentile 0..1, floor kThresholdFloorMin..kThresholdFloorMax. Throws
// ModelError::kInvalidArgument.
void CheckThresholding(std::optional<double> percentile, double floor);

struct Posterior {
  at::Tensor mean;          // [B, ...]
  at::Tensor variance;      // [B, 1, ..., 1]
  at::Tensor log_variance;  // [B, 1, ..., 1]
};

// q(x_{t-1} | x_t, x_0). x_start, x_t [B, ...], t int64 [B].
Posterior QPosterior(const NoiseSchedule& schedule, const at::Tensor& x_start,
                     const at::Tensor& x_t, const at::Tensor& t);

// Targets for training. v = sqrt(alpha_bar) noise - sqrt(1 - alpha_bar) x_0.
at::Tensor VTarget(const NoiseSchedule& schedule, const at::Tensor& x_start, const at::Tensor& t,
                   const at::Tensor& noise);

}  // namespace kandinsky::model

#endif  // KANDINSKY_WORKER_MODEL_DIFFUSION_H_
