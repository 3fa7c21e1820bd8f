// The metrics of a worker process; see the README's table for what they mean.
#ifndef KANDINSKY_WORKER_RUNTIME_WORKER_METRICS_H_
#define KANDINSKY_WORKER_RUNTIME_WORKER_METRICS_H_

#include <cstdint>
#include <string>
#include <string_view>

#include "common/metrics/metrics.h"
#include "common/queue/job.h"

namespace kandinsky {

// How a claimed task ended for this worker.
enum class TaskOutcome {
  kCompleted,
  kFailedTransient,
  kFailedPermanent,
  kOutOfMemory,
  kReleased,
  kSentBack,
  kCancelled,
  kExpired,
  kLeaseLost,
};
std::string_view Name(TaskOutcome outcome);  // "completed", "failed_transient", …

// Thread-safe.
class WorkerMetrics {
 public:
  // `metrics` must outlive it.
  WorkerMetrics(Metrics& metrics, Stage stage);

  void TaskEnded(TaskOutcome outcome, absl::Duration duration);
  void QueueWait(Priority priority, absl::Duration wait);
  void Step(absl::Duration duration) { step_.Observe(absl::ToDoubleSeconds(duration)); }
  void ModelLoaded(absl::Duration duration) { load_.Observe(absl::ToDoubleSeconds(duration)); }
  void LatentsReceived(uint64_t bytes, double seconds);
  void LatentsSent(uint64_t bytes, double seconds);
  void LeaseReclaimed() { reclaimed_.Increment(); }
  void StoreUnreachable() { unreachable_.Increment(); }
  void CheckpointSaved(uint64_t bytes);
  // Exactly one of "loading", "ready", "draining", "failed" is 1.
  void SetState(std::string_view state);

 private:
  const std::string stage_;
  prometheus::Family<prometheus::Histogram>& duration_;
  prometheus::Family<prometheus::Histogram>& wait_;
  prometheus::Family<prometheus::Counter>& tasks_;
  prometheus::Family<prometheus::Gauge>& ready_;
  prometheus::Histogram& step_;
  prometheus::Histogram& load_;
  prometheus::Counter& lost_;
  prometheus::Counter& reclaimed_;
  prometheus::Counter& unreachable_;
  prometheus::Counter& checkpoints_;
  prometheus::Counter& checkpoint_bytes_;
  prometheus::Family<prometheus::Counter>& latent_bytes_;
  prometheus::Family<prometheus::Histogram>& latent_seconds_;
};

}  // namespace kandinsky

#endif  // KANDINSKY_WORKER_RUNTIME_WORKER_METRICS_H_
