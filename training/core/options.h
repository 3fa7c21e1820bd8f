// Options of the training loop, the same for all trainers.
#ifndef KANDINSKY_TRAINING_CORE_OPTIONS_H_
#define KANDINSKY_TRAINING_CORE_OPTIONS_H_

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

namespace kandinsky::training {

enum class LearningRateSchedule { kConstant, kCosine };
// Muon: matrices and kernels move in orthogonalised directions, everything else by AdamW.
enum class Optimizer { kAdamW, kMuon };

// "adamw", "muon". Throws ModelError::kInvalidArgument.
Optimizer ParseOptimizer(std::string_view name);
std::string_view OptimizerName(Optimizer optimizer);

struct TrainOptions {
  std::string out;  // model directory; state, log and sample sheets go to <out>/training/<task>/

  int64_t steps = 1000;
  int64_t batch_size = 16;  // samples a step, of all processes together; a multiple of their number
  uint64_t seed = 0;

  Optimizer optimizer = Optimizer::kAdamW;
  double learning_rate = 1e-3;
  double beta1 = 0.9;
  double beta2 = 0.99;
  double weight_decay = 0.01;
  LearningRateSchedule schedule =
      LearningRateSchedule::kCosine;  // cosine: down to 1 % at the last step
  int64_t warmup_steps = 50;          // linear
  double gradient_clip = 1;           // largest norm of the gradient of an objective; 0: no limit
  // Decay of the moving average of the parameters; smaller at the start: (1 + n) / (10 + n) in step
  // n.
  double ema_decay = 0.999;

  // What follows changes nothing about what is learned.
  int64_t stop_at = 0;          // end after this step as if interrupted; 0: go to the end
  bool export_at_stop = false;  // write the weights at stop_at, too
  double checkpoint_seconds = 120;
  int64_t log_every = 10;
  int64_t sample_every = 500;  // sample sheets; 0: only at the end
  int loader_threads = 1;
  bool resume = true;          // false: refuse to start where a run has left its state
  std::string metrics_listen;  // host:port of /metrics; empty: none
  bool progress = true;        // a progress bar on a terminal, else a line every 10 seconds

  // The part that changes what is learned.
  nlohmann::json Fingerprint() const;
  // Throws ModelError::kInvalidArgument naming the option, its value and the limit.
  void Validate(int processes) const;
};

// The factor of the learning rate in step n.
double LearningRateFactor(const TrainOptions& options, int64_t step);

}  // namespace kandinsky::training

#endif  // KANDINSKY_TRAINING_CORE_OPTIONS_H_
