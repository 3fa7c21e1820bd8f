#include "worker/model/checkpoint/zip.h"

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "worker/model/checkpoint/shape.h"
#include "worker/model/error.h"

namespace kandinsky::model {
namespace {

constexpr uint32_t kLocalSignature = 0x04034b50;
constexpr uint32_t kCentralSignature = 0x02014b50;
constexpr uint32_t kEndSignature = 0x06054b50;
constexpr uint32_t kEnd64Signature = 0x06064b50;
constexpr uint32_t kEnd64LocatorSignature = 0x07064b50;
constexpr int64_t kLocalSize = 30;
constexpr int64_t kCentralSize = 46;
constexpr int64_t kEndSize = 22;
constexpr int64_t kEnd64Size = 56;
constexpr int64_t kEnd64LocatorSize = 20;
constexpr int64_t kMaxComment = 65535;
constexpr uint16_t kZip64Extra = 0x0001;
constexpr uint16_t kEncryptedFlag = 1;

// Little-endian numbers at positions that are checked against the file's size.
class Bytes {
 public:
  explicit Bytes(const MappedFile& file) : file_(file) {}

  [[noreturn]] void Damaged(const std::string& what) const {
    throw ModelError(ModelError::Kind::kDataLoss,
                     file_.path() + ": not a usable zip file: " + what);
  }

  void Need(int64_t position, int64_t length, const char* what) const {
    if (position < 0 || length < 0 || position > file_.size() - length) {
      Damaged(std::string(what) + " at byte " + std::to_string(position) + " leaves the file");
    }
  }

  uint16_t U16(int64_t at) const { return static_cast<uint16_t>(Number(at, 2)); }
  uint32_t U32(int64_t at) const { return static_cast<uint32_t>(Number(at, 4)); }
  // Positions and sizes; more than 2^62 is never right.
  int64_t I64(int64_t at) const {
    const uint64_t value = Number(at, 8);
    if (value > (uint64_t{1} << 62)) Damaged("a size of " + std::to_string(value));
    return static_cast<int64_t>(value);
  }
  std::string Text(int64_t at, int64_t length) const {
    Need(at, length, "a name");
    return std::string(reinterpret_cast<const char*>(file_.data()) + at, length);
  }
  int64_t size() const { return file_.size(); }

 private:
  uint64_t Number(int64_t at, int width) const {
    Need(at, width, "a number");
    uint64_t value = 0;
    for (int i = width - 1; i >= 0; --i) value = value << 8 | file_.data()[at + i];
    return value;
  }

