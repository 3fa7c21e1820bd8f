// A bounded number of threads for calls that block (the stores), so that gRPC's own threads never
// do.
//
// Two lanes: unary calls, with a client that waits for one answer, go first; stream work (catching
// up, reading chunks) may use all threads but kReservedThreads. The queue needs no lock-step with
// the stores: work that waited longer than its patience is told so instead of being run.
#ifndef KANDINSKY_SERVICES_FRONTEND_WORK_POOL_H_
#define KANDINSKY_SERVICES_FRONTEND_WORK_POOL_H_

#include <deque>
#include <functional>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/time/time.h"
#include "services/frontend/mutex.h"

namespace kandinsky {

// Thread-safe.
class WorkPool {
 public:
  struct Options {
    int threads = 16;            // at least 2
    size_t max_waiting = 10000;  // unary work; further work is refused
    // A unary call that waited longer is refused: its client is better off trying elsewhere.
    absl::Duration patience = absl::Seconds(5);
  };
  enum class Verdict { kRun, kWaitedTooLong, kStopped };
  using UnaryWork = std::function<void(Verdict)>;

  explicit WorkPool(const Options& options);
  // Stop()s.
  ~WorkPool();
  WorkPool(const WorkPool&) = delete;
  WorkPool& operator=(const WorkPool&) = delete;

  // Calls `work` exactly once, from a thread of the pool, unless it returns false (too much waits,
  // or stopped).
  bool SubmitUnary(UnaryWork work);

  // Runs `work`; dropped without a call when the pool is stopped. Each stream has at most one piece
  // of work here, so the number of streams bounds the queue.
  void SubmitStream(std::function<void()> work);

  // Waits for what runs; unary work that still waits is called with kStopped. Idempotent.
  void Stop();

 private:
  static constexpr int kReservedThreads = 2;

  struct Waiting {
    UnaryWork work;
    absl::Time since;
  };

  void Run();
  bool StreamMayRun() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool SomethingToDo() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const Options options_;
  const int max_stream_threads_;

  Mutex mutex_;
  CondVar changed_;
  bool stopped_ ABSL_GUARDED_BY(mutex_) = false;
  int busy_with_streams_ ABSL_GUARDED_BY(mutex_) = 0;
  std::deque<Waiting> unary_ ABSL_GUARDED_BY(mutex_);
  std::deque<std::function<void()>> stream_ ABSL_GUARDED_BY(mutex_);

  Mutex stop_mutex_;  // held while joining
  std::vector<std::thread> threads_ ABSL_GUARDED_BY(stop_mutex_);
};

}  // namespace kandinsky

#endif  // KANDINSKY_SERVICES_FRONTEND_WORK_POOL_H_
