// Between the engine's values and what Redis keeps. Pure functions; thread-safe. Whatever cannot be
// read gives DATA_LOSS: bytes in Redis are never trusted to be ours.
#ifndef KANDINSKY_COMMON_QUEUE_REDIS_CODEC_H_
#define KANDINSKY_COMMON_QUEUE_REDIS_CODEC_H_

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "common/queue/job.h"
#include "common/queue/job_store.h"
#include "common/queue/task_queue.h"
#include "common/redis/value.h"

namespace kandinsky {

std::string EncodeSpec(const JobSpec& spec);
absl::StatusOr<JobSpec> DecodeSpec(std::string_view bytes);

std::string EncodeLocation(const LatentLocation& location);
absl::StatusOr<LatentLocation> DecodeLocation(std::string_view bytes);

std::string EncodeVideo(const VideoInfo& video);
absl::StatusOr<VideoInfo> DecodeVideo(std::string_view bytes);

std::string EncodeWorker(const TaskQueue::WorkerInfo& worker);
absl::StatusOr<TaskQueue::WorkerInfo> DecodeWorker(std::string_view bytes);

// The part of an event that scripts only pass on.
struct EventDetailsValue {
  int pass = 1;
  int passes = 1;
  int step = 0;
  int steps = 0;
  std::optional<absl::Duration> eta;
  std::optional<Preview> preview;
  std::optional<VideoInfo> video;
  std::vector<Notice> notices;
};
std::string EncodeDetails(const EventDetailsValue& details);

// An event as lib.lua's publish() writes it.
absl::StatusOr<JobEvent> DecodeEvent(std::string_view text);

// A job from the reply to HGETALL of its record; NOT_FOUND when that is empty.
absl::StatusOr<Job> DecodeJob(const std::string& id, const RedisValue& fields);

// Microseconds since 1970 as text.
absl::StatusOr<absl::Time> DecodeTime(const std::string& text);

// Shortest text that reads back as the same number.
std::string EncodeDouble(double value);

}  // namespace kandinsky

#endif  // KANDINSKY_COMMON_QUEUE_REDIS_CODEC_H_
