// Memory and counters of the fake device.
//
// Device memory exists twice: at device addresses, which nobody may read or write, and at the same
// offset in the shadow, where the bytes are. Kernels of the fake device work in the shadow.
#ifndef KANDINSKY_TESTS_SUPPORT_FAKE_DEVICE_FAKE_MEMORY_H_
#define KANDINSKY_TESTS_SUPPORT_FAKE_DEVICE_FAKE_MEMORY_H_

#include <c10/core/Allocator.h>

#include <cstdint>
#include <functional>
#include <string>

#include "tests/support/fake_device/fake_device.h"

namespace kandinsky::fake {

// A device address (null too) -> where its bytes are.
void* Shadow(const void* device);
// True for addresses within the shadow.
bool InShadow(const void* address);
// True for addresses of device memory.
bool InDevice(const void* address);

c10::Allocator& DeviceAllocator();
c10::Allocator& PinnedAllocator();
bool IsPinned(const void* address);

// Applies `change` to the counters and to those of the thread's tag.
void Count(const std::function<void(Counters&)>& change);
void CountSynchronisation(const std::string& cause);

// The device of the calling thread.
c10::DeviceIndex CurrentDevice();
void SetCurrentDevice(c10::DeviceIndex index);

}  // namespace kandinsky::fake

#endif  // KANDINSKY_TESTS_SUPPORT_FAKE_DEVICE_FAKE_MEMORY_H_
