#include "worker/media/av_common.h"

#include <cstring>
#include <mutex>
#include <string>

#include "absl/strings/str_cat.h"

namespace kandinsky::media {

void QuietFfmpeg() {
  static std::once_flag once;
  std::call_once(once, [] { av_log_set_level(AV_LOG_ERROR); });
}

absl::Status AvError(int error, std::string_view what, absl::StatusCode fallback) {
  char text[AV_ERROR_MAX_STRING_SIZE] = {};
  av_strerror(error, text, sizeof(text));
  absl::StatusCode code = fallback;
  if (error == AVERROR(ENOMEM) || error == AVERROR(ENOSPC)) {
    code = absl::StatusCode::kResourceExhausted;
  } else if (error == AVERROR(ENOENT)) {
    code = absl::StatusCode::kNotFound;
  }
  return absl::Status(code, absl::StrCat(std::string(what), ": ", text));
}

absl::StatusOr<AvPtr<AVFrame>> NewFrame(AVPixelFormat format, int width, int height) {
  AvPtr<AVFrame> frame(av_frame_alloc());
  if (frame == nullptr) return absl::ResourceExhaustedError("no memory for a frame");
  frame->format = format;
  frame->width = width;
  frame->height = height;
  if (int error = av_frame_get_buffer(frame.get(), 0); error < 0) {
    return AvError(error, "allocate a frame", absl::StatusCode::kResourceExhausted);
  }
  return frame;
}

void CopyRgb(const uint8_t* rgb, ptrdiff_t stride, AVFrame& frame) {
  const size_t row = static_cast<size_t>(frame.width) * 3;
  if (stride == 0) stride = static_cast<ptrdiff_t>(row);
  for (int y = 0; y < frame.height; ++y) {
    std::memcpy(frame.data[0] + static_cast<ptrdiff_t>(y) * frame.linesize[0], rgb + y * stride,
                row);
  }
}

}  // namespace kandinsky::media
