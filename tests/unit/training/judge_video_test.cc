// The judge on clips that went through the service's encoder and back.
#include <gtest/gtest.h>

#include <cstdio>
#include <string>
#include <vector>

#include "training/domain/shapes.h"
#include "training/eval/judge.h"
#include "worker/media/video_encoder.h"
#include "worker/media/video_reader.h"

namespace kandinsky::training {
namespace {

constexpr int kSize = 64;
constexpr size_t kFrameBytes = size_t{kSize} * kSize * 3;

// The clip as a viewer gets it. Empty after a failure.
std::vector<uint8_t> ThroughVideo(const std::vector<uint8_t>& rgb, media::Format format) {
  std::string file;
  media::VideoEncoder::Options options;
  options.format = format;
  options.width = kSize;
  options.height = kSize;
  options.fps = {2, 1};
  auto encoder = media::VideoEncoder::Create(options, [&](std::string_view data) {
    file += data;
    return absl::OkStatus();
  });
  if (!encoder.ok()) return {};
  for (size_t at = 0; at < rgb.size(); at += kFrameBytes) {
    if (!(*encoder)->AddFrame(rgb.data() + at).ok()) return {};
  }
  if (!(*encoder)->Finish().ok()) return {};
  auto reader = media::VideoReader::FromBytes(file);
  if (!reader.ok()) return {};
  std::vector<uint8_t> decoded;
  std::vector<uint8_t> frame;
  while (true) {
    const auto more = (*reader)->ReadFrame(frame);
    if (!more.ok()) return {};
    if (!*more) return decoded;
    decoded.insert(decoded.end(), frame.begin(), frame.end());
  }
}

TEST(JudgeVideoTest, SeesEncodedClipsAsTheyAre) {
  const int clips = 200;
  for (const media::Format format : {media::Format::kMp4, media::Format::kWebm}) {
    int right[4] = {};
    for (int i = 0; i < clips; ++i) {
      const ClipSpec clip = ClipAt(202, i, {.split = Split::kAll});
      const std::vector<uint8_t> rgb =
          ThroughVideo(RenderClip(clip, kKeyframes, kSize, kSize), format);
      ASSERT_EQ(rgb.size(), kKeyframes * kFrameBytes);
      const Verdict verdict = Judge(rgb.data(), kKeyframes, kSize, kSize);
      right[0] += verdict.shape == clip.shape;
      right[1] += verdict.color == clip.color;
      right[2] += verdict.background == clip.background;
      right[3] += verdict.motion == clip.motion;
    }
    std::printf("%s: shape %d colour %d background %d motion %d of %d\n",
                std::string(media::FileExtension(format)).c_str(), right[0], right[1], right[2],
                right[3], clips);
    for (int k = 0; k < 4; ++k) EXPECT_GE(right[k], 0.995 * clips) << k;
  }
}

}  // namespace
}  // namespace kandinsky::training
