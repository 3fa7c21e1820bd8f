#include "worker/runtime/checkpoint_writer.h"

#include <utility>

#include "common/base/log.h"
#include "worker/runtime/store_retry.h"

namespace kandinsky {

CheckpointWriter::CheckpointWriter(TaskQueue* queue, const Lease& lease, WorkerMetrics* metrics,
                                   std::function<bool()> give_up)
    : queue_(queue), lease_(lease), metrics_(metrics), give_up_(std::move(give_up)) {}

CheckpointWriter::~CheckpointWriter() { Stop(); }

void CheckpointWriter::Start() {
  thread_ = std::thread([this] { Loop(); });
}

void CheckpointWriter::Stop() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
    changed_.notify_all();
  }
  if (thread_.joinable()) thread_.join();
}

void CheckpointWriter::Post(std::string blob) {
  const std::lock_guard<std::mutex> lock(mutex_);
  next_ = std::move(blob);
  changed_.notify_all();
}

bool CheckpointWriter::busy() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return saving_ || next_.has_value();
}

void CheckpointWriter::Loop() {
  std::unique_lock<std::mutex> lock(mutex_);
  while (true) {
    changed_.wait(lock, [this] { return stopping_ || next_.has_value(); });
    if (!next_) return;
    const std::string blob = *std::move(next_);
    next_.reset();
    saving_ = true;
    lock.unlock();
    const auto superseded = [this] {
      if (give_up_()) return true;
      const std::lock_guard<std::mutex> guard(mutex_);
      return next_.has_value();
    };
    const absl::Status status =
        RetryUntil([&] { return queue_->SaveCheckpoint(lease_, blob); }, superseded);
    if (status.ok()) {
      metrics_->CheckpointSaved(blob.size());
    } else {
      Log(LogLevel::kWarning, "checkpoint not saved",
          {{"job", lease_.job_id}, {"why", std::string(status.message())}});
    }
    lock.lock();
    saving_ = false;
  }
}

}  // namespace kandinsky
