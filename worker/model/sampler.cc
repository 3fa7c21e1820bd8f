#include "worker/model/sampler.h"

#include <cmath>
#include <string>
#include <utility>

#include "worker/model/error.h"

namespace kandinsky::model {
namespace {

[[noreturn]] void Refuse(const std::string& message) {
  throw ModelError(ModelError::Kind::kInvalidArgument, message);
}

constexpr std::pair<std::string_view, SamplerType> kSamplers[] = {
    {"ddpm", SamplerType::kDdpm},
    {"ddim", SamplerType::kDdim},
    {"dpm++", SamplerType::kDpmSolver2M},
};

const SamplerConfig& Checked(const SamplerConfig& config) {
  if (config.steps < 1) Refuse("steps is " + std::to_string(config.steps) + ", must be at least 1");
  if (config.schedule_steps != 0 && config.schedule_steps < config.steps) {
    Refuse("schedule_steps is " + std::to_string(config.schedule_steps) +
           ", must be 0 or at least steps (" + std::to_string(config.steps) + ")");
  }
  if (!(config.eta >= 0 && config.eta <= 1)) {
    Refuse("eta is " + std::to_string(config.eta) + ", must be 0..1");
  }
  CheckThresholding(config.percentile, config.threshold_floor);
  return config;
}

int64_t ScheduleSteps(const SamplerConfig& config) {
  return config.schedule_steps == 0 ? config.steps : config.schedule_steps;
}

// Step k ends its share of the schedule: T-1 for k = 0, and all timesteps if steps = T.
std::vector<int64_t> Timesteps(const SamplerConfig& config) {
  std::vector<int64_t> timesteps;
  for (int64_t k = 0; k < config.steps; ++k) {
    timesteps.push_back((config.steps - k) * ScheduleSteps(config) / config.steps - 1);
  }
  return timesteps;
}

// With x_0 fixed (thresholding moves it), the noise that x holds beside it.
at::Tensor NoiseFrom(const at::Tensor& x, const at::Tensor& x0, double alpha_bar) {
  return (x - x0 * std::sqrt(alpha_bar)) / std::sqrt(1 - alpha_bar);
}

// Half the log signal-to-noise ratio.
double Lambda(double alpha_bar) { return 0.5 * (std::log(alpha_bar) - std::log1p(-alpha_bar)); }

}  // namespace

std::string_view SamplerName(SamplerType type) {
  for (const auto& [name, value] : kSamplers) {
    if (value == type) return name;
  }
  return "unknown";
}

SamplerType ParseSamplerType(std::string_view name) {
  for (const auto& [candidate, value] : kSamplers) {
    if (candidate == name) return value;
  }
  Refuse("sampler is \"" + std::string(name) + "\", must be ddpm, ddim or dpm++");
}

Sampler::Sampler(const SamplerConfig& config)
    : config_(Checked(config)),
      schedule_(config_.schedule, ScheduleSteps(config_)),
      timesteps_(Timesteps(config_)) {}

bool Sampler::NeedsNoise(int64_t k) const {
  switch (config_.type) {
    case SamplerType::kDdpm:
      return true;
    case SamplerType::kDdim:
      return config_.eta > 0 && next_timestep(k) >= 0;
    case SamplerType::kDpmSolver2M:
      return false;
  }
  return false;
}

void Sampler::Advance(LoopState& state, const at::Tensor& prediction,
                      const at::Tensor& noise) const {
  const int64_t k = state.next_step;
  if (k < 0 || k >= steps()) {
    Refuse("next_step is " + std::to_string(k) + ", must be 0.." + std::to_string(steps() - 1));
  }
  const at::Tensor x0 =
      ProcessX0(PredictX0(schedule_, config_.prediction, state.x, prediction, timestep(k)),
                config_.percentile, config_.threshold_floor);
  switch (config_.type) {
    case SamplerType::kDdpm:
      state.x = StepDdpm(state.x, x0, k, noise);
      break;
    case SamplerType::kDdim:
      state.x = StepDdim(state.x, x0, k, noise);
      break;
    case SamplerType::kDpmSolver2M:
      state.x = StepDpmSolver2M(state, x0);
      state.previous_x0 = x0;
      break;
  }
  state.next_step = k + 1;
}

at::Tensor Sampler::StepDdpm(const at::Tensor& x, const at::Tensor& x0, int64_t k,
                             const at::Tensor& noise) const {
  const int64_t t = timestep(k), next = next_timestep(k);
  double x0_gain, x_gain, sigma;
  if (next == t - 1) {
    x0_gain = schedule_.posterior_mean_coef_1.const_data_ptr<float>()[t];
    x_gain = schedule_.posterior_mean_coef_2.const_data_ptr<float>()[t];
    sigma = std::exp(0.5f * schedule_.posterior_log_variance.const_data_ptr<float>()[t]);
  } else {
    // The posterior of a schedule that has only the visited timesteps.
    const double now = schedule_.alpha_bar(t), then = schedule_.alpha_bar(next);
    const double beta = 1 - now / then;
    x0_gain = std::sqrt(then) * beta / (1 - now);
    x_gain = std::sqrt(now / then) * (1 - then) / (1 - now);
    sigma = std::sqrt(beta * (1 - then) / (1 - now));
  }
  const at::Tensor mean = x0 * x0_gain + x * x_gain;
  return next < 0 ? mean : mean + noise * sigma;
}

at::Tensor Sampler::StepDdim(const at::Tensor& x, const at::Tensor& x0, int64_t k,
                             const at::Tensor& noise) const {
  const int64_t t = timestep(k), next = next_timestep(k);
  if (next < 0) return x0;
  const double now = schedule_.alpha_bar(t), then = schedule_.alpha_bar(next);
  const double sigma = config_.eta * std::sqrt((1 - then) / (1 - now)) * std::sqrt(1 - now / then);
  const at::Tensor mean =
      x0 * std::sqrt(then) +
      NoiseFrom(x, x0, now) * std::sqrt(std::max(1 - then - sigma * sigma, 0.0));
  return config_.eta > 0 ? mean + noise * sigma : mean;
}

at::Tensor Sampler::StepDpmSolver2M(const LoopState& state, const at::Tensor& x0) const {
  const int64_t k = state.next_step;
  const int64_t next = next_timestep(k);
  if (next < 0) return x0;  // sigma is 0 there
  const double now = schedule_.alpha_bar(timestep(k)), then = schedule_.alpha_bar(next);
  const double h = Lambda(then) - Lambda(now);
  at::Tensor direction = x0;
  if (k > 0) {
    if (!state.previous_x0.defined()) {
      Refuse("previous_x0 is undefined, must be saved along with x for the sampler dpm++");
    }
    const double last = Lambda(now) - Lambda(schedule_.alpha_bar(timestep(k - 1)));
    const double weight = h / (2 * last);  // 1 / (2r)
    direction = x0 * (1 + weight) - state.previous_x0 * weight;
  }
  return state.x * (std::sqrt(1 - then) / std::sqrt(1 - now)) -
         direction * (std::sqrt(then) * std::expm1(-h));
}

}  // namespace kandinsky::model
