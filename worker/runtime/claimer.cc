#include "worker/runtime/claimer.h"

#include <algorithm>

#include "absl/random/random.h"
#include "common/base/log.h"
#include "worker/runtime/store_retry.h"

namespace kandinsky {

Claimer::Claimer(TaskQueue* queue, TaskRunner* runner, Drain* drain, const Options& options)
    : queue_(queue), runner_(runner), drain_(drain), options_(options) {}

Claimer::~Claimer() { Stop(); }

void Claimer::Start() {
  thread_ = std::thread([this] { Loop(); });
}

void Claimer::Stop() {
  if (!drain_->draining()) drain_->Hurry();
  Join();
}

void Claimer::Join() {
  if (thread_.joinable()) thread_.join();
}

void Claimer::Loop() {
  if (options_.prepare && !options_.prepare()) return;
  constexpr absl::Duration kShortest = absl::Milliseconds(100);
  constexpr absl::Duration kLongest = absl::Seconds(2);
  absl::BitGen random;
  absl::Duration pause = kShortest;
  while (!drain_->draining()) {
    const absl::StatusOr<std::optional<Lease>> lease =
        queue_->Claim(options_.stage, options_.worker_id, options_.max_wait);
    if (!lease.ok()) {
      Log(pause == kShortest ? LogLevel::kWarning : LogLevel::kDebug, "cannot claim",
          {{"why", std::string(lease.status().message())}});
      drain_->WaitFor(pause * absl::Uniform(random, 0.5, 1.0));
      pause = std::min(pause * 2, kLongest);
      continue;
    }
    pause = kShortest;
    if (!lease->has_value()) continue;
    if (drain_->draining()) {
      // It came while we were told to stop.
      (void)RetryUntil([&] { return queue_->Release(**lease); }, [&] { return drain_->over(); });
      break;
    }
    runner_->Run(**lease);
  }
}

}  // namespace kandinsky
