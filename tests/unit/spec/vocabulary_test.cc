#include "common/spec/vocabulary.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace kandinsky {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::SizeIs;

Vocabulary Small() {
  return Vocabulary({"a", "an", "on", "background", "panda", "Christmas tree", "jack-o'-lantern",
                     "yellow", "red", "ёлка", "на", "жёлтом", "фоне", "йог", "T-Rex", "10"});
}

TEST(Vocabulary, FindsWhatItDoesNotHold) {
  const Vocabulary vocabulary = Small();
  struct Case {
    const char* text;
    std::vector<std::string> want;
  };
  const Case cases[] = {
      {"a panda on a yellow background", {}},
      {"A PANDA, on a Yellow background!", {}},
      {"a dragonfly on a yellow background", {"dragonfly"}},
      {"Dragonfly and dragonfly; DRAGONFLY", {"Dragonfly", "and"}},
      {"a tree", {}},
      {"a Jack-O’-Lantern", {}},
      {"a yellow-red panda", {}},
      {"a yellow-green panda", {"yellow-green"}},
      {"-panda- 'panda' panda-", {}},
      {"t-rex t‑rex rex", {"rex"}},
      {"ёлка, Ёлка, елка, ЕЛКА на желтом фоне", {}},
      // Letters with combining marks, as file systems of Apple write them.
      {"е\u0308лка и\u0306ог", {}},
      {"стрекоза на ЖЁЛТОМ фоне", {"стрекоза"}},
      {"10 pandas 11", {"pandas", "11"}},
      {"panda\u00a0panda 熊", {"熊"}},
      {"panda 🐼 …", {}},
      {"", {}},
      {" \n ", {}},
      {"\xff\xfepanda\xd0", {}},
  };
  for (const Case& c : cases) EXPECT_EQ(vocabulary.UnknownWords(c.text), c.want) << c.text;
}

TEST(Vocabulary, WithoutWordsTakesAnyText) {
  EXPECT_TRUE(Vocabulary().empty());
  EXPECT_THAT(Vocabulary().UnknownWords("dragonfly"), IsEmpty());
  EXPECT_TRUE(Vocabulary(std::vector<std::string>{"", "—"}).empty());
}

TEST(Vocabulary, AnswersAreBounded) {
  std::string text;
  for (int i = 0; i < 1000; ++i) text += "w" + std::to_string(i) + " ";
  EXPECT_THAT(Small().UnknownWords(text), SizeIs(Vocabulary::kMaxUnknownWords));
  std::string word;
  for (int i = 0; i < 1000; ++i) word += "ы";
  const std::vector<std::string> unknown = Small().UnknownWords(word);
  ASSERT_THAT(unknown, SizeIs(1));
  EXPECT_EQ(unknown[0].size(), 2 * Vocabulary::kMaxWordCharacters) << "cut between characters";
}

TEST(Vocabulary, Message) {
  EXPECT_EQ(UnknownWordsMessage({"x"}),
            "this model does not know \"x\"; the video may show something else");
  EXPECT_EQ(UnknownWordsMessage({"x", "y", "z"}),
            "this model does not know \"x\", \"y\" and \"z\"; the video may show something else");
}

}  // namespace
}  // namespace kandinsky
