// kandinsky-local: prompt to video file in one process, without Redis or any other service.
#include <ATen/Parallel.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <random>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include <unistd.h>
#include <csignal>

#include "common/spec/vocabulary.h"
#include "worker/media/video_encoder.h"
#include "worker/model/error.h"
#include "worker/model/pipeline.h"
#include "worker/process/processors.h"

namespace {

namespace model = kandinsky::model;
namespace media = kandinsky::media;

constexpr char kUsage[] =
    "usage: kandinsky-local --model DIR --prompt TEXT --out FILE [options]\n"
    "\n"
    "Makes a video from a prompt with all stages in this process. Equal parameters and seeds give\n"
    "equal videos, the same that the service gives. Values that are left out are the model's "
    "defaults.\n"
    "\n"
    "  --model DIR             model directory (model.json, tokenizer, weights)\n"
    "  --prompt TEXT           what the video shows\n"
    "  --negative-prompt TEXT  what it must not show\n"
    "  --seed N                0 to 2^64-1 (default: a random one, which is printed)\n"
    "  --level NAME            low, medium or high: how many frames\n"
    "  --width N, --height N   pixels\n"
    "  --steps N               denoising steps of every loop\n"
    "  --guidance-scale X      of the keyframes\n"
    "  --interpolation-guidance-scale X\n"
    "  --format NAME           mp4, webm or gif (default: by the extension of --out, else mp4)\n"
    "  --fps X                 playback rate (default: the level's, which makes it last 8 "
    "seconds)\n"
    "  --threads N             processor threads of an operation (default: 0, as many as the "
    "process\n"
    "                          may use); results do not depend on it\n"
    "  --out FILE              the video; appears under this name when it is complete\n"
    "  --json                  progress and result as JSON lines on standard output\n"
    "\n"
    "Progress goes to standard error. Exit status: 0 done, 1 failed, 2 wrong usage, 130 "
    "interrupted.\n";

// Set by SIGINT and SIGTERM; the loops ask before every step.
volatile std::sig_atomic_t g_interrupted = 0;

struct UsageError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

using Flags = std::map<std::string, std::optional<std::string>>;

// "--guidance-passes"
std::string FlagName(const model::ExecutionFlag& flag) {
  std::string name = std::string("--") + flag.name;
  std::replace(name.begin(), name.end(), '_', '-');
  return name;
}

model::ExecutionOptions ParseExecution(const Flags& flags) {
  model::ExecutionFlagValues values;
  for (const model::ExecutionFlag& flag : model::kExecutionFlags) {
    if (const auto& value = flags.at(FlagName(flag))) values[flag.name] = *value;
  }
  return model::ParseExecutionOptions(values);
}

// What --help says: kUsage and the flags that kandinsky-worker has, too.
std::string Usage() {
  constexpr size_t kColumn = 26, kWidth = 96;
  std::string usage = std::string(kUsage) + "\nWhere and how it runs, as in kandinsky-worker:\n\n";
  for (const model::ExecutionFlag& flag : model::kExecutionFlags) {
    std::string line = "  " + FlagName(flag) + " X";
    line.resize(std::max(line.size() + 1, kColumn), ' ');
    std::istringstream words(std::string(flag.help) + " (default: " + flag.otherwise + ")");
    std::string word;
    const auto end_line = [&] { usage += line.substr(0, line.find_last_not_of(' ') + 1) + "\n"; };
    while (words >> word) {
      if (line.size() + word.size() > kWidth) {
        end_line();
        line = std::string(kColumn, ' ');
      }
      line += word + " ";
    }
    end_line();
  }
  return usage;
}

Flags ParseFlags(int argc, char** argv) {
  Flags flags;
  for (const char* name :
       {"--model", "--prompt", "--negative-prompt", "--seed", "--level", "--width", "--height",
        "--steps", "--guidance-scale", "--interpolation-guidance-scale", "--format", "--fps",
        "--threads", "--out", "--json"}) {
    flags[name] = std::nullopt;
  }
  for (const model::ExecutionFlag& flag : model::kExecutionFlags) {
    flags[FlagName(flag)] = std::nullopt;
  }
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    const size_t equals = argument.find('=');
    std::string name = argument.substr(0, equals);
    std::replace(name.begin(), name.end(), '_', '-');  // as kandinsky-worker spells them
    if (flags.count(name) == 0) throw UsageError("unknown argument " + argument);
    if (name == "--json" && equals == std::string::npos) {
      flags[name] = "true";
    } else if (equals != std::string::npos) {
      flags[name] = argument.substr(equals + 1);
    } else if (i + 1 < argc) {
      flags[name] = argv[++i];
    } else {
      throw UsageError(name + " needs a value");
    }
  }
  for (const char* name : {"--model", "--prompt", "--out"}) {
    if (!flags[name]) throw UsageError(std::string(name) + " is needed");
  }
  if (flags["--json"] && *flags["--json"] != "true" && *flags["--json"] != "false") {
    throw UsageError("--json takes no value");
  }
  return flags;
}

