// The job engine in one process's memory, with the semantics of queue_redis/ and a clock that tests
// own; and wrappers that fail on demand. For tests and for simulations; nothing survives the
// object.
#ifndef KANDINSKY_COMMON_QUEUE_FAKE_QUEUE_H_
#define KANDINSKY_COMMON_QUEUE_FAKE_QUEUE_H_

#include <array>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/base/clock.h"
#include "common/queue/job.h"
#include "common/queue/job_store.h"
#include "common/queue/options.h"
#include "common/queue/task_queue.h"
#include "common/queue/video_store.h"

namespace kandinsky {

// All four interfaces over one state. Thread-safe. `clock` decides about leases, deadlines, backoff
// and retention and must outlive the object; Claim's max_wait is real time, during which the clock
// is looked at every few milliseconds.
class InMemoryEngine : public TaskQueue, public JobStore, public EventFeed, public VideoStore {
 public:
  explicit InMemoryEngine(QueueOptions options = {}, const Clock* clock = Clock::Real());
  ~InMemoryEngine() override;

  // --- TaskQueue
  absl::StatusOr<std::optional<Lease>> Claim(Stage stage, const std::string& worker_id,
                                             absl::Duration max_wait) override;
  absl::StatusOr<LeaseVerdict> Renew(const Lease& lease,
                                     const std::optional<StageProgress>& progress) override;
  absl::Status PublishPreview(const Lease& lease, const Preview& preview) override;
  absl::Status SaveCheckpoint(const Lease& lease, const std::string& blob) override;
  absl::StatusOr<std::optional<std::string>> LoadCheckpoint(const Lease& lease) override;
  absl::Status Complete(const Lease& lease, const LatentLocation& output) override;
  absl::Status Finish(const Lease& lease, const VideoInfo& video) override;
  absl::Status Fail(const Lease& lease, const TaskFailure& failure) override;
  absl::Status Release(const Lease& lease) override;
  absl::Status SendBack(const Lease& lease, const std::string& why) override;
  absl::Status AcknowledgeCancel(const Lease& lease) override;
  absl::Status Maintain() override;
  absl::StatusOr<std::vector<StageQueueStats>> Stats() override;
  absl::Status Heartbeat(const WorkerInfo& worker) override;
  absl::StatusOr<std::vector<WorkerInfo>> Workers() override;

  // --- JobStore
  absl::StatusOr<CreateResult> Create(const JobSpec& spec) override;
  absl::StatusOr<Job> Get(const std::string& job_id) override;
  absl::StatusOr<JobPage> List(const JobFilter& filter, int page_size,
                               const std::string& page_token) override;
  absl::StatusOr<Job> Cancel(const std::string& job_id) override;
  absl::Status Delete(const std::string& job_id) override;
  absl::StatusOr<std::vector<JobEvent>> ReadEvents(const std::string& job_id,
                                                   const std::string& after_event_id,
                                                   int max) override;
  absl::StatusOr<std::vector<DeadLetter>> ListDead(int max) override;
  absl::StatusOr<Job> RetryDead(const std::string& job_id) override;
  absl::Status PurgeDead(const std::string& job_id) override;

  // --- EventFeed
  absl::Status Start(std::function<void(const JobEvent&)> on_event,
                     std::function<void()> on_gap) override;
  void Stop() override;

  // --- VideoStore
  absl::Status Append(const std::string& job_id, int64_t generation, uint64_t offset,
                      std::string_view data) override;
  absl::Status Seal(const std::string& job_id, int64_t generation) override;
  absl::StatusOr<std::string> Read(const std::string& job_id, int64_t generation, uint64_t offset,
                                   uint64_t max_bytes) override;
  absl::StatusOr<uint64_t> Size(const std::string& job_id, int64_t generation) override;
  absl::Status Remove(const std::string& job_id, std::optional<int64_t> keep) override;

  // --- For tests
  // Between these two, events do not reach the feed; the second reports the gap.
  void BreakFeed();
  void RestoreFeed();

 private:
  enum class Place { kNowhere, kWaiting, kDelayed, kLeased };
  struct Record {
    Job job;
    Place place = Place::kNowhere;
    absl::Time enqueue_time = absl::InfinitePast();
    absl::Time due = absl::InfinitePast();
    // --- the lease
    std::string entry_id;
    std::string worker;
    int64_t delivery = 0;
    absl::Time lease_end = absl::InfinitePast();
    std::string ended_lease;  // token of the lease that ended last, so that ending it again is fine
    // --- counters and data per stage, indexed by the stage's number
    std::array<int, 4> failures{};
    std::array<int, 4> out_of_memory{};
    std::array<std::optional<LatentLocation>, 4> outputs;
    std::array<std::optional<std::string>, 4> checkpoints;
    std::vector<std::string> avoid_workers;
    int send_backs = 0;
    std::vector<JobEvent> events;
    uint64_t sequence = 0;
  };
  using LineKey = std::pair<absl::Time, std::string>;  // enqueue time, job id
  struct Line {
    std::map<std::string, std::set<LineKey>> tenants;
    std::map<std::string, double> turns;  // per tenant with waiting tasks: who is next
    std::set<LineKey> waiting;            // all tenants
  };

