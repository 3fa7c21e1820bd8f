#include "training/data/emoji_art.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>
#include <webp/encode.h>
#include <webp/mux.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <set>
#include <string>
#include <vector>

#include "training/data/animated_webp.h"

namespace kandinsky::training {
namespace {

using ::testing::HasSubstr;

constexpr int kSide = 64;

// A picture of `until.size()` frames, lossless: in frame i a square of 16 pixels in a colour of its
// own at (8 + 8 i, 24); frame i is shown until until[i] ms.
std::string Encode(const std::vector<int>& until) {
  WebPAnimEncoderOptions options;
  EXPECT_TRUE(WebPAnimEncoderOptionsInit(&options));
  WebPAnimEncoder* encoder = WebPAnimEncoderNew(kSide, kSide, &options);
  WebPConfig config;
  EXPECT_TRUE(WebPConfigInit(&config));
  config.lossless = 1;
  int from = 0;
  for (size_t i = 0; i < until.size(); ++i) {
    WebPPicture picture;
    EXPECT_TRUE(WebPPictureInit(&picture));
    picture.use_argb = 1;
    picture.width = picture.height = kSide;
    EXPECT_TRUE(WebPPictureAlloc(&picture));
    for (int y = 0; y < kSide; ++y) {
      for (int x = 0; x < kSide; ++x) {
        const int left = 8 + 8 * static_cast<int>(i);
        const bool inside = y >= 24 && y < 40 && x >= left && x < left + 16;
        picture.argb[y * picture.argb_stride + x] =
            inside ? 0xff000000u | (200u << 16) | (static_cast<uint32_t>(i) * 40u << 8) : 0;
      }
    }
    EXPECT_TRUE(WebPAnimEncoderAdd(encoder, &picture, from, &config));
    from = until[i];
    WebPPictureFree(&picture);
  }
  EXPECT_TRUE(WebPAnimEncoderAdd(encoder, nullptr, from, nullptr));
  WebPData data;
  WebPDataInit(&data);
  EXPECT_TRUE(WebPAnimEncoderAssemble(encoder, &data));
  std::string bytes(reinterpret_cast<const char*>(data.bytes), data.size);
  WebPDataClear(&data);
  WebPAnimEncoderDelete(encoder);
  return bytes;
}

class EmojiArtTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = (std::filesystem::temp_directory_path() /
               ("emoji-art-" + std::to_string(getpid()) + "-" +
                ::testing::UnitTest::GetInstance()->current_test_info()->name()))
                  .string();
    std::filesystem::create_directories(folder_ + "/webp");
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::string Write(const std::string& name, const std::string& bytes) const {
    std::ofstream(folder_ + "/" + name, std::ios::binary) << bytes;
    return folder_ + "/" + name;
  }
  void WriteList(const std::string& lines) const {
    Write("emoji.tsv",
          "code\ten\tru\tgroup\tframes\ten_synonyms\tru_synonyms\tanimation\tnote\n" + lines);
  }