template <typename Number>
Number ParseNumber(const Flags& flags, const std::string& name, Number otherwise) {
  const std::optional<std::string>& text = flags.at(name);
  if (!text) return otherwise;
  Number value{};
  const auto [end, error] = std::from_chars(text->data(), text->data() + text->size(), value);
  if (error != std::errc() || end != text->data() + text->size()) {
    throw UsageError(name + " is \"" + *text + "\", must be a number");
  }
  return value;
}

media::Format ParseFormat(const Flags& flags) {
  const std::string& out = *flags.at("--out");
  const size_t dot = out.rfind('.');
  const std::string extension = dot == std::string::npos ? "" : out.substr(dot + 1);
  const std::string name =
      flags.at("--format").value_or(extension == "webm" || extension == "gif" ? extension : "mp4");
  if (name == "mp4") return media::Format::kMp4;
  if (name == "webm") return media::Format::kWebm;
  if (name == "gif") return media::Format::kGif;
  throw UsageError("--format is \"" + name + "\", must be mp4, webm or gif");
}

media::FrameRate ParseFrameRate(const Flags& flags, const model::Level& level) {
  if (!flags.at("--fps")) {
    return {static_cast<int>(level.fps_numerator), static_cast<int>(level.fps_denominator)};
  }
  const auto fps = media::FrameRate::FromDouble(ParseNumber<double>(flags, "--fps", 0));
  if (!fps.ok()) throw UsageError("--fps: " + std::string(fps.status().message()));
  return *fps;
}

void Check(const absl::Status& status) {
  if (!status.ok()) throw std::runtime_error(std::string(status.message()));
}

// Shows where the run stands: one line that is overwritten on a terminal, JSON lines when asked.
class Reporter {
 public:
  explicit Reporter(bool json) : json_(json), terminal_(isatty(STDERR_FILENO) != 0) {}

  void Progress(const std::string& stage, int64_t done, int64_t total) {
    if (json_) {
      std::puts(
          nlohmann::json({{"stage", stage}, {"step", done}, {"steps", total}}).dump().c_str());
      std::fflush(stdout);
      return;
    }
    const bool last = done >= total;
    if (!terminal_ && !last) return;
    std::fprintf(stderr, "%s%-14s %4lld of %lld%s", terminal_ ? "\r" : "", stage.c_str(),
                 static_cast<long long>(done), static_cast<long long>(total),
                 !terminal_ || last ? "\n" : "");
  }

  void Note(const std::string& note) {
    if (json_) {
      std::puts(nlohmann::json{{"note", note}}.dump().c_str());
    } else {
      std::fprintf(stderr, "note: %s\n", note.c_str());
    }
  }

  void Result(const nlohmann::json& result) {
    if (json_) {
      std::puts(result.dump().c_str());
    } else {
      std::puts(result.at("file").get<std::string>().c_str());
    }
  }

 private:
  const bool json_;
  const bool terminal_;
};

// A file that appears under its name only when it is complete.
class OutputFile {
 public:
  explicit OutputFile(std::string path) : path_(std::move(path)), temporary_(path_ + ".part") {
    stream_.open(temporary_, std::ios::binary | std::ios::trunc);
    if (!stream_) throw std::runtime_error(path_ + " cannot be written");
  }
  ~OutputFile() {
    if (!finished_) std::remove(temporary_.c_str());
  }
  absl::Status Write(std::string_view data) {
    stream_.write(data.data(), static_cast<std::streamsize>(data.size()));
    return stream_ ? absl::OkStatus() : absl::DataLossError(path_ + " cannot be written");
  }
  void Finish() {
    stream_.close();
    if (!stream_ || std::rename(temporary_.c_str(), path_.c_str()) != 0) {
      throw std::runtime_error(path_ + " cannot be written");
    }
    finished_ = true;
  }

 private:
  const std::string path_, temporary_;
  std::ofstream stream_;
  bool finished_ = false;
};

