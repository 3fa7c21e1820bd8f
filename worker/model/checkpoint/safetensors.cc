#include "worker/model/checkpoint/safetensors.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <nlohmann/json.hpp>
#include <set>

#include "worker/model/checkpoint/shape.h"
#include "worker/model/error.h"

namespace kandinsky::model {
namespace {

using Kind = ModelError::Kind;

constexpr int64_t kLengthBytes = 8;
constexpr int64_t kMaxHeader = 100'000'000;  // the format's own limit
constexpr char kMetadataKey[] = "__metadata__";

// Spelling in the header, and so all that the format knows and LibTorch can hold.
constexpr std::pair<const char*, at::ScalarType> kDtypes[] = {
    {"BOOL", at::kBool},           {"U8", at::kByte},          {"I8", at::kChar},
    {"I16", at::kShort},           {"U16", at::kUInt16},       {"F16", at::kHalf},
    {"BF16", at::kBFloat16},       {"I32", at::kInt},          {"U32", at::kUInt32},
    {"F32", at::kFloat},           {"I64", at::kLong},         {"U64", at::kUInt64},
    {"F64", at::kDouble},          {"C64", at::kComplexFloat}, {"F8_E4M3", at::kFloat8_e4m3fn},
    {"F8_E5M2", at::kFloat8_e5m2},
};

const char* SpellDtype(at::ScalarType dtype) {
  for (const auto& [name, value] : kDtypes) {
    if (value == dtype) return name;
  }
  throw ModelError(Kind::kInvalidArgument,
                   "safetensors cannot hold tensors of type " + DtypeName(dtype));
}

[[noreturn]] void Damaged(const std::string& path, const std::string& what) {
  throw ModelError(Kind::kDataLoss, path + ": not a valid safetensors file: " + what);
}

int64_t HeaderLength(const MappedFile& file) {
  if (file.size() < kLengthBytes) return -1;
  uint64_t length = 0;
  for (int i = kLengthBytes - 1; i >= 0; --i) length = length << 8 | file.data()[i];
  return length <= static_cast<uint64_t>(file.size() - kLengthBytes) ? static_cast<int64_t>(length)
                                                                     : -1;
}

}  // namespace

// Takes the header's events one by one, so that memory goes to entries only, never to a document
// tree.
class SafetensorsFile::HeaderHandler : public nlohmann::json_sax<nlohmann::json> {
 public:
  HeaderHandler(const std::string& path, std::map<std::string, Entry>* entries,
                SafetensorsMetadata* metadata)
      : path_(path), entries_(entries), metadata_(metadata) {}

  bool null() override { return Unexpected("null"); }
  bool boolean(bool) override { return Unexpected("a boolean"); }
  bool number_float(double, const std::string& text) override { return Unexpected(text); }
  bool binary(nlohmann::json::binary_t&) override { return Unexpected("binary data"); }
  bool number_integer(int64_t value) override { return Number(value, std::to_string(value)); }
  bool number_unsigned(uint64_t value) override {
    return Number(value > INT64_MAX ? -1 : static_cast<int64_t>(value), std::to_string(value));
  }

  bool string(std::string& value) override {
    if (level_ == Level::kMetadata) {
      if (!metadata_->emplace(key_, std::move(value)).second) {
        Damaged(path_, "duplicate metadata key " + Quote(key_));
      }
      return true;
    }
    if (level_ != Level::kEntry || key_ != "dtype") return Unexpected("a string");
    for (const auto& [name, dtype] : kDtypes) {
      if (value == name) {
        entry_.meta.dtype = dtype;
        return true;
      }
    }
    Damaged(path_, "tensor " + Quote(name_) + " has unknown type " + Quote(value));
  }

  bool start_object(std::size_t) override {
    if (level_ == Level::kOutside) {
      level_ = Level::kTop;
    } else if (level_ == Level::kTop) {
      level_ = name_ == kMetadataKey ? Level::kMetadata : Level::kEntry;
      entry_ = Entry();
      fields_.clear();
      offsets_.clear();
    } else {
      return Unexpected("an object");
    }
    return true;
  }

