#include "worker/runtime/heartbeat.h"

#include <chrono>
#include <utility>

#include "absl/random/random.h"

namespace kandinsky {

Heartbeat::Heartbeat(TaskQueue* queue, LatentStore* latents, const Clock* wall,
                     TaskQueue::WorkerInfo info, const Options& options)
    : queue_(queue), latents_(latents), wall_(wall), options_(options), info_(std::move(info)) {}

Heartbeat::~Heartbeat() { Stop(); }

void Heartbeat::Start() {
  thread_ = std::thread([this] { Loop(); });
}

void Heartbeat::Stop() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
    changed_.notify_all();
  }
  if (thread_.joinable()) thread_.join();
}

void Heartbeat::SetState(std::string state, std::vector<std::string> models) {
  const std::lock_guard<std::mutex> lock(mutex_);
  info_.state = std::move(state);
  info_.models = std::move(models);
  news_ = true;
  changed_.notify_all();
}

void Heartbeat::Loop() {
  using SteadyTime = std::chrono::steady_clock::time_point;
  absl::BitGen random;
  SteadyTime next_beat = SteadyTime::min();
  SteadyTime next_maintenance = SteadyTime::min();
  while (true) {
    TaskQueue::WorkerInfo info;
    bool beat = false;
    {
      std::unique_lock<std::mutex> lock(mutex_);
      changed_.wait_until(lock, std::min(next_beat, next_maintenance),
                          [this] { return stopping_ || news_; });
      const bool last = stopping_;
      if (last && !news_) return;
      beat = news_ || std::chrono::steady_clock::now() >= next_beat;
      news_ = false;
      info = info_;
      if (last) {
        // The last state is worth telling.
        lock.unlock();
        info.heartbeat = wall_->Now();
        (void)queue_->Heartbeat(info);
        return;
      }
    }
    const SteadyTime now = std::chrono::steady_clock::now();
    if (beat) {
      info.heartbeat = wall_->Now();
      (void)queue_->Heartbeat(info);
      next_beat = now + absl::ToChronoNanoseconds(options_.interval);
    }
    if (now >= next_maintenance) {
      (void)queue_->Maintain();
      latents_->Sweep();
      // Apart from each other's, so that many workers share the work.
      next_maintenance = now + absl::ToChronoNanoseconds(options_.maintenance_interval *
                                                         absl::Uniform(random, 0.75, 1.25));
    }
  }
}

}  // namespace kandinsky
