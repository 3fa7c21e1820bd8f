// Prompts to token ids, by T5's conventions over a SentencePiece unigram model.
#ifndef KANDINSKY_WORKER_MODEL_TEXT_TOKENIZER_H_
#define KANDINSKY_WORKER_MODEL_TEXT_TOKENIZER_H_

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace kandinsky::model {

// Ids of one prompt, padded to the maximum length L. mask: 1 = visible.
struct TokenSequence {
  std::vector<int64_t> ids;   // [L]
  std::vector<int64_t> mask;  // [L]
};

// Immutable and thread-safe.
//
// The text is cut at the added tokens <pad>, </s>, <unk> and <extra_id_0> .. <extra_id_99>; every
// piece between them is encoded on its own. <extra_id_n> has id pieces + extra_ids - 1 - n, takes
// the blanks on both sides with it, and counts only as a whole word: with a character other than a
// blank on its left it is text of the left piece, with one on its right text of the right piece.
class Tokenizer {
 public:
  static constexpr int64_t kPad = 0, kEos = 1, kUnknown = 2;
  static constexpr int64_t kExtraIds = 100;

  // Throws ModelError: kNotFound when there is no such file, kDataLoss when it is no SentencePiece
  // model or one whose special ids are not those of T5.
  // `extra_ids` is how many <extra_id_n> there are; every published T5 has 100.
  explicit Tokenizer(const std::string& model_file, int64_t extra_ids = kExtraIds);
  ~Tokenizer();
  Tokenizer(Tokenizer&&) noexcept;

  // Ids with end-of-sequence, without a limit on their number. Any bytes are welcome.
  std::vector<int64_t> Encode(std::string_view text) const;

  // The first `length` - 1 ids of a text that is too long, then end-of-sequence.
  std::vector<int64_t> EncodeTruncated(std::string_view text, int64_t length) const;

  // The prompt's ids, padded to `length`.
  TokenSequence EncodePadded(std::string_view text, int64_t length) const;

  // A negative prompt goes with a prompt: it is cut to the prompt's visible length (its last id is
  // then replaced by end-of-sequence, also when nothing was cut away), padded, and shown through
  // the prompt's mask, so that the padding of a shorter one is visible.
  TokenSequence EncodeNegative(std::string_view negative, const TokenSequence& prompt) const;

  int64_t pieces() const;
  // Pieces and extra ids: what an embedding table must have at least.
  int64_t vocabulary() const { return pieces() + extra_ids(); }
  int64_t extra_ids() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace kandinsky::model

#endif  // KANDINSKY_WORKER_MODEL_TEXT_TOKENIZER_H_
