#include "worker/model/text/tokenizer.h"

// The only file that may include this header: its names clash with Abseil's.
#include <sentencepiece_processor.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <unordered_map>
#include <utility>

#include "worker/model/error.h"

namespace kandinsky::model {
namespace {

constexpr std::uintmax_t kMaxModelBytes = 64 << 20;
constexpr int64_t kMaxExtraIds = 10000;

// Length in bytes of the white space character at the start (or end) of the text, by Python's
// str.strip; 0: none.
size_t BlankAt(std::string_view text, bool at_end) {
  static const std::vector<std::string> kBlanks = [] {
    std::vector<std::string> blanks;
    for (const char c : {'\t', '\n', '\v', '\f', '\r', '\x1c', '\x1d', '\x1e', '\x1f', ' '}) {
      blanks.emplace_back(1, c);
    }
    for (const char* c : {"\u0085", "\u00a0", "\u1680", "\u2000", "\u2001", "\u2002", "\u2003",
                          "\u2004", "\u2005", "\u2006", "\u2007", "\u2008", "\u2009", "\u200a",
                          "\u2028", "\u2029", "\u202f", "\u205f", "\u3000"}) {
      blanks.emplace_back(c);
    }
    return blanks;
  }();
  for (const std::string& blank : kBlanks) {
    if (at_end ? text.ends_with(blank) : text.starts_with(blank)) return blank.size();
  }
  return 0;
}

void StripLeft(std::string& text) {
  size_t begin = 0;
  while (const size_t length = BlankAt(std::string_view(text).substr(begin), false)) {
    begin += length;
  }
  text.erase(0, begin);
}

void StripRight(std::string& text) {
  while (const size_t length = BlankAt(text, true)) text.resize(text.size() - length);
}

}  // namespace

struct Tokenizer::Impl {
  sentencepiece::SentencePieceProcessor processor;
  int64_t pieces = 0;
  int64_t extra_ids = 0;
  // Added tokens and their ids.
  std::unordered_map<std::string, int64_t> added;

  // Only the <extra_id_n> take blanks with them and must be whole words.
  bool IsExtra(const std::string& token) const { return added.at(token) >= pieces; }

  // The text between added tokens and these themselves, in order, none empty.
  std::vector<std::string> Split(std::string_view text) const {
    std::vector<std::string> parts;
    size_t begin = 0;
    for (size_t i = text.find('<'); i != std::string_view::npos; i = text.find('<', i + 1)) {
      const size_t end = text.find('>', i);
      if (end == std::string_view::npos) break;
      std::string token(text.substr(i, end + 1 - i));
      if (added.count(token) == 0) continue;
      if (i > begin) parts.emplace_back(text.substr(begin, i - begin));
      parts.push_back(std::move(token));
      begin = end + 1;
      i = end;
    }
    if (begin < text.size()) parts.emplace_back(text.substr(begin));
    return parts;
  }

