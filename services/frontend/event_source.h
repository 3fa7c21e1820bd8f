// The events of one job, each once and in order: those that the store has, then those of the feed.
//
//   subscribe -> read the store after the last id -> (read again while the feed has shown newer
//   ones) -> live
//
// A gap in the sequence or of the feed, and a client that reads too slowly, lead back to reading
// the store. So the memory of a stream is bounded, and no event is lost or doubled. A source that
// has delivered something survives an outage of the store: it goes on when the store is back.
#ifndef KANDINSKY_SERVICES_FRONTEND_EVENT_SOURCE_H_
#define KANDINSKY_SERVICES_FRONTEND_EVENT_SOURCE_H_

#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/queue/job_store.h"
#include "services/frontend/event_hub.h"
#include "services/frontend/mutex.h"
#include "services/frontend/stream_source.h"
#include "services/frontend/work_pool.h"

namespace kandinsky {

// Make it with std::make_shared. The store, hub and pool must outlive it.
class EventSource : public StreamSource,
                    public EventSubscriber,
                    public std::enable_shared_from_this<EventSource> {
 public:
  // How an event becomes the message of the stream.
  using Wrap = grpc::ByteBuffer (*)(const EncodedEvent& event);
  static grpc::ByteBuffer AsJobEvent(const EncodedEvent& event);
  static grpc::ByteBuffer AsGenerateResponse(const EncodedEvent& event);

  // `after_event_id` must be well-formed; "" begins with the first event.
  EventSource(std::string job_id, const std::string& after_event_id, Wrap wrap, JobStore* store,
              EventHub* hub, WorkPool* pool);

  void Start(std::function<void()> wake) override;
  // Ends OK after the event with which the job finished.
  Pull Next(grpc::ByteBuffer* message, grpc::Status* status) override;
  void Stop() override;

  void OnEvent(const EventPtr& event) override;
  void OnGap() override;
  void OnTick() override;

  static constexpr size_t kBatch = 64;        // events of one read
  static constexpr size_t kMaxPending = 128;  // events held for a slow client

 private:
  struct Reading {
    std::vector<EventPtr> events;
    bool more = false;      // the store has further ones
    bool finished = false;  // the job is, and the store has no further events
    absl::Status status;
    uint64_t newest = 0;  // sequence of the job's newest event, where it was looked up
  };

  void Request() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void MaybeRead() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Read(const std::string& after_id);
  Reading ReadStore(const std::string& after_id) const;
  void Take(const Reading& reading) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void TakeFailure(const Reading& reading) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Append(const EventPtr& event) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void End(grpc::Status status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Wake();

  const std::string job_id_;
  const Wrap wrap_;
  JobStore* const store_;
  EventHub* const hub_;
  WorkPool* const pool_;

  Mutex mutex_;
  std::function<void()> wake_ ABSL_GUARDED_BY(mutex_);
  std::deque<EventPtr> pending_ ABSL_GUARDED_BY(mutex_);
  uint64_t last_sequence_ ABSL_GUARDED_BY(mutex_);  // of the newest event in pending_ or delivered
  uint64_t newest_seen_ ABSL_GUARDED_BY(mutex_) = 0;  // of what the feed showed and we did not take
  bool live_ ABSL_GUARDED_BY(mutex_) = false;  // no read is wanted: the feed goes on from here
  bool reading_ ABSL_GUARDED_BY(mutex_) = false;
  bool read_again_ ABSL_GUARDED_BY(mutex_) = false;  // a gap was reported during the read
  bool has_read_ ABSL_GUARDED_BY(mutex_) = false;    // at least once with success
  absl::Time outage_since_ ABSL_GUARDED_BY(mutex_) = absl::InfiniteFuture();
  absl::Time last_change_ ABSL_GUARDED_BY(mutex_);
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
  grpc::Status end_status_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace kandinsky

#endif  // KANDINSKY_SERVICES_FRONTEND_EVENT_SOURCE_H_
