#include "worker/model/frame_delivery.h"

#include <ATen/DeviceGuard.h>
#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <utility>

namespace kandinsky::model {

FrameDelivery::FrameDelivery(Sink sink) : sink_(std::move(sink)) {}

FrameDelivery::~FrameDelivery() {
  try {
    // The memory on both ends may go when nothing travels any more.
    if (pending_) pending_->copied.synchronize();
  } catch (const c10::Error&) {
    // The device has failed; whoever uses it next hears of it.
  }
}

void FrameDelivery::Push(int64_t first, const at::Tensor& frames) {
  if (failed_) return;
  const at::Device device = frames.device();
  if (device.is_cpu()) {
    sink_(first, frames.contiguous());
    return;
  }
  const c10::DeviceGuard guard(device);
  const c10::impl::VirtualGuardImpl backend(device.type());
  if (!copies_) copies_ = backend.getStreamFromGlobalPool(device);
  const at::Tensor dense = frames.contiguous();
  c10::Event computed(device.type());
  computed.record(backend.getStream(device));
  Pending next = {first, dense,
                  at::empty(frames.sizes(), frames.options().device(at::kCPU).pinned_memory(true)),
                  c10::Event(device.type())};
  {
    const c10::StreamGuard on_copies(*copies_);
    computed.block(*copies_);
    next.on_host.copy_(next.on_device, /*non_blocking=*/true);
    next.copied.record(*copies_);
  }
  std::optional<Pending> before = std::exchange(pending_, std::move(next));
  if (before) Deliver(*std::move(before));
}

void FrameDelivery::Flush() {
  std::optional<Pending> last = std::exchange(pending_, std::nullopt);
  if (last) Deliver(*std::move(last));
}

void FrameDelivery::Deliver(Pending pending) {
  if (failed_) return;
  failed_ = true;  // until the sink has come back
  pending.copied.synchronize();
  pending.on_device.reset();
  sink_(pending.first, pending.on_host);
  failed_ = false;
}

}  // namespace kandinsky::model
