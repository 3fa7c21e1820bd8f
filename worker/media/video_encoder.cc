#include "worker/media/video_encoder.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/crc32c.h"
#include "worker/media/av_common.h"
#include "worker/media/palette.h"

namespace kandinsky::media {
namespace {

constexpr int kIoBufferBytes = 64 << 10;
constexpr size_t kEmitBytes = 256 << 10;

bool IsH264(Format format) { return format == Format::kMp4 || format == Format::kFragmentedMp4; }

absl::Status Invalid(std::string_view option, std::string_view rule) {
  return absl::InvalidArgumentError(
      absl::StrCat("video encoder: ", std::string(option), " ", std::string(rule)));
}

absl::Status Validate(const VideoEncoder::Options& o) {
  switch (o.format) {
    case Format::kMp4:
    case Format::kWebm:
    case Format::kGif:
    case Format::kFragmentedMp4:
      break;
    default:
      return Invalid("format", absl::StrCat(static_cast<int>(o.format), " is unknown"));
  }
  const struct {
    std::string_view name;
    int value;
  } sides[] = {{"width", o.width}, {"height", o.height}};
  for (const auto& side : sides) {
    if (side.value < 16 || side.value > 8192) {
      return Invalid(side.name, absl::StrCat("must be 16 to 8192, not ", side.value));
    }
    if (o.format != Format::kGif && side.value % 2 != 0) {
      return Invalid(side.name, absl::StrCat("must be even for yuv420p, not ", side.value));
    }
  }
  if (o.fps.num <= 0 || o.fps.den <= 0 || o.fps.ToDouble() < 0.01 || o.fps.ToDouble() > 1000) {
    return Invalid("fps", absl::StrCat("must be 0.01 to 1000, not ", o.fps.num, "/", o.fps.den));
  }
  if (o.quality < 0 || o.quality > 100) {
    return Invalid("quality", absl::StrCat("must be 0 to 100, not ", o.quality));
  }
  if (o.expected_frames < 0) return Invalid("expected_frames", "must not be negative");
  return absl::OkStatus();
}

// What FFmpeg writes to: the sink itself, or memory that can be sought and read back (kMp4).
class Output {
 public:
  Output(VideoEncoder::Sink sink, uint64_t max_buffered_bytes)
      : sink_(std::move(sink)), max_buffered_bytes_(max_buffered_bytes) {}

  // The first error of the sink or of the buffer.
  const absl::Status& status() const { return status_; }
  uint64_t bytes() const { return bytes_; }
  uint32_t crc32c() const { return crc32c_; }

  absl::Status Emit(std::string_view data) {
    if (!status_.ok() || data.empty()) return status_;
    status_ = sink_(data);
    if (status_.ok()) {
      bytes_ += data.size();
      crc32c_ = ExtendCrc32c(crc32c_, data.data(), data.size());
    }
    return status_;
  }

  // Lets nothing reach the sink any more.
  void Discard() {
    if (status_.ok()) status_ = absl::CancelledError("video encoder: the file was given up");
  }

  absl::Status EmitBuffer() {
    const std::string_view all = buffer_;
    for (size_t at = 0; at < all.size(); at += kEmitBytes) {
      if (absl::Status emitted = Emit(all.substr(at, kEmitBytes)); !emitted.ok()) return emitted;
    }
    std::string().swap(buffer_);
    return absl::OkStatus();
  }

  // --- AVIO callbacks; opaque is the Output.
  static int WriteThrough(void* opaque, uint8_t* data, int size) {
    auto* self = static_cast<Output*>(opaque);
    const std::string_view bytes(reinterpret_cast<const char*>(data), size);
    return self->Emit(bytes).ok() ? size : AVERROR(EIO);
  }

