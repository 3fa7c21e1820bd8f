#include "worker/stages/frame_encoder.h"

#include <ATen/ATen.h>

#include <utility>

namespace kandinsky {

FrameEncoder::FrameEncoder(std::unique_ptr<media::VideoEncoder> encoder)
    : encoder_(std::move(encoder)), thread_([this] { Loop(); }) {}

FrameEncoder::~FrameEncoder() { Stop(/*drop=*/true); }

absl::Status FrameEncoder::Add(const at::Tensor& frames) {
  constexpr size_t kMaxWaiting = 2;
  std::unique_lock<std::mutex> lock(mutex_);
  changed_.wait(lock, [this] { return batches_.size() < kMaxWaiting || !status_.ok(); });
  if (!status_.ok()) return status_;
  batches_.push_back(frames);
  changed_.notify_all();
  return absl::OkStatus();
}

absl::StatusOr<media::VideoEncoder::Totals> FrameEncoder::Finish() {
  Stop(/*drop=*/false);
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!status_.ok()) return status_;
  }
  return encoder_->Finish();
}

void FrameEncoder::Stop(bool drop) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    ending_ = true;
    if (drop) batches_.clear();
    changed_.notify_all();
  }
  if (thread_.joinable()) thread_.join();
}

void FrameEncoder::Loop() {
  std::unique_lock<std::mutex> lock(mutex_);
  while (true) {
    changed_.wait(lock, [this] { return ending_ || !batches_.empty(); });
    if (batches_.empty()) return;
    const at::Tensor frames = std::move(batches_.front());
    batches_.pop_front();
    changed_.notify_all();
    lock.unlock();
    absl::Status status;
    const uint8_t* data = frames.const_data_ptr<uint8_t>();
    const int64_t frame_bytes = frames.size(1) * frames.size(2) * frames.size(3);
    for (int64_t i = 0; i < frames.size(0) && status.ok(); ++i) {
      status = encoder_->AddFrame(data + i * frame_bytes);
    }
    lock.lock();
    if (!status.ok()) {
      status_ = std::move(status);
      batches_.clear();
      changed_.notify_all();
      return;
    }
  }
}

}  // namespace kandinsky
