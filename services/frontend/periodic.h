// A thread that does one thing again and again.
#ifndef KANDINSKY_SERVICES_FRONTEND_PERIODIC_H_
#define KANDINSKY_SERVICES_FRONTEND_PERIODIC_H_

#include <chrono>
#include <functional>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/time/time.h"
#include "services/frontend/mutex.h"

namespace kandinsky {

// Start and Stop from one thread.
class Periodic {
 public:
  // Calls `run` at once and then `period` after it last returned.
  Periodic(absl::Duration period, std::function<void()> run)
      : period_(period), run_(std::move(run)) {}
  ~Periodic() { Stop(); }
  Periodic(const Periodic&) = delete;
  Periodic& operator=(const Periodic&) = delete;

  void Start() {
    thread_ = std::thread([this] {
      do {
        run_();
      } while (!WaitForStop());
    });
  }

  // Waits for the call under way. Idempotent.
  void Stop() {
    {
      MutexLock lock(&mutex_);
      stopped_ = true;
      changed_.NotifyAll();
    }
    if (thread_.joinable()) thread_.join();
  }

 private:
  bool WaitForStop() {
    // By a clock that nobody sets back.
    using Clock = std::chrono::steady_clock;
    const Clock::time_point end = Clock::now() + absl::ToChronoNanoseconds(period_);
    MutexLock lock(&mutex_);
    while (!stopped_ && Clock::now() < end) {
      changed_.WaitFor(&mutex_, absl::FromChrono(end - Clock::now()));
    }
    return stopped_;
  }

  const absl::Duration period_;
  const std::function<void()> run_;
  std::thread thread_;

  Mutex mutex_;
  CondVar changed_;
  bool stopped_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace kandinsky

#endif  // KANDINSKY_SERVICES_FRONTEND_PERIODIC_H_
