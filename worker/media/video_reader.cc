#include "worker/media/video_reader.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "worker/media/av_common.h"

namespace kandinsky::media {
namespace {

class Reader : public VideoReader {
 public:
  ~Reader() override { avformat_close_input(&format_); }

  absl::Status OpenPath(const std::string& path) {
    // "file:" keeps a colon in the path from being taken for a protocol.
    return OpenInput("file:" + path);
  }

  absl::Status OpenBytes(std::string bytes) {
    bytes_ = std::move(bytes);
    constexpr int kBuffer = 64 << 10;
    auto* buffer = static_cast<uint8_t*>(av_malloc(kBuffer));
    if (buffer == nullptr) return absl::ResourceExhaustedError("no memory for a reader");
    io_.reset(avio_alloc_context(buffer, kBuffer, 0, this, Read, nullptr, Seek));
    if (io_ == nullptr) {
      av_free(buffer);
      return absl::ResourceExhaustedError("no memory for a reader");
    }
    format_ = avformat_alloc_context();
    if (format_ == nullptr) return absl::ResourceExhaustedError("no memory for a reader");
    format_->pb = io_.get();
    return OpenInput("");
  }

  const VideoProbe& probe() const override { return probe_; }

  absl::StatusOr<bool> ReadFrame(std::vector<uint8_t>& rgb, absl::Duration* time) override {
    while (true) {
      int error = avcodec_receive_frame(codec_.get(), frame_.get());
      if (error >= 0) return Convert(rgb, time);
      if (error == AVERROR_EOF) return false;
      if (error != AVERROR(EAGAIN)) return Damaged(error);
      error = av_read_frame(format_, packet_.get());
      if (error == AVERROR_EOF) {
        error = avcodec_send_packet(codec_.get(), nullptr);
        if (error < 0) return Damaged(error);
        continue;
      }
      if (error < 0) return Damaged(error);
      if (packet_->stream_index == stream_->index) {
        error = avcodec_send_packet(codec_.get(), packet_.get());
      }
      av_packet_unref(packet_.get());
      if (error < 0) return Damaged(error);
    }
  }

 private:
  static int Read(void* opaque, uint8_t* data, int size) {
    auto* self = static_cast<Reader*>(opaque);
    const size_t n = std::min<size_t>(size, self->bytes_.size() - self->at_);
    if (n == 0) return AVERROR_EOF;
    std::memcpy(data, self->bytes_.data() + self->at_, n);
    self->at_ += n;
    return static_cast<int>(n);
  }

  static int64_t Seek(void* opaque, int64_t offset, int whence) {
    auto* self = static_cast<Reader*>(opaque);
    const auto size = static_cast<int64_t>(self->bytes_.size());
    whence &= ~AVSEEK_FORCE;
    if (whence == AVSEEK_SIZE) return size;
    if (whence == SEEK_CUR) offset += static_cast<int64_t>(self->at_);
    if (whence == SEEK_END) offset += size;
    if (offset < 0 || offset > size) return AVERROR(EINVAL);
    self->at_ = static_cast<size_t>(offset);
    return offset;
  }

  static absl::Status Damaged(int error) {
    return AvError(error, "read a video", absl::StatusCode::kDataLoss);
  }

  absl::Status OpenInput(const std::string& url) {
    QuietFfmpeg();
    constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
    int error = avformat_open_input(&format_, url.c_str(), nullptr, nullptr);
    if (error < 0) return AvError(error, "open a video", kInvalid);
    error = avformat_find_stream_info(format_, nullptr);
    if (error < 0) return AvError(error, "look into a video", kInvalid);
    const AVCodec* codec = nullptr;
    const int index = av_find_best_stream(format_, AVMEDIA_TYPE_VIDEO, -1, -1, &codec, 0);
    if (index < 0 || codec == nullptr) {
      return absl::InvalidArgumentError("the file holds no video that can be decoded");
    }
    stream_ = format_->streams[index];
    codec_.reset(avcodec_alloc_context3(codec));
    frame_.reset(av_frame_alloc());
    packet_.reset(av_packet_alloc());
    if (codec_ == nullptr || frame_ == nullptr || packet_ == nullptr) {
      return absl::ResourceExhaustedError("no memory for a reader");
    }
    error = avcodec_parameters_to_context(codec_.get(), stream_->codecpar);
    if (error >= 0) error = avcodec_open2(codec_.get(), codec, nullptr);
    if (error < 0) return AvError(error, "open a video decoder", kInvalid);
    if (codec_->width <= 0 || codec_->height <= 0) {
      return absl::InvalidArgumentError("the file holds no video of a known size");
    }

    probe_.container = format_->iformat->name;
    probe_.codec = codec->name;
    if (const AVCodecDescriptor* known = avcodec_descriptor_get(codec->id); known != nullptr) {
      probe_.codec = known->name;
    }
    const char* pixel_format = av_get_pix_fmt_name(codec_->pix_fmt);
    probe_.pixel_format = pixel_format == nullptr ? "unknown" : pixel_format;
    const char* space = av_color_space_name(codec_->colorspace);
    probe_.color_space = space == nullptr ? "unknown" : space;
    probe_.width = codec_->width;
    probe_.height = codec_->height;
    const AVRational fps = stream_->avg_frame_rate;
    probe_.fps = fps.num > 0 && fps.den > 0 ? FrameRate{fps.num, fps.den} : FrameRate{0, 1};
    if (stream_->duration > 0) {
      probe_.duration = absl::Microseconds(
          av_rescale_q(stream_->duration, stream_->time_base, AVRational{1, AV_TIME_BASE}));
    } else if (format_->duration > 0) {
      probe_.duration = absl::Microseconds(format_->duration);
    }
    return absl::OkStatus();
  }