  const MappedFile& file_;
};

struct CentralDirectory {
  int64_t begin = 0;
  int64_t size = 0;
  int64_t entries = 0;
};

CentralDirectory FindCentralDirectory(const Bytes& bytes) {
  int64_t end = -1;
  const int64_t lowest = std::max<int64_t>(0, bytes.size() - kEndSize - kMaxComment);
  for (int64_t at = bytes.size() - kEndSize; at >= lowest; --at) {
    if (bytes.U32(at) == kEndSignature && at + kEndSize + bytes.U16(at + 20) == bytes.size()) {
      end = at;
      break;
    }
  }
  if (end < 0) bytes.Damaged("no end record; truncated?");
  CentralDirectory directory;
  int64_t limit = end;
  int64_t disk = bytes.U16(end + 4) | bytes.U16(end + 6);
  directory.entries = bytes.U16(end + 10);
  directory.size = bytes.U32(end + 12);
  directory.begin = bytes.U32(end + 16);
  const bool wide =
      directory.entries == 0xffff || directory.size == 0xffffffff || directory.begin == 0xffffffff;
  const int64_t locator = end - kEnd64LocatorSize;
  if (wide && locator >= 0 && bytes.U32(locator) == kEnd64LocatorSignature) {
    const int64_t end64 = bytes.I64(locator + 8);
    bytes.Need(end64, kEnd64Size, "the 64-bit end record");
    if (bytes.U32(end64) != kEnd64Signature || end64 + kEnd64Size > locator) {
      bytes.Damaged("a broken 64-bit end record");
    }
    disk = bytes.U32(end64 + 16) | bytes.U32(end64 + 20);
    directory.entries = bytes.I64(end64 + 32);
    directory.size = bytes.I64(end64 + 40);
    directory.begin = bytes.I64(end64 + 48);
    limit = end64;
  }
  if (disk != 0 && disk != 0xffff) bytes.Damaged("an archive in several volumes");
  if (directory.size > limit || directory.begin > limit - directory.size ||
      directory.entries > directory.size / kCentralSize) {
    bytes.Damaged("the directory (" + std::to_string(directory.entries) + " entries, " +
                  std::to_string(directory.size) + " bytes at " + std::to_string(directory.begin) +
                  ") leaves the file");
  }
  return directory;
}

}  // namespace

bool LooksLikeZip(const MappedFile& file) {
  return file.size() >= kEndSize && std::memcmp(file.data(), "PK\x03\x04", 4) == 0;
}

std::map<std::string, ZipEntry> ReadZipDirectory(const MappedFile& file) {
  const Bytes bytes(file);
  const CentralDirectory directory = FindCentralDirectory(bytes);
  std::map<std::string, ZipEntry> entries;
  std::vector<std::pair<int64_t, int64_t>> ranges;  // local header to end of data
  int64_t at = directory.begin;
  const int64_t directory_end = directory.begin + directory.size;
  for (int64_t i = 0; i < directory.entries; ++i) {
    if (at > directory_end - kCentralSize || bytes.U32(at) != kCentralSignature) {
      bytes.Damaged("entry " + std::to_string(i) + " of the directory is broken");
    }
    const uint16_t flags = bytes.U16(at + 8);
    const uint16_t method = bytes.U16(at + 10);
    int64_t compressed = bytes.U32(at + 20);
    int64_t size = bytes.U32(at + 24);
    const int64_t name_length = bytes.U16(at + 28);
    const int64_t extra_length = bytes.U16(at + 30);
    const int64_t comment_length = bytes.U16(at + 32);
    int64_t local = bytes.U32(at + 42);
    const int64_t next = at + kCentralSize + name_length + extra_length + comment_length;
    if (next > directory_end)
      bytes.Damaged("entry " + std::to_string(i) + " of the directory is broken");
    const std::string name = bytes.Text(at + kCentralSize, name_length);
    if (method != 0) {
      bytes.Damaged("entry " + Quote(name) + " is compressed (method " + std::to_string(method) +
                    "); only stored entries are read");
    }
    if (flags & kEncryptedFlag) bytes.Damaged("entry " + Quote(name) + " is encrypted");

    // 64-bit values stand in the extra field, in this order, for those that are all ones.
    int64_t extra = at + kCentralSize + name_length;
    const int64_t extra_end = extra + extra_length;
    while (extra + 4 <= extra_end) {
      const uint16_t id = bytes.U16(extra);
      const int64_t field_end = extra + 4 + bytes.U16(extra + 2);
      if (field_end > extra_end)
        bytes.Damaged("entry " + Quote(name) + " has a broken extra field");
      if (id == kZip64Extra) {
        int64_t value = extra + 4;
        for (int64_t* target : {&size, &compressed, &local}) {
          if (*target != 0xffffffff) continue;
          if (value + 8 > field_end)
            bytes.Damaged("entry " + Quote(name) + " has a short extra field");
          *target = bytes.I64(value);
          value += 8;
        }
      }
      extra = field_end;
    }
    if (compressed != size) bytes.Damaged("entry " + Quote(name) + " has two sizes");

    bytes.Need(local, kLocalSize, "a local header");
    if (bytes.U32(local) != kLocalSignature || bytes.U16(local + 8) != 0) {
      bytes.Damaged("entry " + Quote(name) + " has no proper local header");
    }
    const int64_t local_name = bytes.U16(local + 26);
    const int64_t begin = local + kLocalSize + local_name + bytes.U16(local + 28);
    if (bytes.Text(local + kLocalSize, local_name) != name) {
      bytes.Damaged("entry " + Quote(name) + " has another name in its local header");
    }
    if (begin > directory.begin || size > directory.begin - begin) {
      bytes.Damaged("entry " + Quote(name) + " (" + std::to_string(size) + " bytes at " +
                    std::to_string(begin) + ") runs into the directory");
    }
    if (!entries.emplace(name, ZipEntry{begin, size}).second) {
      bytes.Damaged("duplicate entry " + Quote(name));
    }
    ranges.emplace_back(local, begin + size);
    at = next;
  }
  std::sort(ranges.begin(), ranges.end());
  for (size_t i = 1; i < ranges.size(); ++i) {
    if (ranges[i].first < ranges[i - 1].second) bytes.Damaged("overlapping entries");
  }
  return entries;
}

}  // namespace kandinsky::model
