#include "services/frontend/work_pool.h"

#include <algorithm>

#include "absl/time/clock.h"

namespace kandinsky {

WorkPool::WorkPool(const Options& options)
    : options_(options),
      max_stream_threads_(std::max(1, std::max(2, options.threads) - kReservedThreads)) {
  MutexLock lock(&stop_mutex_);
  for (int i = 0; i < std::max(2, options.threads); ++i) threads_.emplace_back([this] { Run(); });
}

WorkPool::~WorkPool() { Stop(); }

bool WorkPool::SubmitUnary(UnaryWork work) {
  MutexLock lock(&mutex_);
  if (stopped_ || unary_.size() >= options_.max_waiting) return false;
  unary_.push_back({std::move(work), absl::Now()});
  changed_.NotifyOne();
  return true;
}

void WorkPool::SubmitStream(std::function<void()> work) {
  MutexLock lock(&mutex_);
  if (stopped_) return;
  stream_.push_back(std::move(work));
  if (StreamMayRun()) changed_.NotifyOne();
}

void WorkPool::Stop() {
  std::deque<Waiting> refused;
  std::deque<std::function<void()>> dropped;
  {
    MutexLock lock(&mutex_);
    stopped_ = true;
    refused.swap(unary_);
    dropped.swap(stream_);
    changed_.NotifyAll();
  }
  for (Waiting& waiting : refused) waiting.work(Verdict::kStopped);
  MutexLock lock(&stop_mutex_);
  for (std::thread& thread : threads_) thread.join();
  threads_.clear();
}

bool WorkPool::StreamMayRun() const {
  return !stream_.empty() && busy_with_streams_ < max_stream_threads_;
}

bool WorkPool::SomethingToDo() const { return stopped_ || !unary_.empty() || StreamMayRun(); }

void WorkPool::Run() {
  MutexLock lock(&mutex_);
  while (true) {
    while (!SomethingToDo()) changed_.Wait(&mutex_);
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
      if (StreamMayRun()) changed_.NotifyOne();
    }
  }
}

}  // namespace kandinsky
