// Brings decoded frames from the device to the host while the next ones are computed.
#ifndef KANDINSKY_WORKER_MODEL_FRAME_DELIVERY_H_
#define KANDINSKY_WORKER_MODEL_FRAME_DELIVERY_H_

#include <ATen/ATen.h>
#include <c10/core/Event.h>
#include <c10/core/Stream.h>

#include <cstdint>
#include <functional>
#include <optional>

namespace kandinsky::model {

// Push starts the copy of a chunk of frames into page-locked memory, on a stream of its own, and
// then hands over the chunk before, whose copy has had a whole chunk's time. So the host queues
// chunk i + 1 before it waits for chunk i, and the device never waits for the host's work on
// finished frames. One chunk more than without is in memory. On the CPU, where there is nothing to
// overlap, Push hands over at once.
//
// Not thread-safe. What `sink` throws leaves Push or Flush, and ends the delivery: later calls do
// nothing. Destroying drops a chunk that was not handed over.
class FrameDelivery {
 public:
  // Gets the index of a chunk's first frame and its frames [n, ...] on the CPU, contiguous, the
  // sink's to keep; chunks come in the order of Push, each once.
  using Sink = std::function<void(int64_t first, const at::Tensor& frames)>;

  explicit FrameDelivery(Sink sink);
  ~FrameDelivery();
  FrameDelivery(const FrameDelivery&) = delete;
  FrameDelivery& operator=(const FrameDelivery&) = delete;

  // frames [n, ...] on any device, the result of work on its current stream.
  void Push(int64_t first, const at::Tensor& frames);
  // Hands over what waits.
  void Flush();

 private:
  struct Pending {
    int64_t first = 0;
    at::Tensor on_device;  // kept until its copy is done
    at::Tensor on_host;    // page-locked
    c10::Event copied;
  };
  void Deliver(Pending pending);

  const Sink sink_;
  std::optional<c10::Stream> copies_;
  std::optional<Pending> pending_;
  bool failed_ = false;
};

}  // namespace kandinsky::model

#endif  // KANDINSKY_WORKER_MODEL_FRAME_DELIVERY_H_
