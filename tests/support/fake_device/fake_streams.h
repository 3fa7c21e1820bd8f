// Streams and events of the fake device, and what it tells LibTorch about itself.
#ifndef KANDINSKY_TESTS_SUPPORT_FAKE_DEVICE_FAKE_STREAMS_H_
#define KANDINSKY_TESTS_SUPPORT_FAKE_DEVICE_FAKE_STREAMS_H_

#include <c10/core/Device.h>
#include <c10/core/Stream.h>

#include <functional>

namespace kandinsky::fake {

// The calling thread's stream on `device`.
c10::Stream CurrentStream(c10::Device device);

// Copies that a stream was asked for and has not done yet.
enum class Later {
  kToDevice,  // done before the next kernel of the stream
  kToHost,    // done when somebody waits
};
void Postpone(const c10::Stream& stream, Later kind, std::function<void()> copy);

// What precedes a kernel on the stream.
void BeforeKernel(const c10::Stream& stream);
// Everything that the stream was asked for.
void Finish(const c10::Stream& stream);

// Registers device guard and hooks.
void RegisterStreams();

}  // namespace kandinsky::fake

#endif  // KANDINSKY_TESTS_SUPPORT_FAKE_DEVICE_FAKE_STREAMS_H_
