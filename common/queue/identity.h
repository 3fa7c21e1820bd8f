// Names that the engine gives out and takes back: job ids, page tokens, payload digests. Pure
// functions; thread-safe.
#ifndef KANDINSKY_COMMON_QUEUE_IDENTITY_H_
#define KANDINSKY_COMMON_QUEUE_IDENTITY_H_

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/queue/job.h"
#include "common/queue/job_store.h"

namespace kandinsky {

// 26 characters of Crockford's base 32 in lower case: 48 bits of milliseconds, 80 random bits.
std::string NewJobId(absl::Time now);
// Whether `id` can be one of ours. What is not must never reach a key or a file name.
bool IsJobId(std::string_view id);

// 128-bit FNV-1a in hex over everything of `spec` but request_id; spec.payload_digest itself when
// it is not empty.
std::string PayloadDigest(const JobSpec& spec);

// Where a list goes on: behind the job (create_time in microseconds, id), newest first.
struct PagePosition {
  int64_t create_us = 0;
  std::string job_id;
  bool operator==(const PagePosition&) const = default;
};
// The token names the filter and carries a checksum, so that a token for another filter or a
// made-up one is refused.
std::string EncodePageToken(const JobFilter& filter, const PagePosition& position);
absl::StatusOr<PagePosition> DecodePageToken(const JobFilter& filter, const std::string& token);

}  // namespace kandinsky

#endif  // KANDINSKY_COMMON_QUEUE_IDENTITY_H_
