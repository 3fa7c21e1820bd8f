#include "common/queue_redis/directory_video_store.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "common/queue/identity.h"

namespace kandinsky {
namespace {

namespace fs = std::filesystem;

absl::Status FileError(const char* doing, int error) {
  std::string text =
      absl::StrCat("video directory: ", doing, ": ", std::generic_category().message(error));
  switch (error) {
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
      return absl::ResourceExhaustedError(text);
    case ENOENT:
      return absl::NotFoundError(text);
    case EACCES:
    case EPERM:
    case EROFS:
      return absl::PermissionDeniedError(text);
    default:
      return absl::UnavailableError(text);
  }
}

class File {
 public:
  File(const std::string& path, int flags) {
    do {
      fd_ = open(path.c_str(), flags | O_CLOEXEC, 0644);
    } while (fd_ < 0 && errno == EINTR);
  }
  ~File() {
    if (fd_ >= 0) close(fd_);
  }
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  bool ok() const { return fd_ >= 0; }
  int fd() const { return fd_; }

 private:
  int fd_;
};

absl::Status Sync(const std::string& path, int flags) {
  File file(path, flags);
  if (!file.ok()) return FileError("open", errno);
  if (fsync(file.fd()) != 0) return FileError("sync", errno);
  return absl::OkStatus();
}

absl::Status CheckId(const std::string& job_id) {
  if (IsJobId(job_id)) return absl::OkStatus();
  return absl::InvalidArgumentError("not a job id");
}

std::string Part(const std::string& directory, int64_t generation) {
  return absl::StrCat(directory, "/", generation, ".part");
}

std::string Sealed(const std::string& directory, int64_t generation) {
  return absl::StrCat(directory, "/", generation, ".video");
}

}  // namespace

std::string DirectoryVideoStore::JobDirectory(const std::string& job_id) const {
  return absl::StrCat(directory_, "/", job_id.substr(job_id.size() - 2), "/", job_id);
}

absl::Status DirectoryVideoStore::Append(const std::string& job_id, int64_t generation,
                                         uint64_t offset, std::string_view data) {
  if (absl::Status status = CheckId(job_id); !status.ok()) return status;
  const std::string directory = JobDirectory(job_id);
  if (offset == 0) {
    std::error_code error;
    fs::create_directories(directory, error);
    if (error) return FileError("create", error.value());
  }
  if (access(Sealed(directory, generation).c_str(), F_OK) == 0) {
    return absl::FailedPreconditionError("the video is sealed");
  }
  File file(Part(directory, generation), O_WRONLY | (offset == 0 ? O_CREAT : 0));
  if (!file.ok()) {
    if (errno == ENOENT) return absl::FailedPreconditionError("the offset is not the size");
    return FileError("open", errno);
  }
  struct stat about;
  if (fstat(file.fd(), &about) != 0) return FileError("look", errno);
  if (static_cast<uint64_t>(about.st_size) != offset) {
    return absl::FailedPreconditionError("the offset is not the size");
  }
  for (size_t done = 0; done < data.size();) {
    ssize_t written = pwrite(file.fd(), data.data() + done, data.size() - done,
                             static_cast<off_t>(offset + done));
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) {
      int error = written < 0 ? errno : ENOSPC;
      // Shrinking needs no space. If even that fails, the next Append finds a wrong size and
      // refuses.
      if (ftruncate(file.fd(), static_cast<off_t>(offset)) != 0) {
        return FileError("undo a write", errno);
      }
      return FileError("write", error);
    }
    done += static_cast<size_t>(written);
  }
  return absl::OkStatus();
}

absl::Status DirectoryVideoStore::Seal(const std::string& job_id, int64_t generation) {
  if (absl::Status status = CheckId(job_id); !status.ok()) return status;
  const std::string directory = JobDirectory(job_id);
  const std::string part = Part(directory, generation), sealed = Sealed(directory, generation);
  if (access(sealed.c_str(), F_OK) == 0) return absl::OkStatus();
  if (absl::Status status = Sync(part, O_RDWR); !status.ok()) return status;
  if (rename(part.c_str(), sealed.c_str()) != 0) return FileError("rename", errno);
  // The names must be as durable as the bytes.
  for (const std::string& parent : {directory, directory + "/..", directory + "/../.."}) {
    if (absl::Status status = Sync(parent, O_RDONLY | O_DIRECTORY); !status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> DirectoryVideoStore::Read(const std::string& job_id, int64_t generation,
                                                      uint64_t offset, uint64_t max_bytes) {
  if (absl::Status status = CheckId(job_id); !status.ok()) return status;
  const std::string directory = JobDirectory(job_id);
  // Seal may rename it between two looks; the third finds it.
  for (const std::string& path : {Sealed(directory, generation), Part(directory, generation),
                                  Sealed(directory, generation)}) {
    File file(path, O_RDONLY);
    if (!file.ok()) {
      if (errno == ENOENT) continue;
      return FileError("open", errno);
    }
    struct stat about;
    if (fstat(file.fd(), &about) != 0) return FileError("look", errno);
    uint64_t size = static_cast<uint64_t>(about.st_size);
    if (offset >= size) return std::string();
    std::string data(std::min(max_bytes, size - offset), '\0');
    size_t done = 0;
    while (done < data.size()) {
      ssize_t got = pread(file.fd(), data.data() + done, data.size() - done,
                          static_cast<off_t>(offset + done));
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) return FileError("read", errno);
      if (got == 0) break;
      done += static_cast<size_t>(got);
    }
    data.resize(done);
    return data;
  }
  return absl::NotFoundError("no such video");
}

absl::StatusOr<uint64_t> DirectoryVideoStore::Size(const std::string& job_id, int64_t generation) {
  if (absl::Status status = CheckId(job_id); !status.ok()) return status;
  const std::string directory = JobDirectory(job_id);
  for (const std::string& path : {Sealed(directory, generation), Part(directory, generation),
                                  Sealed(directory, generation)}) {
    struct stat about;
    if (stat(path.c_str(), &about) == 0) return static_cast<uint64_t>(about.st_size);
    if (errno != ENOENT && errno != ENOTDIR) return FileError("look", errno);
  }
  return 0;
}

absl::Status DirectoryVideoStore::Remove(const std::string& job_id, std::optional<int64_t> keep) {
  if (absl::Status status = CheckId(job_id); !status.ok()) return status;
  const std::string directory = JobDirectory(job_id);
  std::error_code error;
  if (!keep) {
    fs::remove_all(directory, error);
    if (error) return FileError("remove", error.value());
    // Usually others share it; then it stays.
    fs::remove(fs::path(directory).parent_path(), error);
    return absl::OkStatus();
  }
  const std::string stem = std::to_string(*keep);
  for (fs::directory_iterator it(directory, error), end; !error && it != end; it.increment(error)) {
    if (it->path().stem() == stem) continue;
    std::error_code removed;
    fs::remove(it->path(), removed);
    if (removed) return FileError("remove", removed.value());
  }
  if (error && error.value() != ENOENT) return FileError("list", error.value());
  return absl::OkStatus();
}

}  // namespace kandinsky
