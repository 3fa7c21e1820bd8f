#include "common/spec/vocabulary.h"

#include <locale.h>
#include <wctype.h>

#include <algorithm>
#include <optional>

#include "common/spec/utf8.h"

namespace kandinsky {
namespace {

constexpr char32_t kHyphen = U'-', kApostrophe = U'\'';

// The C library's tables of Unicode; null (ASCII only) where it does not bring them.
locale_t UnicodeLocale() {
  static const locale_t locale = newlocale(LC_CTYPE_MASK, "C.UTF-8", nullptr);
  return locale;
}

bool IsCombiningMark(char32_t c) { return c >= 0x300 && c <= 0x36F; }

bool IsWordCharacter(char32_t c) {
  if (c < 0x80) return (c >= '0' && c <= '9') || ((c | 0x20) >= 'a' && (c | 0x20) <= 'z');
  if (IsCombiningMark(c)) return true;
  const locale_t locale = UnicodeLocale();
  return locale != nullptr && iswalnum_l(static_cast<wint_t>(c), locale) != 0;
}

// Typographic forms of the two characters that join words: U+2019, U+02BC; U+2010, U+2011.
char32_t Joiner(char32_t c) {
  if (c == kApostrophe || c == 0x2019 || c == 0x2BC) return kApostrophe;
  if (c == kHyphen || c == 0x2010 || c == 0x2011) return kHyphen;
  return 0;
}

char32_t Lower(char32_t c) {
  if (c < 0x80) return c >= 'A' && c <= 'Z' ? c + 0x20 : c;
  const locale_t locale = UnicodeLocale();
  return locale == nullptr ? c : static_cast<char32_t>(towlower_l(static_cast<wint_t>(c), locale));
}

// Appends `c` to a folded word. "ё" and "й" may come as a letter and a combining mark.
void AppendFolded(char32_t c, std::u32string& word) {
  constexpr char32_t kBreve = 0x306, kDiaeresis = 0x308;
  constexpr char32_t kIe = 0x435, kIo = 0x451, kI = 0x438, kShortI = 0x439;
  if (c == kDiaeresis && !word.empty() && word.back() == kIe) return;
  if (c == kBreve && !word.empty() && word.back() == kI) {
    word.back() = kShortI;
    return;
  }
  const char32_t lower = Lower(c);
  word += lower == kIo ? kIe : lower;
}

// Takes one code point off the front; a byte that begins none is passed over and gives U+FFFD,
// which is in no word.
char32_t PopCharacter(std::string_view& text) {
  const std::optional<char32_t> c = PopCodePoint(text);
  if (c) return *c;
  text.remove_prefix(1);
  return 0xFFFD;
}

struct Word {
  std::string shown;      // UTF-8, as in the text
  std::u32string folded;  // with joiners
};

// Calls `on_word` for each word of `text`.
template <typename F>
void ForEachWord(std::string_view text, F on_word) {
  Word word;
  size_t characters = 0;
  std::string joiner;  // waits for the next letter
  char32_t folded_joiner = 0;
  const auto end = [&] {
    if (!word.folded.empty()) on_word(word);
    word = {};
    characters = 0;
    joiner.clear();
  };
  while (!text.empty()) {
    const std::string_view before = text;
    const char32_t c = PopCharacter(text);
    const std::string_view bytes = before.substr(0, before.size() - text.size());
    if (IsWordCharacter(c)) {
      if (!joiner.empty()) {
        word.shown += joiner;
        word.folded += folded_joiner;
        joiner.clear();
      }
      AppendFolded(c, word.folded);
      if (characters++ < Vocabulary::kMaxWordCharacters) word.shown += bytes;
    } else if (Joiner(c) != 0 && !word.folded.empty() && joiner.empty()) {
      joiner = bytes;
      folded_joiner = Joiner(c);
    } else {
      end();
    }
  }
  end();
}

}  // namespace

Vocabulary::Vocabulary(const std::vector<std::string>& entries) {
  for (const std::string& entry : entries) {
    ForEachWord(entry, [this](const Word& word) { words_.insert(word.folded); });
  }
}

bool Vocabulary::Knows(const std::u32string& word) const {
  if (words_.contains(word)) return true;
  if (word.find(kHyphen) == std::u32string::npos) return false;
  for (size_t begin = 0; begin <= word.size();) {
    const size_t end = std::min(word.find(kHyphen, begin), word.size());
    if (!words_.contains(word.substr(begin, end - begin))) return false;
    begin = end + 1;
  }
  return true;
}

std::vector<std::string> Vocabulary::UnknownWords(std::string_view text) const {
  std::vector<std::string> unknown;
  if (empty()) return unknown;
  std::unordered_set<std::u32string> seen;
  ForEachWord(text, [&](const Word& word) {
    if (unknown.size() == kMaxUnknownWords || Knows(word.folded)) return;
    if (seen.insert(word.folded).second) unknown.push_back(word.shown);
  });
  return unknown;
}

std::string UnknownWordsMessage(const std::vector<std::string>& words) {
  std::string message = "this model does not know ";
  for (size_t i = 0; i < words.size(); ++i) {
    if (i > 0) message += i + 1 == words.size() ? " and " : ", ";
    message += "\"" + words[i] + "\"";
  }
  return message + "; the video may show something else";
}

}  // namespace kandinsky
