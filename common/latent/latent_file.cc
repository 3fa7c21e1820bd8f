#include "common/latent/latent_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "common/base/crc32c.h"

namespace kandinsky {
namespace {

constexpr uint64_t kMaxHeaderBytes = 4096;
constexpr char kTempSuffix[] = ".tmp";

std::string_view SafetensorsName(DataType dtype) {
  switch (dtype) {
    case DataType::kFloat32:
      return "F32";
    case DataType::kFloat16:
      return "F16";
    case DataType::kBFloat16:
      return "BF16";
  }
  return "F32";
}

// What the header says, apart from what follows from it.
struct Description {
  std::string key;
  DataType dtype = DataType::kFloat32;
  std::vector<int64_t> shape;
  uint32_t crc32c = 0;
};

std::string MakeHeader(const Description& description, uint64_t byte_size) {
  const std::string shape = absl::StrJoin(description.shape, ",");
  const std::string dtype(SafetensorsName(description.dtype));
  const std::string crc = absl::StrFormat("%08x", description.crc32c);
  const std::string check = absl::StrFormat(
      "%08x", Crc32c(absl::StrCat(description.key, "|", dtype, "|", shape, "|", crc)));
  std::string header = absl::StrCat(
      "{\"__metadata__\":{\"format\":\"kandinsky-latent-1\",\"key\":\"", description.key,
      "\",\"crc32c\":\"", crc, "\",\"header_crc32c\":\"", check, "\"},\"latents\":{\"dtype\":\"",
      dtype, "\",\"shape\":[", shape, "],\"data_offsets\":[0,", byte_size, "]}}");
  header.resize((header.size() + 7) / 8 * 8, ' ');
  return header;
}

// The text between `begin` and the next `end`, searched from the start of *rest, which moves behind
// it.
bool TakeBetween(std::string_view* rest, std::string_view begin, std::string_view end,
                 std::string_view* value) {
  const size_t from = rest->find(begin);
  if (from == std::string_view::npos) return false;
  const size_t to = rest->find(end, from + begin.size());
  if (to == std::string_view::npos) return false;
  *value = rest->substr(from + begin.size(), to - from - begin.size());
  rest->remove_prefix(to + end.size());
  return true;
}

template <typename T>
bool ParseNumber(std::string_view text, int base, T* value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), *value, base);
  return error == std::errc() && end == text.data() + text.size();
}

// Takes the fields out of `header`; whether it really is ours shows when MakeHeader makes the same
// of them.
bool ParseHeader(std::string_view header, Description* description) {
  std::string_view key, crc, dtype, shape;
  if (!TakeBetween(&header, "\"key\":\"", "\"", &key) ||
      !TakeBetween(&header, "\"crc32c\":\"", "\"", &crc) ||
      !TakeBetween(&header, "\"dtype\":\"", "\"", &dtype) ||
      !TakeBetween(&header, "\"shape\":[", "]", &shape) ||
      !ParseNumber(crc, 16, &description->crc32c)) {
    return false;
  }
  description->key = std::string(key);
  bool known = false;
  for (const DataType candidate : {DataType::kFloat32, DataType::kFloat16, DataType::kBFloat16}) {
    if (dtype == SafetensorsName(candidate)) {
      description->dtype = candidate;
      known = true;
    }
  }
  while (known && !shape.empty()) {
    const size_t comma = std::min(shape.find(','), shape.size());
    int64_t dimension = 0;
    if (!ParseNumber(shape.substr(0, comma), 10, &dimension)) return false;
    description->shape.push_back(dimension);
    shape.remove_prefix(std::min(comma + 1, shape.size()));
  }
  return known;
}

absl::Status IoError(std::string_view what, const std::string& path, int error) {
  const std::string text = absl::StrCat(absl::string_view(what.data(), what.size()), " ", path,
                                        ": ", std::strerror(error));
  if (error == ENOSPC || error == EDQUOT || error == EFBIG)
    return absl::ResourceExhaustedError(text);
  if (error == ENOENT) return absl::NotFoundError(text);
  return absl::UnavailableError(text);
}

class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() {
    if (fd_ >= 0) close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return fd_; }

 private:
  const int fd_;
};

// 0 or errno.
int WriteAll(int fd, std::string_view data) {
  while (!data.empty()) {
    const ssize_t written = write(fd, data.data(), data.size());
    if (written < 0) {
      if (errno == EINTR) continue;
      return errno;
    }
    data.remove_prefix(static_cast<size_t>(written));
  }
  return 0;
}

// 0 or errno; ENODATA when the file ends early.
int ReadAll(int fd, char* data, size_t size) {
  while (size > 0) {
    const ssize_t got = read(fd, data, size);
    if (got < 0) {
      if (errno == EINTR) continue;
      return errno;
    }
    if (got == 0) return ENODATA;
    data += got;
    size -= static_cast<size_t>(got);
  }
  return 0;
}

