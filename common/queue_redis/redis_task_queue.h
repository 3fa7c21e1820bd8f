// TaskQueue on Redis: each method is one script, so that it happens wholly or not at all. See
// docs/queue.md.
#ifndef KANDINSKY_COMMON_QUEUE_REDIS_REDIS_TASK_QUEUE_H_
#define KANDINSKY_COMMON_QUEUE_REDIS_REDIS_TASK_QUEUE_H_

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/queue/options.h"
#include "common/queue/task_queue.h"
#include "common/queue/video_store.h"
#include "common/queue_redis/keys.h"
#include "common/queue_redis/scripts.h"
#include "common/redis/client.h"

namespace kandinsky {

// Thread-safe. Whatever is passed in must outlive it. A Claim that waits occupies one connection of
// the client.
class RedisTaskQueue : public TaskQueue {
 public:
  RedisTaskQueue(RedisClient* client, const Keys* keys, const Scripts* scripts,
                 const QueueOptions& options, VideoStore* videos)
      : client_(client), keys_(keys), scripts_(scripts), options_(options), videos_(videos) {}

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
  // Also removes the videos of jobs whose retention is over.
  absl::Status Maintain() override;
  absl::StatusOr<std::vector<StageQueueStats>> Stats() override;
  absl::Status Heartbeat(const WorkerInfo& worker) override;
  absl::StatusOr<std::vector<WorkerInfo>> Workers() override;

 private:
  // Runs a script that ends the lease's task.
  absl::Status End(const RedisScript& script, const Lease& lease,
                   std::vector<std::string> arguments);
  absl::StatusOr<std::optional<Lease>> DecodeLease(Stage stage, const std::string& worker_id,
                                                   const RedisValue& reply);

  RedisClient* const client_;
  const Keys* const keys_;
  const Scripts* const scripts_;
  const QueueOptions options_;
  VideoStore* const videos_;
};

}  // namespace kandinsky

#endif  // KANDINSKY_COMMON_QUEUE_REDIS_REDIS_TASK_QUEUE_H_
