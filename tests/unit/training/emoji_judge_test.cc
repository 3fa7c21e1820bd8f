#include "training/eval/emoji_judge.h"

#include <gtest/gtest.h>
#include <unistd.h>
#include <webp/encode.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace kandinsky::training {
namespace {

constexpr int kSide = 96, kFrames = 16;

// A folder with three pictures: a red disc with a hole, a green cross and a bar of two colours.
std::string MakeFolder() {
  const std::string folder =
      (std::filesystem::temp_directory_path() / ("emoji-judge-" + std::to_string(getpid())))
          .string();
  std::filesystem::create_directories(folder + "/webp");
  const std::array<std::function<uint32_t(double, double)>, 3> pictures = {
      [](double x, double y) {
        const double r = std::hypot(x, y);
        return r < 0.9 && r > 0.35 ? 0xffd02020u : 0u;
      },
      [](double x, double y) {
        return std::min(std::abs(x), std::abs(y)) < 0.3 ? 0xff20c040u : 0u;
      },
      [](double x, double y) {
        return std::abs(y) < 0.4 ? (x < 0 ? 0xfff0f0f0u : 0xff4040e0u) : 0u;
      }};
  std::ofstream list(folder + "/emoji.tsv");
  list << "code\ten\tru\tgroup\tframes\ten_synonyms\tru_synonyms\tanimation\tnote\n";
  for (size_t i = 0; i < pictures.size(); ++i) {
    std::vector<uint8_t> rgba;
    for (int y = 0; y < 64; ++y) {
      for (int x = 0; x < 64; ++x) {
        const uint32_t argb = pictures[i]((x - 31.5) / 32, (y - 31.5) / 32);
        for (const int shift : {16, 8, 0, 24}) rgba.push_back(static_cast<uint8_t>(argb >> shift));
      }
    }
    uint8_t* bytes = nullptr;
    const size_t size = WebPEncodeLosslessRGBA(rgba.data(), 64, 64, 4 * 64, &bytes);
    const std::string code = "a" + std::to_string(i);
    std::ofstream(folder + "/webp/" + code + ".webp", std::ios::binary)
        .write(reinterpret_cast<const char*>(bytes), static_cast<std::streamsize>(size));
    WebPFree(bytes);
    list << code << "\tname" << i << "\tимя" << i << "\tg\t1\t\t\t0\t\n";
  }
  return folder;
}

class EmojiJudgeTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    const std::string folder = MakeFolder();
    auto art = EmojiArt::Open(folder);
    ASSERT_TRUE(art.ok()) << art.status();
    judge_ = new EmojiJudge(*art);
    std::filesystem::remove_all(folder);  // the art stays mapped
  }
  static void TearDownTestSuite() {
    delete judge_;
    judge_ = nullptr;
  }

  static std::vector<uint8_t> Draw(const EmojiSpec& clip, int frames = kFrames) {
    std::vector<uint8_t> rgb(static_cast<size_t>(3 * frames * kSide * kSide));
    for (int i = 0; i < frames; ++i) {
      judge_->art().Draw(clip, frames > 1 ? i / (frames - 1.0) : 0, kSide, kSide,
                         &rgb[static_cast<size_t>(3 * i * kSide * kSide)]);
    }
    return rgb;
  }
  static EmojiVerdict Judge(const std::vector<uint8_t>& rgb, int frames = kFrames) {
    return judge_->Judge(rgb.data(), frames, kSide, kSide);
  }

  static EmojiJudge* judge_;
};
EmojiJudge* EmojiJudgeTest::judge_ = nullptr;

TEST_F(EmojiJudgeTest, TrueClipsAreWhatTheyAre) {
  for (uint64_t index = 0; index < 200; ++index) {
    const EmojiSpec clip = EmojiClipAt(2, index, 3, {.split = Split::kAll});
    const EmojiVerdict verdict = Judge(Draw(clip));
    EXPECT_EQ(verdict.emoji, clip.emoji) << index;
    EXPECT_EQ(verdict.background, clip.background) << index;
    EXPECT_EQ(verdict.motion, clip.motion) << index;
  }
}

