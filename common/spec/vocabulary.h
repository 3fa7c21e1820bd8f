// The words of the captions that a model was trained on (model.json, field "vocabulary"), and which
// words of a prompt are not among them. A small model draws something for a word that it never saw;
// whoever asked should be told.
//
// Words are compared without regard to case, and "ё" counts as "е", as tokenizers of this project
// fold them. A word is a run of letters and digits, with hyphens and apostrophes inside it; one
// with hyphens is known as a whole or when each of its parts is.
//
// Standard library only, for services and workers alike. Immutable after construction, so
// thread-safe.
#ifndef KANDINSKY_COMMON_SPEC_VOCABULARY_H_
#define KANDINSKY_COMMON_SPEC_VOCABULARY_H_

#include <cstddef>
#include <string>
#include <string_view>
#include <unordered_set>
#include <vector>

namespace kandinsky {

class Vocabulary {
 public:
  static constexpr size_t kMaxWords = 20000;      // of a model.json
  static constexpr size_t kMaxUnknownWords = 16;  // of an answer
  static constexpr size_t kMaxWordCharacters = 64;

  // Any text: without words, every prompt is taken as it is.
  Vocabulary() = default;
  // An entry may hold several words ("Christmas tree"); each counts by itself. Bytes that are not
  // UTF-8 are skipped.
  explicit Vocabulary(const std::vector<std::string>& entries);

  bool empty() const { return words_.empty(); }

  // The words of `text` that are not in the vocabulary, as they stand there (cut after
  // kMaxWordCharacters characters), each once, in order, the first kMaxUnknownWords. Nothing if the
  // vocabulary is empty.
  std::vector<std::string> UnknownWords(std::string_view text) const;

 private:
  bool Knows(const std::u32string& word) const;

  std::unordered_set<std::u32string> words_;  // folded
};

// A sentence for people: `this model does not know "dragonfly"; the video may show something else`.
// `words` not empty.
std::string UnknownWordsMessage(const std::vector<std::string>& words);

}  // namespace kandinsky

#endif  // KANDINSKY_COMMON_SPEC_VOCABULARY_H_
