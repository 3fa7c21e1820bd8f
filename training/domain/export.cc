#include "training/domain/export.h"

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <nlohmann/json.hpp>
#include <optional>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "worker/media/video_encoder.h"

namespace kandinsky::training {
namespace {

using Json = nlohmann::ordered_json;

int FramesOf(const DatasetOptions& options) { return options.dense ? kDenseFrames : kKeyframes; }
int RateOf(const DatasetOptions& options) { return options.dense ? 32 : 2; }

std::string FileName(uint64_t index) {
  char name[40];
  std::snprintf(name, sizeof(name), "clip-%08llu.mp4", static_cast<unsigned long long>(index));
  return name;
}

// The file is complete or not there.
absl::Status WriteFile(const std::string& path, std::string_view bytes) {
  const std::string temporary = path + ".part";
  {
    std::ofstream file(temporary, std::ios::binary | std::ios::trunc);
    file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
    file.close();
    if (!file) return absl::UnavailableError(absl::StrCat("cannot write ", temporary));
  }
  std::error_code error;
  std::filesystem::rename(temporary, path, error);
  if (error) return absl::UnavailableError(absl::StrCat("cannot write ", path));
  return absl::OkStatus();
}

Json Describe(const DatasetOptions& options) {
  Json json;
  json["count"] = options.count;
  json["seed"] = options.seed;
  json["first"] = options.first;
  json["split"] = kSplitNames[static_cast<int>(options.clip.split)];
  json["pace"] = kPaceNames[static_cast<int>(options.clip.pace)];
  json["fast_fraction"] = options.clip.fast_fraction;
  json["directional_weight"] = options.clip.directional_weight;
  if (options.clip.motion) json["motion"] = Name(*options.clip.motion);
  json["russian"] = options.caption.russian;
  json["leave_out"] = options.caption.leave_out;
  json["motion_in_captions"] = options.caption.motion;
  json["plain_captions"] = options.caption.plain;
  json["capital"] = options.caption.capital;
  json["full_stop"] = options.caption.full_stop;
  json["size"] = options.size;
  json["frames"] = FramesOf(options);
  json["fps"] = RateOf(options);
  json["quality"] = options.quality;
  return json;
}

std::string CaptionLine(const DatasetOptions& options, uint64_t index) {
  const ClipSpec clip = ClipAt(options.seed, index, options.clip);
  const Captioned caption = CaptionAt(options.seed, index, clip, options.caption);
  Json json;
  json["file"] = FileName(index);
  json["text"] = caption.text;
  json["mentions"] = Json::array();
  if (caption.shape) json["mentions"].push_back("shape");
  if (caption.color) json["mentions"].push_back("color");
  if (caption.background) json["mentions"].push_back("background");
  if (caption.motion) json["mentions"].push_back("motion");
  json["shape"] = Name(clip.shape);
  json["color"] = Name(clip.color);
  json["background"] = Name(clip.background);
  json["motion"] = Name(clip.motion);
  return json.dump() + "\n";
}

absl::Status Validate(const DatasetOptions& options) {
  if (options.out.empty()) return absl::InvalidArgumentError("out: a folder is needed");
  if (options.count < 1 || options.count > 100'000'000) {
    return absl::InvalidArgumentError(
        absl::StrCat("count: ", options.count, " is not in 1 to 100000000"));
  }
  if (options.size < 16 || options.size > 4096 || options.size % 2 != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("size: ", options.size, " is not even and in 16 to 4096"));
  }
  if (options.quality < 0 || options.quality > 100) {
    return absl::InvalidArgumentError(
        absl::StrCat("quality: ", options.quality, " is not in 0 to 100"));
  }
  for (const auto& [name, part] : {std::pair{"russian", options.caption.russian},
                                   std::pair{"leave_out", options.caption.leave_out}}) {
    if (!(part >= 0 && part <= 1)) {
      return absl::InvalidArgumentError(absl::StrCat(name, ": ", part, " is not in 0 to 1"));
    }
  }
  return absl::OkStatus();
}

// FAILED_PRECONDITION when the folder was made with other options.
absl::Status Claim(const DatasetOptions& options) {
  std::error_code error;
  std::filesystem::create_directories(options.out, error);
  if (error) {
    return absl::InvalidArgumentError(absl::StrCat("out: cannot make the folder ", options.out));
  }
  const std::string path = options.out + "/dataset.json";
  const std::string wanted = Describe(options).dump(2) + "\n";
  std::ifstream file(path, std::ios::binary);
  if (!file) return WriteFile(path, wanted);
  const std::string found((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  if (found != wanted) {
    return absl::FailedPreconditionError(
        absl::StrCat(options.out, " holds a data set with other options: see ", path));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status WriteClip(const ClipSpec& clip, const DatasetOptions& options,
                       const std::string& path) {
  std::string bytes;
  media::VideoEncoder::Options encoding;
  encoding.format = media::Format::kMp4;
  encoding.width = options.size;
  encoding.height = options.size;
  encoding.fps = {RateOf(options), 1};
  encoding.quality = options.quality;
  encoding.expected_frames = FramesOf(options);
  auto encoder = media::VideoEncoder::Create(encoding, [&](std::string_view data) {
    bytes += data;
    return absl::OkStatus();
  });
  if (!encoder.ok()) return encoder.status();
  std::vector<uint8_t> frame(static_cast<size_t>(options.size) * options.size * 3);
  for (int i = 0; i < FramesOf(options); ++i) {
    const double t = static_cast<double>(i) / (FramesOf(options) - 1);
    RenderFrame(clip, t, options.size, options.size, frame.data());
    if (absl::Status added = (*encoder)->AddFrame(frame.data()); !added.ok()) return added;
  }
  const auto finished = (*encoder)->Finish();
  if (!finished.ok()) return finished.status();
  return WriteFile(path, bytes);
}

absl::Status WriteDataset(const DatasetOptions& options,
                          const std::function<void(int64_t done)>& progress) {
  if (absl::Status valid = Validate(options); !valid.ok()) return valid;
  if (absl::Status claimed = Claim(options); !claimed.ok()) return claimed;

  std::mutex mutex;  // guards what follows
  int64_t next = 0;
  int64_t done = 0;
  absl::Status failed;
  const auto work = [&] {
    while (true) {
      int64_t i;
      {
        const std::lock_guard lock(mutex);
        if (next == options.count || !failed.ok()) return;
        i = next++;
      }
      const uint64_t index = options.first + i;
      const std::string path = options.out + "/" + FileName(index);
      std::error_code ignored;
      absl::Status written;
      if (!std::filesystem::exists(path, ignored)) {
        written = WriteClip(ClipAt(options.seed, index, options.clip), options, path);
      }
      const std::lock_guard lock(mutex);
      if (!written.ok()) {
        failed.Update(written);
        return;
      }
      ++done;
      if (progress) progress(done);
    }
  };
  int threads = options.threads;
  if (threads <= 0) threads = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  threads = static_cast<int>(std::min<int64_t>({threads, options.count, 256}));
  std::vector<std::thread> helpers;
  for (int i = 1; i < threads; ++i) helpers.emplace_back(work);
  work();
  for (std::thread& helper : helpers) helper.join();
  if (!failed.ok()) return failed;

  std::string captions;
  for (int64_t i = 0; i < options.count; ++i) captions += CaptionLine(options, options.first + i);
  return WriteFile(options.out + "/captions.jsonl", captions);
}

}  // namespace kandinsky::training
