#include "tests/support/fake_device/fake_memory.h"

#include <c10/util/Exception.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <utility>

namespace kandinsky::fake {
namespace {

constexpr size_t kGranularity = 512;
// Freed blocks above this go back to the system.
constexpr size_t kReturnedBytes = 1 << 20;

size_t RoundUp(size_t bytes) { return (bytes + kGranularity - 1) / kGranularity * kGranularity; }

char* Map(int protection) {
  void* const memory = mmap(nullptr, static_cast<size_t>(kMemoryBytes), protection,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  TORCH_CHECK(memory != MAP_FAILED, "no address space for the fake device");
  return static_cast<char*>(memory);
}

// Where device memory lies. Never destroyed: tensors may be freed until the very end.
struct Layout {
  char* const device = Map(PROT_NONE);
  char* const shadow = Map(PROT_READ | PROT_WRITE);
};

const Layout& TheLayout() {
  static const Layout* const layout = new Layout;
  return *layout;
}

bool Within(const char* start, const void* address) {
  const auto* byte = static_cast<const char*>(address);
  return byte >= start && byte < start + kMemoryBytes;
}

struct State {
  std::mutex mutex;
  // Guarded by mutex.
  Counters counters;
  std::map<std::string, Counters> tags;
  int64_t limit = kMemoryBytes;
  std::map<size_t, size_t> free = {{0, static_cast<size_t>(kMemoryBytes)}};  // offset -> bytes
  std::map<size_t, size_t> used;
  std::map<const char*, size_t> pinned;  // start -> bytes
};

State& TheState() {
  static State* const state = new State;
  return *state;
}

thread_local std::string current_tag;
thread_local c10::DeviceIndex current_device = 0;

// Adds `bytes` to what is live. With the lock held.
void ChangeLive(State& state, int64_t bytes) {
  Counters& all = state.counters;
  all.live_bytes += bytes;
  all.peak_bytes = std::max(all.peak_bytes, all.live_bytes);
  all.allocations += bytes > 0 ? 1 : 0;
  if (current_tag.empty()) return;
  Counters& tagged = state.tags[current_tag];
  tagged.live_bytes = all.live_bytes;
  tagged.peak_bytes = std::max(tagged.peak_bytes, all.live_bytes);
  tagged.allocations += bytes > 0 ? 1 : 0;
}

void Free(void* address) {
  if (address == nullptr) return;
  State& state = TheState();
  const std::lock_guard lock(state.mutex);
  const auto offset = static_cast<size_t>(static_cast<char*>(address) - TheLayout().device);
  const auto block = state.used.find(offset);
  size_t bytes = block->second, start = offset;
  state.used.erase(block);
  ChangeLive(state, -static_cast<int64_t>(bytes));
  if (bytes >= kReturnedBytes) {
    constexpr size_t kPage = 4096;
    char* const first = TheLayout().shadow + (start + kPage - 1) / kPage * kPage;
    char* const last = TheLayout().shadow + (start + bytes) / kPage * kPage;
    madvise(first, static_cast<size_t>(last - first), MADV_DONTNEED);
  }
  auto next = state.free.lower_bound(start);
  if (next != state.free.end() && next->first == start + bytes) {
    bytes += next->second;
    next = state.free.erase(next);
  }
  if (next != state.free.begin()) {
    const auto before = std::prev(next);
    if (before->first + before->second == start) {
      before->second += bytes;
      return;
    }
  }
  state.free[start] = bytes;
}

class TheDeviceAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t bytes) override {
    const c10::Device device(c10::kPrivateUse1, CurrentDevice());
    if (bytes == 0) return {nullptr, nullptr, &Free, device};
    const size_t rounded = RoundUp(bytes);
    void* const address = Take(rounded);
    std::memset(Shadow(address), 0xFF, rounded);
    return {address, address, &Free, device};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &Free; }
  void copy_data(void* to, const void* from, std::size_t bytes) const override {
    std::memcpy(Shadow(to), Shadow(from), bytes);
  }

