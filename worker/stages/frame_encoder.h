// Encodes frames in a thread of its own, so that the next frames are decoded meanwhile.
#ifndef KANDINSKY_WORKER_STAGES_FRAME_ENCODER_H_
#define KANDINSKY_WORKER_STAGES_FRAME_ENCODER_H_

#include <ATen/core/Tensor.h>

#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <thread>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/media/video_encoder.h"

namespace kandinsky {

// Add and Finish: from one thread. The encoder's sink is called from the other one.
class FrameEncoder {
 public:
  explicit FrameEncoder(std::unique_ptr<media::VideoEncoder> encoder);
  // Without Finish: drops what waits.
  ~FrameEncoder();
  FrameEncoder(const FrameEncoder&) = delete;
  FrameEncoder& operator=(const FrameEncoder&) = delete;

  // frames uint8 [n, H, W, 3] on the CPU, contiguous; not to be changed any more. Waits while two
  // batches wait already. The first error of the encoder or its sink comes back here or from
  // Finish.
  absl::Status Add(const at::Tensor& frames);
  // Waits until all is encoded and written.
  absl::StatusOr<media::VideoEncoder::Totals> Finish();

 private:
  void Loop();
  void Stop(bool drop);

  const std::unique_ptr<media::VideoEncoder> encoder_;  // of the thread until it has ended

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<at::Tensor> batches_;  // guarded by mutex_
  bool ending_ = false;             // guarded by mutex_
  absl::Status status_;             // guarded by mutex_
  std::thread thread_;
};

}  // namespace kandinsky

#endif  // KANDINSKY_WORKER_STAGES_FRAME_ENCODER_H_
