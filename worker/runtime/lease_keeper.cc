#include "worker/runtime/lease_keeper.h"

#include <algorithm>

#include "common/base/log.h"

namespace kandinsky {

LeaseKeeper::LeaseKeeper(TaskQueue* queue, const Lease& lease, const Clock* clock,
                         WorkerMetrics* metrics, const Options& options)
    : queue_(queue),
      lease_(lease),
      clock_(clock),
      metrics_(metrics),
      abandon_after_(options.abandon_after),
      progress_interval_(options.progress_interval),
      interval_(lease.duration > absl::ZeroDuration()
                    ? std::min(options.interval, lease.duration / 3)
                    : options.interval) {}

LeaseKeeper::~LeaseKeeper() { Stop(); }

void LeaseKeeper::Start() {
  thread_ = std::thread([this] { Loop(); });
}

void LeaseKeeper::Stop() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
    changed_.notify_all();
  }
  if (thread_.joinable()) thread_.join();
}

void LeaseKeeper::SetProgress(const StageProgress& progress) {
  const std::lock_guard<std::mutex> lock(mutex_);
  progress_ = progress;
}

void LeaseKeeper::Loop() {
  absl::Time reached = clock_->Now();
  absl::Time published = absl::InfinitePast();
  bool reachable = true;
  while (true) {
    std::optional<StageProgress> progress;
    {
      std::unique_lock<std::mutex> lock(mutex_);
      changed_.wait_for(lock, absl::ToChronoNanoseconds(interval_), [this] { return stopping_; });
      if (stopping_) return;
      if (clock_->Now() - published >= progress_interval_) progress.swap(progress_);
    }
    const absl::StatusOr<LeaseVerdict> verdict = queue_->Renew(lease_, progress);
    if (verdict.ok()) {
      reached = clock_->Now();
      if (progress) published = reached;
      if (!reachable) Log(LogLevel::kInfo, "store reachable again", {{"job", lease_.job_id}});
      reachable = true;
      State held = State::kHeld;
      if (*verdict == LeaseVerdict::kCancelRequested) {
        state_.compare_exchange_strong(held, State::kCancelRequested);
      } else if (*verdict == LeaseVerdict::kDeadlineExceeded) {
        state_.compare_exchange_strong(held, State::kDeadlineExceeded);
      }
      continue;
    }
    if (absl::IsFailedPrecondition(verdict.status()) || absl::IsNotFound(verdict.status())) {
      state_ = State::kLost;
      return;
    }
    metrics_->StoreUnreachable();
    if (reachable) {
      Log(LogLevel::kWarning, "cannot renew the lease",
          {{"job", lease_.job_id}, {"why", std::string(verdict.status().message())}});
    }
    reachable = false;
    if (clock_->Now() - reached > abandon_after_) {
      state_ = State::kLost;
      return;
    }
    if (progress) {  // not published: try again unless there is newer
      const std::lock_guard<std::mutex> lock(mutex_);
      if (!progress_) progress_ = progress;
    }
  }
}

}  // namespace kandinsky
