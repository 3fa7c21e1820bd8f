// Shared by the files of worker/media: ownership of FFmpeg's objects and its errors as
// absl::Status. Internal.
#ifndef KANDINSKY_WORKER_MEDIA_AV_COMMON_H_
#define KANDINSKY_WORKER_MEDIA_AV_COMMON_H_

extern "C" {
#include <libavcodec/avcodec.h>
#include <libavformat/avformat.h>
#include <libavutil/imgutils.h>
#include <libavutil/opt.h>
#include <libavutil/pixdesc.h>
#include <libswscale/swscale.h>
}

#include <cstdint>
#include <memory>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace kandinsky::media {

struct AvDeleter {
  void operator()(AVCodecContext* p) const { avcodec_free_context(&p); }
  void operator()(AVFrame* p) const { av_frame_free(&p); }
  void operator()(AVPacket* p) const { av_packet_free(&p); }
  void operator()(SwsContext* p) const { sws_freeContext(p); }
  void operator()(AVIOContext* p) const {
    av_freep(&p->buffer);
    avio_context_free(&p);
  }
};
template <typename T>
using AvPtr = std::unique_ptr<T, AvDeleter>;

// Keeps FFmpeg's messages off standard error, except errors. Idempotent.
void QuietFfmpeg();

// "<what>: <FFmpeg's text>" with a code that fits: RESOURCE_EXHAUSTED for ENOMEM and ENOSPC,
// NOT_FOUND for ENOENT, otherwise `fallback`.
absl::Status AvError(int error, std::string_view what,
                     absl::StatusCode fallback = absl::StatusCode::kInternal);

// A frame of the format with buffers of its own. RESOURCE_EXHAUSTED when there is no memory.
absl::StatusOr<AvPtr<AVFrame>> NewFrame(AVPixelFormat format, int width, int height);

// Copies [height][width][3] bytes into an RGB24 frame.
void CopyRgb(const uint8_t* rgb, ptrdiff_t stride, AVFrame& frame);

}  // namespace kandinsky::media

#endif  // KANDINSKY_WORKER_MEDIA_AV_COMMON_H_
