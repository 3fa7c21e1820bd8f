// Saves checkpoints in the background, so that the stage computes on while a blob travels to the
// store.
#ifndef KANDINSKY_WORKER_RUNTIME_CHECKPOINT_WRITER_H_
#define KANDINSKY_WORKER_RUNTIME_CHECKPOINT_WRITER_H_

#include <condition_variable>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#include "absl/time/time.h"
#include "common/queue/task_queue.h"
#include "worker/runtime/worker_metrics.h"

namespace kandinsky {

class CheckpointWriter {
 public:
  // `give_up` true: stop trying to reach the store; asked from any thread. `queue` and `metrics`
  // must outlive it.
  CheckpointWriter(TaskQueue* queue, const Lease& lease, WorkerMetrics* metrics,
                   std::function<bool()> give_up);
  // Stops.
  ~CheckpointWriter();
  CheckpointWriter(const CheckpointWriter&) = delete;
  CheckpointWriter& operator=(const CheckpointWriter&) = delete;

  void Start();
  // Saves what was posted last, unless give_up, and ends the thread. Idempotent.
  void Stop();

  // Thread-safe. Never blocks; a blob that still waits is replaced.
  void Post(std::string blob);
  // Thread-safe. A blob is being saved or waits.
  bool busy() const;

 private:
  void Loop();

  TaskQueue* const queue_;
  const Lease lease_;
  WorkerMetrics* const metrics_;
  const std::function<bool()> give_up_;
  std::thread thread_;

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  bool stopping_ = false;            // guarded by mutex_
  bool saving_ = false;              // guarded by mutex_
  std::optional<std::string> next_;  // guarded by mutex_
};

}  // namespace kandinsky

#endif  // KANDINSKY_WORKER_RUNTIME_CHECKPOINT_WRITER_H_