  absl::StatusOr<bool> Convert(std::vector<uint8_t>& rgb, absl::Duration* time) {
    const int width = probe_.width;
    const int height = probe_.height;
    if (frame_->width != width || frame_->height != height) {
      return absl::DataLossError("the picture size changes within the video");
    }
    const auto format = static_cast<AVPixelFormat>(frame_->format);
    if (sws_ == nullptr || format != sws_format_) {
      sws_.reset(sws_getContext(width, height, format, width, height, AV_PIX_FMT_RGB24,
                                SWS_BICUBIC | SWS_ACCURATE_RND | SWS_FULL_CHR_H_INT | SWS_BITEXACT,
                                nullptr, nullptr, nullptr));
      if (sws_ == nullptr) return absl::InvalidArgumentError("the pixel format is not supported");
      sws_format_ = format;
      const int* from = sws_getCoefficients(frame_->colorspace == AVCOL_SPC_BT709 ? SWS_CS_ITU709
                                                                                  : SWS_CS_DEFAULT);
      sws_setColorspaceDetails(sws_.get(), from, frame_->color_range == AVCOL_RANGE_JPEG,
                               sws_getCoefficients(SWS_CS_DEFAULT), 1, 0, 1 << 16, 1 << 16);
    }
    if (picture_ == nullptr) {
      auto picture = NewFrame(AV_PIX_FMT_RGB24, width, height);
      if (!picture.ok()) return picture.status();
      picture_ = *std::move(picture);
    }
    sws_scale(sws_.get(), frame_->data, frame_->linesize, 0, height, picture_->data,
              picture_->linesize);
    const size_t row = static_cast<size_t>(width) * 3;
    rgb.resize(row * height);
    for (int y = 0; y < height; ++y) {
      std::memcpy(rgb.data() + y * row,
                  picture_->data[0] + static_cast<ptrdiff_t>(y) * picture_->linesize[0], row);
    }
    if (time != nullptr) {
      int64_t pts = frame_->best_effort_timestamp;
      if (pts == AV_NOPTS_VALUE) pts = 0;
      if (stream_->start_time != AV_NOPTS_VALUE) pts -= stream_->start_time;
      *time =
          absl::Microseconds(av_rescale_q(pts, stream_->time_base, AVRational{1, AV_TIME_BASE}));
    }
    av_frame_unref(frame_.get());
    return true;
  }

  VideoProbe probe_;
  std::string bytes_;
  size_t at_ = 0;
  AvPtr<AVIOContext> io_;
  AVFormatContext* format_ = nullptr;
  AVStream* stream_ = nullptr;  // owned by format_
  AvPtr<AVCodecContext> codec_;
  AvPtr<AVFrame> frame_;
  AvPtr<AVPacket> packet_;
  AvPtr<SwsContext> sws_;
  AVPixelFormat sws_format_ = AV_PIX_FMT_NONE;
  AvPtr<AVFrame> picture_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<VideoReader>> VideoReader::Open(const std::string& path) {
  auto reader = std::make_unique<Reader>();
  if (absl::Status opened = reader->OpenPath(path); !opened.ok()) return opened;
  return reader;
}

absl::StatusOr<std::unique_ptr<VideoReader>> VideoReader::FromBytes(std::string bytes) {
  auto reader = std::make_unique<Reader>();
  if (absl::Status opened = reader->OpenBytes(std::move(bytes)); !opened.ok()) return opened;
  return reader;
}

}  // namespace kandinsky::media
