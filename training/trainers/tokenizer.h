// A tokenizer of captions.
#ifndef KANDINSKY_TRAINING_TRAINERS_TOKENIZER_H_
#define KANDINSKY_TRAINING_TRAINERS_TOKENIZER_H_

#include <cstdint>
#include <string>
#include <vector>

namespace kandinsky::training {

struct TokenizerOptions {
  int64_t pieces = 896;  // of the vocabulary, with T5's special ones
};

// Trains a SentencePiece unigram model on the texts (UTF-8, a sentence each) and writes it to
// `path`, atomically. Its own normalisation, which every user of the file applies, makes one of
// what people type alike: capitals and small letters, ё and е, kinds of blanks, dashes, quotes and
// apostrophes. Letters of both alphabets, digits and common marks always have pieces, so that no
// word is unknown. Equal texts and options give equal files. Returns what was wrong, or nothing.
std::string WriteTokenizer(const std::vector<std::string>& texts, const TokenizerOptions& options,
                           const std::string& path);

}  // namespace kandinsky::training

#endif  // KANDINSKY_TRAINING_TRAINERS_TOKENIZER_H_