  int64_t Id(const std::string& piece) const {
    const auto found = added.find(piece);
    return found != added.end() ? found->second : processor.PieceToId(piece);
  }
};

Tokenizer::Tokenizer(const std::string& model_file, int64_t extra_ids)
    : impl_(std::make_unique<Impl>()) {
  std::error_code error;
  const std::uintmax_t size = std::filesystem::file_size(model_file, error);
  std::ifstream file(model_file, std::ios::binary);
  if (error || !file) {
    throw ModelError(ModelError::Kind::kNotFound, model_file + " cannot be opened");
  }
  const auto damaged = [&](const std::string& what) {
    return ModelError(ModelError::Kind::kDataLoss, model_file + " " + what);
  };
  if (size > kMaxModelBytes) {
    throw damaged("has " + std::to_string(size) + " bytes, must have at most " +
                  std::to_string(kMaxModelBytes));
  }
  const std::string model{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  const auto status = impl_->processor.LoadFromSerializedProto({model.data(), model.size()});
  if (!status.ok()) throw damaged("is no SentencePiece model: " + status.ToString());
  impl_->pieces = impl_->processor.GetPieceSize();
  const auto piece_is = [&](int64_t id, const char* piece) {
    return impl_->pieces > id && impl_->processor.IdToPiece(static_cast<int>(id)) == piece;
  };
  if (!piece_is(kPad, "<pad>") || !piece_is(kEos, "</s>") || !piece_is(kUnknown, "<unk>")) {
    throw damaged("has other special pieces than T5's (<pad> 0, </s> 1, <unk> 2)");
  }
  impl_->added = {{"<pad>", kPad}, {"</s>", kEos}, {"<unk>", kUnknown}};
  if (extra_ids < 0 || extra_ids > kMaxExtraIds) {
    throw ModelError(ModelError::Kind::kInvalidArgument,
                     "extra_ids is " + std::to_string(extra_ids) + ", must be 0 to " +
                         std::to_string(kMaxExtraIds));
  }
  impl_->extra_ids = extra_ids;
  for (int64_t n = 0; n < extra_ids; ++n) {
    impl_->added["<extra_id_" + std::to_string(n) + ">"] = impl_->pieces + extra_ids - 1 - n;
  }
}

Tokenizer::~Tokenizer() = default;
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;

int64_t Tokenizer::pieces() const { return impl_->pieces; }

int64_t Tokenizer::extra_ids() const { return impl_->extra_ids; }

std::vector<int64_t> Tokenizer::Encode(std::string_view text) const {
  std::vector<std::string> parts = impl_->Split(text);
  // Neighbours change while the list is walked: a token that is glued to its right neighbour makes
  // that one text.
  for (size_t i = 0; i < parts.size(); ++i) {
    if (impl_->added.count(parts[i]) == 0 || !impl_->IsExtra(parts[i])) continue;
    const std::string left = i > 0 ? parts[i - 1] : "";
    const std::string right = i + 1 < parts.size() ? parts[i + 1] : "";
    if (i > 0) StripRight(parts[i - 1]);
    if (i + 1 < parts.size()) StripLeft(parts[i + 1]);
    if (!left.empty() && left.back() != ' ') {
      parts[i - 1] += parts[i];
      parts[i].clear();
    } else if (!right.empty() && right.front() != ' ') {
      parts[i + 1] = parts[i] + parts[i + 1];
      parts[i].clear();
    }
  }
  std::vector<int64_t> ids;
  for (const std::string& part : parts) {
    if (part.empty()) continue;
    if (const auto token = impl_->added.find(part); token != impl_->added.end()) {
      ids.push_back(token->second);
      continue;
    }
    std::vector<std::string> pieces;
    const auto status = impl_->processor.Encode({part.data(), part.size()}, &pieces);
    if (!status.ok()) {
      throw ModelError(ModelError::Kind::kInvalidArgument,
                       "the text cannot be tokenized: " + status.ToString());
    }
    for (const std::string& piece : pieces) ids.push_back(impl_->Id(piece));
  }
  if (ids.empty() || ids.back() != kEos) ids.push_back(kEos);
  return ids;
}

std::vector<int64_t> Tokenizer::EncodeTruncated(std::string_view text, int64_t length) const {
  std::vector<int64_t> ids = Encode(text);
  if (static_cast<int64_t>(ids.size()) > length) {
    ids.resize(static_cast<size_t>(length));
    ids.back() = kEos;
  }
  return ids;
}

TokenSequence Tokenizer::EncodePadded(std::string_view text, int64_t length) const {
  TokenSequence sequence;
  sequence.ids = EncodeTruncated(text, length);
  sequence.mask.assign(sequence.ids.size(), 1);
  sequence.ids.resize(static_cast<size_t>(length), kPad);
  sequence.mask.resize(static_cast<size_t>(length), 0);
  return sequence;
}

TokenSequence Tokenizer::EncodeNegative(std::string_view negative,
                                        const TokenSequence& prompt) const {
  const int64_t length = static_cast<int64_t>(prompt.ids.size());
  const auto visible = std::count(prompt.mask.begin(), prompt.mask.end(), 1);
  TokenSequence sequence;
  sequence.ids = EncodeTruncated(negative, length);
  if (static_cast<int64_t>(sequence.ids.size()) > visible) {
    sequence.ids.resize(static_cast<size_t>(visible));
  }
  if (!sequence.ids.empty()) sequence.ids.back() = kEos;
  sequence.ids.resize(static_cast<size_t>(length), kPad);
  sequence.mask = prompt.mask;
  return sequence;
}

}  // namespace kandinsky::model