absl::Status WriteTemporary(const std::string& path, const LatentFile& file) {
  const Descriptor fd(open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0640));
  if (fd.get() < 0) return IoError("cannot create", path, errno);
  const std::string header =
      MakeHeader({file.key, file.tensor.dtype(), file.tensor.shape(), file.crc32c},
                 file.tensor.bytes().size());
  std::string prefix(8, '\0');
  for (int i = 0; i < 8; ++i) {
    prefix[i] = static_cast<char>(static_cast<uint64_t>(header.size()) >> (8 * i) & 0xff);
  }
  prefix += header;
  int error = WriteAll(fd.get(), prefix);
  if (error == 0) error = WriteAll(fd.get(), file.tensor.bytes());
  if (error == 0 && fsync(fd.get()) != 0) error = errno;
  return error == 0 ? absl::OkStatus() : IoError("cannot write", path, error);
}

absl::Status DataLoss(const std::string& path, std::string_view why) {
  return absl::DataLossError(
      absl::StrCat(path, " is damaged: ", absl::string_view(why.data(), why.size())));
}

}  // namespace

bool IsLatentKey(const std::string& key) {
  return !key.empty() && key.size() <= 200 && key.front() != '.' &&
         std::all_of(key.begin(), key.end(), [](unsigned char c) {
           return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                  c == '.' || c == '_' || c == '-';
         });
}

absl::Status WriteLatentFile(const std::string& path, const LatentFile& file) {
  if (!IsLatentKey(file.key)) {
    return absl::InvalidArgumentError(absl::StrCat("\"", file.key, "\" is no key for latents"));
  }
  const std::string temporary = path + kTempSuffix;
  absl::Status status = WriteTemporary(temporary, file);
  if (status.ok() && rename(temporary.c_str(), path.c_str()) != 0) {
    status = IoError("cannot rename", temporary, errno);
  }
  if (!status.ok()) {
    unlink(temporary.c_str());
    return status;
  }
  const size_t slash = path.rfind('/');
  const std::string folder = slash == std::string::npos ? "." : path.substr(0, slash + 1);
  const Descriptor fd(open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (fd.get() < 0 || fsync(fd.get()) != 0) return IoError("cannot sync", folder, errno);
  return absl::OkStatus();
}

absl::StatusOr<LatentFile> ReadLatentFile(const std::string& path, uint64_t max_bytes) {
  const Descriptor fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (fd.get() < 0) return IoError("cannot open", path, errno);
  struct stat info {};
  if (fstat(fd.get(), &info) != 0) return IoError("cannot stat", path, errno);
  if (!S_ISREG(info.st_mode)) return DataLoss(path, "not a regular file");
  const auto file_size = static_cast<uint64_t>(info.st_size);

  unsigned char prefix[8];
  if (file_size < sizeof(prefix)) return DataLoss(path, "shorter than its header");
  int error = ReadAll(fd.get(), reinterpret_cast<char*>(prefix), sizeof(prefix));
  uint64_t header_size = 0;
  for (int i = 7; i >= 0; --i) header_size = header_size << 8 | prefix[i];
  if (error == 0 && (header_size > kMaxHeaderBytes || header_size > file_size - sizeof(prefix))) {
    return DataLoss(path, "its header is too large");
  }
  std::string header(header_size, '\0');
  if (error == 0) error = ReadAll(fd.get(), header.data(), header.size());
  if (error != 0) return IoError("cannot read", path, error);

  Description description;
  if (!ParseHeader(header, &description)) return DataLoss(path, "its header is not as expected");
  const uint64_t data_size = file_size - sizeof(prefix) - header_size;
  const absl::StatusOr<uint64_t> byte_size =
      CheckedByteSize(description.dtype, description.shape, data_size);
  if (!byte_size.ok() || *byte_size != data_size || !IsLatentKey(description.key) ||
      MakeHeader(description, data_size) != header) {
    return DataLoss(path, "its header does not fit its size or checksum");
  }
  if (data_size > max_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, " holds ", data_size, " bytes, more than ", max_bytes));
  }

  std::string bytes(data_size, '\0');
  error = ReadAll(fd.get(), bytes.data(), bytes.size());
  if (error == ENODATA) return DataLoss(path, "it ends early");
  if (error != 0) return IoError("cannot read", path, error);
  if (Crc32c(bytes) != description.crc32c) return DataLoss(path, "checksum of the data is wrong");
  absl::StatusOr<HostTensor> tensor =
      HostTensor::Create(description.dtype, description.shape, std::move(bytes));
  if (!tensor.ok()) return DataLoss(path, "shape and data do not fit");
  return LatentFile{description.key, *std::move(tensor), description.crc32c};
}

}  // namespace kandinsky