  static int WriteBuffer(void* opaque, uint8_t* data, int size) {
    auto* self = static_cast<Output*>(opaque);
    const uint64_t end = self->write_at_ + size;
    if (end > self->max_buffered_bytes_) {
      self->status_ = absl::ResourceExhaustedError(absl::StrCat(
          "video encoder: the file exceeds max_buffered_bytes, ", self->max_buffered_bytes_));
      return AVERROR(ENOSPC);
    }
    if (end > self->buffer_.size()) self->buffer_.resize(end);
    std::memcpy(self->buffer_.data() + self->write_at_, data, size);
    self->write_at_ = end;
    return size;
  }

  static int64_t SeekForWrite(void* opaque, int64_t offset, int whence) {
    auto* self = static_cast<Output*>(opaque);
    return self->Seek(self->write_at_, offset, whence);
  }

  static int ReadBuffer(void* opaque, uint8_t* data, int size) {
    auto* self = static_cast<Output*>(opaque);
    if (self->read_at_ >= self->buffer_.size()) return AVERROR_EOF;
    const size_t n = std::min<uint64_t>(size, self->buffer_.size() - self->read_at_);
    std::memcpy(data, self->buffer_.data() + self->read_at_, n);
    self->read_at_ += n;
    return static_cast<int>(n);
  }

  static int64_t SeekForRead(void* opaque, int64_t offset, int whence) {
    auto* self = static_cast<Output*>(opaque);
    return self->Seek(self->read_at_, offset, whence);
  }

  void RewindReader() { read_at_ = 0; }

 private:
  int64_t Seek(uint64_t& position, int64_t offset, int whence) {
    const auto size = static_cast<int64_t>(buffer_.size());
    switch (whence & ~AVSEEK_FORCE) {
      case AVSEEK_SIZE:
        return size;
      case SEEK_SET:
        break;
      case SEEK_CUR:
        offset += static_cast<int64_t>(position);
        break;
      case SEEK_END:
        offset += size;
        break;
      default:
        return AVERROR(EINVAL);
    }
    if (offset < 0) return AVERROR(EINVAL);
    position = static_cast<uint64_t>(offset);
    return offset;
  }

  const VideoEncoder::Sink sink_;
  const uint64_t max_buffered_bytes_;
  absl::Status status_;
  uint64_t bytes_ = 0;
  uint32_t crc32c_ = 0;
  std::string buffer_;
  uint64_t write_at_ = 0;
  uint64_t read_at_ = 0;
};

AVIOContext* NewIo(Output* output, bool write, int (*read)(void*, uint8_t*, int),
                   int (*write_fn)(void*, uint8_t*, int), int64_t (*seek)(void*, int64_t, int)) {
  auto* buffer = static_cast<uint8_t*>(av_malloc(kIoBufferBytes));
  if (buffer == nullptr) return nullptr;
  AVIOContext* io =
      avio_alloc_context(buffer, kIoBufferBytes, write ? 1 : 0, output, read, write_fn, seek);
  if (io == nullptr) av_free(buffer);
  return io;
}

// The MP4 muxer opens "the file" a second time, for reading, to move the media data behind the
// index.
int OpenForShift(AVFormatContext* context, AVIOContext** io, const char*, int flags,
                 AVDictionary**) {
  if (flags != AVIO_FLAG_READ) return AVERROR(EINVAL);
  auto* output = static_cast<Output*>(context->opaque);
  output->RewindReader();
  *io = NewIo(output, /*write=*/false, Output::ReadBuffer, nullptr, Output::SeekForRead);
  return *io == nullptr ? AVERROR(ENOMEM) : 0;
}

int CloseForShift(AVFormatContext*, AVIOContext* io) {
  AvPtr<AVIOContext> owned(io);
  return 0;
}

class Encoder : public VideoEncoder {
 public:
  Encoder(const Options& options, Sink sink)
      : options_(options), output_(std::move(sink), options.max_buffered_bytes) {}

  ~Encoder() override {
    if (format_ != nullptr) {
      // The GIF muxer frees its last packet in the trailer only.
      if (open_ && options_.format == Format::kGif) {
        output_.Discard();
        av_write_trailer(format_);
      }
      format_->pb = nullptr;
      avformat_free_context(format_);
    }
  }

