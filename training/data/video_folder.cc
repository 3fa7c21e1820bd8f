#include "training/data/video_folder.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "common/base/log.h"
#include "training/data/order.h"
#include "training/data/resize.h"
#include "training/domain/random.h"
#include "worker/media/video_reader.h"

namespace kandinsky::training {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kSampleStream = 5;
constexpr int kAttempts = 9;
constexpr double kTolerance = 1e-3;  // seconds: timestamps are rounded

using Captions = std::map<std::string, std::vector<std::string>>;

bool IsVideo(const fs::path& path) {
  static const auto* const extensions =
      new std::set<std::string>{".mp4", ".m4v",  ".mov", ".mkv", ".webm", ".avi",
                                ".mpg", ".mpeg", ".ogv", ".gif", ".ts",   ".flv"};
  std::string extension = path.extension().string();
  for (char& c : extension) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return extensions->contains(extension);
}

bool IsBlank(std::string_view text) {
  return text.find_first_not_of(" \t\r\n") == std::string_view::npos;
}

std::string Trimmed(std::string_view text) {
  const size_t first = text.find_first_not_of(" \t\r\n");
  if (first == std::string_view::npos) return {};
  return std::string(text.substr(first, text.find_last_not_of(" \t\r\n") - first + 1));
}

absl::Status Validate(const VideoFolderOptions& options) {
  const auto wrong = [](std::string_view name, double value, std::string_view limit) {
    return absl::InvalidArgumentError(
        absl::StrCat(std::string(name), ": ", value, " is not ", std::string(limit)));
  };
  if (options.frames < 1 || options.frames > 4096) {
    return wrong("frames", options.frames, "in 1 to 4096");
  }
  if (!(options.fps >= 0.01 && options.fps <= 1000)) {
    return wrong("fps", options.fps, "in 0.01 to 1000");
  }
  if (options.height < 8 || options.height > 4096) {
    return wrong("height", options.height, "in 8 to 4096");
  }
  if (options.width < 8 || options.width > 4096) {
    return wrong("width", options.width, "in 8 to 4096");
  }
  if (options.shards < 1) return wrong("shards", options.shards, "at least 1");
  if (options.shard < 0 || options.shard >= options.shards) {
    return wrong("shard", options.shard, "from 0 to shards - 1");
  }
  return absl::OkStatus();
}

absl::StatusOr<Captions> ReadCaptions(const fs::path& folder) {
  Captions captions;
  std::ifstream file(folder / "captions.jsonl", std::ios::binary);
  std::string line;
  for (int number = 1; std::getline(file, line); ++number) {
    if (IsBlank(line)) continue;
    const nlohmann::json json = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (!json.is_object() || !json.contains("file") || !json["file"].is_string() ||
        !json.contains("text") || !json["text"].is_string()) {
      return absl::InvalidArgumentError(
          absl::StrCat("captions.jsonl, line ", number,
                       ": want an object with the strings \"file\" and \"text\""));
    }
    const std::string name = fs::path(json["file"].get<std::string>()).lexically_normal().string();
    captions[name].push_back(json["text"].get<std::string>());
  }
  return captions;
}

void AddTextFile(const fs::path& video, std::vector<std::string>& captions) {
  fs::path path = video;
  std::ifstream file(path.replace_extension(".txt"), std::ios::binary);
  std::string line;
  while (std::getline(file, line)) {
    if (std::string caption = Trimmed(line); !caption.empty()) {
      captions.push_back(std::move(caption));
    }
  }
}

// How long the video is, in seconds, by its header or, where that is silent, by its frames.
absl::StatusOr<double> DurationOf(const std::string& path) {
  auto reader = media::VideoReader::Open(path);
  if (!reader.ok()) return reader.status();
  const media::VideoProbe& probe = (*reader)->probe();
  if (probe.duration > absl::ZeroDuration()) return absl::ToDoubleSeconds(probe.duration);
  std::vector<uint8_t> rgb;
  double last = 0;
  double before = 0;
  for (int count = 0;; ++count) {
    absl::Duration time;
    const auto more = (*reader)->ReadFrame(rgb, &time);
    if (!more.ok()) return more.status();
    if (!*more) {
      // The last frame stays as long as the one before it.
      return count == 0 ? 0 : last + (last - before);
    }
    before = last;
    last = absl::ToDoubleSeconds(time);
  }
}

}  // namespace

