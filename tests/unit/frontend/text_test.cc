#include "services/frontend/text.h"

#include <gtest/gtest.h>

namespace kandinsky {
namespace {

using std::string_literals::operator""s;

TEST(Text, InspectText) {
  struct Case {
    std::string name;
    std::string given;
    bool valid = true;
    int64_t characters = 0;
    bool blank = false;
    std::optional<uint32_t> control;
  };
  const Case cases[] = {
      {"empty", "", true, 0, true},
      {"ascii", "a cat", true, 5, false},
      {"two bytes", "\xC3\xA9", true, 1, false},
      {"three bytes", "\xE2\x82\xAC", true, 1, false},
      {"four bytes", "\xF0\x9F\x98\x80", true, 1, false},
      {"last code point", "\xF4\x8F\xBF\xBF", true, 1, false},
      {"before the surrogates", "\xED\x9F\xBF", true, 1, false},
      {"blanks", " \t\n", true, 3, true},
      {"no-break and ideographic space", "\xC2\xA0\xE3\x80\x80", true, 2, true},
      {"zero-width", "\xE2\x80\x8B\xEF\xBB\xBF", true, 2, true},
      {"nul", "a\0b"s, true, 3, false, 0},
      {"carriage return", "a\rb", true, 3, false, 0x0D},
      {"delete", "\x7F", true, 1, false, 0x7F},
      {"C1 control", "a\xC2\x85", true, 2, false, 0x85},
      {"line feed and tab are fine", "a\n\tb", true, 4, false},
      {"lone continuation", "\x80", false},
      {"lone lead", "\xC3", false},
      {"truncated in the middle", "\xE2\x82 x", false},
      {"truncated at the end", "\xF0\x9F\x98", false},
      {"overlong slash, two bytes", "\xC0\xAF", false},
      {"overlong, C1", "\xC1\xBF", false},
      {"overlong, three bytes", "\xE0\x80\xAF", false},
      {"overlong, four bytes", "\xF0\x80\x80\xAF", false},
      {"first surrogate", "\xED\xA0\x80", false},
      {"last surrogate", "\xED\xBF\xBF", false},
      {"above U+10FFFF", "\xF4\x90\x80\x80", false},
      {"lead F5", "\xF5\x80\x80\x80", false},
      {"byte FF", "\xFF", false},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.name);
    const std::optional<TextProperties> got = InspectText(c.given);
    ASSERT_EQ(got.has_value(), c.valid);
    if (!got) continue;
    EXPECT_EQ(got->characters, c.characters);
    EXPECT_EQ(got->blank, c.blank);
    EXPECT_EQ(got->control, c.control);
  }
}

TEST(Text, IsIdentifier) {
  struct Case {
    std::string given;
    bool want;
  };
  const Case cases[] = {{"", false},        {"a", true},          {"aZ09._-", true},
                        {"a b", false},     {"a/b", false},       {"\xC3\xA9", false},
                        {"12345678", true}, {"123456789", false}, {"a\n", false}};
  for (const Case& c : cases) EXPECT_EQ(IsIdentifier(c.given, "._-", 8), c.want) << c.given;
}

TEST(Text, Quote) {
  EXPECT_EQ(Quote("abc"), "\"abc\"");
  EXPECT_EQ(Quote("a\xFF\n"), "\"a\\xff\\n\"");
  EXPECT_EQ(Quote(std::string(50, 'x')), "\"" + std::string(40, 'x') + "\"…");
}

}  // namespace
}  // namespace kandinsky