  absl::Status Open() {
    QuietFfmpeg();
    if (absl::Status opened = OpenCodec(); !opened.ok()) return opened;
    if (absl::Status opened = OpenMuxer(); !opened.ok()) return opened;
    packet_.reset(av_packet_alloc());
    if (packet_ == nullptr) return absl::ResourceExhaustedError("no memory for a packet");
    auto rgb = NewFrame(AV_PIX_FMT_RGB24, options_.width, options_.height);
    if (!rgb.ok()) return rgb.status();
    rgb_ = *std::move(rgb);
    if (options_.format == Format::kGif) return absl::OkStatus();

    sws_.reset(sws_getContext(options_.width, options_.height, AV_PIX_FMT_RGB24, options_.width,
                              options_.height, AV_PIX_FMT_YUV420P,
                              SWS_BICUBIC | SWS_ACCURATE_RND | SWS_FULL_CHR_H_INP | SWS_BITEXACT,
                              nullptr, nullptr, nullptr));
    if (sws_ == nullptr) return absl::InternalError("video encoder: no colour conversion");
    const int* bt709 = sws_getCoefficients(SWS_CS_ITU709);
    sws_setColorspaceDetails(sws_.get(), bt709, /*srcRange=*/1, bt709, /*dstRange=*/0, 0, 1 << 16,
                             1 << 16);
    return absl::OkStatus();
  }

  absl::Status AddFrame(const uint8_t* rgb, ptrdiff_t stride) override {
    if (!status_.ok()) return status_;
    status_ = AddFrameOnce(rgb, stride);
    return status_;
  }

  absl::StatusOr<Totals> Finish() override {
    if (!status_.ok()) return status_;
    status_ = FinishOnce();
    if (!status_.ok()) return status_;
    status_ = absl::FailedPreconditionError("video encoder: the file is finished");
    return Totals{
        .frames = frames_,
        .bytes = output_.bytes(),
        .crc32c = output_.crc32c(),
        .duration =
            absl::Seconds(static_cast<int64_t>(frames_) * options_.fps.den) / options_.fps.num,
    };
  }

 private:
  absl::Status OpenCodec() {
    const char* name = IsH264(options_.format)            ? "libx264"
                       : options_.format == Format::kWebm ? "libvpx-vp9"
                                                          : "gif";
    const AVCodec* codec = avcodec_find_encoder_by_name(name);
    if (codec == nullptr) {
      return absl::FailedPreconditionError(
          absl::StrCat("video encoder: this FFmpeg has no encoder ", name));
    }
    codec_.reset(avcodec_alloc_context3(codec));
    if (codec_ == nullptr) return absl::ResourceExhaustedError("no memory for an encoder");
    AVCodecContext& c = *codec_;
    const FrameRate& fps = options_.fps;
    c.width = options_.width;
    c.height = options_.height;
    c.sample_aspect_ratio = {1, 1};
    c.framerate = {fps.num, fps.den};
    c.time_base = {fps.den, fps.num};
    c.flags |= AV_CODEC_FLAG_BITEXACT;
    // Part of the result: x264 decides differently with another number of threads.
    c.thread_count = 4;
    const int second = std::max(1, static_cast<int>(std::lround(fps.ToDouble())));

    if (options_.format == Format::kGif) {
      c.pix_fmt = AV_PIX_FMT_PAL8;
      c.time_base = {1, 100};
      c.thread_count = 1;
    } else {
      c.pix_fmt = AV_PIX_FMT_YUV420P;
      c.colorspace = AVCOL_SPC_BT709;
      c.color_primaries = AVCOL_PRI_BT709;
      c.color_trc = AVCOL_TRC_BT709;
      c.color_range = AVCOL_RANGE_MPEG;
      c.chroma_sample_location = AVCHROMA_LOC_LEFT;
    }
    if (IsH264(options_.format)) {
      SetOption("preset", "medium");
      SetOption("profile", "high");
      SetOption("crf", absl::StrCat(40 - 0.3 * options_.quality));
      SetOption("x264-params", "cpu-independent=1");
      if (options_.format == Format::kMp4) {
        c.gop_size = std::max(12, second * 4);
      } else {
        // Without reordering every fragment starts at its first frame, and needs no edit list.
        c.gop_size = second;
        c.keyint_min = second;
        c.max_b_frames = 0;
        SetOption("sc_threshold", "0");
        SetOption("rc-lookahead", absl::StrCat(std::min(40, second)));
      }
    } else if (options_.format == Format::kWebm) {
      c.gop_size = std::max(12, second * 4);
      c.bit_rate = 0;
      SetOption("crf", absl::StrCat(std::lround(55 - 0.4 * options_.quality)));
      SetOption("deadline", "good");
      SetOption("cpu-used", "4");
      SetOption("lag-in-frames", "16");
      SetOption("row-mt", "0");
    }
    muxer_ = options_.format == Format::kGif ? "gif" : IsH264(options_.format) ? "mp4" : "webm";
    const AVOutputFormat* muxer = av_guess_format(muxer_, nullptr, nullptr);
    if (muxer == nullptr) {
      return absl::FailedPreconditionError(
          absl::StrCat("video encoder: this FFmpeg has no container ", muxer_));
    }
    if (muxer->flags & AVFMT_GLOBALHEADER) c.flags |= AV_CODEC_FLAG_GLOBAL_HEADER;
    if (!option_error_.ok()) return option_error_;
    if (int error = avcodec_open2(&c, codec, nullptr); error < 0) {
      return AvError(error, absl::StrCat("video encoder: open ", name));
    }
    return absl::OkStatus();
  }