absl::StatusOr<VideoFolder> VideoFolder::Open(const VideoFolderOptions& options) {
  if (absl::Status valid = Validate(options); !valid.ok()) return valid;
  const fs::path root(options.folder);
  std::error_code error;
  if (!fs::is_directory(root, error)) {
    return absl::NotFoundError(absl::StrCat("folder: ", options.folder, " is no folder"));
  }
  absl::StatusOr<Captions> captions = ReadCaptions(root);
  if (!captions.ok()) return captions.status();

  std::vector<std::string> names;
  for (fs::recursive_directory_iterator
           it(root, fs::directory_options::skip_permission_denied, error),
       end;
       it != end && !error; it.increment(error)) {
    std::error_code ignored;
    if (it->is_regular_file(ignored) && IsVideo(it->path())) {
      names.push_back(it->path().lexically_relative(root).string());
    }
  }
  if (error) {
    return absl::UnavailableError(
        absl::StrCat("cannot list ", options.folder, ": ", error.message()));
  }
  std::sort(names.begin(), names.end());

  VideoFolder folder;
  folder.options_ = options;
  const double length = (options.frames - 1) / options.fps;
  for (size_t i = options.shard; i < names.size(); i += options.shards) {
    Video video;
    video.file = names[i];
    const auto listed = captions->find(names[i]);
    if (listed != captions->end()) video.captions = listed->second;
    AddTextFile(root / names[i], video.captions);
    if (video.captions.empty() && !options.without_captions) {
      ++folder.left_out_.without_caption;
      continue;
    }
    const absl::StatusOr<double> duration = DurationOf((root / names[i]).string());
    if (!duration.ok()) {
      ++folder.left_out_.unreadable;
      Log(LogLevel::kWarning, "video left out",
          {{"file", names[i]}, {"error", duration.status().ToString()}});
      continue;
    }
    video.slack = *duration - length;
    // The last frame has to be on the screen at its moment.
    if (video.slack < kTolerance) {
      ++folder.left_out_.too_short;
      continue;
    }
    folder.videos_.push_back(std::move(video));
  }
  if (folder.videos_.empty()) {
    return absl::NotFoundError(absl::StrCat(
        "folder: ", options.folder, " has no video to use: ", folder.left_out_.without_caption,
        " without a caption, ", folder.left_out_.too_short, " too short, ",
        folder.left_out_.unreadable, " unreadable"));
  }
  return folder;
}

absl::StatusOr<VideoSample> VideoFolder::Get(uint64_t seed, uint64_t number) const {
  return Read(seed, number, 0);
}

absl::StatusOr<VideoSample> VideoFolder::GetReadable(uint64_t seed, uint64_t number) const {
  absl::StatusOr<VideoSample> sample = Read(seed, number, 0);
  for (int attempt = 1; !sample.ok() && attempt < kAttempts; ++attempt) {
    Log(LogLevel::kWarning, "sample replaced",
        {{"sample", number}, {"error", sample.status().ToString()}});
    sample = Read(seed, number, attempt);
  }
  return sample;
}

absl::StatusOr<VideoSample> VideoFolder::Read(uint64_t seed, uint64_t number, int attempt) const {
  const uint64_t count = videos_.size();
  Random random = Random::At(seed, kSampleStream + (static_cast<uint64_t>(attempt) << 8), number);
  // A replacement is any other video; the samples of an epoch keep theirs.
  uint64_t index = Shuffled(seed, number / count, number % count, count);
  if (attempt > 0) index = random.Next() % count;
  const Video& video = videos_[index];

  VideoSample sample;
  sample.file = video.file;
  // Drawn in any case, so that options do not change what follows.
  const double place = random.Uniform();
  if (options_.random_start) sample.start = place * video.slack;
  if (!video.captions.empty()) {
    sample.text = video.captions[random.Below(static_cast<int>(video.captions.size()))];
  }

  const std::string path = (fs::path(options_.folder) / video.file).string();
  auto reader = media::VideoReader::Open(path);
  if (!reader.ok()) {
    // Open() could read it, so what it holds is damaged, whatever FFmpeg calls it.
    const bool gone = reader.status().code() == absl::StatusCode::kNotFound;
    return absl::Status(gone ? absl::StatusCode::kNotFound : absl::StatusCode::kDataLoss,
                        absl::StrCat(video.file, ": ", reader.status().message()));
  }
  const ResizeAndCrop resize((*reader)->probe().height, (*reader)->probe().width, options_.height,
                             options_.width);
  const size_t frame_bytes = static_cast<size_t>(options_.height) * options_.width * 3;
  sample.rgb.resize(frame_bytes * options_.frames);

  // Frame i is the last one that is shown at or before start + i / fps. A video's first frame is
  // shown from the beginning, whatever its timestamp.
  std::vector<uint8_t> current;
  std::vector<uint8_t> next;
  int made = 0;
  const auto moment = [&](int i) { return sample.start + i / options_.fps + kTolerance; };
  const auto take = [&] {
    uint8_t* out = sample.rgb.data() + made * frame_bytes;
    resize.Apply(current.data(), out);
    ++made;
  };
  while (made < options_.frames) {
    absl::Duration time;
    const auto more = (*reader)->ReadFrame(next, &time);
    if (!more.ok()) {
      return absl::Status(more.status().code(),
                          absl::StrCat(video.file, ": ", more.status().message()));
    }
    if (!*more) break;
    const double shown = absl::ToDoubleSeconds(time);
    if (!current.empty()) {
      while (made < options_.frames && moment(made) < shown) take();
    }
    current.swap(next);
  }
  // The last frame stays on the screen for the rest of the duration: that is one moment, or more
  // when frames are taken faster than the video has them.
  if (made < options_.frames && !current.empty()) {
    const double rate = (*reader)->probe().fps.num > 0 ? (*reader)->probe().fps.ToDouble() : 1;
    const int allowed = 1 + static_cast<int>(std::ceil(options_.fps / rate));
    for (int i = 0; i < allowed && made < options_.frames; ++i) take();
  }
  if (made < options_.frames) {
    return absl::DataLossError(absl::StrCat(video.file, ": ends after ", made, " of ",
                                            options_.frames, " frames of the sample"));
  }
  return sample;
}

}  // namespace kandinsky::training
