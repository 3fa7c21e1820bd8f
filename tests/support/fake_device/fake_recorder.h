// A GraphRecorder on the fake accelerator that keeps the rules of a CUDA capture: while it records,
// the current stream is not the default one, and whoever waits for the device or copies from or to
// the host fails. Replay runs the work again, so work that depends on anything but its recorded
// inputs shows.
#ifndef KANDINSKY_TESTS_SUPPORT_FAKE_DEVICE_FAKE_RECORDER_H_
#define KANDINSKY_TESTS_SUPPORT_FAKE_DEVICE_FAKE_RECORDER_H_

#include <c10/core/impl/VirtualGuardImpl.h>
#include <c10/util/Exception.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "tests/support/fake_device/fake_device.h"
#include "worker/model/graph_recorder.h"

namespace kandinsky::fake {

struct RecorderLog {
  int64_t recorded = 0, replayed = 0;
  int64_t live = 0;  // graphs that have not been destroyed
};

class FakeRecorder : public model::GraphRecorder {
 public:
  // `log` must outlive the recorder and its graphs.
  explicit FakeRecorder(RecorderLog* log) : log_(log) {}

  std::unique_ptr<model::RecordedGraph> Record(const std::function<void()>& work) override {
    const c10::impl::VirtualGuardImpl runtime(c10::kPrivateUse1);
    const c10::Device device = runtime.getDevice();
    TORCH_CHECK(runtime.getStream(device) != runtime.getDefaultStream(device),
                "the default stream cannot be captured");
    RunCaptured(work);
    ++log_->recorded;
    return std::make_unique<Graph>(log_, work);
  }

 private:
  class Graph : public model::RecordedGraph {
   public:
    Graph(RecorderLog* log, std::function<void()> work) : log_(log), work_(std::move(work)) {
      ++log_->live;
    }
    ~Graph() override { --log_->live; }
    void Replay() override {
      RunCaptured(work_);
      ++log_->replayed;
    }

   private:
    RecorderLog* const log_;
    const std::function<void()> work_;
  };

  static void RunCaptured(const std::function<void()>& work) {
    const Counters before = ReadCounters();
    work();
    const Counters after = ReadCounters();
    std::string cause;
    for (const auto& [name, count] : after.causes) {
      const auto earlier = before.causes.find(name);
      if (earlier == before.causes.end() || earlier->second < count) cause += " " + name;
    }
    TORCH_CHECK(after.synchronisations == before.synchronisations &&
                    after.event_waits == before.event_waits,
                "operation not permitted when stream is capturing:", cause);
    TORCH_CHECK(after.to_device == before.to_device && after.to_host == before.to_host &&
                    after.between_devices == before.between_devices,
                "a copy between host and device cannot be captured");
  }

  RecorderLog* const log_;
};

}  // namespace kandinsky::fake

#endif  // KANDINSKY_TESTS_SUPPORT_FAKE_DEVICE_FAKE_RECORDER_H_