  // All private methods need mutex_.
  Record* Find(const std::string& job_id);
  absl::StatusOr<Record*> Fence(const Lease& lease);
  Line& LineOf(const Record& record);
  void Enqueue(Record& record, absl::Time enqueue_time);
  void Dequeue(Record& record);
  void EndLease(Record& record);
  void Finalize(Record& record, JobState state, std::optional<JobError> error);
  bool FinalizeIfStopped(Record& record);
  JobEvent NewEvent(const Record& record, JobEvent::Type type);
  void Publish(Record& record, JobEvent event);
  void Delay(Record& record, absl::Duration delay);
  void PromoteDelayed();
  std::optional<Lease> TryClaim(Stage stage, const std::string& worker_id);
  Record* Pick(Stage stage, Priority priority, const std::string& worker_id);
  Lease Grant(Record& record, const std::string& worker_id, bool reclaimed);
  absl::Duration RetryAfter(int unfinished);
  void Erase(const std::string& job_id);
  void ExpireFinished();
  void FeedLoop();

  const QueueOptions options_;
  const Clock* const clock_;

  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<std::string, Record> jobs_;
  std::map<std::pair<Stage, Priority>, Line> lines_;
  std::map<Stage, int> turns_;
  std::map<std::pair<std::string, std::string>, std::pair<std::string, std::string>>
      requests_;  // (tenant, request id) -> (job id, digest)
  std::map<std::string, absl::Time> dead_;
  std::deque<absl::Time> finishes_;
  std::map<std::string, WorkerInfo> workers_;
  std::map<std::pair<std::string, int64_t>, std::string> videos_;
  int64_t next_entry_ = 1;
  std::mt19937_64 random_;

  std::mutex feed_mutex_;
  std::condition_variable feed_changed_;
  std::deque<std::optional<JobEvent>> feed_;  // empty: a gap
  bool feed_running_ = false;
  bool feed_broken_ = false;
  std::function<void(const JobEvent&)> on_event_;
  std::function<void()> on_gap_;
  std::thread feed_thread_;
};

// Decides whether the wrappers below fail. Thread-safe.
class FailureSwitch {
 public:
  // From now on every call fails with UNAVAILABLE, before it has any effect.
  void FailAll(bool fail) { all_ = fail; }
  // The next `count` calls fail.
  void FailNext(int count) { next_ = count; }
  // The next `count` calls take effect and then report UNAVAILABLE: the reply was lost.
  void LoseReplies(int count) { lose_ = count; }
  absl::Status Before();
  absl::Status After();

 private:
  std::atomic<bool> all_{false};
  std::atomic<int> next_{0};
  std::atomic<int> lose_{0};
};

// Forwards to `queue`, which must outlive it, unless `failures` says otherwise.
class FailingTaskQueue : public TaskQueue {
 public:
  FailingTaskQueue(TaskQueue* queue, FailureSwitch* failures)
      : queue_(queue), failures_(failures) {}
  absl::StatusOr<std::optional<Lease>> Claim(Stage stage, const std::string& worker_id,
                                             absl::Duration max_wait) override;
  absl::StatusOr<LeaseVerdict> Renew(const Lease& lease,
                                     const std::optional<StageProgress>& progress) override;
  absl::Status PublishPreview(const Lease& lease, const Preview& preview) override;
  absl::Status SaveCheckpoint(const Lease& lease, const std::string& blob) override;
  absl::StatusOr<std::optional<std::string>> LoadCheckpoint(const Lease& lease) override;
  absl::Status Complete(const Lease& lease, const LatentLocation& output) override;
  absl::Status Finish(const Lease& lease, const VideoInfo& video) override;
  absl::Status Fail(const Lease& lease, const TaskFailure& failure) override;
  absl::Status Release(const Lease& lease) override;
  absl::Status SendBack(const Lease& lease, const std::string& why) override;
  absl::Status AcknowledgeCancel(const Lease& lease) override;
  absl::Status Maintain() override;
  absl::StatusOr<std::vector<StageQueueStats>> Stats() override;
  absl::Status Heartbeat(const WorkerInfo& worker) override;
  absl::StatusOr<std::vector<WorkerInfo>> Workers() override;

 private:
  TaskQueue* const queue_;
  FailureSwitch* const failures_;
};

class FailingJobStore : public JobStore {
 public:
  FailingJobStore(JobStore* store, FailureSwitch* failures) : store_(store), failures_(failures) {}
  absl::StatusOr<CreateResult> Create(const JobSpec& spec) override;
  absl::StatusOr<Job> Get(const std::string& job_id) override;
  absl::StatusOr<JobPage> List(const JobFilter& filter, int page_size,
                               const std::string& page_token) override;
  absl::StatusOr<Job> Cancel(const std::string& job_id) override;
  absl::Status Delete(const std::string& job_id) override;
  absl::StatusOr<std::vector<JobEvent>> ReadEvents(const std::string& job_id,
                                                   const std::string& after_event_id,
                                                   int max) override;
  absl::StatusOr<std::vector<DeadLetter>> ListDead(int max) override;
  absl::StatusOr<Job> RetryDead(const std::string& job_id) override;
  absl::Status PurgeDead(const std::string& job_id) override;

 private:
  JobStore* const store_;
  FailureSwitch* const failures_;
};

class FailingVideoStore : public VideoStore {
 public:
  FailingVideoStore(VideoStore* store, FailureSwitch* failures)
      : store_(store), failures_(failures) {}
  absl::Status Append(const std::string& job_id, int64_t generation, uint64_t offset,
                      std::string_view data) override;
  absl::Status Seal(const std::string& job_id, int64_t generation) override;
  absl::StatusOr<std::string> Read(const std::string& job_id, int64_t generation, uint64_t offset,
                                   uint64_t max_bytes) override;
  absl::StatusOr<uint64_t> Size(const std::string& job_id, int64_t generation) override;
  absl::Status Remove(const std::string& job_id, std::optional<int64_t> keep) override;

 private:
  VideoStore* const store_;
  FailureSwitch* const failures_;
};

}  // namespace kandinsky

#endif  // KANDINSKY_COMMON_QUEUE_FAKE_QUEUE_H_
