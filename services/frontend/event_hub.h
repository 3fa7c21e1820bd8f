// Fans the one event feed of the process out to every stream that follows a job.
//
//   EventFeed (one reader) -> EventHub -> Subscriber, Subscriber, … (WatchJob, GenerateVideo,
//   DownloadVideo)
//
// An event is encoded once, however many streams send it. There is no thread per stream.
#ifndef KANDINSKY_SERVICES_FRONTEND_EVENT_HUB_H_
#define KANDINSKY_SERVICES_FRONTEND_EVENT_HUB_H_

#include <grpcpp/support/byte_buffer.h>

#include <array>
#include <functional>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "common/queue/job_store.h"
#include "services/frontend/mutex.h"

namespace kandinsky {

// An event with its encoding as kandinsky.video.v1.JobEvent, shared by all streams that send it.
// Immutable.
struct EncodedEvent {
  explicit EncodedEvent(const JobEvent& event);

  uint64_t sequence = 0;
  std::string id;
  JobEvent::Type type = JobEvent::Type::kStateChanged;
  JobState state = JobState::kQueued;
  Stage stage = Stage::kKeyframes;
  grpc::Slice bytes;

  bool IsFinal() const { return type == JobEvent::Type::kStateChanged && IsFinished(state); }
};
using EventPtr = std::shared_ptr<const EncodedEvent>;

class EventSubscriber {
 public:
  virtual ~EventSubscriber() = default;
  // From the feed's thread: must not block. Events of the job in order of their sequence.
  virtual void OnEvent(const EventPtr& event) = 0;
  // Events may have been missed: read the store again.
  virtual void OnGap() = 0;
  // Now and then (see EventHub::Tick), for work that waits for time to pass.
  virtual void OnTick() = 0;
};

// Thread-safe.
class EventHub {
 public:
  // `feed` must outlive the hub. `observe` (may be null) sees every event of every job, from the
  // feed's thread.
  EventHub(EventFeed* feed, std::function<void(const JobEvent&)> observe);
  // Stop()s.
  ~EventHub();
  EventHub(const EventHub&) = delete;
  EventHub& operator=(const EventHub&) = delete;

  // While the feed cannot be started, Tick tries again: streams then live on what they read from
  // the store.
  void Start();
  void Stop();

  // The hub keeps a weak reference: a subscriber that is gone needs no Unsubscribe, but gives its
  // memory back sooner.
  void Subscribe(const std::string& job_id, std::weak_ptr<EventSubscriber> subscriber);
  void Unsubscribe(const std::string& job_id, const EventSubscriber* subscriber);

  // Called by one timer of the process about every second.
  void Tick();

 private:
  static constexpr size_t kShards = 16;
  struct Entry {
    const EventSubscriber* key;
    std::weak_ptr<EventSubscriber> subscriber;
  };
  struct Shard {
    Mutex mutex;
    std::unordered_map<std::string, std::vector<Entry>> by_job ABSL_GUARDED_BY(mutex);
  };

  Shard& ShardOf(const std::string& job_id);
  void OnEvent(const JobEvent& event);
  void ForEach(const std::function<void(EventSubscriber&)>& visit);

  EventFeed* const feed_;
  const std::function<void(const JobEvent&)> observe_;
  std::array<Shard, kShards> shards_;

  Mutex feed_mutex_;
  bool feed_started_ ABSL_GUARDED_BY(feed_mutex_) = false;
  bool stopped_ ABSL_GUARDED_BY(feed_mutex_) = false;
};

}  // namespace kandinsky

#endif  // KANDINSKY_SERVICES_FRONTEND_EVENT_HUB_H_