  bool key(std::string& value) override {
    if (level_ == Level::kTop) {
      name_ = value;
      if (entries_->contains(name_) || (name_ == kMetadataKey && seen_metadata_)) {
        Damaged(path_, "duplicate name " + Quote(name_));
      }
      seen_metadata_ = seen_metadata_ || name_ == kMetadataKey;
      return true;
    }
    key_ = value;
    if (level_ == Level::kEntry) {
      if (key_ != "dtype" && key_ != "shape" && key_ != "data_offsets") {
        Damaged(path_, "tensor " + Quote(name_) + " has unknown field " + Quote(key_));
      }
      if (!fields_.insert(key_).second) {
        Damaged(path_, "tensor " + Quote(name_) + " has field " + Quote(key_) + " twice");
      }
    }
    return true;
  }

  bool end_object() override {
    if (level_ == Level::kEntry) {
      if (fields_.size() != 3 || offsets_.size() != 2) {
        Damaged(path_, "tensor " + Quote(name_) + " needs dtype, shape and two data_offsets");
      }
      entry_.begin = offsets_[0];
      entry_.end = offsets_[1];
      entries_->emplace(name_, std::move(entry_));
      level_ = Level::kTop;
    } else if (level_ == Level::kMetadata) {
      level_ = Level::kTop;
    } else {
      level_ = Level::kOutside;
    }
    return true;
  }

  bool start_array(std::size_t) override {
    if (level_ != Level::kEntry || (key_ != "shape" && key_ != "data_offsets")) {
      return Unexpected("an array");
    }
    level_ = key_ == "shape" ? Level::kShape : Level::kOffsets;
    return true;
  }

  bool end_array() override {
    level_ = Level::kEntry;
    return true;
  }

  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::json::exception&) override {
    Damaged(path_, "bad JSON at byte " + std::to_string(position) + " of the header");
  }

 private:
  enum class Level { kOutside, kTop, kMetadata, kEntry, kShape, kOffsets };

  bool Number(int64_t value, const std::string& text) {
    std::vector<int64_t>* list = nullptr;
    if (level_ == Level::kShape) list = &entry_.meta.shape;
    if (level_ == Level::kOffsets) list = &offsets_;
    if (list == nullptr) return Unexpected("the number " + text);
    if (value < 0) {
      Damaged(path_, "tensor " + Quote(name_) + " has " + text + " in its " + key_);
    }
    if (list->size() >= kMaxDimensions) {
      Damaged(path_, "tensor " + Quote(name_) + " has too many numbers in its " + key_);
    }
    list->push_back(value);
    return true;
  }

  bool Unexpected(const std::string& what) {
    Damaged(path_, what + " where the header may not have it" +
                       (name_.empty() ? "" : ", near tensor " + Quote(name_)));
  }

  const std::string& path_;
  std::map<std::string, Entry>* const entries_;
  SafetensorsMetadata* const metadata_;
  Level level_ = Level::kOutside;
  std::string name_;
  std::string key_;
  Entry entry_;
  std::set<std::string> fields_;
  std::vector<int64_t> offsets_;
  bool seen_metadata_ = false;
};

SafetensorsFile::SafetensorsFile(const std::string& path)
    : SafetensorsFile(MappedFile::Open(path)) {}

