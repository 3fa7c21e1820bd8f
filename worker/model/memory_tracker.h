// Counts the memory of tensors on the meta device while the code that makes them runs: what a
// device would have to hold, without a device and without computing.
//
// On the meta device tensors have shapes and no memory, but every storage still comes from an
// allocator and is given back to it. A tracker is told both, so it follows the very code that runs,
// whatever that code keeps alive and for how long. Operations that LibTorch cannot do on the meta
// device from C++ get kernels that make the tensors that CUDA's make (meta_kernels.h). Workspaces
// of kernels are not counted (kDeviceAllowanceBytes, memory_plan.h).
#ifndef KANDINSKY_WORKER_MODEL_MEMORY_TRACKER_H_
#define KANDINSKY_WORKER_MODEL_MEMORY_TRACKER_H_

#include <cstdint>
#include <memory>

namespace kandinsky::model {

// Counts from construction to destruction what the constructing thread allocates on the meta
// device. Trackers nest; each allocation belongs to the innermost. Construct, use and destroy on
// one thread. Storages may outlive it.
class MemoryTracker {
 public:
  MemoryTracker();
  ~MemoryTracker();
  MemoryTracker(const MemoryTracker&) = delete;
  MemoryTracker& operator=(const MemoryTracker&) = delete;

  // Bytes of storages that are alive, each rounded up to 512 as CUDA's allocator does.
  int64_t live_bytes() const;
  // The most that was alive at once since construction or ResetPeak.
  int64_t peak_bytes() const;
  void ResetPeak();

  // The same of what was made within a HostMemoryScope.
  int64_t host_bytes() const;

  struct Counts;

 private:
  const std::shared_ptr<Counts> counts_;
  Counts* const outer_;
};

// What the calling thread allocates on the meta device while it lives stands for host memory. Code
// that moves tensors between device and host opens one for the host's side when the device is
// the meta device, where both are the same.
class HostMemoryScope {
 public:
  HostMemoryScope();
  ~HostMemoryScope();
  HostMemoryScope(const HostMemoryScope&) = delete;
  HostMemoryScope& operator=(const HostMemoryScope&) = delete;

 private:
  const bool outer_;
};

}  // namespace kandinsky::model

#endif  // KANDINSKY_WORKER_MODEL_MEMORY_TRACKER_H_
