// JobStore on Redis. See docs/queue.md.
#ifndef KANDINSKY_COMMON_QUEUE_REDIS_REDIS_JOB_STORE_H_
#define KANDINSKY_COMMON_QUEUE_REDIS_REDIS_JOB_STORE_H_

#include <string>
#include <vector>

#include "absl/time/time.h"
#include "common/queue/job_store.h"
#include "common/queue/video_store.h"
#include "common/queue_redis/keys.h"
#include "common/queue_redis/scripts.h"
#include "common/redis/client.h"

namespace kandinsky {

// Thread-safe. Whatever is passed in must outlive it.
class RedisJobStore : public JobStore {
 public:
  RedisJobStore(RedisClient* client, const Keys* keys, const Scripts* scripts, VideoStore* videos,
                int min_replicas, absl::Duration replica_timeout)
      : client_(client),
        keys_(keys),
        scripts_(scripts),
        videos_(videos),
        min_replicas_(min_replicas),
        replica_timeout_(replica_timeout) {}

  // When the connection breaks, the creation is sent once more with the same id, so that it happens
  // once.
  absl::StatusOr<CreateResult> Create(const JobSpec& spec) override;
  absl::StatusOr<Job> Get(const std::string& job_id) override;
  // A page may be shorter than asked for, or empty, and still not be the last one: one call looks
  // at a bounded number of jobs.
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
  absl::StatusOr<RedisValue> TryCreate(const RedisCommand& arguments);
  absl::Status Erase(const std::string& job_id, const std::string& condition);
  // Jobs by id; those that are gone are left out.
  absl::StatusOr<std::vector<Job>> GetAll(const std::vector<std::string>& ids);

  RedisClient* const client_;
  const Keys* const keys_;
  const Scripts* const scripts_;
  VideoStore* const videos_;
  const int min_replicas_;
  const absl::Duration replica_timeout_;
};

}  // namespace kandinsky

#endif  // KANDINSKY_COMMON_QUEUE_REDIS_REDIS_JOB_STORE_H_
