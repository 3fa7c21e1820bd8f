#include "worker/media/video_encoder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "common/base/crc32c.h"
#include "tests/unit/media/media_test_util.h"
#include "worker/media/video_reader.h"

namespace kandinsky::media {
namespace {

using ::testing::HasSubstr;

struct Encoded {
  std::string bytes;
  VideoEncoder::Totals totals;
  size_t bytes_before_finish = 0;
};

Encoded Encode(const VideoEncoder::Options& options, int frames) {
  Encoded out;
  auto encoder = VideoEncoder::Create(options, [&](std::string_view data) {
    EXPECT_FALSE(data.empty());
    out.bytes.append(data);
    return absl::OkStatus();
  });
  if (!encoder.ok()) {
    ADD_FAILURE() << encoder.status();
    return out;
  }
  for (int i = 0; i < frames; ++i) {
    const std::vector<uint8_t> rgb = TestFrame(options.width, options.height, i);
    const absl::Status added = (*encoder)->AddFrame(rgb.data());
    EXPECT_TRUE(added.ok()) << added;
  }
  out.bytes_before_finish = out.bytes.size();
  auto totals = (*encoder)->Finish();
  if (!totals.ok()) {
    ADD_FAILURE() << totals.status();
  } else {
    out.totals = *totals;
  }
  return out;
}

struct Decoded {
  VideoProbe probe;
  int frames = 0;
  double worst_psnr = 1e9;
  std::vector<absl::Duration> times;
};

Decoded Decode(const std::string& bytes) {
  Decoded out;
  auto reader = VideoReader::FromBytes(bytes);
  if (!reader.ok()) {
    ADD_FAILURE() << reader.status();
    return out;
  }
  out.probe = (*reader)->probe();
  std::vector<uint8_t> rgb;
  absl::Duration time;
  while (true) {
    auto more = (*reader)->ReadFrame(rgb, &time);
    if (!more.ok()) {
      ADD_FAILURE() << more.status();
      break;
    }
    if (!*more) break;
    out.times.push_back(time);
    out.worst_psnr = std::min(out.worst_psnr,
                              Psnr(rgb, TestFrame(out.probe.width, out.probe.height, out.frames)));
    ++out.frames;
  }
  return out;
}

// "key=value" lines of ffprobe about the first video stream and the container.
std::string Ffprobe(const std::string& bytes) {
  const std::filesystem::path path = std::filesystem::temp_directory_path() /
                                     ("video_encoder_test." + std::to_string(getpid()) + ".video");
  std::ofstream(path, std::ios::binary) << bytes;
  const std::string command =
      "ffprobe -v error -count_frames -select_streams v:0 -show_entries "
      "stream=codec_name,pix_fmt,width,height,nb_read_frames,r_frame_rate,color_space,color_range,"
      "color_primaries,color_transfer,sample_aspect_ratio:format=duration "
      "-of default=noprint_wrappers=1 '" +
      path.string() + "' 2>&1";
  std::string output;
  if (FILE* pipe = popen(command.c_str(), "r"); pipe != nullptr) {
    char buffer[4096];
    while (size_t n = fread(buffer, 1, sizeof(buffer), pipe)) output.append(buffer, n);
    EXPECT_EQ(pclose(pipe), 0) << output;
  }
  std::filesystem::remove(path);
  return output;
}

double DurationOf(const std::string& ffprobe) {
  const size_t at = ffprobe.rfind("duration=");
  return at == std::string::npos ? -1 : std::atof(ffprobe.c_str() + at + 9);
}

struct Case {
  std::string name;
  Format format;
  int width;
  int height;
  FrameRate fps;
  int frames;
  double psnr;  // at least
};

class EncoderTest : public ::testing::TestWithParam<Case> {};

TEST_P(EncoderTest, RoundTrip) {
  const Case& c = GetParam();
  const VideoEncoder::Options options{.format = c.format,
                                      .width = c.width,
                                      .height = c.height,
                                      .fps = c.fps,
                                      .expected_frames = c.frames};
  const Encoded encoded = Encode(options, c.frames);
  EXPECT_EQ(encoded.totals.frames, c.frames);
  EXPECT_EQ(encoded.totals.bytes, encoded.bytes.size());
  EXPECT_EQ(encoded.totals.crc32c, Crc32c(encoded.bytes));
  const double seconds = c.frames / c.fps.ToDouble();
  EXPECT_NEAR(absl::ToDoubleSeconds(encoded.totals.duration), seconds, 1e-6);

  const Decoded decoded = Decode(encoded.bytes);
  EXPECT_EQ(decoded.frames, c.frames);
  EXPECT_EQ(decoded.probe.width, c.width);
  EXPECT_EQ(decoded.probe.height, c.height);
  EXPECT_GT(decoded.worst_psnr, c.psnr);
  for (int i = 0; i < decoded.frames; ++i) {
    EXPECT_NEAR(absl::ToDoubleSeconds(decoded.times[i]), i / c.fps.ToDouble(), 0.0051) << i;
  }

  const std::string probe = Ffprobe(encoded.bytes);
  EXPECT_THAT(probe, HasSubstr("nb_read_frames=" + std::to_string(c.frames) + "\n"));
  EXPECT_THAT(probe, HasSubstr("width=" + std::to_string(c.width) + "\n"));
  EXPECT_THAT(probe, HasSubstr("height=" + std::to_string(c.height) + "\n"));
  EXPECT_NEAR(DurationOf(probe), seconds, 0.02) << probe;
  if (c.format != Format::kGif) {
    EXPECT_EQ(decoded.probe.fps, c.fps);
    EXPECT_EQ(decoded.probe.color_space, "bt709");
    EXPECT_THAT(probe, HasSubstr("pix_fmt=yuv420p\n"));
    EXPECT_THAT(probe, HasSubstr("color_range=tv\n"));
    EXPECT_THAT(probe, HasSubstr("color_space=bt709\n"));
    EXPECT_THAT(probe, HasSubstr("color_transfer=bt709\n"));
    EXPECT_THAT(probe, HasSubstr("color_primaries=bt709\n"));
    EXPECT_THAT(probe, HasSubstr("r_frame_rate=" + std::to_string(c.fps.num) + "/" +
                                 std::to_string(c.fps.den) + "\n"));
  }
  EXPECT_THAT(probe, HasSubstr(c.format == Format::kGif    ? "codec_name=gif\n"
                               : c.format == Format::kWebm ? "codec_name=vp9\n"
                                                           : "codec_name=h264\n"));
}

TEST_P(EncoderTest, SameFramesGiveTheSameBytes) {
  const Case& c = GetParam();
  const VideoEncoder::Options options{
      .format = c.format, .width = c.width, .height = c.height, .fps = c.fps};
  const Encoded first = Encode(options, c.frames);
  EXPECT_FALSE(first.bytes.empty());
  EXPECT_EQ(first.bytes, Encode(options, c.frames).bytes);
}

INSTANTIATE_TEST_SUITE_P(
    All, EncoderTest,
    ::testing::Values(Case{"mp4_low", Format::kMp4, 64, 64, {2, 1}, 16, 30},
                      Case{"mp4_medium", Format::kMp4, 64, 48, {15, 2}, 61, 30},
                      Case{"mp4_high", Format::kMp4, 128, 96, {30, 1}, 241, 30},
                      Case{"mp4_one_frame", Format::kMp4, 64, 64, {30, 1}, 1, 30},
                      Case{"mp4_ntsc", Format::kMp4, 66, 34, {30000, 1001}, 10, 28},
                      Case{"fragmented_low", Format::kFragmentedMp4, 64, 64, {2, 1}, 16, 30},
                      Case{"fragmented_medium", Format::kFragmentedMp4, 64, 48, {15, 2}, 61, 30},
                      Case{"fragmented_high", Format::kFragmentedMp4, 128, 96, {30, 1}, 241, 30},
                      Case{"webm_low", Format::kWebm, 64, 64, {2, 1}, 16, 26},
                      Case{"webm_medium", Format::kWebm, 64, 48, {15, 2}, 61, 26},
                      Case{"webm_high", Format::kWebm, 128, 96, {30, 1}, 241, 26},
                      Case{"gif_low", Format::kGif, 64, 64, {2, 1}, 16, 26},
                      Case{"gif_medium", Format::kGif, 65, 49, {15, 2}, 61, 26},
                      Case{"gif_high", Format::kGif, 128, 96, {30, 1}, 241, 26}),
    [](const auto& param_info) { return param_info.param.name; });

// Names of the boxes at the top of an MP4 file.
std::vector<std::string> TopLevelBoxes(const std::string& bytes) {
  std::vector<std::string> names;
  for (size_t at = 0; at + 8 <= bytes.size();) {
    uint64_t size = 0;
    for (int i = 0; i < 4; ++i) size = size << 8 | static_cast<uint8_t>(bytes[at + i]);
    names.push_back(bytes.substr(at + 4, 4));
    if (size < 8) break;
    at += size;
  }
  return names;
}

TEST(VideoEncoderTest, Mp4HasItsIndexInFront) {
  const Encoded encoded =
      Encode({.format = Format::kMp4, .width = 64, .height = 64, .fps = {30, 1}}, 90);
  EXPECT_EQ(encoded.bytes_before_finish, 0u);
  const std::vector<std::string> boxes = TopLevelBoxes(encoded.bytes);
  ASSERT_GE(boxes.size(), 3u);
  EXPECT_EQ(boxes[0], "ftyp");
  EXPECT_EQ(boxes[1], "moov");
  EXPECT_EQ(boxes.back(), "mdat");
}

TEST(VideoEncoderTest, StreamedFormatsArriveWhileFramesAreAdded) {
  for (const Format format : {Format::kFragmentedMp4, Format::kWebm, Format::kGif}) {
    const Encoded encoded =
        Encode({.format = format, .width = 64, .height = 64, .fps = {30, 1}}, 240);
    // Everything but the look-ahead: more than half of the file.
    EXPECT_GT(encoded.bytes_before_finish, encoded.bytes.size() / 2) << FileExtension(format);
  }
}

TEST(VideoEncoderTest, FragmentsArePlayableBeforeTheEnd) {
  const Encoded encoded =
      Encode({.format = Format::kFragmentedMp4, .width = 64, .height = 64, .fps = {30, 1}}, 240);
  const Decoded decoded = Decode(encoded.bytes.substr(0, encoded.bytes_before_finish));
  EXPECT_GE(decoded.frames, 120);
  EXPECT_EQ(decoded.frames % 30, 0);
  int fragments = 0;
  for (const std::string& box : TopLevelBoxes(encoded.bytes)) fragments += box == "moof";
  EXPECT_EQ(fragments, 8);
}

TEST(VideoEncoderTest, QualityChangesTheSize) {
  for (const Format format : {Format::kMp4, Format::kWebm, Format::kFragmentedMp4}) {
    VideoEncoder::Options options{.format = format, .width = 64, .height = 64, .fps = {30, 1}};
    options.quality = 20;
    const size_t small = Encode(options, 30).bytes.size();
    options.quality = 95;
    EXPECT_GT(Encode(options, 30).bytes.size(), small) << FileExtension(format);
  }
}

TEST(VideoEncoderTest, StrideSkipsPaddingAndMayBeNegative) {
  const VideoEncoder::Options options{.width = 64, .height = 32, .fps = {30, 1}};
  const std::vector<uint8_t> rgb = TestFrame(64, 32, 0);
  std::vector<uint8_t> padded;
  std::vector<uint8_t> flipped;
  for (int y = 0; y < 32; ++y) {
    padded.insert(padded.end(), &rgb[y * 192], &rgb[y * 192] + 192);
    padded.insert(padded.end(), 20, 0xee);
    flipped.insert(flipped.end(), &rgb[(31 - y) * 192], &rgb[(31 - y) * 192] + 192);
  }
  const struct {
    const uint8_t* first_row;
    ptrdiff_t stride;
  } inputs[] = {{rgb.data(), 0}, {padded.data(), 212}, {&flipped[31 * 192], -192}};
  std::vector<std::string> files;
  for (const auto& input : inputs) {
    std::string& bytes = files.emplace_back();
    auto encoder = VideoEncoder::Create(options, [&](std::string_view data) {
      bytes.append(data);
      return absl::OkStatus();
    });
    ASSERT_TRUE(encoder.ok()) << encoder.status();
    ASSERT_TRUE((*encoder)->AddFrame(input.first_row, input.stride).ok());
    ASSERT_TRUE((*encoder)->Finish().ok());
  }
  EXPECT_EQ(files[0], files[1]);
  EXPECT_EQ(files[0], files[2]);
}

TEST(VideoEncoderTest, BadOptions) {
  const VideoEncoder::Options good{.width = 64, .height = 64, .fps = {30, 1}};
  struct {
    const char* want;
    void (*spoil)(VideoEncoder::Options&);
  } const cases[] = {
      {"format 9 is unknown", [](auto& o) { o.format = static_cast<Format>(9); }},
      {"width must be 16 to 8192, not 0", [](auto& o) { o.width = 0; }},
      {"width must be 16 to 8192, not -64", [](auto& o) { o.width = -64; }},
      {"height must be 16 to 8192, not 8200", [](auto& o) { o.height = 8200; }},
      {"width must be even for yuv420p, not 65", [](auto& o) { o.width = 65; }},
      {"height must be even for yuv420p, not 33",
       [](auto& o) {
         o.height = 33;
         o.format = Format::kWebm;
       }},
      {"fps must be 0.01 to 1000, not 0/1",
       [](auto& o) {
         o.fps = {0, 1};
       }},
      {"fps must be 0.01 to 1000, not 30/0",
       [](auto& o) {
         o.fps = {30, 0};
       }},
      {"fps must be 0.01 to 1000, not 2000/1",
       [](auto& o) {
         o.fps = {2000, 1};
       }},
      {"quality must be 0 to 100, not 101", [](auto& o) { o.quality = 101; }},
      {"expected_frames must not be negative", [](auto& o) { o.expected_frames = -1; }},
  };
  for (const auto& c : cases) {
    VideoEncoder::Options options = good;
    c.spoil(options);
    const auto encoder =
        VideoEncoder::Create(options, [](std::string_view) { return absl::OkStatus(); });
    EXPECT_EQ(encoder.status().code(), absl::StatusCode::kInvalidArgument) << c.want;
    EXPECT_THAT(std::string(encoder.status().message()), HasSubstr(c.want));
  }
  EXPECT_EQ(VideoEncoder::Create(good, nullptr).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(VideoEncoderTest, SinkErrorsEndTheEncoding) {
  for (const Format format : {Format::kMp4, Format::kWebm, Format::kGif, Format::kFragmentedMp4}) {
    const VideoEncoder::Options options{
        .format = format, .width = 64, .height = 64, .fps = {30, 1}};
    const size_t whole = Encode(options, 90).bytes.size();
    // At the first byte, in the middle, near the end.
    for (const size_t limit : {size_t{0}, whole / 2, whole - 1}) {
      size_t taken = 0;
      int failures = 0;
      absl::Status status;
      auto encoder = VideoEncoder::Create(options, [&](std::string_view data) -> absl::Status {
        taken += data.size();
        if (taken <= limit) return absl::OkStatus();
        ++failures;
        return absl::ResourceExhaustedError("store is full");
      });
      status = encoder.status();
      for (int i = 0; i < 90 && status.ok(); ++i) {
        status = (*encoder)->AddFrame(TestFrame(64, 64, i).data());
      }
      if (status.ok()) status = (*encoder)->Finish().status();
      EXPECT_EQ(status, absl::ResourceExhaustedError("store is full"))
          << FileExtension(format) << " at " << limit << " of " << whole;
      EXPECT_EQ(failures, 1) << "the sink is not called again";
      if (encoder.ok()) {
        EXPECT_EQ((*encoder)->AddFrame(TestFrame(64, 64, 0).data()), status);
        EXPECT_EQ((*encoder)->Finish().status(), status);
      }
    }
  }
}

TEST(VideoEncoderTest, DestructionWithoutFinishWritesNothing) {
  for (const Format format : {Format::kMp4, Format::kWebm, Format::kGif, Format::kFragmentedMp4}) {
    bool destroying = false;
    auto encoder = VideoEncoder::Create(
        {.format = format, .width = 64, .height = 64, .fps = {30, 1}}, [&](std::string_view) {
          EXPECT_FALSE(destroying) << FileExtension(format);
          return absl::OkStatus();
        });
    ASSERT_TRUE(encoder.ok()) << encoder.status();
    for (int i = 0; i < 3; ++i) {
      ASSERT_TRUE((*encoder)->AddFrame(TestFrame(64, 64, i).data()).ok());
    }
    destroying = true;
    encoder->reset();
  }
}

TEST(VideoEncoderTest, BufferedFileIsBounded) {
  VideoEncoder::Options options{.width = 256, .height = 256, .fps = {30, 1}, .quality = 100};
  options.max_buffered_bytes = 20000;
  auto encoder = VideoEncoder::Create(options, [](std::string_view) { return absl::OkStatus(); });
  ASSERT_TRUE(encoder.ok()) << encoder.status();
  absl::Status status;
  for (int i = 0; i < 120 && status.ok(); ++i) {
    status = (*encoder)->AddFrame(TestFrame(256, 256, i).data());
  }
  if (status.ok()) status = (*encoder)->Finish().status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("max_buffered_bytes, 20000"));
}

TEST(VideoEncoderTest, Misuse) {
  std::string bytes;
  auto encoder =
      VideoEncoder::Create({.width = 64, .height = 64, .fps = {30, 1}}, [&](std::string_view data) {
        bytes.append(data);
        return absl::OkStatus();
      });
  ASSERT_TRUE(encoder.ok()) << encoder.status();
  EXPECT_EQ((*encoder)->Finish().status().code(), absl::StatusCode::kFailedPrecondition);

  encoder = VideoEncoder::Create({.width = 64, .height = 64, .fps = {30, 1}},
                                 [](std::string_view) { return absl::OkStatus(); });
  EXPECT_EQ((*encoder)->AddFrame(nullptr).code(), absl::StatusCode::kInvalidArgument);

  encoder = VideoEncoder::Create({.width = 64, .height = 64, .fps = {30, 1}},
                                 [](std::string_view) { return absl::OkStatus(); });
  EXPECT_EQ((*encoder)->AddFrame(TestFrame(64, 64, 0).data(), 191).code(),
            absl::StatusCode::kInvalidArgument);

  encoder = VideoEncoder::Create({.width = 64, .height = 64, .fps = {30, 1}},
                                 [](std::string_view) { return absl::OkStatus(); });
  ASSERT_TRUE((*encoder)->AddFrame(TestFrame(64, 64, 0).data()).ok());
  ASSERT_TRUE((*encoder)->Finish().ok());
  EXPECT_EQ((*encoder)->Finish().status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ((*encoder)->AddFrame(TestFrame(64, 64, 0).data()).code(),
            absl::StatusCode::kFailedPrecondition);
}

TEST(FrameRateTest, FromDouble) {
  const struct {
    double fps;
    FrameRate want;
  } cases[] = {
      {30, {30, 1}},   {7.5, {15, 2}},       {2, {2, 1}},       {0.5, {1, 2}},
      {120, {120, 1}}, {29.97, {2997, 100}}, {1.0 / 3, {1, 3}}, {30000.0 / 1001, {30000, 1001}},
      {0.01, {1, 100}}};
  for (const auto& c : cases) {
    const auto got = FrameRate::FromDouble(c.fps);
    ASSERT_TRUE(got.ok()) << c.fps;
    EXPECT_EQ(*got, c.want) << c.fps << " gave " << got->num << "/" << got->den;
  }
  for (const double fps : {0.0, -1.0, 0.009, 1001.0, std::nan(""), HUGE_VAL}) {
    EXPECT_EQ(FrameRate::FromDouble(fps).status().code(), absl::StatusCode::kInvalidArgument)
        << fps;
  }
}

TEST(PngTest, RoundTripIsExact) {
  const struct {
    int width;
    int height;
  } cases[] = {{1, 1}, {3, 7}, {64, 64}, {257, 33}};
  for (const auto& c : cases) {
    const std::vector<uint8_t> rgb = TestFrame(std::max(c.width, 8), c.height, 3);
    const ptrdiff_t stride = std::max(c.width, 8) * 3;
    const auto png = EncodePng(rgb.data(), c.width, c.height, stride);
    ASSERT_TRUE(png.ok()) << png.status();
    EXPECT_EQ(*png, *EncodePng(rgb.data(), c.width, c.height, stride));
    auto reader = VideoReader::FromBytes(*png);
    ASSERT_TRUE(reader.ok()) << reader.status();
    EXPECT_EQ((*reader)->probe().codec, "png");
    std::vector<uint8_t> got;
    const auto more = (*reader)->ReadFrame(got);
    ASSERT_TRUE(more.ok() && *more) << more.status();
    std::vector<uint8_t> want;
    for (int y = 0; y < c.height; ++y) {
      want.insert(want.end(), &rgb[y * stride], &rgb[y * stride] + c.width * 3);
    }
    EXPECT_EQ(got, want) << c.width << "x" << c.height;
  }
  EXPECT_EQ(EncodePng(nullptr, 1, 1).status().code(), absl::StatusCode::kInvalidArgument);
  const uint8_t pixel[3] = {};
  EXPECT_EQ(EncodePng(pixel, 0, 1).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(EncodePng(pixel, 1, 16385).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(VideoReaderTest, BadInput) {
  EXPECT_EQ(VideoReader::Open("/nonexistent/video.mp4").status().code(),
            absl::StatusCode::kNotFound);
  EXPECT_EQ(VideoReader::FromBytes("").status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(VideoReader::FromBytes(std::string(5000, 'x')).status().code(),
            absl::StatusCode::kInvalidArgument);
  const std::string good = Encode({.width = 64, .height = 64, .fps = {30, 1}}, 30).bytes;
  EXPECT_EQ(VideoReader::FromBytes(good.substr(0, 100)).status().code(),
            absl::StatusCode::kInvalidArgument);
  // A file cut off within its media data gives the frames that are there, and then ends or says so.
  auto reader = VideoReader::FromBytes(good.substr(0, good.size() - good.size() / 3));
  ASSERT_TRUE(reader.ok()) << reader.status();
  std::vector<uint8_t> rgb;
  int frames = 0;
  while (true) {
    const auto more = (*reader)->ReadFrame(rgb);
    if (!more.ok() || !*more) break;
    ++frames;
  }
  EXPECT_LT(frames, 30);
}

}  // namespace
}  // namespace kandinsky::media
