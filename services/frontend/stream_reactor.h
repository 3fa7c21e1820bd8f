// A server stream: takes encoded messages from its sources, one outstanding write at a time, and
// ends with their status.
//
// The registry knows all streams of the process, to count them, to bound them and to end them when
// it drains.
#ifndef KANDINSKY_SERVICES_FRONTEND_STREAM_REACTOR_H_
#define KANDINSKY_SERVICES_FRONTEND_STREAM_REACTOR_H_

#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/server_callback.h>

#include <array>
#include <functional>
#include <memory>
#include <optional>
#include <unordered_set>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "services/frontend/mutex.h"
#include "services/frontend/stream_source.h"

namespace kandinsky {

enum class StreamKind { kWatch, kGenerate, kDownload };
inline constexpr size_t kStreamKinds = 3;

class StreamRegistry;

// Thread-safe. Keeps itself alive until gRPC is done with it.
class StreamReactor : public grpc::ServerWriteReactor<grpc::ByteBuffer>,
                      public std::enable_shared_from_this<StreamReactor> {
 public:
  // The reactor to return to gRPC. When the registry has no room, or drains, the stream ends at
  // once and `*open` is false; otherwise call Begin or End. `on_disconnect` (may be null) runs when
  // the client cancels, its deadline passes or its connection breaks, but not when the server
  // drains.
  static std::shared_ptr<StreamReactor> Open(StreamRegistry* registry, StreamKind kind,
                                             std::function<void()> on_disconnect, bool* open);

  // Sends `first` if there is one, then what the sources have; an earlier source goes first. Ends
  // OK when all have ended, or with the first error of a source whose predecessors have ended.
  void Begin(std::optional<grpc::ByteBuffer> first,
             const std::vector<std::shared_ptr<StreamSource>>& sources);

  // Ends the stream when the write under way is done. The first call counts.
  void End(grpc::Status status);
  // The same, because the server drains.
  void EndForDrain();

  StreamKind kind() const { return kind_; }

  // --- called by gRPC
  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

 private:
  StreamReactor(StreamRegistry* registry, StreamKind kind, std::function<void()> on_disconnect)
      : registry_(registry), kind_(kind), on_disconnect_(std::move(on_disconnect)) {}

  void Pump() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Write() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void FinishOnce(const grpc::Status& status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  StreamRegistry* const registry_;
  const StreamKind kind_;
  const std::function<void()> on_disconnect_;

  Mutex mutex_;
  std::shared_ptr<StreamReactor> self_ ABSL_GUARDED_BY(mutex_);
  std::optional<grpc::ByteBuffer> first_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::shared_ptr<StreamSource>> sources_ ABSL_GUARDED_BY(mutex_);
  grpc::ByteBuffer message_ ABSL_GUARDED_BY(mutex_);  // of the write under way, else empty
  bool begun_ ABSL_GUARDED_BY(mutex_) = false;
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;
  bool drained_ ABSL_GUARDED_BY(mutex_) = false;
  std::optional<grpc::Status> end_ ABSL_GUARDED_BY(mutex_);
};

// Thread-safe.
class StreamRegistry {
 public:
  explicit StreamRegistry(size_t max_streams) : max_streams_(max_streams) {}

  size_t Count(StreamKind kind) const;

  // From now on no stream is opened. Watch and generate streams end with SHUTTING_DOWN, so that
  // their clients go to another replica; downloads go on until EndAll.
  void Drain();
  void EndAll();

 private:
  friend class StreamReactor;
  // OK, or why the stream may not open.
  grpc::Status Add(StreamReactor* stream);
  void Remove(StreamReactor* stream);
  std::vector<std::shared_ptr<StreamReactor>> Streams() const;

  const size_t max_streams_;

  mutable Mutex mutex_;
  bool draining_ ABSL_GUARDED_BY(mutex_) = false;
  std::unordered_set<StreamReactor*> streams_ ABSL_GUARDED_BY(mutex_);
  std::array<size_t, kStreamKinds> counts_ ABSL_GUARDED_BY(mutex_) = {};
};

}  // namespace kandinsky

#endif  // KANDINSKY_SERVICES_FRONTEND_STREAM_REACTOR_H_
