// What a server stream sends: an ordered source of encoded messages that is pulled by the stream
// and wakes it.
//
// Neither side blocks: sources do their reading on the WorkPool, and the stream (stream_reactor.h)
// takes a message when its previous write is done. That is the flow control: a source holds no more
// than a small bound ahead of the client.
#ifndef KANDINSKY_SERVICES_FRONTEND_STREAM_SOURCE_H_
#define KANDINSKY_SERVICES_FRONTEND_STREAM_SOURCE_H_

#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/status.h>

#include <functional>

namespace kandinsky {

// Thread-safe.
class StreamSource {
 public:
  virtual ~StreamSource() = default;

  enum class Pull {
    kMessage,  // `message` is set
    kWait,     // nothing yet; the source will wake the stream
    kEnd,      // `status` is set: OK after the last message, else why there are no more
  };

  // `wake` may be called from any thread, also needlessly, until Stop returns; never while the
  // source holds a lock.
  virtual void Start(std::function<void()> wake) = 0;
  virtual Pull Next(grpc::ByteBuffer* message, grpc::Status* status) = 0;
  // The stream ended; forget it. Idempotent.
  virtual void Stop() = 0;
};

}  // namespace kandinsky

#endif  // KANDINSKY_SERVICES_FRONTEND_STREAM_SOURCE_H_