  // For options of the encoder itself.
  void SetOption(const char* name, const std::string& value) {
    const int error = av_opt_set(codec_->priv_data, name, value.c_str(), 0);
    if (error < 0 && option_error_.ok()) {
      option_error_ = AvError(error, absl::StrCat("video encoder: option ", name));
    }
  }

  absl::Status OpenMuxer() {
    if (int error = avformat_alloc_output_context2(&format_, nullptr, muxer_, "buffer");
        error < 0) {
      return AvError(error, "video encoder: open the container");
    }
    const bool buffered = options_.format == Format::kMp4;
    io_.reset(buffered ? NewIo(&output_, true, Output::ReadBuffer, Output::WriteBuffer,
                               Output::SeekForWrite)
                       : NewIo(&output_, true, nullptr, Output::WriteThrough, nullptr));
    if (io_ == nullptr) return absl::ResourceExhaustedError("no memory for an output buffer");
    if (!buffered) io_->seekable = 0;
    format_->pb = io_.get();
    format_->opaque = &output_;
    format_->io_open = OpenForShift;
    format_->io_close2 = CloseForShift;
    format_->flags |= AVFMT_FLAG_BITEXACT | AVFMT_FLAG_CUSTOM_IO;

    stream_ = avformat_new_stream(format_, nullptr);
    if (stream_ == nullptr) return absl::ResourceExhaustedError("no memory for a stream");
    if (int error = avcodec_parameters_from_context(stream_->codecpar, codec_.get()); error < 0) {
      return AvError(error, "video encoder: describe the stream");
    }
    stream_->time_base = codec_->time_base;
    stream_->avg_frame_rate = codec_->framerate;
    stream_->r_frame_rate = codec_->framerate;

    AVDictionary* raw = nullptr;
    if (options_.format == Format::kMp4) {
      av_dict_set(&raw, "movflags", "+faststart", 0);
    } else if (options_.format == Format::kFragmentedMp4) {
      av_dict_set(&raw, "movflags", "+frag_keyframe+empty_moov+default_base_moof", 0);
    } else if (options_.format == Format::kWebm) {
      av_dict_set(&raw, "cluster_time_limit", "1000", 0);
      if (options_.expected_frames > 0) {
        format_->duration =
            av_rescale(static_cast<int64_t>(options_.expected_frames) * options_.fps.den,
                       AV_TIME_BASE, options_.fps.num);
      }
    }
    const int error = avformat_write_header(format_, &raw);
    av_dict_free(&raw);
    if (error < 0) return Failed(error, "write the header");
    open_ = true;
    return absl::OkStatus();
  }

