// Frames in, the bytes of a video file out, while the frames are still being made.
//
// The encoder is deterministic: the same options and frames give the same bytes on every machine
// with the same FFmpeg (fixed thread count, no dates, no random ids, no processor-dependent
// decisions). So bytes of an interrupted file can be continued by another process that encodes the
// same frames again.
//
// What reaches the sink, and when:
//   kMp4            H.264 yuv420p, index in front of the media data: everything arrives within
//   Finish kFragmentedMp4  H.264 yuv420p, a fragment for each second of video as soon as it is
//   encoded kWebm           VP9 yuv420p, clusters as soon as they are encoded kGif            256
//   colours a frame, chosen for that frame, ordered dither; frame times rounded to 1/100 s; loops
// Colours are converted to and tagged as BT.709, limited range.
//
// Memory: a few frames (the codec's look-ahead, at most about 48) and one cluster or fragment; kMp4
// also keeps the compressed file, at most max_buffered_bytes.
//
// Thread rule: thread-compatible; one encoder is used by one thread at a time. The sink is called
// from within AddFrame and Finish, in the caller's thread.
#ifndef KANDINSKY_WORKER_MEDIA_VIDEO_ENCODER_H_
#define KANDINSKY_WORKER_MEDIA_VIDEO_ENCODER_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace kandinsky::media {

// Same numbers as kandinsky::VideoFormat of common/queue/job.h, so that stages convert by
// static_cast.
enum class Format { kMp4 = 1, kWebm = 2, kGif = 3, kFragmentedMp4 = 4 };

// "video/mp4", "video/webm", "image/gif".
std::string_view MimeType(Format format);
// "mp4", "webm", "gif", without a dot.
std::string_view FileExtension(Format format);

// Frames per second, exactly: 15/2 is 7.5.
struct FrameRate {
  int num = 30;
  int den = 1;

  // The nearest fraction with a denominator of at most 1001: 7.5 -> 15/2, 29.97 -> 2997/100.
  // INVALID_ARGUMENT unless 0.01 <= fps <= 1000.
  static absl::StatusOr<FrameRate> FromDouble(double fps);
  double ToDouble() const { return static_cast<double>(num) / den; }

  bool operator==(const FrameRate&) const = default;
};

class VideoEncoder {
 public:
  struct Options {
    Format format = Format::kMp4;
    int width = 0;   // pixels, 16 to 8192; even, except for kGif
    int height = 0;  // likewise
    FrameRate fps;
    // 0 (smallest file) to 100 (best picture); 75 is visually clean. No effect on kGif.
    int quality = 75;
    // When known, kWebm writes the duration into its header. Adding more or fewer frames is no
    // error.
    int expected_frames = 0;
    // kMp4: the largest compressed file; beyond it AddFrame and Finish give RESOURCE_EXHAUSTED.
    uint64_t max_buffered_bytes = uint64_t{1} << 30;
  };

  // Takes the next bytes of the file; never an empty string. An error ends the encoding with that
  // status.
  using Sink = std::function<absl::Status(std::string_view data)>;

  struct Totals {
    int frames = 0;
    uint64_t bytes = 0;
    uint32_t crc32c = 0;                             // of the whole file
    absl::Duration duration = absl::ZeroDuration();  // frames / fps
  };

  // INVALID_ARGUMENT names the option that is wrong; FAILED_PRECONDITION when this FFmpeg has no
  // such encoder.
  static absl::StatusOr<std::unique_ptr<VideoEncoder>> Create(const Options& options, Sink sink);
  virtual ~VideoEncoder() = default;

  // rgb: [height][width][3], 8 bits a channel, rows `stride` bytes apart (0: width * 3). Copied
  // before it returns. After an error, every further call returns the same error.
  virtual absl::Status AddFrame(const uint8_t* rgb, ptrdiff_t stride = 0) = 0;

  // Writes what is left and closes the file. FAILED_PRECONDITION without a frame or when called
  // twice. An encoder that is destroyed without Finish leaves an incomplete file behind its sink.
  virtual absl::StatusOr<Totals> Finish() = 0;
};

// One picture as PNG. rgb as in AddFrame; sizes 1 to 16384. Deterministic.
absl::StatusOr<std::string> EncodePng(const uint8_t* rgb, int width, int height,
                                      ptrdiff_t stride = 0);

}  // namespace kandinsky::media

#endif  // KANDINSKY_WORKER_MEDIA_VIDEO_ENCODER_H_
