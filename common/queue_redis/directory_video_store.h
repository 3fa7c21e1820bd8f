// VideoStore in a directory that all processes share (a network file system, or one machine).
//
// <directory>/<last two characters of the job id>/<job id>/<generation>.part grows; Seal syncs it
// and renames it to <generation>.video. An Append that does not fit leaves the file as it was.
#ifndef KANDINSKY_COMMON_QUEUE_REDIS_DIRECTORY_VIDEO_STORE_H_
#define KANDINSKY_COMMON_QUEUE_REDIS_DIRECTORY_VIDEO_STORE_H_

#include <string>
#include <string_view>

#include "common/queue/video_store.h"

namespace kandinsky {

// Thread-safe, as long as each generation has one writer, which the lease sees to. INVALID_ARGUMENT
// for a job id that is none of ours: it never becomes part of a path.
class DirectoryVideoStore : public VideoStore {
 public:
  explicit DirectoryVideoStore(std::string directory) : directory_(std::move(directory)) {}

  absl::Status Append(const std::string& job_id, int64_t generation, uint64_t offset,
                      std::string_view data) override;
  absl::Status Seal(const std::string& job_id, int64_t generation) override;
  absl::StatusOr<std::string> Read(const std::string& job_id, int64_t generation, uint64_t offset,
                                   uint64_t max_bytes) override;
  absl::StatusOr<uint64_t> Size(const std::string& job_id, int64_t generation) override;
  absl::Status Remove(const std::string& job_id, std::optional<int64_t> keep) override;

 private:
  std::string JobDirectory(const std::string& job_id) const;

  const std::string directory_;
};

}  // namespace kandinsky

#endif  // KANDINSKY_COMMON_QUEUE_REDIS_DIRECTORY_VIDEO_STORE_H_
