#include "training/eval/emoji_prompts.h"

#include <gtest/gtest.h>

#include <set>
#include <string>
#include <vector>

namespace kandinsky::training {
namespace {

const std::vector<EmojiClass>& Classes() {
  static const auto* const classes = new std::vector<EmojiClass>{
      {.code = "1", .english = "panda", .russian = "панда", .group = "Animals"},
      {.code = "2",
       .english = "car",
       .russian = "машина",
       .group = "Travel",
       .english_synonyms = {"automobile"},
       .russian_synonyms = {"автомобиль"}},
      {.code = "3",
       .english = "tram",
       .russian = "трамвай",
       .group = "Travel",
       .russian_synonyms = {"трамвайчик"},
       .weak = true}};
  return *classes;
}

TEST(EmojiPrompts, AskForEachEmojiAlikeAndOnlyForWhatTheSplitHas) {
  for (const bool held_out : {false, true}) {
    const auto clips = DrawEmojiPrompts({.count = 300, .held_out = held_out}, Classes());
    ASSERT_EQ(clips.size(), 300u);
    int russian = 0;
    std::vector<int> count(3);
    for (const EmojiPromptClip& clip : clips) {
      ++count[static_cast<size_t>(clip.spec.emoji)];
      russian += clip.russian;
      EXPECT_EQ(HeldOut(clip.spec.emoji, clip.spec.background) ||
                    HeldOut(clip.spec.emoji, clip.spec.motion),
                held_out);
      const EmojiClass& emoji = Classes()[static_cast<size_t>(clip.spec.emoji)];
      EXPECT_NE(clip.prompt.find(clip.russian ? emoji.russian : emoji.english), std::string::npos);
    }
    EXPECT_EQ(count, (std::vector<int>{100, 100, 100}));
    EXPECT_NEAR(russian, 150, 40);
    EXPECT_EQ(DrawEmojiPrompts({.count = 7, .held_out = held_out}, Classes())[6].prompt,
              clips[6].prompt);
  }
}

TEST(EmojiPrompts, SynonymsAreOtherNames) {
  const auto clips = DrawEmojiPrompts({.count = 100, .wording = Wording::kSynonyms}, Classes());
  ASSERT_EQ(clips.size(), 100u);
  std::set<std::string> names;
  for (const EmojiPromptClip& clip : clips) {
    EXPECT_NE(clip.spec.emoji, 0);
    for (const char* const name : {"automobile", "автомобиль", "трамвайчик"}) {
      if (clip.prompt.find(name) != std::string::npos) names.insert(name);
    }
    EXPECT_EQ(clip.prompt.find("tram"), std::string::npos) << clip.prompt;
  }
  EXPECT_EQ(names.size(), 3u);
  EXPECT_TRUE(
      DrawEmojiPrompts({.count = 5, .wording = Wording::kSynonyms}, {Classes()[0]}).empty());
}

TEST(EmojiPrompts, FiguresCountWhatIsRight) {
  const auto clips = DrawEmojiPrompts({.count = 6, .russian = 0}, Classes());
  std::vector<nlohmann::ordered_json> records;
  for (size_t i = 0; i < clips.size(); ++i) {
    EmojiVerdict verdict{.emoji = clips[i].spec.emoji,
                         .background = clips[i].spec.background,
                         .motion = clips[i].spec.motion,
                         .animated = true};
    if (i == 1) verdict.emoji = (*verdict.emoji + 1) % 3;
    if (i == 2) verdict.background.reset();
    if (i == 3) verdict.motion.reset();
    if (Classes()[static_cast<size_t>(clips[i].spec.emoji)].weak)
      verdict.animated = false;  // not counted
    records.push_back(EmojiPromptRecord(clips[i], i, 2, verdict, Classes()));
    EXPECT_EQ(EmojiAllRight(records.back()), i == 0 || i > 3);
  }
  Result result;
  SummarizeEmojiPrompts(records, false, result);
  const auto value = [&](const std::string& name) {
    return result.figures.at("emoji.seen." + name).value;
  };
  EXPECT_DOUBLE_EQ(value("emoji"), 5 / 6.0);
  EXPECT_DOUBLE_EQ(value("background"), 5 / 6.0);
  EXPECT_DOUBLE_EQ(value("motion"), 5 / 6.0);
  EXPECT_DOUBLE_EQ(value("all"), 3 / 6.0);
  EXPECT_DOUBLE_EQ(value("animated"), 3 / 4.0) << "a wrong emoji is not animated";
  EXPECT_DOUBLE_EQ(value("english.all"), 3 / 6.0);
  EXPECT_EQ(result.figures.count("emoji.seen.russian.all"), 0u);
  EXPECT_EQ(result.figures.at("emoji.seen.animated").count, 4);
  EXPECT_DOUBLE_EQ(value("seconds"), 2);
  EXPECT_EQ(result.clips.size(), 6u);
}

}  // namespace
}  // namespace kandinsky::training
