#include "worker/runtime/video_sink.h"

#include <algorithm>
#include <utility>

#include "common/base/crc32c.h"
#include "common/base/fault_point.h"
#include "worker/runtime/failure.h"
#include "worker/runtime/store_retry.h"

namespace kandinsky {
namespace {

// A full store is asked so many times (about 3 s) before the task fails: others may be deleting.
constexpr int kMaxFull = 8;

absl::Status Explain(absl::Status status) {
  if (absl::IsResourceExhausted(status)) return WithReason(std::move(status), "VIDEO_STORE_FULL");
  if (absl::IsUnavailable(status)) return WithReason(std::move(status), "STORE_UNAVAILABLE");
  return WithReason(std::move(status), "VIDEO_STORE_ERROR");
}

}  // namespace

VideoSink::VideoSink(VideoStore* store, std::string job_id, int64_t generation,
                     std::function<bool()> give_up)
    : store_(store),
      job_id_(std::move(job_id)),
      generation_(generation),
      give_up_(std::move(give_up)) {}

absl::Status VideoSink::Write(std::string_view data) {
  while (status_.ok() && !data.empty()) {
    const std::string_view piece = data.substr(0, kMaxPiece);
    FaultPoint("during_encode");
    full_ = 0;
    absl::Status status = RetryUntil([&] { return AppendOnce(piece); },
                                     [&] { return full_ >= kMaxFull || give_up_(); });
    if (!status.ok()) {
      status_ = Explain(std::move(status));
      break;
    }
    size_ += piece.size();
    crc32c_ = ExtendCrc32c(crc32c_, piece.data(), piece.size());
    data.remove_prefix(piece.size());
  }
  return status_;
}

// A reply may have been lost: what the store has decides.
absl::Status VideoSink::AppendOnce(std::string_view piece) {
  const absl::Status status = store_->Append(job_id_, generation_, size_, piece);
  if (status.ok()) return status;
  full_ = absl::IsResourceExhausted(status) ? full_ + 1 : 0;
  const absl::StatusOr<uint64_t> size = store_->Size(job_id_, generation_);
  if (size.ok() && *size == size_ + piece.size()) return absl::OkStatus();
  return status;
}

absl::Status VideoSink::Seal() {
  if (!status_.ok()) return status_;
  absl::Status status = RetryUntil([&] { return store_->Seal(job_id_, generation_); }, give_up_);
  if (!status.ok()) status_ = Explain(std::move(status));
  return status_;
}

}  // namespace kandinsky