  // The sink's own error where there is one.
  absl::Status Failed(int error, std::string_view what) const {
    if (!output_.status().ok()) return output_.status();
    return AvError(error, absl::StrCat("video encoder: ", std::string(what)));
  }

  absl::Status AddFrameOnce(const uint8_t* rgb, ptrdiff_t stride) {
    if (rgb == nullptr) return Invalid("rgb", "must not be null");
    if (stride != 0 && std::abs(stride) < static_cast<ptrdiff_t>(options_.width) * 3) {
      return Invalid("stride", absl::StrCat("must be at least width * 3, not ", stride));
    }
    CopyRgb(rgb, stride, *rgb_);
    auto frame = NewFrame(codec_->pix_fmt, options_.width, options_.height);
    if (!frame.ok()) return frame.status();
    AVFrame& picture = **frame;
    if (options_.format == Format::kGif) {
      const Palette palette =
          ChoosePalette(rgb_->data[0], rgb_->linesize[0], options_.width, options_.height);
      ApplyPalette(palette, rgb_->data[0], rgb_->linesize[0], options_.width, options_.height,
                   picture.data[0], picture.linesize[0]);
      std::memcpy(picture.data[1], palette.argb.data(), sizeof(palette.argb));
      const int64_t centiseconds = av_rescale_rnd(frames_, int64_t{100} * options_.fps.den,
                                                  options_.fps.num, AV_ROUND_NEAR_INF);
      picture.pts = std::max(centiseconds, last_pts_ + 1);
    } else {
      const int rows = sws_scale(sws_.get(), rgb_->data, rgb_->linesize, 0, options_.height,
                                 picture.data, picture.linesize);
      if (rows != options_.height) return absl::InternalError("video encoder: colour conversion");
      picture.pts = frames_;
    }
    last_pts_ = picture.pts;
    ++frames_;
    if (int error = avcodec_send_frame(codec_.get(), &picture); error < 0) {
      return Failed(error, "encode a frame");
    }
    return WritePackets();
  }

  absl::Status WritePackets() {
    while (true) {
      const int error = avcodec_receive_packet(codec_.get(), packet_.get());
      if (error == AVERROR(EAGAIN) || error == AVERROR_EOF) break;
      if (error < 0) return Failed(error, "encode");
      if (packet_->duration == 0 && options_.format != Format::kGif) packet_->duration = 1;
      packet_->stream_index = stream_->index;
      av_packet_rescale_ts(packet_.get(), codec_->time_base, stream_->time_base);
      // One stream: nothing to interleave, and nothing is kept back.
      const int written = av_write_frame(format_, packet_.get());
      av_packet_unref(packet_.get());
      if (written < 0 || !output_.status().ok()) return Failed(written, "write a packet");
    }
    avio_flush(io_.get());
    return output_.status();
  }

  absl::Status FinishOnce() {
    if (frames_ == 0) return absl::FailedPreconditionError("video encoder: no frames");
    if (int error = avcodec_send_frame(codec_.get(), nullptr); error < 0) {
      return Failed(error, "encode the last frames");
    }
    if (absl::Status written = WritePackets(); !written.ok()) return written;
    open_ = false;
    if (int error = av_write_trailer(format_); error < 0) return Failed(error, "close the file");
    avio_flush(io_.get());
    if (!output_.status().ok()) return output_.status();
    if (io_->error < 0) return Failed(io_->error, "close the file");
    return output_.EmitBuffer();
  }

