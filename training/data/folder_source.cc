#include <cstring>
#include <map>
#include <mutex>
#include <nlohmann/json.hpp>
#include <tuple>
#include <utility>

#include "training/data/clip_source.h"
#include "training/data/video_folder.h"
#include "worker/model/error.h"

namespace kandinsky::training {
namespace {

using model::ModelError;

[[noreturn]] void Throw(const absl::Status& status) {
  ModelError::Kind kind = ModelError::Kind::kDataLoss;
  if (status.code() == absl::StatusCode::kInvalidArgument)
    kind = ModelError::Kind::kInvalidArgument;
  if (status.code() == absl::StatusCode::kNotFound) kind = ModelError::Kind::kNotFound;
  throw ModelError(kind, std::string(status.message()));
}

class FolderSource : public ClipSource {
 public:
  FolderSource(std::string folder, uint64_t seed) : folder_(std::move(folder)), seed_(seed) {}

  nlohmann::json Fingerprint() const override {
    return {{"data", "folder"}, {"folder", folder_}, {"seed", seed_}};
  }

  Clip Read(uint64_t index, const ClipRequest& request) const override {
    absl::StatusOr<VideoSample> sample = FolderFor(request).GetReadable(seed_, index);
    if (!sample.ok()) Throw(sample.status());
    Clip clip;
    clip.frames = at::empty({request.frames, request.height, request.width, 3}, at::kByte);
    std::memcpy(clip.frames.data_ptr<uint8_t>(), sample->rgb.data(), sample->rgb.size());
    clip.caption = std::move(sample->text);
    return clip;
  }

 private:
  // The folder is looked through once for each kind of request.
  const VideoFolder& FolderFor(const ClipRequest& request) const {
    const std::lock_guard lock(mutex_);
    const Key key{request.frames, request.spacing, request.height, request.width};
    auto found = folders_.find(key);
    if (found == folders_.end()) {
      absl::StatusOr<VideoFolder> folder =
          VideoFolder::Open({.folder = folder_,
                             .frames = static_cast<int>(request.frames),
                             .fps = 30 / request.spacing,
                             .height = static_cast<int>(request.height),
                             .width = static_cast<int>(request.width)});
      if (!folder.ok()) Throw(folder.status());
      found = folders_.emplace(key, *std::move(folder)).first;
    }
    return found->second;  // a map's values stay where they are
  }

  using Key = std::tuple<int64_t, double, int64_t, int64_t>;

  const std::string folder_;
  const uint64_t seed_;
  mutable std::mutex mutex_;
  mutable std::map<Key, VideoFolder> folders_;  // guarded by mutex_
};

}  // namespace

std::unique_ptr<ClipSource> MakeFolderSource(const std::string& folder, uint64_t seed) {
  return std::make_unique<FolderSource>(folder, seed);
}

}  // namespace kandinsky::training
