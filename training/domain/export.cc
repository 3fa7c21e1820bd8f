#include "training/domain/export.h"

#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <nlohmann/json.hpp>
#include <optional>
#include <string_view>
#include <thread>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "worker/media/video_encoder.h"

namespace kandinsky::training {
namespace {

using Json = nlohmann::ordered_json;

constexpr char kUsage[] =
    "usage: kandinsky-train dataset --out DIR --count N [options]\n"
    "\n"
    "Writes clips of the domain of moving shapes as MP4 files, with captions.jsonl.\n"
    "\n"
    "  --seed S           of the data set (0)\n"
    "  --first N          number of the first clip (0)\n"
    "  --size N           pixels of each side, even (64)\n"
    "  --dense            241 frames at 32 fps instead of 16 at 2 fps\n"
    "  --split NAME       train, held-out or all (train)\n"
    "  --pace NAME        any, slow or fast (any)\n"
    "  --russian P        part of the captions that is Russian (0.25)\n"
    "  --leave-out P      how often a caption leaves an attribute out (0.1)\n"
    "  --quality N        of the encoder, 0 to 100 (95)\n"
    "  --threads N        0: one a core (0)\n"
    "\n"
    "An interrupted run goes on when it is started again with the same options.\n";

constexpr std::string_view kSplitNames[] = {"train", "held-out", "all"};
constexpr std::string_view kPaceNames[] = {"any", "slow", "fast"};

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

// --- Arguments ---

template <typename T>
bool ParseNumber(std::string_view text, T& value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size();
}

template <typename T, size_t N>
bool ParseName(std::string_view text, const std::string_view (&names)[N], T& value) {
  const auto found = std::find(std::begin(names), std::end(names), text);
  if (found == std::end(names)) return false;
  value = static_cast<T>(found - std::begin(names));
  return true;
}

bool ParsePart(std::string_view text, double& value) {
  return ParseNumber(text, value) && value >= 0 && value <= 1;
}

bool Set(std::string_view name, std::string_view value, DatasetOptions& options) {
  if (name == "out") {
    options.out = value;
    return true;
  }
  if (name == "count") return ParseNumber(value, options.count);
  if (name == "seed") return ParseNumber(value, options.seed);
  if (name == "first") return ParseNumber(value, options.first);
  if (name == "size") return ParseNumber(value, options.size);
  if (name == "split") return ParseName(value, kSplitNames, options.clip.split);
  if (name == "pace") return ParseName(value, kPaceNames, options.clip.pace);
  if (name == "russian") return ParsePart(value, options.caption.russian);
  if (name == "leave-out") return ParsePart(value, options.caption.leave_out);
  if (name == "quality") return ParseNumber(value, options.quality);
  if (name == "threads") return ParseNumber(value, options.threads);
  return false;
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

int RunDataset(const std::vector<std::string>& arguments) {
  DatasetOptions options;
  for (size_t i = 0; i < arguments.size(); ++i) {
    const std::string_view argument = arguments[i];
    if (argument == "--help" || argument == "-h") {
      std::fputs(kUsage, stdout);
      return 0;
    }
    if (argument == "--dense") {
      options.dense = true;
      continue;
    }
    bool good = false;
    if (argument.starts_with("--")) {
      const size_t equals = argument.find('=');
      const std::string_view name = argument.substr(
          2, equals == std::string_view::npos ? std::string_view::npos : equals - 2);
      if (equals != std::string_view::npos) {
        good = Set(name, argument.substr(equals + 1), options);
      } else if (i + 1 < arguments.size()) {
        good = Set(name, arguments[++i], options);
      }
    }
    if (!good) {
      std::fprintf(stderr, "kandinsky-train dataset: unknown, incomplete or wrong: %s\n%s",
                   std::string(argument).c_str(), kUsage);
      return 2;
    }
  }
  if (absl::Status valid = Validate(options); !valid.ok()) {
    std::fprintf(stderr, "kandinsky-train dataset: %s\n%s", std::string(valid.message()).c_str(),
                 kUsage);
    return 2;
  }
  const bool terminal = isatty(STDERR_FILENO) != 0;
  const int64_t every = std::max<int64_t>(1, options.count / 100);
  const absl::Status written = WriteDataset(options, [&](int64_t done) {
    if (terminal && (done % every == 0 || done == options.count)) {
      std::fprintf(stderr, "\r%lld of %lld clips", static_cast<long long>(done),
                   static_cast<long long>(options.count));
    }
  });
  if (terminal) std::fputc('\n', stderr);
  if (!written.ok()) {
    std::fprintf(stderr, "kandinsky-train dataset: %s\n", written.ToString().c_str());
    return 1;
  }
  std::fprintf(stderr, "%lld clips and captions.jsonl are in %s\n",
               static_cast<long long>(options.count), options.out.c_str());
  return 0;
}

}  // namespace kandinsky::training
