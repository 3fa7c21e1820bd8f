// Finished (and half-finished) videos, as bytes that only ever grow.
//
// Bytes are written under (job, generation); a generation is one claim of the decoding task, so a
// stale writer can never mix its bytes with those of its successor. The job record says which
// generation counts. Encoding is deterministic, so equal offsets of two generations hold equal
// bytes and a reader may go on in the next one.
#ifndef KANDINSKY_COMMON_QUEUE_VIDEO_STORE_H_
#define KANDINSKY_COMMON_QUEUE_VIDEO_STORE_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/queue/job.h"

namespace kandinsky {

class VideoStore {
 public:
  virtual ~VideoStore() = default;

  // Appends at `offset`, which must be the number of bytes written so far. RESOURCE_EXHAUSTED when
  // the store is full (disk full, Redis out of memory): nothing was written.
  virtual absl::Status Append(const std::string& job_id, int64_t generation, uint64_t offset,
                              std::string_view data) = 0;
  // Makes the bytes final and durable. Called before TaskQueue::Finish.
  virtual absl::Status Seal(const std::string& job_id, int64_t generation) = 0;

  // Up to `max_bytes` from `offset`; shorter or empty at the end of what is written. NOT_FOUND: no
  // such bytes.
  virtual absl::StatusOr<std::string> Read(const std::string& job_id, int64_t generation,
                                           uint64_t offset, uint64_t max_bytes) = 0;
  // Bytes written so far; 0 when there are none.
  virtual absl::StatusOr<uint64_t> Size(const std::string& job_id, int64_t generation) = 0;
  // Removes every generation of the job but `keep`.
  virtual absl::Status Remove(const std::string& job_id, std::optional<int64_t> keep) = 0;
};

}  // namespace kandinsky

#endif  // KANDINSKY_COMMON_QUEUE_VIDEO_STORE_H_
