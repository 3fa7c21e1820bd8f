// Appends the bytes of one claim's video to the video store, in order, in bounded pieces, exactly
// once.
#ifndef KANDINSKY_WORKER_RUNTIME_VIDEO_SINK_H_
#define KANDINSKY_WORKER_RUNTIME_VIDEO_SINK_H_

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "common/queue/video_store.h"

namespace kandinsky {

// Thread-compatible.
class VideoSink {
 public:
  static constexpr size_t kMaxPiece = size_t{1} << 20;

  // `give_up` true: stop trying to reach the store. `store` must outlive it.
  VideoSink(VideoStore* store, std::string job_id, int64_t generation,
            std::function<bool()> give_up);

  // Tries again while the store cannot be reached or is full and give_up is false. The first error
  // sticks.
  absl::Status Write(std::string_view data);
  // Makes what was written final.
  absl::Status Seal();

  // Of Write and Seal. An error says by WithReason what happened.
  const absl::Status& status() const { return status_; }
  uint64_t size() const { return size_; }
  uint32_t crc32c() const { return crc32c_; }

 private:
  absl::Status AppendOnce(std::string_view piece);

  VideoStore* const store_;
  const std::string job_id_;
  const int64_t generation_;
  const std::function<bool()> give_up_;
  absl::Status status_;
  uint64_t size_ = 0;
  uint32_t crc32c_ = 0;
  int full_ = 0;  // times in a row that the store was full
};

}  // namespace kandinsky

#endif  // KANDINSKY_WORKER_RUNTIME_VIDEO_SINK_H_
