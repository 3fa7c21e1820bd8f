// An accelerator that is not there: devices of LibTorch's type "PrivateUse1" (named "fake") whose
// memory the host cannot touch, which computes with the CPU's kernels and counts what it is asked
// for. It shows, on a machine without a GPU, what a program would do to a real device: which
// tensors lie where, what is copied, and when the host waits.
//
// As on CUDA:
//  * An operation over tensors of the host and of a device, or of two devices, fails, but for
//    0-dimensional host tensors in element-wise operations.
//  * Reading a device tensor's memory through its data pointer ends the process (SIGSEGV).
//  * What the host wants to know (item(), equal(), nonzero() and their kind) and every copy between
//    host and device that is blocking, or whose host side is not pinned, is a synchronisation.
//  * A non-blocking copy from or to pinned memory happens later: at the latest when the host waits
//    for its stream or for an event recorded after it. Until then its target holds 0xFF bytes
//    (NaN), so whoever reads too early, or reuses the source too early, gets wrong numbers.
//
// Not as on CUDA: kernels are done when the call returns, whatever their stream; results have the
// bits of the CPU's kernels; temporary memory of kernels is not counted. Fresh memory holds 0xFF.
//
// Thread rule: everything may be called from any thread.
#ifndef KANDINSKY_TESTS_SUPPORT_FAKE_DEVICE_FAKE_DEVICE_H_
#define KANDINSKY_TESTS_SUPPORT_FAKE_DEVICE_FAKE_DEVICE_H_

#include <c10/core/Device.h>

#include <cstdint>
#include <map>
#include <string>

namespace kandinsky::fake {

inline constexpr int kDevices = 2;
// Device memory of both devices together; more is c10::OutOfMemoryError.
inline constexpr int64_t kMemoryBytes = int64_t{16} << 30;

// Makes the devices known to LibTorch. Call it before the first use; again does nothing.
void RegisterFakeDevice();

// Device `index` of 0..kDevices-1.
c10::Device FakeDevice(int index = 0);

struct Counters {
  int64_t kernels = 0;                          // operations that computed on a device
  std::map<std::string, int64_t> kernel_names;  // the same by operator ("add.out")

  // Device memory, every allocation rounded up to 512 bytes, as CUDA's allocator rounds it.
  int64_t allocations = 0;
  int64_t live_bytes = 0;  // now
  int64_t peak_bytes = 0;  // the most that was live at once

  // Copies. Bytes are those of the elements.
  int64_t to_device = 0, to_device_bytes = 0;
  int64_t to_host = 0, to_host_bytes = 0;
  int64_t between_devices = 0, between_devices_bytes = 0;

  // Waits of the host for everything that was asked of a stream or device.
  int64_t synchronisations = 0;
  std::map<std::string, int64_t> causes;  // the same by operator ("_local_scalar_dense")
  // Waits of the host for one event: work asked for after it may still be running.
  int64_t event_waits = 0;
};

// Everything since the start or the last ResetCounters.
Counters ReadCounters();
// What happened within the scopes of a tag; all zero if there was none. peak_bytes counts all that
// was live, also what had been allocated before the scope.
Counters ReadCounters(const std::string& tag);
// Sets all counters to zero, those of tags too; live_bytes stays and peak_bytes begins there.
void ResetCounters();
// As Reset, but peaks alone.
void ResetPeaks();

// What the calling thread does while the innermost such object lives is counted under its tag, too.
class CounterTag {
 public:
  explicit CounterTag(std::string tag);
  ~CounterTag();
  CounterTag(const CounterTag&) = delete;
  CounterTag& operator=(const CounterTag&) = delete;

 private:
  const std::string outer_;
};

// From now on, allocations that would take live_bytes above `bytes` fail with
// c10::OutOfMemoryError, as on a device of that size. Default and upper bound: kMemoryBytes.
void LimitMemory(int64_t bytes);

}  // namespace kandinsky::fake

#endif  // KANDINSKY_TESTS_SUPPORT_FAKE_DEVICE_FAKE_DEVICE_H_
