// The bytes of one job's video from an offset on, while it is written and after.
//
//   look the job up -> read its generation at the offset -> a chunk, or wait for an event of the
//   job
//
// Waiting is driven by the feed: progress of the decoding stage and changes of state look again;
// nothing polls. When the decoding task was claimed anew, reading goes on in the new generation at
// the same offset (video_store.h).
#ifndef KANDINSKY_SERVICES_FRONTEND_VIDEO_SOURCE_H_
#define KANDINSKY_SERVICES_FRONTEND_VIDEO_SOURCE_H_

#include <memory>
#include <optional>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/time/time.h"
#include "common/queue/job_store.h"
#include "common/queue/video_store.h"
#include "kandinsky/video/v1/video_service.pb.h"
#include "services/frontend/event_hub.h"
#include "services/frontend/mutex.h"
#include "services/frontend/stream_source.h"
#include "services/frontend/work_pool.h"

namespace kandinsky {

inline constexpr uint64_t kMaxChunkBytes = 1 << 20;

// Make it with std::make_shared. The stores, hub and pool must outlive it. Holds at most one chunk.
class VideoSource : public StreamSource,
                    public EventSubscriber,
                    public std::enable_shared_from_this<VideoSource> {
 public:
  using Wrap = grpc::ByteBuffer (*)(const video::v1::VideoChunk& chunk);
  static grpc::ByteBuffer AsVideoChunk(const video::v1::VideoChunk& chunk);
  static grpc::ByteBuffer AsGenerateResponse(const video::v1::VideoChunk& chunk);

  VideoSource(std::string job_id, uint64_t offset, Wrap wrap, JobStore* jobs, VideoStore* videos,
              EventHub* hub, WorkPool* pool);

  void Start(std::function<void()> wake) override;
  // Ends OK after the last byte of the finished video.
  Pull Next(grpc::ByteBuffer* message, grpc::Status* status) override;
  void Stop() override;

  void OnEvent(const EventPtr& event) override;
  void OnGap() override;
  void OnTick() override;

 private:
  // What the last look at the job said.
  struct View {
    int64_t generation = 0;
    std::optional<uint64_t> total;  // once it SUCCEEDED
  };
  struct Outcome {
    enum class Kind { kChunk, kWait, kOutage, kEnd };
    Kind kind = Kind::kWait;
    grpc::ByteBuffer message;
    uint64_t bytes = 0;
    grpc::Status status;
  };

  void LookAgain();
  void MaybeWork() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Work(std::optional<View> view, uint64_t offset);
  Outcome Advance(std::optional<View>& view, uint64_t offset) const;
  // Empty: `view` is fresh and there may be bytes.
  std::optional<Outcome> LookUp(std::optional<View>& view, uint64_t offset) const;
  Outcome FromError(const absl::Status& status) const;
  void Wake();

  const std::string job_id_;
  const Wrap wrap_;
  JobStore* const jobs_;
  VideoStore* const videos_;
  EventHub* const hub_;
  WorkPool* const pool_;

  Mutex mutex_;
  std::function<void()> wake_ ABSL_GUARDED_BY(mutex_);
  std::optional<View> view_ ABSL_GUARDED_BY(mutex_);  // empty: look the job up first
  uint64_t offset_ ABSL_GUARDED_BY(mutex_);           // of the next byte to read
  std::optional<grpc::ByteBuffer> ready_ ABSL_GUARDED_BY(mutex_);
  bool working_ ABSL_GUARDED_BY(mutex_) = false;
  bool waiting_ ABSL_GUARDED_BY(mutex_) = false;  // for an event
  bool event_while_working_ ABSL_GUARDED_BY(mutex_) = false;
  bool has_looked_ ABSL_GUARDED_BY(mutex_) = false;  // at least once with success
  absl::Time outage_since_ ABSL_GUARDED_BY(mutex_) = absl::InfiniteFuture();
  absl::Time last_look_ ABSL_GUARDED_BY(mutex_);
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
  grpc::Status end_status_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace kandinsky

#endif  // KANDINSKY_SERVICES_FRONTEND_VIDEO_SOURCE_H_