TEST_F(EmojiJudgeTest, SpecksAndNoiseDoNotMatter) {
  Random random(1);
  for (uint64_t index = 0; index < 60; ++index) {
    const EmojiSpec clip = EmojiClipAt(3, index, 3, {});
    std::vector<uint8_t> rgb = Draw(clip);
    for (uint8_t& value : rgb) {
      value = static_cast<uint8_t>(std::clamp(value + random.Below(9) - 4, 0, 255));
    }
    // A speck of 2 x 2 in a corner of every frame.
    for (int frame = 0; frame < kFrames; ++frame) {
      for (const int pixel : {2 * kSide + 2, 2 * kSide + 3, 3 * kSide + 2, 3 * kSide + 3}) {
        rgb[static_cast<size_t>(3 * (frame * kSide * kSide + pixel))] ^= 0x80;
      }
    }
    const EmojiVerdict verdict = Judge(rgb);
    EXPECT_EQ(verdict.emoji, clip.emoji) << index;
    EXPECT_EQ(verdict.motion, clip.motion) << index;
  }
}

TEST_F(EmojiJudgeTest, NothingIsNothing) {
  std::vector<uint8_t> rgb(static_cast<size_t>(3 * kFrames * kSide * kSide));
  for (size_t i = 0; i < rgb.size(); ++i) rgb[i] = ColorOf(EmojiBackground::kGreen)[i % 3];
  const EmojiVerdict empty = Judge(rgb);
  EXPECT_EQ(empty.emoji, std::nullopt);
  EXPECT_EQ(empty.background, EmojiBackground::kGreen);
  EXPECT_EQ(empty.motion, std::nullopt);
  EXPECT_FALSE(empty.animated);
  // Pink, far from all eight.
  for (size_t i = 0; i < rgb.size(); ++i) rgb[i] = std::array<uint8_t, 3>{255, 120, 200}[i % 3];
  EXPECT_EQ(Judge(rgb).background, std::nullopt);
  // Half of the frames on one background and half on another.
  const EmojiSpec clip{.background = EmojiBackground::kRed};
  std::vector<uint8_t> mixed = Draw(clip);
  const std::vector<uint8_t> other = Draw({.background = EmojiBackground::kBlue});
  std::copy(other.begin(), other.begin() + static_cast<ptrdiff_t>(other.size() / 2), mixed.begin());
  EXPECT_EQ(Judge(mixed).background, std::nullopt);
  EXPECT_EQ(Judge(Draw(clip, 2), 2).motion, std::nullopt) << "too few frames";
}

TEST_F(EmojiJudgeTest, AnimationIsWhatChangesInsideThePicture) {
  const EmojiSpec moving = {.emoji = 1,
                            .motion = Motion::kRight,
                            .side0 = 0.5,
                            .side1 = 0.5,
                            .start = {0.3, 0.5},
                            .travel = {0.4, 0}};
  EXPECT_LT(Judge(Draw(moving)).animation, 2) << "moves as a whole";
  // Two pictures in turns.
  std::vector<uint8_t> rgb = Draw(moving);
  EmojiSpec other = moving;
  other.emoji = 0;
  const std::vector<uint8_t> second = Draw(other);
  const size_t size = rgb.size() / kFrames;
  for (size_t frame = 0; frame < kFrames; frame += 2) {
    std::copy_n(second.begin() + static_cast<ptrdiff_t>(frame * size), size,
                rgb.begin() + static_cast<ptrdiff_t>(frame * size));
  }
  EXPECT_GT(Judge(rgb).animation, 20);
  EXPECT_TRUE(Judge(rgb).animated);
}

}  // namespace
}  // namespace kandinsky::training
