#include "tests/support/fake_device/fake_streams.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <limits>
#include <map>
#include <mutex>
#include <utility>
#include <vector>

#include "tests/support/fake_device/fake_memory.h"

namespace kandinsky::fake {
namespace {

constexpr int64_t kPoolStreams = 32;

struct Copy {
  int64_t number;  // of the stream's copies
  Later kind;
  std::function<void()> run;
};

using StreamKey = std::pair<c10::DeviceIndex, c10::StreamId>;

struct State {
  // Held while copies run: who finds none waiting on a stream that several threads use must not go
  // on before those that another thread has taken are done. Copies may do kernels of their own.
  std::recursive_mutex running;
  std::mutex mutex;
  // Guarded by mutex.
  std::map<StreamKey, std::vector<Copy>> waiting;
  int64_t copies = 0;  // postponed so far
};

State& TheState() {
  static State* const state = new State;
  return *state;
}

thread_local std::array<c10::StreamId, kDevices> current_streams = {};

StreamKey Key(const c10::Stream& stream) { return {stream.device_index(), stream.id()}; }

// Does what `due` says of the stream's copies, in order; true if there was any.
bool Run(StreamKey stream, const std::function<bool(const Copy&)>& due) {
  std::vector<Copy> now;
  State& state = TheState();
  const std::lock_guard running(state.running);
  {
    const std::lock_guard lock(state.mutex);
    std::vector<Copy> rest;
    for (Copy& copy : state.waiting[stream]) {
      (due(copy) ? now : rest).push_back(std::move(copy));
    }
    state.waiting[stream] = std::move(rest);
  }
  for (const Copy& copy : now) copy.run();
  return !now.empty();
}

struct FakeEvent {
  StreamKey stream;
  int64_t copies = 0;  // the last copy that it covers
  std::chrono::steady_clock::time_point time;

  bool Complete() const {
    return Run(stream, [this](const Copy& copy) { return copy.number <= copies; });
  }
};

FakeEvent* AsEvent(void* event) { return static_cast<FakeEvent*>(event); }

struct FakeGuard final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override { return c10::kPrivateUse1; }
  c10::Device getDevice() const override { return {c10::kPrivateUse1, CurrentDevice()}; }
  void setDevice(c10::Device device) const override { SetCurrentDevice(device.index()); }
  void uncheckedSetDevice(c10::Device device) const noexcept override {
    if (device.index() >= 0 && device.index() < kDevices) SetCurrentDevice(device.index());
  }
  c10::Device exchangeDevice(c10::Device device) const override {
    const c10::Device before = getDevice();
    SetCurrentDevice(device.index());
    return before;
  }
  c10::DeviceIndex deviceCount() const noexcept override { return kDevices; }

  c10::Stream getStream(c10::Device device) const override { return CurrentStream(device); }
  c10::Stream getDefaultStream(c10::Device device) const override {
    return c10::Stream(c10::Stream::DEFAULT, device);
  }
  c10::Stream getNewStream(c10::Device device, int) const override {
    static std::atomic<int64_t> next = 0;
    return c10::Stream(c10::Stream::UNSAFE, device, next++ % kPoolStreams + 1);
  }
  c10::Stream getStreamFromGlobalPool(c10::Device device, bool) const override {
    return getNewStream(device, 0);
  }
  c10::Stream exchangeStream(c10::Stream stream) const override {
    const c10::Stream before = CurrentStream(stream.device());
    current_streams.at(static_cast<size_t>(stream.device_index())) = stream.id();
    return before;
  }
  bool queryStream(const c10::Stream& stream) const override {
    return !Run(Key(stream), [](const Copy&) { return true; });
  }
  void synchronizeStream(const c10::Stream& stream) const override {
    CountSynchronisation("stream");
    Finish(stream);
  }
  void synchronizeDevice(c10::DeviceIndex index) const override {
    CountSynchronisation("device");
    for (c10::StreamId id = 0; id <= kPoolStreams; ++id) {
      Run({index, id}, [](const Copy&) { return true; });
    }
  }

  void record(void** event, const c10::Stream& stream, c10::DeviceIndex,
              c10::EventFlag) const override {
    if (*event == nullptr) *event = new FakeEvent;
    State& state = TheState();
    const std::lock_guard lock(state.mutex);
    *AsEvent(*event) = {Key(stream), state.copies, std::chrono::steady_clock::now()};
  }
  void block(void* event, const c10::Stream&) const override {
    if (event != nullptr) AsEvent(event)->Complete();
  }
  // Copies that were not done are done afterwards, so whoever asks again gets on.
  bool queryEvent(void* event) const override {
    return event == nullptr || !AsEvent(event)->Complete();
  }
  void synchronizeEvent(void* event) const override {
    Count([](Counters& counters) { ++counters.event_waits; });
    if (event != nullptr) AsEvent(event)->Complete();
  }
  void destroyEvent(void* event, c10::DeviceIndex) const noexcept override {
    delete AsEvent(event);
  }
  double elapsedTime(void* first, void* second, c10::DeviceIndex) const override {
    const std::chrono::duration<double, std::milli> between =
        AsEvent(second)->time - AsEvent(first)->time;
    return between.count();
  }
};

struct FakeHooks final : at::PrivateUse1HooksInterface {
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  c10::DeviceIndex deviceCount() const override { return kDevices; }
  c10::DeviceIndex getCurrentDevice() const override { return CurrentDevice(); }
  void setCurrentDevice(c10::DeviceIndex index) const override { SetCurrentDevice(index); }
  c10::DeviceIndex exchangeDevice(c10::DeviceIndex index) const override {
    const c10::DeviceIndex before = CurrentDevice();
    SetCurrentDevice(index);
    return before;
  }
  c10::DeviceIndex maybeExchangeDevice(c10::DeviceIndex index) const override {
    return index < 0 ? CurrentDevice() : exchangeDevice(index);
  }
  bool isPinnedPtr(const void* data) const override { return IsPinned(data); }
  c10::Allocator* getPinnedMemoryAllocator() const override { return &PinnedAllocator(); }
  c10::Device getDeviceFromPtr(void* data) const override {
    TORCH_CHECK(InDevice(data), "not an address of the fake device");
    return {c10::kPrivateUse1, CurrentDevice()};
  }
  // Kernels are the CPU's, and so is their generator.
  const at::Generator& getDefaultGenerator(c10::DeviceIndex) const override {
    return at::detail::getDefaultCPUGenerator();
  }
  at::Generator getNewGenerator(c10::DeviceIndex) const override {
    return at::detail::createCPUGenerator();
  }
};

}  // namespace

c10::Stream CurrentStream(c10::Device device) {
  const c10::DeviceIndex index = device.has_index() ? device.index() : CurrentDevice();
  return c10::Stream(c10::Stream::UNSAFE, c10::Device(c10::kPrivateUse1, index),
                     current_streams.at(static_cast<size_t>(index)));
}

void Postpone(const c10::Stream& stream, Later kind, std::function<void()> copy) {
  State& state = TheState();
  const std::lock_guard lock(state.mutex);
  state.waiting[Key(stream)].push_back({++state.copies, kind, std::move(copy)});
}

void BeforeKernel(const c10::Stream& stream) {
  Run(Key(stream), [](const Copy& copy) { return copy.kind == Later::kToDevice; });
}

void Finish(const c10::Stream& stream) {
  Run(Key(stream), [](const Copy&) { return true; });
}

void RegisterStreams() {
  c10::impl::registerDeviceGuard(c10::kPrivateUse1, new FakeGuard);
  at::RegisterPrivateUse1HooksInterface(new FakeHooks);
}

}  // namespace kandinsky::fake
