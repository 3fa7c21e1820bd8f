// Reads video files and pictures (all that FFmpeg knows) as RGB frames: for data sets, evaluation
// and tests.
#ifndef KANDINSKY_WORKER_MEDIA_VIDEO_READER_H_
#define KANDINSKY_WORKER_MEDIA_VIDEO_READER_H_

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "worker/media/video_encoder.h"

namespace kandinsky::media {

struct VideoProbe {
  std::string container;  // FFmpeg's name, for example "mov,mp4,m4a,3gp,3g2,mj2"
  std::string codec;      // "h264", "vp9", "gif", "png"
  std::string pixel_format;
  std::string color_space;  // "bt709", "smpte170m", "unknown", …
  int width = 0;
  int height = 0;
  FrameRate fps;                                   // average; 0/1 when the file does not say
  absl::Duration duration = absl::ZeroDuration();  // zero when the file does not say
};

// Thread-compatible.
class VideoReader {
 public:
  // NOT_FOUND when the file cannot be opened, INVALID_ARGUMENT when it holds no video that can be
  // decoded.
  static absl::StatusOr<std::unique_ptr<VideoReader>> Open(const std::string& path);
  // The same for a file in memory.
  static absl::StatusOr<std::unique_ptr<VideoReader>> FromBytes(std::string bytes);
  virtual ~VideoReader() = default;

  virtual const VideoProbe& probe() const = 0;

  // The next frame into `rgb` ([height][width][3], 8 bits), its time from the start into `time`
  // unless null. False at the end. DATA_LOSS when the stream is damaged.
  virtual absl::StatusOr<bool> ReadFrame(std::vector<uint8_t>& rgb,
                                         absl::Duration* time = nullptr) = 0;
};

}  // namespace kandinsky::media

#endif  // KANDINSKY_WORKER_MEDIA_VIDEO_READER_H_
