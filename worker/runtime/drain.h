// How a worker leaves: asked politely once, it finishes or saves what it does within a grace
// period; asked twice, or when most of the grace period is over, it hurries.
#ifndef KANDINSKY_WORKER_RUNTIME_DRAIN_H_
#define KANDINSKY_WORKER_RUNTIME_DRAIN_H_

#include <condition_variable>
#include <mutex>

#include "absl/time/time.h"
#include "common/base/clock.h"

namespace kandinsky {

// Thread-safe.
class Drain {
 public:
  // `clock`: see SteadyClock.
  explicit Drain(const Clock* clock) : clock_(clock) {}

  // Stop claiming; finish the task at hand within `grace`. Only the first call counts.
  void Begin(absl::Duration grace) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (draining_) return;
    draining_ = true;
    end_ = clock_->Now() + grace;
    hurry_ = end_ - grace * 0.3;
    changed_.notify_all();
  }

  // Save what there is now and hand the task back.
  void Hurry() {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!draining_) end_ = clock_->Now();
    draining_ = true;
    hurry_ = absl::InfinitePast();
    changed_.notify_all();
  }

  bool draining() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return draining_;
  }
  // Time to save and stop rather than to finish. The last part of the grace period is kept for
  // that.
  bool hurrying() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return draining_ && clock_->Now() >= hurry_;
  }
  // The grace period is over.
  bool over() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return draining_ && clock_->Now() >= end_;
  }
  // What is left for finishing, InfiniteDuration when not draining.
  absl::Duration TimeToFinish() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return draining_ ? hurry_ - clock_->Now() : absl::InfiniteDuration();
  }
  absl::Duration TimeLeft() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return draining_ ? end_ - clock_->Now() : absl::InfiniteDuration();
  }

  // Real time: returns early, with true, when draining has begun.
  bool WaitFor(absl::Duration duration) {
    std::unique_lock<std::mutex> lock(mutex_);
    return changed_.wait_for(lock, absl::ToChronoNanoseconds(duration),
                             [this] { return draining_; });
  }

 private:
  const Clock* const clock_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  bool draining_ = false;                      // guarded by mutex_
  absl::Time hurry_ = absl::InfiniteFuture();  // guarded by mutex_
  absl::Time end_ = absl::InfiniteFuture();    // guarded by mutex_
};

}  // namespace kandinsky

#endif  // KANDINSKY_WORKER_RUNTIME_DRAIN_H_
