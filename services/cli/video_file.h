// The file that a video is saved to: FILE.part while bytes arrive, FILE once size and checksum are
// right.
#ifndef KANDINSKY_SERVICES_CLI_VIDEO_FILE_H_
#define KANDINSKY_SERVICES_CLI_VIDEO_FILE_H_

#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kandinsky/video/v1/video_service.pb.h"

namespace kandinsky::cli {

// Thread-compatible. An object that is destroyed before Commit leaves FILE.part behind, unless it
// is empty, so that it can be continued.
class VideoFile {
 public:
  // path "-": standard output, which can be neither continued nor restarted. With `resume`, bytes
  // of an earlier FILE.part are kept; otherwise it is emptied. Errors name the file.
  static absl::StatusOr<std::unique_ptr<VideoFile>> Open(const std::string& path, bool resume);
  ~VideoFile();
  VideoFile(const VideoFile&) = delete;
  VideoFile& operator=(const VideoFile&) = delete;

  // Where the next byte belongs: what to ask DownloadVideo for.
  uint64_t offset() const { return offset_; }
  // True when the first bytes come from an earlier run, and may thus be those of another video.
  bool continued() const { return continued_; }

  // DATA_LOSS when the chunk's checksum or offset is wrong; nothing was written then. Otherwise
  // errors of the disk.
  absl::Status Write(const video::v1::VideoChunk& chunk);

  // Forgets all bytes. FAILED_PRECONDITION for standard output.
  absl::Status Restart();

  // Checks size and checksum of the whole, makes it durable and gives it its name. DATA_LOSS when
  // they differ.
  absl::Status Commit(const video::v1::VideoInfo& info);

 private:
  explicit VideoFile(std::string path) : path_(std::move(path)), part_(path_ + ".part") {}
  bool is_stdout() const { return path_ == "-"; }

  const std::string path_;
  const std::string part_;
  std::FILE* file_ = nullptr;
  uint64_t offset_ = 0;
  uint32_t crc32c_ = 0;
  bool continued_ = false;
};

}  // namespace kandinsky::cli

#endif  // KANDINSKY_SERVICES_CLI_VIDEO_FILE_H_
