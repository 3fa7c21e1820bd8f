// The worker's side of the job engine: claim a task, hold its lease, and end it in exactly one of
// six ways.
//
// Delivery is at least once; effects are exactly once. A lease is fenced: its token (worker,
// delivery count) is checked inside the same atomic script that changes anything, so a worker that
// was believed dead and comes back can change nothing. Implementations: queue_redis/ (real),
// fake_queue.h (in memory, for tests).
//
// Thread rule: all methods may be called from any thread.
// Errors of every method with a Lease: FAILED_PRECONDITION when the lease is lost (stop working on
// the task and touch nothing); UNAVAILABLE when the store cannot be reached (try again while the
// lease can still be valid).
#ifndef KANDINSKY_COMMON_QUEUE_TASK_QUEUE_H_
#define KANDINSKY_COMMON_QUEUE_TASK_QUEUE_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/queue/job.h"

namespace kandinsky {

// Right to run one task until the lease ends. Renew well before `duration` is over.
struct Lease {
  // --- fencing token
  Stage stage = Stage::kKeyframes;
  Priority priority = Priority::kInteractive;
  std::string entry_id;  // stream entry
  std::string worker_id;
  int64_t delivery = 0;  // delivery count of the entry
  // --- the task
  std::string job_id;
  std::string tenant;
  GenerationParameters parameters;
  int attempt = 1;  // 1-based; releases and send-backs do not count
  absl::Time deadline = absl::InfiniteFuture();
  absl::Time enqueue_time =
      absl::InfinitePast();             // when the task became claimable, for the queue-wait metric
  std::optional<LatentLocation> input;  // empty for keyframes
  std::vector<std::string> avoid_workers;  // workers that ran out of memory on it
  bool reclaimed = false;                  // another worker held it before and lost it
  int64_t video_generation =
      0;  // unique per claim of a decoding task; names this claim's bytes in the video store
  absl::Duration duration = absl::ZeroDuration();
};

enum class LeaseVerdict {
  kHeld,             // go on
  kCancelRequested,  // stop within one step and call AcknowledgeCancel
  kDeadlineExceeded  // stop; the job is EXPIRED
};

struct StageProgress {
  int pass = 1;
  int passes = 1;
  int step = 0;
  int steps = 0;
  double stage_fraction = 0;  // 0 to 1 within the stage
  std::optional<absl::Duration> stage_eta;
};

struct TaskFailure {
  enum class Class {
    kTransient,    // try again with backoff
    kPermanent,    // the same request would fail again
    kOutOfMemory,  // once more, on another worker
  };
  Class failure_class = Class::kTransient;
  std::string reason;  // UPPER_SNAKE
  std::string message;
};

struct StageQueueStats {
  Stage stage = Stage::kKeyframes;
  Priority priority = Priority::kInteractive;
  int64_t waiting = 0;                               // claimable now
  int64_t delayed = 0;                               // waits for its backoff to end
  int64_t running = 0;                               // leased
  absl::Duration oldest_age = absl::ZeroDuration();  // of the oldest waiting task
};

class TaskQueue {
 public:
  virtual ~TaskQueue() = default;

  // Waits up to `max_wait` for a task of `stage` and leases it: first tasks whose lease ended, then
  // new ones by priority with ageing and fairly between tenants. Empty when none came.
  virtual absl::StatusOr<std::optional<Lease>> Claim(Stage stage, const std::string& worker_id,
                                                     absl::Duration max_wait) = 0;

  // Prolongs the lease by its duration and, if given, publishes progress.
  virtual absl::StatusOr<LeaseVerdict> Renew(const Lease& lease,
                                             const std::optional<StageProgress>& progress) = 0;

  // Publishes the preview of the keyframes.
  virtual absl::Status PublishPreview(const Lease& lease, const Preview& preview) = 0;

  // Keeps `blob` as the task's checkpoint in place of the one before; it lives until the stage
  // ends.
  virtual absl::Status SaveCheckpoint(const Lease& lease, const std::string& blob) = 0;
  virtual absl::StatusOr<std::optional<std::string>> LoadCheckpoint(const Lease& lease) = 0;

  // --- The six ways to end a task; each is atomic and ends the lease.
  // The stage is done: enqueue the next stage's task with these latents.
  virtual absl::Status Complete(const Lease& lease, const LatentLocation& output) = 0;
  // The last stage is done: the job SUCCEEDED with the video stored under lease.video_generation.
  virtual absl::Status Finish(const Lease& lease, const VideoInfo& video) = 0;
  // An attempt failed: retry later, or FAILED and dead letter when it was permanent or the last
  // attempt.
  virtual absl::Status Fail(const Lease& lease, const TaskFailure& failure) = 0;
  // Hand the task back (drain); another worker may claim it at once; no attempt is counted.
  virtual absl::Status Release(const Lease& lease) = 0;
  // The input latents are gone: run the stage before again; no attempt of this stage is counted.
  virtual absl::Status SendBack(const Lease& lease, const std::string& why) = 0;
  // After kCancelRequested or kDeadlineExceeded: the job is CANCELLED or EXPIRED.
  virtual absl::Status AcknowledgeCancel(const Lease& lease) = 0;

  // --- Housekeeping; idempotent, any process may run it at any time.
  // Makes delayed tasks claimable whose backoff ended, expires jobs past their deadline, trims
  // indexes.
  virtual absl::Status Maintain() = 0;
  virtual absl::StatusOr<std::vector<StageQueueStats>> Stats() = 0;

  // --- Worker registry, for GetServerInfo and health per stage.
  struct WorkerInfo {
    std::string id;
    Stage stage = Stage::kKeyframes;
    std::string state;  // "loading", "ready", "draining", "failed"
    std::string address;
    std::vector<std::string> models;
    absl::Time heartbeat = absl::InfinitePast();
  };
  // Remembered for three heartbeats (default 5 s each).
  virtual absl::Status Heartbeat(const WorkerInfo& worker) = 0;
  virtual absl::StatusOr<std::vector<WorkerInfo>> Workers() = 0;
};

}  // namespace kandinsky

#endif  // KANDINSKY_COMMON_QUEUE_TASK_QUEUE_H_