SafetensorsFile::SafetensorsFile(std::shared_ptr<const MappedFile> file) : file_(std::move(file)) {
  const int64_t length = HeaderLength(*file_);
  if (length < 0) {
    Damaged(path(), "the file (" + std::to_string(file_->size()) +
                        " bytes) is shorter than its header says, or truncated");
  }
  if (length > kMaxHeader) Damaged(path(), "header of " + std::to_string(length) + " bytes");
  const char* text = reinterpret_cast<const char*>(file_->data()) + kLengthBytes;
  if (length == 0 || text[0] != '{') Damaged(path(), "the header is not a JSON object");

  HeaderHandler handler(path(), &entries_, &metadata_);
  nlohmann::json::sax_parse(text, text + length, &handler);

  // Every byte belongs to exactly one tensor.
  const int64_t base = kLengthBytes + length;
  const int64_t capacity = file_->size() - base;
  std::vector<std::pair<int64_t, const std::string*>> order;
  for (auto& [name, entry] : entries_) {
    const std::optional<int64_t> bytes = CheckedBytes(entry.meta.dtype, entry.meta.shape);
    if (!bytes) Damaged(path(), "the shape of tensor " + Quote(name) + " overflows");
    if (entry.begin > entry.end || entry.end > capacity) {
      Damaged(path(), "tensor " + Quote(name) + " lies at bytes " + std::to_string(entry.begin) +
                          ".." + std::to_string(entry.end) + " of " + std::to_string(capacity));
    }
    if (*bytes != entry.end - entry.begin) {
      Damaged(path(), "tensor " + Quote(name) + " needs " + std::to_string(*bytes) +
                          " bytes and has " + std::to_string(entry.end - entry.begin));
    }
    order.emplace_back(entry.begin, &name);
  }
  std::sort(order.begin(), order.end(), [this](const auto& a, const auto& b) {
    if (a.first != b.first) return a.first < b.first;
    return entries_.at(*a.second).end < entries_.at(*b.second).end;  // empty tensors first
  });
  int64_t position = 0;
  for (const auto& [begin, name] : order) {
    if (begin != position) {
      Damaged(path(), "tensor " + Quote(*name) + " begins at byte " + std::to_string(begin) +
                          (begin < position ? " and overlaps the one before it, which ends at "
                                            : " and leaves a gap after byte ") +
                          std::to_string(position));
    }
    position = entries_.at(*name).end;
  }
  if (position != capacity) {
    Damaged(path(), std::to_string(capacity - position) +
                        " bytes behind the last tensor are unaccounted for");
  }
  for (auto& [name, entry] : entries_) {
    entry.begin += base;
    entry.end += base;
  }
}

bool SafetensorsFile::LooksLike(const MappedFile& file) {
  // A zip begins with "PK", which read as a length is far beyond any file; JSON begins with a
  // brace, ditto.
  const int64_t length = HeaderLength(file);
  return length > 0 && file.data()[kLengthBytes] == '{';
}

std::vector<std::string> SafetensorsFile::Names() const {
  std::vector<std::string> names;
  names.reserve(entries_.size());
  for (const auto& [name, entry] : entries_) names.push_back(name);
  return names;
}

const TensorMeta* SafetensorsFile::Find(const std::string& name) const {
  const auto found = entries_.find(name);
  return found == entries_.end() ? nullptr : &found->second.meta;
}

at::Tensor SafetensorsFile::View(const std::string& name) const {
  const Entry& entry = entries_.at(name);
  return file_->Tensor(entry.begin, entry.meta.dtype, entry.meta.shape,
                       ContiguousStrides(entry.meta.shape));
}

void SafetensorsFile::Release(const std::string& name) const {
  const Entry& entry = entries_.at(name);
  file_->Release(entry.begin, entry.end - entry.begin);
}

