#include "common/queue_redis/redis_video_store.h"

#include <algorithm>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace kandinsky {
namespace {

// One script copies its data through Lua, so a call of it gets no more than this.
constexpr size_t kMaxAppend = 1 << 20;

}  // namespace

absl::Status RedisVideoStore::Append(const std::string& job_id, int64_t generation, uint64_t offset,
                                     std::string_view data) {
  if (data.size() > kMaxAppend) {
    return absl::InvalidArgumentError("at most 1 MiB can be appended at once");
  }
  absl::StatusOr<RedisValue> reply = client_->Eval(
      scripts_->video_append,
      {job_id, std::to_string(generation), std::to_string(offset), std::to_string(segment_bytes_),
       std::to_string(absl::ToInt64Milliseconds(ttl_)), std::string(data)});
  if (!reply.ok()) return reply.status();
  const std::string word = reply->elements.empty() ? "" : reply->elements[0].text;
  if (word == "OK") return absl::OkStatus();
  if (word == "OFFSET") return absl::FailedPreconditionError("the offset is not the size");
  if (word == "SEALED") return absl::FailedPreconditionError("the video is sealed");
  if (word == "STALE") return absl::FailedPreconditionError("another attempt took over");
  return absl::InternalError(absl::StrCat("video_append: unexpected reply ", word));
}

absl::Status RedisVideoStore::Seal(const std::string& job_id, int64_t generation) {
  absl::StatusOr<RedisValue> reply =
      client_->Eval(scripts_->video_seal, {job_id, std::to_string(generation)});
  if (!reply.ok()) return reply.status();
  if (!reply->elements.empty() && reply->elements[0].text == "OK") return absl::OkStatus();
  return absl::NotFoundError("no such video");
}

absl::StatusOr<std::string> RedisVideoStore::Read(const std::string& job_id, int64_t generation,
                                                  uint64_t offset, uint64_t max_bytes) {
  absl::StatusOr<RedisSession> session = client_->Acquire();
  if (!session.ok()) return session.status();
  absl::StatusOr<RedisValue> about =
      session->Command({"HMGET", keys_->Video(job_id, generation), "s", "l"});
  if (!about.ok()) return about.status();
  uint64_t size = 0, segment_bytes = 0;
  if (about->elements.size() != 2 || about->elements[0].nil()) {
    return absl::NotFoundError("no such video");
  }
  if (!absl::SimpleAtoi(about->elements[0].text, &size) ||
      !absl::SimpleAtoi(about->elements[1].text, &segment_bytes) || segment_bytes == 0) {
    return absl::DataLossError("unreadable video in Redis");
  }
  if (offset >= size) return std::string();
  const uint64_t end = offset + std::min(max_bytes, size - offset);
  std::vector<RedisCommand> commands;
  for (uint64_t at = offset; at < end;) {
    uint64_t segment = at / segment_bytes;
    uint64_t first = at - segment * segment_bytes;
    uint64_t count = std::min(end - at, segment_bytes - first);
    commands.push_back({"GETRANGE",
                        keys_->Segment(job_id, generation, static_cast<int64_t>(segment)),
                        std::to_string(first), std::to_string(first + count - 1)});
    at += count;
  }
  absl::StatusOr<std::vector<RedisValue>> parts = session->Pipeline(commands);
  if (!parts.ok()) return parts.status();
  std::string data;
  for (const RedisValue& part : *parts) {
    if (absl::Status status = RedisErrorStatus(part); !status.ok()) return status;
    data += part.text;
  }
  // It was removed while we read.
  if (data.size() != end - offset) return absl::NotFoundError("no such video");
  return data;
}

absl::StatusOr<uint64_t> RedisVideoStore::Size(const std::string& job_id, int64_t generation) {
  absl::StatusOr<RedisValue> reply =
      client_->Command({"HGET", keys_->Video(job_id, generation), "s"});
  if (!reply.ok()) return reply.status();
  uint64_t size = 0;
  if (!reply->nil() && !absl::SimpleAtoi(reply->text, &size)) {
    return absl::DataLossError("unreadable video in Redis");
  }
  return size;
}

absl::Status RedisVideoStore::Remove(const std::string& job_id, std::optional<int64_t> keep) {
  return client_
      ->Eval(scripts_->video_remove, {job_id, keep ? std::to_string(*keep) : std::string()})
      .status();
}

}  // namespace kandinsky
