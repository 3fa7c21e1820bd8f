#include "worker/model/diffusion.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "worker/model/error.h"

namespace kandinsky::model {
namespace {

[[noreturn]] void Refuse(const std::string& message) {
  throw ModelError(ModelError::Kind::kInvalidArgument, message);
}

std::vector<double> Betas(ScheduleType type, int64_t steps) {
  std::vector<double> betas(static_cast<size_t>(steps));
  const auto total = static_cast<double>(steps);
  const auto alpha_bar = [](double u) {
    const double root = std::cos((u + 0.008) / 1.008 * std::numbers::pi / 2);
    return root * root;
  };
  for (int64_t i = 0; i < steps; ++i) {
    const auto step = static_cast<double>(i);
    double& beta = betas[static_cast<size_t>(i)];
    if (type == ScheduleType::kCosine) {
      beta = std::min(1 - alpha_bar((step + 1) / total) / alpha_bar(step / total), 0.999);
    } else {
      beta = (0.1 + (20 - 0.1) * step / (total - 1)) / total;
    }
  }
  return betas;
}

// values [T] at t [B] -> [B, 1, ..., 1] with `dim` axes, on the device of `like`.
at::Tensor At(const at::Tensor& values, const at::Tensor& t, const at::Tensor& like) {
  std::vector<int64_t> shape(static_cast<size_t>(like.dim()), 1);
  shape[0] = t.size(0);
  const at::Device device = like.device();
  return values.to(device).index_select(0, t.to(device, at::kLong)).reshape(shape);
}

}  // namespace

ScheduleType ParseScheduleType(std::string_view name) {
  if (name == "cosine") return ScheduleType::kCosine;
  if (name == "linear") return ScheduleType::kLinear;
  Refuse("schedule is \"" + std::string(name) + "\", must be cosine or linear");
}

PredictionType ParsePredictionType(std::string_view name) {
  if (name == "epsilon") return PredictionType::kEpsilon;
  if (name == "v") return PredictionType::kV;
  Refuse("prediction is \"" + std::string(name) + "\", must be epsilon or v");
}

NoiseSchedule::NoiseSchedule(ScheduleType type, int64_t steps) : steps_(steps) {
  if (steps < 2 || steps > 1000000) {
    Refuse("steps is " + std::to_string(steps) + ", must be 2..1000000");
  }
  std::vector<double> betas64 = Betas(type, steps);
  if (*std::max_element(betas64.begin(), betas64.end()) >= 1) {
    Refuse("steps is " + std::to_string(steps) + ", must be above 20 for the linear schedule");
  }
  betas = at::tensor(betas64, at::kDouble).to(at::kFloat);

  // The products run in double over the float32 factors, and every result is rounded once.
  const at::Tensor alphas = 1 - betas;  // float32
  alphas_cumprod = alphas.to(at::kDouble).cumprod(0).to(at::kFloat);
  alphas_cumprod_prev =
      at::cat({at::ones({1}, at::kFloat), alphas_cumprod.narrow(0, 0, steps - 1)});
  sqrt_alphas_cumprod = alphas_cumprod.sqrt();
  sqrt_one_minus_alphas_cumprod = (1 - alphas_cumprod).sqrt();
  posterior_variance = betas * (1 - alphas_cumprod_prev) / (1 - alphas_cumprod);
  // The variance is 0 at t = 0; its logarithm repeats that of t = 1.
  posterior_log_variance =
      at::cat({posterior_variance.narrow(0, 1, 1), posterior_variance.narrow(0, 1, steps - 1)})
          .log();
  posterior_mean_coef_1 = alphas_cumprod_prev.sqrt() * betas / (1 - alphas_cumprod);
  posterior_mean_coef_2 = alphas.sqrt() * (1 - alphas_cumprod_prev) / (1 - alphas_cumprod);
}

double NoiseSchedule::alpha_bar(int64_t t) const {
  return t < 0 ? 1.0 : static_cast<double>(alphas_cumprod.const_data_ptr<float>()[t]);
}

std::map<std::string, at::Tensor> NoiseSchedule::Tensors() const {
  return {{"betas", betas},
          {"alphas_cumprod", alphas_cumprod},
          {"alphas_cumprod_prev", alphas_cumprod_prev},
          {"sqrt_alphas_cumprod", sqrt_alphas_cumprod},
          {"sqrt_one_minus_alphas_cumprod", sqrt_one_minus_alphas_cumprod},
          {"posterior_variance", posterior_variance},
          {"posterior_log_variance", posterior_log_variance},
          {"posterior_mean_coef_1", posterior_mean_coef_1},
          {"posterior_mean_coef_2", posterior_mean_coef_2}};
}

at::Tensor QSample(const NoiseSchedule& schedule, const at::Tensor& x_start, const at::Tensor& t,
                   const at::Tensor& noise) {
  return At(schedule.sqrt_alphas_cumprod, t, x_start) * x_start +
         At(schedule.sqrt_one_minus_alphas_cumprod, t, x_start) * noise;
}

at::Tensor VTarget(const NoiseSchedule& schedule, const at::Tensor& x_start, const at::Tensor& t,
                   const at::Tensor& noise) {
  return At(schedule.sqrt_alphas_cumprod, t, x_start) * noise -
         At(schedule.sqrt_one_minus_alphas_cumprod, t, x_start) * x_start;
}

at::Tensor PredictX0(const NoiseSchedule& schedule, PredictionType type, const at::Tensor& x,
                     const at::Tensor& prediction, int64_t t) {
  const double signal = schedule.sqrt_alphas_cumprod.const_data_ptr<float>()[t];
  const double sigma = schedule.sqrt_one_minus_alphas_cumprod.const_data_ptr<float>()[t];
  const at::Tensor predicted = prediction.to(at::kFloat);
  if (type == PredictionType::kV) return x * signal - predicted * sigma;
  return (x - predicted * sigma) / signal;
}

at::Tensor ProcessX0(const at::Tensor& x_start, std::optional<double> percentile, double floor) {
  CheckThresholding(percentile, floor);
  if (!percentile) return x_start.clamp(-floor, floor);
  // Linear interpolation between the two order statistics around percentile * (n - 1).
  const at::Tensor magnitude = std::get<0>(x_start.flatten(1).abs().sort(1));  // [B, n]
  const int64_t count = magnitude.size(1);
  const double position = *percentile * static_cast<double>(count - 1);
  const auto below = static_cast<int64_t>(position);
  const int64_t above = std::min(below + 1, count - 1);
  const at::Tensor quantile = at::lerp(magnitude.select(1, below), magnitude.select(1, above),
                                       at::Scalar(position - static_cast<double>(below)));
  std::vector<int64_t> shape(static_cast<size_t>(x_start.dim()), 1);
  shape[0] = x_start.size(0);
  const at::Tensor limit = quantile.clamp_min(floor).reshape(shape);
  return at::minimum(at::maximum(x_start, -limit), limit) / (limit / floor);
}

void CheckThresholding(std::optional<double> percentile, double floor) {
  if (percentile && !(*percentile >= 0 && *percentile <= 1)) {
    Refuse("percentile is " + std::to_string(*percentile) + ", must be 0..1");
  }
  if (!(floor >= kThresholdFloorMin && floor <= kThresholdFloorMax)) {
    Refuse("threshold_floor is " + std::to_string(floor) + ", must be 0.01..100");
  }
}

Posterior QPosterior(const NoiseSchedule& schedule, const at::Tensor& x_start,
                     const at::Tensor& x_t, const at::Tensor& t) {
  return {At(schedule.posterior_mean_coef_1, t, x_t) * x_start +
              At(schedule.posterior_mean_coef_2, t, x_t) * x_t,
          At(schedule.posterior_variance, t, x_t), At(schedule.posterior_log_variance, t, x_t)};
}

}  // namespace kandinsky::model