SafetensorsWriter::SafetensorsWriter(const std::string& path,
                                     const std::vector<std::pair<std::string, TensorMeta>>& tensors,
                                     const SafetensorsMetadata& metadata)
    : path_(path) {
  // Wide types first, so that every tensor is aligned for its type; then by name.
  std::vector<const std::pair<std::string, TensorMeta>*> order;
  for (const auto& tensor : tensors) order.push_back(&tensor);
  std::sort(order.begin(), order.end(), [](const auto* a, const auto* b) {
    const size_t left = c10::elementSize(a->second.dtype);
    const size_t right = c10::elementSize(b->second.dtype);
    return left != right ? left > right : a->first < b->first;
  });
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  if (!metadata.empty()) header[kMetadataKey] = metadata;
  int64_t position = 0;
  for (const auto* tensor : order) {
    const auto& [name, meta] = *tensor;
    const std::optional<int64_t> bytes = CheckedBytes(meta.dtype, meta.shape);
    if (!bytes || name == kMetadataKey || !slots_.emplace(name, Slot{meta, position}).second) {
      throw ModelError(Kind::kInvalidArgument, path + ": cannot write tensor " + Quote(name) +
                                                   " (" + ToString(meta) +
                                                   "): reserved or duplicate name, or bad shape");
    }
    header[name] = {{"dtype", SpellDtype(meta.dtype)},
                    {"shape", meta.shape},
                    {"data_offsets", {position, position + *bytes}}};
    position += *bytes;
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  std::string prefix(kLengthBytes, '\0');
  for (int i = 0; i < kLengthBytes; ++i) prefix[i] = static_cast<char>(text.size() >> (8 * i));
  for (auto& [name, slot] : slots_) slot.begin += kLengthBytes + text.size();

  temporary_ = path_ + ".XXXXXX";
  fd_ = ::mkostemp(temporary_.data(), O_CLOEXEC);
  if (fd_ < 0) {
    temporary_.clear();
    throw ModelError(Kind::kDataLoss,
                     path_ + ": cannot create: " + std::string(std::strerror(errno)));
  }
  try {
    WriteAt(prefix.data(), prefix.size(), 0);
    WriteAt(text.data(), text.size(), kLengthBytes);
  } catch (...) {
    ::close(fd_);
    ::unlink(temporary_.c_str());
    throw;
  }
}

SafetensorsWriter::~SafetensorsWriter() {
  if (fd_ >= 0) ::close(fd_);
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

void SafetensorsWriter::WriteAt(const void* data, int64_t size, int64_t offset) {
  const char* bytes = static_cast<const char*>(data);
  while (size > 0) {
    const ssize_t n = ::pwrite(fd_, bytes, size, offset);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) {
      throw ModelError(Kind::kDataLoss,
                       path_ + ": cannot write: " + std::string(std::strerror(errno)));
    }
    bytes += n;
    size -= n;
    offset += n;
  }
}

void SafetensorsWriter::Write(const std::string& name, const at::Tensor& tensor) {
  const auto found = slots_.find(name);
  if (found == slots_.end() || found->second.written) {
    throw ModelError(Kind::kInvalidArgument,
                     path_ + ": tensor " + Quote(name) + " was not announced, or written before");
  }
  Slot& slot = found->second;
  if (tensor.scalar_type() != slot.meta.dtype || tensor.sizes() != slot.meta.shape) {
    throw ModelError(Kind::kInvalidArgument,
                     path_ + ": tensor " + Quote(name) + " is " +
                         ToString({tensor.scalar_type(), tensor.sizes().vec()}) +
                         ", announced as " + ToString(slot.meta));
  }
  const at::Tensor host = tensor.detach().to(at::kCPU).contiguous();
  WriteAt(host.const_data_ptr(), static_cast<int64_t>(host.nbytes()), slot.begin);
  slot.written = true;
}

void SafetensorsWriter::Finish() {
  for (const auto& [name, slot] : slots_) {
    if (!slot.written) {
      throw ModelError(Kind::kInvalidArgument,
                       path_ + ": tensor " + Quote(name) + " was announced and never written");
    }
  }
  const auto fail = [this](const char* step) {
    throw ModelError(Kind::kDataLoss,
                     path_ + ": cannot " + step + ": " + std::string(std::strerror(errno)));
  };
  ::fchmod(fd_, 0644);
  if (::fsync(fd_) != 0) fail("sync");
  const int fd = fd_;
  fd_ = -1;
  if (::close(fd) != 0) fail("close");
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) fail("rename");
  temporary_.clear();
  // The new name itself must survive a power cut too.
  const size_t slash = path_.rfind('/');
  const std::string directory = slash == std::string::npos ? "." : path_.substr(0, slash + 1);
  const int directory_fd = ::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (directory_fd >= 0) {
    ::fsync(directory_fd);
    ::close(directory_fd);
  }
}

void WriteSafetensors(const std::string& path, const std::map<std::string, at::Tensor>& tensors,
                      const SafetensorsMetadata& metadata) {
  std::vector<std::pair<std::string, TensorMeta>> directory;
  for (const auto& [name, tensor] : tensors) {
    directory.emplace_back(name, TensorMeta{tensor.scalar_type(), tensor.sizes().vec()});
  }
  SafetensorsWriter writer(path, directory, metadata);
  for (const auto& [name, tensor] : tensors) writer.Write(name, tensor);
  writer.Finish();
}

}  // namespace kandinsky::model
