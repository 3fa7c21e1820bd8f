#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "training/trainers/tokenizer.h"
#include "worker/model/text/tokenizer.h"

namespace kandinsky::training {
namespace {

class TokenizerTrainingTest : public ::testing::Test {
 protected:
  void SetUp() override {
    path_ =
        (std::filesystem::temp_directory_path() / ("spiece-" + std::to_string(getpid()) + ".model"))
            .string();
    for (int i = 0; i < 400; ++i) {
      texts_.push_back("a panda on a yellow background moves left " + std::to_string(i));
      texts_.push_back("Ёжик на жёлтом фоне растёт " + std::to_string(i));
      texts_.push_back("the quick brown fox, " + std::to_string(i));
    }
  }
  void TearDown() override { std::filesystem::remove(path_); }

  std::string Bytes() const {
    std::ifstream file(path_, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  }

  std::string path_;
  std::vector<std::string> texts_;
};

TEST_F(TokenizerTrainingTest, WhatPeopleTypeAlikeIsAlike) {
  ASSERT_EQ(WriteTokenizer(texts_, {.pieces = 120}, path_), "");
  const model::Tokenizer tokenizer(path_, 0);
  const std::pair<std::string, std::string> cases[] = {
      {"Ёжик на ЖЁЛТОМ фоне растёт", "ежик на желтом фоне растет"},
      {"A PANDA on a Yellow background", "a panda on a yellow background"},
      {"е\u0308жик", "ежик"},
      {"panda \u2014 left", "panda - left"},
      {"jack\u2019s \u00abpanda\u00bb", "jack's \"panda\""},
      {"panda\u00a0left", "panda left"},
  };
  for (const auto& [typed, plain] : cases) {
    EXPECT_EQ(tokenizer.Encode(typed), tokenizer.Encode(plain)) << typed;
  }
  EXPECT_NE(tokenizer.Encode("left"), tokenizer.Encode("right"));
  for (const char* const word : {"щука", "ъыьэюя", "zebra", "jazz", "0123456789", "(?!)"}) {
    for (const int64_t id : tokenizer.Encode(word)) EXPECT_NE(id, 2) << word;
  }
}

TEST_F(TokenizerTrainingTest, EqualTextsGiveEqualFiles) {
  ASSERT_EQ(WriteTokenizer(texts_, {.pieces = 120}, path_), "");
  const std::string first = Bytes();
  ASSERT_EQ(WriteTokenizer(texts_, {.pieces = 120}, path_), "");
  EXPECT_EQ(Bytes(), first);
  EXPECT_EQ(first.find("/tmp"), std::string::npos);
}

TEST_F(TokenizerTrainingTest, SaysWhatIsWrong) {
  EXPECT_THAT(WriteTokenizer(texts_, {.pieces = 10}, path_), ::testing::HasSubstr("--pieces 10"));
  EXPECT_THAT(WriteTokenizer(texts_, {.pieces = 120}, "/nonexistent/x"),
              ::testing::HasSubstr("/nonexistent/x"));
  EXPECT_FALSE(std::filesystem::exists(path_));
}

}  // namespace
}  // namespace kandinsky::training
