// The worker's main loop: prepare, then claim a task, run it, again, until a drain begins. All of
// it on one thread: what computes has one OpenMP team.
#ifndef KANDINSKY_WORKER_RUNTIME_CLAIMER_H_
#define KANDINSKY_WORKER_RUNTIME_CLAIMER_H_

#include <functional>
#include <string>
#include <thread>

#include "absl/time/time.h"
#include "common/queue/task_queue.h"
#include "worker/runtime/drain.h"
#include "worker/runtime/task_runner.h"

namespace kandinsky {

class Claimer {
 public:
  struct Options {
    std::string worker_id;
    Stage stage = Stage::kKeyframes;
    absl::Duration max_wait = absl::Seconds(1);  // of one claim; bounds how late a drain is noticed
    // Called first on the claimer's thread (loads the models); false: nothing is ever claimed. May
    // be empty.
    std::function<bool()> prepare = {};
  };

  // All must outlive it.
  Claimer(TaskQueue* queue, TaskRunner* runner, Drain* drain, const Options& options);
  // Stops.
  ~Claimer();
  Claimer(const Claimer&) = delete;
  Claimer& operator=(const Claimer&) = delete;

  void Start();
  // Begins a drain in a hurry unless one has begun, and waits for the task at hand. Idempotent.
  void Stop();
  // Waits for the end of the loop: of a drain, or until prepare has said false.
  void Join();

 private:
  void Loop();

  TaskQueue* const queue_;
  TaskRunner* const runner_;
  Drain* const drain_;
  const Options options_;
  std::thread thread_;
};

}  // namespace kandinsky

#endif  // KANDINSKY_WORKER_RUNTIME_CLAIMER_H_
