#include "training/trainers/tokenizer.h"

// Its names clash with Abseil's, so that no other header with them may be here.
#include <sentencepiece_trainer.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <exception>
#include <unordered_map>
#include <utility>

#include "worker/model/write_file.h"

namespace kandinsky::training {
namespace {

constexpr char32_t kYo = 0x451, kYe = 0x435;

std::string Utf8(char32_t c) {
  if (c < 0x80) return {static_cast<char>(c)};
  return {static_cast<char>(0xc0 | (c >> 6)), static_cast<char>(0x80 | (c & 0x3f))};  // below 0x800
}

// A line a rule, as SentencePiece reads them: code points in hexadecimal, a tab, what they become.
std::string NormalizationRules() {
  std::string rules;
  const auto rule = [&](const std::vector<char32_t>& from, const std::vector<char32_t>& to) {
    const auto write = [&](const std::vector<char32_t>& points) {
      for (size_t i = 0; i < points.size(); ++i) {
        char number[16];
        std::snprintf(number, sizeof(number), "%s%X", i > 0 ? " " : "",
                      static_cast<unsigned>(points[i]));
        rules += number;
      }
    };
    write(from);
    rules += '\t';
    write(to);
    rules += '\n';
  };
  for (char32_t c = 'A'; c <= 'Z'; ++c) rule({c}, {c + 32});
  for (char32_t c = 0x410; c <= 0x42f; ++c) rule({c}, {c + 32});  // А to Я
  rule({0x401}, {kYe});                                           // Ё
  rule({kYo}, {kYe});
  // Letters of two code points: ё and й.
  for (const char32_t e : {char32_t{0x415}, kYe}) rule({e, 0x308}, {kYe});
  for (const char32_t i : {char32_t{0x418}, char32_t{0x438}}) rule({i, 0x306}, {0x439});
  for (const char32_t blank :
       {0x9, 0xa, 0xd, 0xa0, 0x2002, 0x2003, 0x2009, 0x200a, 0x202f, 0x3000}) {
    rule({blank}, {' '});
  }
  for (const char32_t nothing : {0xad, 0x200b, 0x200c, 0x200d, 0xfe0e, 0xfe0f, 0xfeff}) {
    rule({nothing}, {});
  }
  for (const char32_t dash : {0x2010, 0x2011, 0x2012, 0x2013, 0x2014, 0x2212}) rule({dash}, {'-'});
  for (const char32_t quote : {0x2018, 0x2019, 0x201b, 0x2bc, 0x60, 0xb4}) rule({quote}, {'\''});
  for (const char32_t quote : {0xab, 0xbb, 0x201c, 0x201d, 0x201e, 0x2033}) rule({quote}, {'"'});
  return rules;
}

std::string Alphabet() {
  std::string letters;
  for (char32_t c = 'a'; c <= 'z'; ++c) letters += Utf8(c);
  for (char32_t c = 0x430; c <= 0x44f; ++c) letters += Utf8(c);
  return letters + "0123456789.,:;!?'\"()-";
}

// A file without a name, under a path that is the same everywhere, because SentencePiece writes the
// path into its model.
class RulesFile {
 public:
  explicit RulesFile(const std::string& text) {
    const int file = memfd_create("rules", 0);
    if (file < 0) return;
    if (write(file, text.data(), text.size()) == static_cast<ssize_t>(text.size())) {
      open_ = dup2(file, kNumber) == kNumber;
    }
    close(file);
  }
  ~RulesFile() {
    if (open_) close(kNumber);
  }
  RulesFile(const RulesFile&) = delete;
  RulesFile& operator=(const RulesFile&) = delete;
  bool open() const { return open_; }
  static std::string Path() { return "/proc/self/fd/" + std::to_string(kNumber); }

 private:
  static constexpr int kNumber = 200;
  bool open_ = false;
};

}  // namespace

std::string WriteTokenizer(const std::vector<std::string>& texts, const TokenizerOptions& options,
                           const std::string& path) {
  const RulesFile rules(NormalizationRules());
  if (!rules.open()) return "the rules of normalisation cannot be kept in memory";
  const std::unordered_map<std::string, std::string> arguments = {
      {"model_type", "unigram"},
      {"vocab_size", std::to_string(options.pieces)},
      {"character_coverage", "1.0"},
      {"required_chars", Alphabet()},
      {"pad_id", "0"},
      {"eos_id", "1"},
      {"unk_id", "2"},
      {"bos_id", "-1"},
      {"normalization_rule_tsv", RulesFile::Path()},
      {"num_threads", "1"},
      {"minloglevel", "1"},
  };
  std::string model;
  const auto status = sentencepiece::SentencePieceTrainer::Train(arguments, texts, &model);
  if (!status.ok()) return "--pieces " + std::to_string(options.pieces) + ": " + status.ToString();
  try {
    model::WriteFile(path, model);
  } catch (const std::exception& error) {
    return error.what();
  }
  return {};
}

}  // namespace kandinsky::training
