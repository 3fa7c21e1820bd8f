// What a training run tells Prometheus. Free of LibTorch.
#ifndef KANDINSKY_TRAINING_CORE_METRICS_H_
#define KANDINSKY_TRAINING_CORE_METRICS_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>

namespace kandinsky::training {

// One step, as log, progress bar and metrics show it.
struct StepReport {
  int64_t step = 0;                      // finished steps
  std::map<std::string, double> values;  // "loss" and what the task adds
  double learning_rate = 0;
  double gradient_norm = 0;  // of the first objective, before clipping
  double seconds = 0;        // wall time of the step
  double wait_seconds = 0;   // of which the training waited for data
  int64_t samples = 0;       // of all processes
};

// kandinsky_training_steps_total, _samples_total, _loss{task,kind}, _learning_rate, _gradient_norm,
// _step_seconds, _data_wait_seconds_total. Thread rule: Report from one thread.
class TrainingMetrics {
 public:
  // `listen` empty: nothing is served. Throws ModelError::kInvalidArgument when the address cannot
  // be bound.
  TrainingMetrics(const std::string& task, const std::string& listen);
  ~TrainingMetrics();

  void Report(const StepReport& report);
  // host:port in use, or empty.
  const std::string& address() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace kandinsky::training

#endif  // KANDINSKY_TRAINING_CORE_METRICS_H_
