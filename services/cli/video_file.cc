#include "services/cli/video_file.h"

#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/crc32c.h"

namespace kandinsky::cli {
namespace {

absl::Status FileError(const std::string& path) { return absl::ErrnoToStatus(errno, path); }

}  // namespace

absl::StatusOr<std::unique_ptr<VideoFile>> VideoFile::Open(const std::string& path, bool resume) {
  std::unique_ptr<VideoFile> file(new VideoFile(path));
  if (file->is_stdout()) {
    file->file_ = stdout;
    return file;
  }
  if (resume) file->file_ = std::fopen(file->part_.c_str(), "r+be");
  if (file->file_ == nullptr) file->file_ = std::fopen(file->part_.c_str(), "w+be");
  if (file->file_ == nullptr) return FileError(file->part_);
  std::vector<char> buffer(1 << 20);
  while (const size_t n = std::fread(buffer.data(), 1, buffer.size(), file->file_)) {
    file->crc32c_ = ExtendCrc32c(file->crc32c_, buffer.data(), n);
    file->offset_ += n;
  }
  if (std::ferror(file->file_)) return FileError(file->part_);
  // A switch from reading to writing needs a seek.
  if (std::fseek(file->file_, 0, SEEK_END) != 0) return FileError(file->part_);
  file->continued_ = file->offset_ > 0;
  return file;
}

VideoFile::~VideoFile() {
  if (file_ == nullptr) return;
  if (is_stdout()) {
    std::fflush(file_);
  } else {
    std::fclose(file_);
    if (offset_ == 0) std::remove(part_.c_str());
  }
}

absl::Status VideoFile::Write(const video::v1::VideoChunk& chunk) {
  const std::string& data = chunk.data();
  if (chunk.offset() != offset_) {
    return absl::DataLossError(
        absl::StrCat("a chunk begins at byte ", chunk.offset(), " instead of ", offset_));
  }
  if (Crc32c(data) != chunk.crc32c()) {
    return absl::DataLossError(absl::StrCat("the chunk at byte ", offset_, " is damaged"));
  }
  if (std::fwrite(data.data(), 1, data.size(), file_) != data.size() ||
      (is_stdout() && std::fflush(file_) != 0)) {
    return FileError(is_stdout() ? "standard output" : part_);
  }
  crc32c_ = ExtendCrc32c(crc32c_, data.data(), data.size());
  offset_ += data.size();
  return absl::OkStatus();
}

absl::Status VideoFile::Restart() {
  if (is_stdout()) {
    return absl::FailedPreconditionError("standard output cannot be written again");
  }
  if (std::fflush(file_) != 0 || ftruncate(fileno(file_), 0) != 0 ||
      std::fseek(file_, 0, SEEK_SET) != 0) {
    return FileError(part_);
  }
  offset_ = 0;
  crc32c_ = 0;
  continued_ = false;
  return absl::OkStatus();
}

absl::Status VideoFile::Commit(const video::v1::VideoInfo& info) {
  if (offset_ != info.size_bytes()) {
    return absl::DataLossError(
        absl::StrCat("the video has ", info.size_bytes(), " bytes, but ", offset_, " came"));
  }
  if (crc32c_ != info.crc32c()) {
    return absl::DataLossError("the checksum of the whole video is wrong");
  }
  if (is_stdout()) {
    return std::fflush(file_) == 0 ? absl::OkStatus() : FileError("standard output");
  }
  if (std::fflush(file_) != 0 || fsync(fileno(file_)) != 0) return FileError(part_);
  const int closed = std::fclose(file_);
  file_ = nullptr;
  if (closed != 0) return FileError(part_);
  if (std::rename(part_.c_str(), path_.c_str()) != 0) return FileError(path_);
  return absl::OkStatus();
}

}  // namespace kandinsky::cli
