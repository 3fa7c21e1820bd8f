// Holds one lease while its task is worked on: renews it from a thread of its own, independent of
// how fast the stage goes, publishes progress along with it and learns of cancellation.
#ifndef KANDINSKY_WORKER_RUNTIME_LEASE_KEEPER_H_
#define KANDINSKY_WORKER_RUNTIME_LEASE_KEEPER_H_

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <optional>
#include <thread>

#include "absl/time/time.h"
#include "common/base/clock.h"
#include "common/queue/task_queue.h"
#include "worker/runtime/worker_metrics.h"

namespace kandinsky {

class LeaseKeeper {
 public:
  struct Options {
    // Renewals come at this interval or at a third of the lease's duration, whichever is shorter.
    // It bounds how late cancellation is noticed.
    absl::Duration interval = absl::Milliseconds(200);
    // Progress goes with a renewal, no more often than this.
    absl::Duration progress_interval = absl::Milliseconds(500);
    // The store may be unreachable for so long before the lease counts as lost. Longer than the
    // lease on purpose: work goes on, because nobody can take the task over through a store that
    // nobody reaches; and if only this worker is cut off, it could do nothing else anyway. Fencing
    // protects whoever took over.
    absl::Duration abandon_after = absl::Minutes(5);
  };

  // Only kHeld can change.
  enum class State { kHeld, kCancelRequested, kDeadlineExceeded, kLost };

  // `queue`, `clock` (see SteadyClock) and `metrics` must outlive it.
  LeaseKeeper(TaskQueue* queue, const Lease& lease, const Clock* clock, WorkerMetrics* metrics,
              const Options& options);
  // Stops.
  ~LeaseKeeper();
  LeaseKeeper(const LeaseKeeper&) = delete;
  LeaseKeeper& operator=(const LeaseKeeper&) = delete;

  void Start();
  // Waits for a renewal that is under way. Idempotent.
  void Stop();

  // The rest is thread-safe.
  State state() const { return state_; }
  // Published with the next renewal; only the newest counts.
  void SetProgress(const StageProgress& progress);

 private:
  void Loop();

  TaskQueue* const queue_;
  const Lease lease_;
  const Clock* const clock_;
  WorkerMetrics* const metrics_;
  const absl::Duration abandon_after_;
  const absl::Duration progress_interval_;
  const absl::Duration interval_;
  std::thread thread_;
  std::atomic<State> state_{State::kHeld};

  std::mutex mutex_;
  std::condition_variable changed_;
  bool stopping_ = false;                  // guarded by mutex_
  std::optional<StageProgress> progress_;  // guarded by mutex_
};

}  // namespace kandinsky

#endif  // KANDINSKY_WORKER_RUNTIME_LEASE_KEEPER_H_