 private:
  // The first block that is large enough.
  static void* Take(size_t bytes) {
    State& state = TheState();
    const std::lock_guard lock(state.mutex);
    const auto block = std::find_if(state.free.begin(), state.free.end(),
                                    [&](const auto& item) { return item.second >= bytes; });
    if (block == state.free.end() ||
        state.counters.live_bytes + static_cast<int64_t>(bytes) > state.limit) {
      TORCH_CHECK_WITH(OutOfMemoryError, false, "fake device out of memory: tried to allocate ",
                       bytes, " bytes beside ", state.counters.live_bytes, " of ", state.limit);
    }
    const auto [offset, available] = *block;
    state.free.erase(block);
    if (available > bytes) state.free[offset + bytes] = available - bytes;
    state.used[offset] = bytes;
    ChangeLive(state, static_cast<int64_t>(bytes));
    return TheLayout().device + offset;
  }
};

void FreePinned(void* address) {
  State& state = TheState();
  {
    const std::lock_guard lock(state.mutex);
    state.pinned.erase(static_cast<char*>(address));
  }
  std::free(address);
}

class ThePinnedAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t bytes) override {
    if (bytes == 0) return {nullptr, nullptr, &FreePinned, c10::kCPU};
    void* const address = std::aligned_alloc(kGranularity, RoundUp(bytes));
    TORCH_CHECK_WITH(OutOfMemoryError, address != nullptr, "no pinned memory");
    State& state = TheState();
    const std::lock_guard lock(state.mutex);
    state.pinned[static_cast<char*>(address)] = RoundUp(bytes);
    return {address, address, &FreePinned, c10::kCPU};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &FreePinned; }
  void copy_data(void* to, const void* from, std::size_t bytes) const override {
    std::memcpy(to, from, bytes);
  }
};

void Clear(Counters& counters, int64_t live) {
  counters = {};
  counters.live_bytes = counters.peak_bytes = live;
}

}  // namespace

void* Shadow(const void* device) {
  if (device == nullptr) return nullptr;
  TORCH_INTERNAL_ASSERT(InDevice(device));
  return TheLayout().shadow + (static_cast<const char*>(device) - TheLayout().device);
}

bool InShadow(const void* address) { return Within(TheLayout().shadow, address); }
bool InDevice(const void* address) { return Within(TheLayout().device, address); }

c10::Allocator& DeviceAllocator() {
  static auto* const allocator = new TheDeviceAllocator;
  return *allocator;
}

c10::Allocator& PinnedAllocator() {
  static auto* const allocator = new ThePinnedAllocator;
  return *allocator;
}

bool IsPinned(const void* address) {
  State& state = TheState();
  const std::lock_guard lock(state.mutex);
  const auto* byte = static_cast<const char*>(address);
  auto block = state.pinned.upper_bound(byte);
  if (block == state.pinned.begin()) return false;
  --block;
  return byte < block->first + block->second;
}

void Count(const std::function<void(Counters&)>& change) {
  State& state = TheState();
  const std::lock_guard lock(state.mutex);
  change(state.counters);
  if (!current_tag.empty()) change(state.tags[current_tag]);
}

void CountSynchronisation(const std::string& cause) {
  Count([&](Counters& counters) {
    ++counters.synchronisations;
    ++counters.causes[cause];
  });
}

c10::DeviceIndex CurrentDevice() { return current_device; }

void SetCurrentDevice(c10::DeviceIndex index) {
  TORCH_CHECK(index >= 0 && index < kDevices, "fake device ", static_cast<int>(index),
              " is not there, must be 0 to ", kDevices - 1);
  current_device = index;
}

Counters ReadCounters() {
  State& state = TheState();
  const std::lock_guard lock(state.mutex);
  return state.counters;
}

Counters ReadCounters(const std::string& tag) {
  State& state = TheState();
  const std::lock_guard lock(state.mutex);
  const auto found = state.tags.find(tag);
  return found == state.tags.end() ? Counters{} : found->second;
}

void ResetCounters() {
  State& state = TheState();
  const std::lock_guard lock(state.mutex);
  Clear(state.counters, state.counters.live_bytes);
  state.tags.clear();
  if (!current_tag.empty()) Clear(state.tags[current_tag], state.counters.live_bytes);
}

void ResetPeaks() {
  State& state = TheState();
  const std::lock_guard lock(state.mutex);
  state.counters.peak_bytes = state.counters.live_bytes;
  for (auto& [tag, counters] : state.tags) counters.peak_bytes = state.counters.live_bytes;
}

CounterTag::CounterTag(std::string tag) : outer_(std::exchange(current_tag, std::move(tag))) {
  State& state = TheState();
  const std::lock_guard lock(state.mutex);
  Counters& counters = state.tags[current_tag];
  counters.live_bytes = state.counters.live_bytes;
  counters.peak_bytes = std::max(counters.peak_bytes, counters.live_bytes);
}

CounterTag::~CounterTag() { current_tag = outer_; }

void LimitMemory(int64_t bytes) {
  State& state = TheState();
  const std::lock_guard lock(state.mutex);
  TORCH_CHECK(bytes > 0 && bytes <= kMemoryBytes, "bytes is ", bytes, ", must be 1 to ",
              kMemoryBytes);
  state.limit = bytes;
}

}  // namespace kandinsky::fake