  std::string folder_;
};

// Where the square of a frame begins, from the left; -1: nowhere.
int LeftOf(const std::vector<uint8_t>& rgba) {
  for (int x = 0; x < kSide; ++x) {
    if (rgba[4 * (32 * kSide + static_cast<size_t>(x)) + 3] == 255) return x;
  }
  return -1;
}

TEST_F(EmojiArtTest, ReadsWhatIsOnTheScreenAtEvenMoments) {
  // Frames of 100, 300, 100 and 100 ms.
  const std::string path = Write("a.webp", Encode({100, 400, 500, 600}));
  const auto picture = ReadAnimatedWebp(path, 6);
  ASSERT_TRUE(picture.ok()) << picture.status();
  EXPECT_EQ(picture->width, kSide);
  EXPECT_EQ(picture->height, kSide);
  std::vector<int> lefts;
  for (const auto& frame : picture->frames) lefts.push_back(LeftOf(frame));
  EXPECT_EQ(lefts, (std::vector<int>{8, 16, 16, 16, 24, 32}));
}

TEST_F(EmojiArtTest, NamesFilesThatCannotBeRead) {
  const auto missing = ReadAnimatedWebp(folder_ + "/none.webp", 4);
  EXPECT_EQ(missing.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(missing.status().message()), HasSubstr("none.webp"));
  const std::string bytes = Encode({100, 200, 300});
  for (const std::string& damaged :
       {std::string("no picture"), bytes.substr(0, bytes.size() / 2), std::string()}) {
    const auto read = ReadAnimatedWebp(Write("b.webp", damaged), 4);
    EXPECT_EQ(read.status().code(), absl::StatusCode::kDataLoss) << damaged.size();
    EXPECT_THAT(std::string(read.status().message()), HasSubstr("b.webp"));
  }
}

TEST_F(EmojiArtTest, ListIsReadAndItsMistakesAreNamed) {
  std::ifstream file(std::string(KANDINSKY_SOURCE_DIR) + "/training/domain/emoji.tsv");
  const std::string tsv{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  const auto classes = ParseEmojiList(tsv);
  ASSERT_TRUE(classes.ok()) << classes.status();
  EXPECT_EQ(classes->size(), 217u);
  std::set<std::string> names;
  for (const EmojiClass& emoji : *classes) {
    EXPECT_TRUE(names.insert(emoji.english).second) << emoji.english;
    EXPECT_TRUE(names.insert(emoji.russian).second) << emoji.russian;
    for (const auto* synonyms : {&emoji.english_synonyms, &emoji.russian_synonyms}) {
      for (const std::string& synonym : *synonyms) {
        EXPECT_TRUE(names.insert(synonym).second) << synonym;
      }
    }
  }
  EXPECT_EQ(classes->at(0).english_synonyms,
            (std::vector<std::string>{"jack-o'-lantern", "halloween pumpkin"}));

  const std::string head = "code\ten\n";
  const std::pair<std::string, std::string> cases[] = {
      {head, "no lines"},
      {head + "1f\ta\tb\n", "line 2: has 3 columns"},
      {head + "1f\ta\tb\tg\t72\t\t\t1\t\n1f\t\tb\tg\t72\t\t\t1\t\n", "line 3: code, en and ru"},
      {head + "../x\ta\tb\tg\t72\t\t\t1\t\n", "code is \"../x\""},
      {head + "1f\ta\tb\tg\t72\t\t\tmuch\t\n", "animation is \"much\""},
  };
  for (const auto& [text, want] : cases) {
    const auto wrong = ParseEmojiList(text);
    EXPECT_EQ(wrong.status().code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_THAT(std::string(wrong.status().message()), HasSubstr(want));
  }
}

TEST_F(EmojiArtTest, DecodesOnceAndAgainForAnotherList) {
  EXPECT_EQ(EmojiArt::Open(folder_).status().code(), absl::StatusCode::kNotFound);
  WriteList("1f43c\tpanda\tпанда\tg\t2\t\t\t9.5\t\n");
  EXPECT_EQ(EmojiArt::Open(folder_).status().code(), absl::StatusCode::kNotFound);
  EXPECT_FALSE(std::filesystem::exists(folder_ + "/art.rgba"));
  Write("webp/1f43c.webp", Encode({100, 200}));
  Write("webp/1f98a.webp", Encode({100, 200, 300}));
  const auto art = EmojiArt::Open(folder_);
  ASSERT_TRUE(art.ok()) << art.status();
  const auto written = std::filesystem::last_write_time(folder_ + "/art.rgba");
  ASSERT_TRUE(EmojiArt::Open(folder_).ok());
  EXPECT_EQ(std::filesystem::last_write_time(folder_ + "/art.rgba"), written);
  WriteList("1f43c\tpanda\tпанда\tg\t2\t\t\t9.5\t\n1f98a\tfox\tлиса\tg\t3\t\t\t9.5\tweak\n");
  const auto more = EmojiArt::Open(folder_);
  ASSERT_TRUE(more.ok()) << more.status();
  EXPECT_NE((*more)->checksum(), (*art)->checksum());
  EXPECT_EQ((*more)->classes().size(), 2u);
  EXPECT_TRUE((*more)->classes()[1].weak);
  // A file that was cut off is made again.
  std::filesystem::resize_file(folder_ + "/art.rgba", 100000);
  ASSERT_TRUE(EmojiArt::Open(folder_).ok());
  EXPECT_GT(std::filesystem::file_size(folder_ + "/art.rgba"), 2u * 72 * 4 * kArtSide * kArtSide);
}

TEST_F(EmojiArtTest, DrawsThePictureWhereTheClipHasIt) {
  // Both frames together reach from 8 to 32 across and 24 to 40 down: a square of 26 with its
  // margin of 1, in which the first frame's square is at the left and the second one's at the
  // right.
  WriteList("1f43c\tpanda\tпанда\tg\t2\t\t\t9.5\t\n");
  Write("webp/1f43c.webp", Encode({100, 200}));
  const auto art = EmojiArt::Open(folder_);
  ASSERT_TRUE(art.ok()) << art.status();
  const EmojiSpec clip{.background = EmojiBackground::kBlue,
                       .motion = Motion::kRight,
                       .side0 = 0.5,
                       .side1 = 0.5,
                       .start = {0.3, 0.5},
                       .travel = {0.4, 0}};
  const Rgb background = ColorOf(EmojiBackground::kBlue);
  struct Case {
    double t;
    int height, width;
    double left;  // of the square in the picture, as a part of its side, from the picture's left
  };
  const Case cases[] = {{0, 128, 128, 1 / 26.0},
                        {0, 64, 64, 1 / 26.0},
                        {1, 128, 128, 9 / 26.0},
                        {0, 64, 128, 1 / 26.0}};
  for (const Case& one : cases) {
    std::vector<uint8_t> rgb(static_cast<size_t>(3 * one.height * one.width));
    (*art)->Draw(clip, one.t, one.height, one.width, rgb.data());
    double weight = 0, x_sum = 0, y_sum = 0;
    for (int y = 0; y < one.height; ++y) {
      for (int x = 0; x < one.width; ++x) {
        const uint8_t* pixel = &rgb[static_cast<size_t>(3 * (y * one.width + x))];
        const double part = std::abs(pixel[0] - background[0]) / std::abs(200.0 - background[0]);
        weight += part, x_sum += part * (x + 0.5), y_sum += part * (y + 0.5);
      }
    }
    const double square = std::min(one.height, one.width), side = 0.5 * square;
    const double middle_x = (one.width - square) / 2 + square * clip.CenterAt(one.t).x +
                            side * (one.left + 8 / 26.0 - 0.5);
    EXPECT_NEAR(weight, std::pow(side * 16 / 26, 2), 0.02 * side * side)
        << one.t << " " << one.width;
    EXPECT_NEAR(x_sum / weight, middle_x, 0.6);
    EXPECT_NEAR(y_sum / weight, one.height / 2.0, 0.6);
    EXPECT_EQ((std::array<uint8_t, 3>{rgb[0], rgb[1], rgb[2]}), background);
  }
}

}  // namespace
}  // namespace kandinsky::training
