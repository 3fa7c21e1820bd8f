#include "training/core/options.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numbers>

#include "worker/model/error.h"

namespace kandinsky::training {

using model::ModelError;

Optimizer ParseOptimizer(std::string_view name) {
  for (const Optimizer optimizer : {Optimizer::kAdamW, Optimizer::kMuon}) {
    if (OptimizerName(optimizer) == name) return optimizer;
  }
  throw ModelError(ModelError::Kind::kInvalidArgument,
                   "--optimizer is \"" + std::string(name) + "\", must be adamw or muon");
}

std::string_view OptimizerName(Optimizer optimizer) {
  return optimizer == Optimizer::kMuon ? "muon" : "adamw";
}

nlohmann::json TrainOptions::Fingerprint() const {
  return {{"steps", steps},
          {"batch_size", batch_size},
          {"seed", seed},
          {"optimizer", OptimizerName(optimizer)},
          {"learning_rate", learning_rate},
          {"beta1", beta1},
          {"beta2", beta2},
          {"weight_decay", weight_decay},
          {"schedule", schedule == LearningRateSchedule::kCosine ? "cosine" : "constant"},
          {"warmup_steps", warmup_steps},
          {"gradient_clip", gradient_clip},
          {"ema_decay", ema_decay}};
}

void TrainOptions::Validate(int processes) const {
  const auto require = [](bool ok, const char* option, double value, const std::string& limit) {
    if (ok) return;
    std::string text = std::to_string(value);
    while (text.find('.') != std::string::npos && (text.back() == '0' || text.back() == '.')) {
      const bool point = text.back() == '.';
      text.pop_back();
      if (point) break;
    }
    throw ModelError(ModelError::Kind::kInvalidArgument,
                     "--" + std::string(option) + " is " + text + ", must be " + limit);
  };
  const auto number = [](int64_t value) { return static_cast<double>(value); };
  require(steps >= 1 && steps <= 100'000'000, "steps", number(steps), "1 to 100000000");
  require(batch_size >= 1 && batch_size <= 1'000'000, "batch_size", number(batch_size),
          "1 to 1000000");
  require(batch_size % processes == 0, "batch_size", number(batch_size),
          "a multiple of the number of processes, " + std::to_string(processes));
  require(learning_rate > 0 && learning_rate <= 1, "learning_rate", learning_rate,
          "above 0 and at most 1");
  require(beta1 >= 0 && beta1 < 1, "beta1", beta1, "0 or more and below 1");
  require(beta2 >= 0 && beta2 < 1, "beta2", beta2, "0 or more and below 1");
  require(weight_decay >= 0 && weight_decay <= 10, "weight_decay", weight_decay, "0 to 10");
  require(warmup_steps >= 0, "warmup_steps", number(warmup_steps), "0 or more");
  require(gradient_clip >= 0, "gradient_clip", gradient_clip, "0 or more");
  require(ema_decay >= 0 && ema_decay < 1, "ema_decay", ema_decay, "0 or more and below 1");
  require(stop_at >= 0, "stop_at", number(stop_at), "0 or more");
  require(checkpoint_seconds >= 0, "checkpoint_seconds", checkpoint_seconds, "0 or more");
  require(log_every >= 1, "log_every", number(log_every), "1 or more");
  require(sample_every >= 0, "sample_every", number(sample_every), "0 or more");
  require(loader_threads >= 1 && loader_threads <= 256, "loader_threads", loader_threads,
          "1 to 256");
  if (out.empty()) {
    throw ModelError(ModelError::Kind::kInvalidArgument, "--out is needed: the model directory");
  }
}

double LearningRateFactor(const TrainOptions& options, int64_t step) {
  double factor = 1;
  if (options.warmup_steps > 0) {
    factor =
        std::min(1.0, static_cast<double>(step + 1) / static_cast<double>(options.warmup_steps));
  }
  if (options.schedule == LearningRateSchedule::kCosine) {
    constexpr double kLast = 0.01;
    const double done = static_cast<double>(step) / static_cast<double>(options.steps);
    factor *= kLast + (1 - kLast) * 0.5 * (1 + std::cos(std::numbers::pi * done));
  }
  return factor;
}

}  // namespace kandinsky::training
