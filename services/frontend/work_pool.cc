#include "services/frontend/work_pool.h"

#include <algorithm>

#include "absl/time/clock.h"

namespace kandinsky {

WorkPool::WorkPool(const Options& options)
    : options_(options),
      max_stream_threads_(std::max(1, std::max(2, options.threads) - kReservedThreads)) {
  absl::MutexLock lock(&stop_mutex_);
  for (int i = 0; i < std::max(2, options.threads); ++i) threads_.emplace_back([this] { Run(); });
}

WorkPool::~WorkPool() { Stop(); }

bool WorkPool::SubmitUnary(UnaryWork work) {
  absl::MutexLock lock(&mutex_);
  if (stopped_ || unary_.size() >= options_.max_waiting) return false;
  unary_.push_back({std::move(work), absl::Now()});
  return true;
}

void WorkPool::SubmitStream(std::function<void()> work) {
  absl::MutexLock lock(&mutex_);
  if (!stopped_) stream_.push_back(std::move(work));
}

void WorkPool::Stop() {
  std::deque<Waiting> refused;
  std::deque<std::function<void()>> dropped;
  {
    absl::MutexLock lock(&mutex_);
    stopped_ = true;
    refused.swap(unary_);
    dropped.swap(stream_);
  }
  for (Waiting& waiting : refused) waiting.work(Verdict::kStopped);
  absl::MutexLock lock(&stop_mutex_);
  for (std::thread& thread : threads_) thread.join();
  threads_.clear();
}

bool WorkPool::StreamMayRun() const {
  return !stream_.empty() && busy_with_streams_ < max_stream_threads_;
}

bool WorkPool::SomethingToDo() const { return stopped_ || !unary_.empty() || StreamMayRun(); }

void WorkPool::Run() {
  absl::MutexLock lock(&mutex_);
  while (true) {
    mutex_.Await(absl::Condition(this, &WorkPool::SomethingToDo));
    if (stopped_) return;
    if (!unary_.empty()) {
      Waiting waiting = std::move(unary_.front());
      unary_.pop_front();
      mutex_.Unlock();
      const bool late = absl::Now() - waiting.since > options_.patience;
      waiting.work(late ? Verdict::kWaitedTooLong : Verdict::kRun);
      waiting.work = nullptr;
      mutex_.Lock();
    } else {
      std::function<void()> work = std::move(stream_.front());
      stream_.pop_front();
      ++busy_with_streams_;
      mutex_.Unlock();
      work();
      work = nullptr;
      mutex_.Lock();
      --busy_with_streams_;
    }
  }
}

}  // namespace kandinsky
