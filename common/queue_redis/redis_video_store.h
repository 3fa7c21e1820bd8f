// VideoStore in Redis: strings of a fixed size with a time to live.
#ifndef KANDINSKY_COMMON_QUEUE_REDIS_REDIS_VIDEO_STORE_H_
#define KANDINSKY_COMMON_QUEUE_REDIS_REDIS_VIDEO_STORE_H_

#include <string>
#include <string_view>

#include "absl/time/time.h"
#include "common/queue/video_store.h"
#include "common/queue_redis/keys.h"
#include "common/queue_redis/scripts.h"
#include "common/redis/client.h"

namespace kandinsky {

// Thread-safe. Whatever is passed in must outlive it. Until the job is finished, what is written
// lives for `ttl` after the last Append; then it expires with the job. Appends of a superseded
// generation fail with FAILED_PRECONDITION.
class RedisVideoStore : public VideoStore {
 public:
  RedisVideoStore(RedisClient* client, const Keys* keys, const Scripts* scripts, absl::Duration ttl,
                  int segment_bytes)
      : client_(client), keys_(keys), scripts_(scripts), ttl_(ttl), segment_bytes_(segment_bytes) {}

  absl::Status Append(const std::string& job_id, int64_t generation, uint64_t offset,
                      std::string_view data) override;
  absl::Status Seal(const std::string& job_id, int64_t generation) override;
  absl::StatusOr<std::string> Read(const std::string& job_id, int64_t generation, uint64_t offset,
                                   uint64_t max_bytes) override;
  absl::StatusOr<uint64_t> Size(const std::string& job_id, int64_t generation) override;
  absl::Status Remove(const std::string& job_id, std::optional<int64_t> keep) override;

 private:
  RedisClient* const client_;
  const Keys* const keys_;
  const Scripts* const scripts_;
  const absl::Duration ttl_;
  const int segment_bytes_;
};

}  // namespace kandinsky

#endif  // KANDINSKY_COMMON_QUEUE_REDIS_REDIS_VIDEO_STORE_H_