  const Options options_;
  Output output_;
  absl::Status status_;
  absl::Status option_error_;
  const char* muxer_ = nullptr;
  AvPtr<AVCodecContext> codec_;
  AvPtr<AVIOContext> io_;
  AVFormatContext* format_ = nullptr;
  bool open_ = false;           // the header is written, the trailer is not
  AVStream* stream_ = nullptr;  // owned by format_
  AvPtr<AVPacket> packet_;
  AvPtr<AVFrame> rgb_;
  AvPtr<SwsContext> sws_;
  int frames_ = 0;
  int64_t last_pts_ = -1;
};

}  // namespace

std::string_view MimeType(Format format) {
  switch (format) {
    case Format::kWebm:
      return "video/webm";
    case Format::kGif:
      return "image/gif";
    case Format::kMp4:
    case Format::kFragmentedMp4:
      break;
  }
  return "video/mp4";
}

std::string_view FileExtension(Format format) {
  switch (format) {
    case Format::kWebm:
      return "webm";
    case Format::kGif:
      return "gif";
    case Format::kMp4:
    case Format::kFragmentedMp4:
      break;
  }
  return "mp4";
}

absl::StatusOr<FrameRate> FrameRate::FromDouble(double fps) {
  if (!(fps >= 0.01 && fps <= 1000)) return Invalid("fps", "must be 0.01 to 1000");
  // Smallest denominator whose nearest numerator is as close as any.
  FrameRate best{0, 1};
  double best_error = 1e9;
  for (int den = 1; den <= 1001; ++den) {
    const int num = static_cast<int>(std::lround(fps * den));
    const double error = std::abs(static_cast<double>(num) / den - fps);
    if (num > 0 && error < best_error * 0.999) {
      best = {num, den};
      best_error = error;
      if (error < 1e-12) break;
    }
  }
  return best;
}

absl::StatusOr<std::unique_ptr<VideoEncoder>> VideoEncoder::Create(const Options& options,
                                                                   Sink sink) {
  if (absl::Status valid = Validate(options); !valid.ok()) return valid;
  if (!sink) return Invalid("sink", "must not be empty");
  auto encoder = std::make_unique<Encoder>(options, std::move(sink));
  if (absl::Status opened = encoder->Open(); !opened.ok()) return opened;
  return encoder;
}

absl::StatusOr<std::string> EncodePng(const uint8_t* rgb, int width, int height, ptrdiff_t stride) {
  if (rgb == nullptr) return absl::InvalidArgumentError("PNG: no picture");
  if (width < 1 || height < 1 || width > 16384 || height > 16384) {
    return absl::InvalidArgumentError(
        absl::StrCat("PNG: size must be 1 to 16384, not ", width, "x", height));
  }
  QuietFfmpeg();
  const AVCodec* codec = avcodec_find_encoder(AV_CODEC_ID_PNG);
  if (codec == nullptr) return absl::FailedPreconditionError("this FFmpeg has no PNG encoder");
  AvPtr<AVCodecContext> context(avcodec_alloc_context3(codec));
  AvPtr<AVPacket> packet(av_packet_alloc());
  if (context == nullptr || packet == nullptr) return absl::ResourceExhaustedError("no memory");
  context->width = width;
  context->height = height;
  context->pix_fmt = AV_PIX_FMT_RGB24;
  context->time_base = {1, 1};
  context->thread_count = 1;
  context->flags |= AV_CODEC_FLAG_BITEXACT;
  av_opt_set(context->priv_data, "pred", "mixed", 0);
  if (int error = avcodec_open2(context.get(), codec, nullptr); error < 0) {
    return AvError(error, "open the PNG encoder");
  }
  auto frame = NewFrame(AV_PIX_FMT_RGB24, width, height);
  if (!frame.ok()) return frame.status();
  CopyRgb(rgb, stride, **frame);
  (*frame)->pts = 0;
  int error = avcodec_send_frame(context.get(), frame->get());
  if (error >= 0) error = avcodec_send_frame(context.get(), nullptr);
  if (error >= 0) error = avcodec_receive_packet(context.get(), packet.get());
  if (error < 0) return AvError(error, "encode a PNG");
  return std::string(reinterpret_cast<const char*>(packet->data), packet->size);
}

}  // namespace kandinsky::media
