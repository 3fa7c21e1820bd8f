// Tells the worker registry that this worker lives and in which state, and does its share of the
// queue's housekeeping.
#ifndef KANDINSKY_WORKER_RUNTIME_HEARTBEAT_H_
#define KANDINSKY_WORKER_RUNTIME_HEARTBEAT_H_

#include <condition_variable>
#include <mutex>
#include <string>
#include <thread>

#include "absl/time/time.h"
#include "common/base/clock.h"
#include "common/latent/latent_store.h"
#include "common/queue/task_queue.h"

namespace kandinsky {

class Heartbeat {
 public:
  struct Options {
    absl::Duration interval = absl::Seconds(5);
    absl::Duration maintenance_interval = absl::Seconds(1);
  };

  // `info`: all but state and time. All pointers must outlive it; `latents` is swept now and then.
  Heartbeat(TaskQueue* queue, LatentStore* latents, const Clock* wall, TaskQueue::WorkerInfo info,
            const Options& options);
  // Stops.
  ~Heartbeat();
  Heartbeat(const Heartbeat&) = delete;
  Heartbeat& operator=(const Heartbeat&) = delete;

  void Start();
  void Stop();

  // Thread-safe; does not block. Sent at once.
  void SetState(std::string state, std::vector<std::string> models);

 private:
  void Loop();

  TaskQueue* const queue_;
  LatentStore* const latents_;
  const Clock* const wall_;
  const Options options_;
  std::thread thread_;

  std::mutex mutex_;
  std::condition_variable changed_;
  TaskQueue::WorkerInfo info_;  // guarded by mutex_
  bool news_ = true;            // guarded by mutex_
  bool stopping_ = false;       // guarded by mutex_
};

}  // namespace kandinsky

#endif  // KANDINSKY_WORKER_RUNTIME_HEARTBEAT_H_