int Run(const Flags& flags) {
  const std::string& directory = *flags.at("--model");
  const model::ModelConfig config = model::ModelConfig::Load(directory);
  const std::string level_name = flags.at("--level").value_or(config.defaults.level);
  const model::Level* level = nullptr;
  for (const model::Level& candidate : config.levels) {
    if (candidate.name == level_name) level = &candidate;
  }
  if (level == nullptr) throw UsageError("--level: the model has no level \"" + level_name + "\"");

  model::GenerationRequest request;
  request.prompt = *flags.at("--prompt");
  request.negative_prompt = flags.at("--negative-prompt").value_or("");
  request.seed = flags.at("--seed")
                     ? ParseNumber<uint64_t>(flags, "--seed", 0)
                     : uint64_t{std::random_device{}()} << 32 | std::random_device{}();
  request.width = ParseNumber<int64_t>(flags, "--width", config.defaults.width);
  request.height = ParseNumber<int64_t>(flags, "--height", config.defaults.height);
  request.steps = ParseNumber<int64_t>(flags, "--steps", config.defaults.steps);
  request.guidance_scale =
      ParseNumber<double>(flags, "--guidance-scale", config.defaults.guidance_scale);
  request.interpolation_guidance_scale = ParseNumber<double>(
      flags, "--interpolation-guidance-scale", config.defaults.interpolation_guidance_scale);
  request.passes = level->passes;
  model::ExecutionOptions execution;
  try {
    model::ValidateRequest(request, config);
    execution = ParseExecution(flags);
    model::ApplyToProcess(execution);
  } catch (const model::ModelError& error) {
    throw UsageError(error.what());
  }
  media::VideoEncoder::Options options;
  options.format = ParseFormat(flags);
  options.width = static_cast<int>(request.width);
  options.height = static_cast<int>(request.height);
  options.fps = ParseFrameRate(flags, *level);
  options.expected_frames = static_cast<int>(level->frames);
  const int threads = ParseNumber<int>(flags, "--threads", 0);
  if (threads < 0 || threads > kandinsky::kMaxThreads) {
    throw UsageError("--threads is " + std::to_string(threads) + ", must be from 0 (auto) to " +
                     std::to_string(kandinsky::kMaxThreads));
  }
  setenv("MKL_DYNAMIC", "FALSE", 0);
  at::set_num_threads(kandinsky::ThreadsOrAuto(threads));

  Reporter reporter(flags.at("--json") == "true");
  const kandinsky::Vocabulary vocabulary(config.vocabulary);
  for (const std::string* text : {&request.prompt, &request.negative_prompt}) {
    const std::vector<std::string> unknown = vocabulary.UnknownWords(*text);
    if (!unknown.empty()) reporter.Note(kandinsky::UnknownWordsMessage(unknown));
  }
  OutputFile file(*flags.at("--out"));
  auto encoder =
      media::VideoEncoder::Create(options, [&](std::string_view data) { return file.Write(data); });
  Check(encoder.status());

  model::StageHooks hooks;
  hooks.cancelled = [] { return g_interrupted != 0; };
  std::string stage = "keyframes";
  hooks.progress = [&](const model::StageProgress& progress) {
    reporter.Progress(stage, progress.pass * progress.steps + progress.step,
                      progress.passes * progress.steps);
  };
  // One stage's networks at a time in memory.
  at::Tensor latents;  // [T, 4, h, w]
  latents = model::KeyframeStage(directory, execution).Run(request, hooks);
  stage = "interpolation";
  if (request.passes > 0) {
    latents = model::InterpolationStage(directory, execution).Run(latents, request, hooks);
  }
  stage = "decoding";
  model::DecodingStage(directory, execution)
      .Run(latents, hooks, [&](int64_t, const at::Tensor& frames) {  // uint8 [n, H, W, 3]
        for (int64_t i = 0; i < frames.size(0); ++i) {
          Check((*encoder)->AddFrame(frames[i].const_data_ptr<uint8_t>()));
        }
      });
  const auto totals = (*encoder)->Finish();
  Check(totals.status());
  file.Finish();
  reporter.Result({{"file", *flags.at("--out")},
                   {"model", config.name},
                   {"seed", request.seed},
                   {"level", level->name},
                   {"width", request.width},
                   {"height", request.height},
                   {"frames", totals->frames},
                   {"fps", options.fps.ToDouble()},
                   {"bytes", totals->bytes},
                   {"crc32c", totals->crc32c}});
  if (!flags.at("--seed") && flags.at("--json") != "true") {
    std::fprintf(stderr, "seed %llu\n", static_cast<unsigned long long>(request.seed));
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  for (int i = 1; i < argc; ++i) {
    if (argv[i] == std::string("--help")) {
      std::fputs(Usage().c_str(), stdout);
      return 0;
    }
  }
  std::signal(SIGINT, [](int) { g_interrupted = 1; });
  std::signal(SIGTERM, [](int) { g_interrupted = 1; });
  try {
    return Run(ParseFlags(argc, argv));
  } catch (const UsageError& error) {
    std::fprintf(stderr, "kandinsky-local: %s\n\n%s", error.what(), Usage().c_str());
    return 2;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "kandinsky-local: %s\n", error.what());
    return g_interrupted != 0 ? 130 : 1;
  }
}
