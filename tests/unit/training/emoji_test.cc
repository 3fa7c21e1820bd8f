#include "training/domain/emoji.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <set>
#include <string>

#include "training/domain/phrases.h"

namespace kandinsky::training {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr int kClasses = 217;

TEST(Emoji, EveryBlockOfClipsHasEachEmojiOnce) {
  for (const int classes : {1, 2, 7, 217}) {
    for (const uint64_t first : {0, 1000}) {
      std::set<int> seen;
      for (int i = 0; i < classes; ++i) {
        seen.insert(EmojiClipAt(3, first + static_cast<uint64_t>(i), classes, {}).emoji);
      }
      EXPECT_EQ(seen.size(), static_cast<size_t>(classes)) << classes;
      EXPECT_EQ(*seen.begin(), 0);
      EXPECT_EQ(*seen.rbegin(), classes - 1);
    }
  }
}

TEST(Emoji, SplitsShareNoCombination) {
  int backgrounds = 0;
  for (uint64_t index = 0; index < 20000; ++index) {
    const EmojiSpec seen = EmojiClipAt(1, index, kClasses, {});
    EXPECT_FALSE(HeldOut(seen.emoji, seen.background));
    EXPECT_FALSE(HeldOut(seen.emoji, seen.motion));
    const EmojiSpec held = EmojiClipAt(1, index, kClasses, {.split = Split::kHeldOut});
    const bool background = HeldOut(held.emoji, held.background);
    EXPECT_NE(background, HeldOut(held.emoji, held.motion));
    backgrounds += background;
  }
  EXPECT_NEAR(backgrounds, 10000, 500);
  // Of each emoji one background and one motion, and every background and motion of some.
  std::array<int, kEmojiBackgrounds> of_background = {};
  std::array<int, kEmojiMotions> of_motion = {};
  for (int emoji = 0; emoji < kClasses; ++emoji) {
    int count = 0;
    for (int b = 0; b < kEmojiBackgrounds; ++b) {
      const bool held = HeldOut(emoji, static_cast<EmojiBackground>(b));
      of_background[static_cast<size_t>(b)] += held;
      count += held;
    }
    for (int m = 0; m < kEmojiMotions; ++m) {
      const bool held = HeldOut(emoji, static_cast<Motion>(m));
      of_motion[static_cast<size_t>(m)] += held;
      count += held;
    }
    EXPECT_EQ(count, 2);
  }
  EXPECT_GT(*std::min_element(of_background.begin(), of_background.end()), 20);
  EXPECT_GT(*std::min_element(of_motion.begin(), of_motion.end()), 20);
}

TEST(Emoji, ClipsStayInsideTheFrameAndMoveAsTheySay) {
  std::array<int, kEmojiMotions> count = {};
  for (uint64_t index = 0; index < 5000; ++index) {
    const EmojiSpec clip = EmojiClipAt(5, index, kClasses, {.split = Split::kAll});
    for (const double t : {0.0, 0.5, 1.0}) {
      const Point center = clip.CenterAt(t);
      const double half = clip.SideAt(t) / 2;
      for (const double middle : {center.x, center.y}) {
        EXPECT_GE(middle - half, 0);
        EXPECT_LE(middle + half, 1);
      }
      EXPECT_GE(EmojiSpec::ArtFrameAt(t), 0);
      EXPECT_LT(EmojiSpec::ArtFrameAt(t), kArtFrames);
    }
    const double right = clip.travel.x, down = clip.travel.y, growth = clip.side1 - clip.side0;
    const std::array<double, 3> changes = {right, down, growth};
    const std::array<int, 3> want = {
        (clip.motion == Motion::kRight) - (clip.motion == Motion::kLeft),
        (clip.motion == Motion::kDown) - (clip.motion == Motion::kUp),
        (clip.motion == Motion::kGrow) - (clip.motion == Motion::kShrink)};
    for (size_t i = 0; i < 3; ++i) {
      if (want[i] == 0) {
        EXPECT_EQ(changes[i], 0);
      } else {
        EXPECT_GT(want[i] * changes[i], 0.2);
      }
    }
    ++count[static_cast<size_t>(clip.motion)];
  }
  for (const int each : count) EXPECT_NEAR(each, 5000 / 7, 120);
  EXPECT_EQ(EmojiClipAt(5, 9, kClasses, {}), EmojiClipAt(5, 9, kClasses, {}));
  EXPECT_NE(EmojiClipAt(5, 9, kClasses, {}), EmojiClipAt(6, 9, kClasses, {}));
}

TEST(Emoji, KeyframesLieAwayFromTheMiddleBetweenFramesOfThePicture) {
  for (int k = 0; k < kKeyframes; ++k) {
    const double frame = EmojiSpec::ArtFrameAt(k / (kKeyframes - 1.0));
    EXPECT_NEAR(frame, 4.5 * k + 0.25, 1e-9);
  }
}

EmojiClass Panda() {
  return {.code = "1f43c",
          .english = "panda",
          .russian = "панда",
          .english_synonyms = {"bamboo bear"},
          .russian_synonyms = {"бамбуковый медведь"}};
}

TEST(EmojiCaption, PlainOnesHaveOneForm) {
  Random random(1);
  const EmojiSpec left{.background = EmojiBackground::kYellow, .motion = Motion::kLeft};
  const EmojiCaptionOptions english{.russian = 0, .leave_out = 0, .plain = true};
  EmojiCaptionOptions russian = english;
  russian.russian = 1;
  EXPECT_EQ(EmojiCaption(left, Panda(), random, english).text,
            "a panda on a yellow background moves to the left");
  EXPECT_EQ(EmojiCaption(left, Panda(), random, russian).text,
            "панда на жёлтом фоне движется влево");
  EmojiCaptionOptions still = english;
  still.motion = false;
  EXPECT_EQ(EmojiCaption(left, Panda(), random, still).text, "a panda on a yellow background");
}

TEST(EmojiCaption, ArticlesFollowSpeech) {
  const EmojiCaptionOptions plain{.russian = 0, .leave_out = 1, .plain = true};
  const std::pair<const char*, const char*> cases[] = {
      {"owl", "an owl"}, {"unicorn", "a unicorn"},       {"UFO", "a UFO"},
      {"SUV", "an SUV"}, {"umbrella", "an umbrella"},    {"Saturn", "Saturn"},
      {"rain", "rain"},  {"angry face", "an angry face"}};
  for (const auto& [name, want] : cases) {
    Random random(1);
    EXPECT_EQ(EmojiCaption({}, {.english = name, .russian = name}, random, plain).text, want);
  }
}

TEST(EmojiCaption, SaysWhatItSaysItSays) {
  int russian = 0, background = 0, motion = 0, synonym = 0;
  std::set<std::string> texts;
  constexpr int kCount = 4000;
  for (int i = 0; i < kCount; ++i) {
    const EmojiSpec clip{.background = EmojiBackground::kYellow, .motion = Motion::kStill};
    const EmojiCaptioned captioned =
        EmojiCaptionAt(1, 7, clip, Panda(), {.leave_out = 0.2}, static_cast<uint64_t>(i));
    const std::string& text = captioned.text;
    texts.insert(text);
    russian += captioned.russian, background += captioned.background, motion += captioned.motion;
    synonym += text.find("bear") != std::string::npos || text.find("медведь") != std::string::npos;
    const bool yellow = text.find("ellow") != std::string::npos ||
                        text.find("ёлт") != std::string::npos ||
                        text.find("елт") != std::string::npos;
    EXPECT_EQ(yellow, captioned.background) << text;
    EXPECT_THAT(text, Not(HasSubstr("  ")));
    EXPECT_THAT(text, Not(HasSubstr("%")));
    EXPECT_THAT(text, Not(HasSubstr("~")));
    EXPECT_THAT(text, Not(HasSubstr("неподвиж"))) << "needs the gender of the noun";
  }
  EXPECT_NEAR(russian, 0.4 * kCount, 150);
  EXPECT_NEAR(background, 0.8 * kCount, 150);
  EXPECT_NEAR(motion, 0.8 * kCount, 150);
  EXPECT_NEAR(synonym, 0.25 * kCount, 150);
  EXPECT_GT(texts.size(), 800u);
}

TEST(Phrases, WithoutGenderThereIsNoParticiple) {
  for (int motion = 0; motion < kMotions; ++motion) {
    for (uint64_t seed = 0; seed < 50; ++seed) {
      Random with(seed), without(seed);
      const auto value = static_cast<Motion>(motion);
      EXPECT_EQ(DrawRussianMotion(value, {}, without, false).participle, "");
      EXPECT_NE(DrawRussianMotion(value, Gender::kFeminine, with, false).participle, "");
      EXPECT_EQ(with.Next(), without.Next());
    }
  }
}

}  // namespace
}  // namespace kandinsky::training
