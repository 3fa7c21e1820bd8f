#include "worker/runtime/simulated_stage.h"

#include <algorithm>
#include <cstring>
#include <optional>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/crc32c.h"

namespace kandinsky {
namespace {

constexpr int kKeyframes = 16;
constexpr size_t kFrameBytes = 512;  // of the pretended video
constexpr char kPngPixel[] = "not a picture";

int Frames(int passes) { return passes == 0 ? 16 : passes == 1 ? 61 : 241; }

uint64_t Mix(uint64_t a, uint64_t b) {
  uint64_t x = a * 0x9e3779b97f4a7c15u + b + 0x632be59bd9b4e019u;
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
  x = (x ^ x >> 27) * 0x94d049bb133111ebu;
  return x ^ x >> 31;
}

uint64_t RequestKey(const GenerationParameters& p) {
  return Mix(p.seed, Crc32c(absl::StrCat(p.prompt, "|", p.negative_prompt, "|", p.model, "|",
                                         p.width, "x", p.height, "|", p.guidance_scale)));
}

std::vector<int64_t> LatentShape(const GenerationParameters& p, int frames) {
  return {frames, 4, std::clamp(p.height / 8, 1, 32), std::clamp(p.width / 8, 1, 32)};
}

// State of a pass: one word a frame, from which the latents are spun.
using Words = std::vector<uint64_t>;

void Advance(Words& words, uint64_t key, int pass, int step) {
  for (size_t i = 0; i < words.size(); ++i) {
    words[i] = Mix(
        words[i] ^ Mix(key, static_cast<uint64_t>(pass) << 32 | static_cast<uint32_t>(step)), i);
  }
}

HostTensor Spin(const Words& words, std::vector<int64_t> shape) {
  const size_t total = *CheckedByteSize(DataType::kFloat32, shape, UINT64_MAX);
  const size_t frame = words.empty() ? 0 : total / words.size();
  std::string bytes(total, '\0');
  for (size_t t = 0; t < words.size(); ++t) {
    for (size_t i = 0; i + 8 <= frame; i += 8) {
      const uint64_t word = Mix(words[t], i);
      std::memcpy(bytes.data() + t * frame + i, &word, sizeof(word));
    }
  }
  return *HostTensor::Create(DataType::kFloat32, std::move(shape), std::move(bytes));
}

// One word a frame of latents, from all of the frame's bytes.
Words Digest(const HostTensor& latents, size_t frames) {
  Words words(frames);
  const size_t frame = frames == 0 ? 0 : latents.bytes().size() / frames;
  for (size_t t = 0; t < frames; ++t) {
    words[t] = Crc32c(latents.bytes().substr(t * frame, frame));
  }
  return words;
}

// Every frame between two others depends on both.
Words Between(const Words& from) {
  Words words;
  for (size_t i = 0; i + 1 < from.size(); ++i) {
    words.push_back(from[i]);
    for (uint64_t j = 1; j <= 3; ++j) words.push_back(Mix(from[i] + j, from[i + 1]));
  }
  if (!from.empty()) words.push_back(from.back());
  return words;
}

std::string FrameBytes(uint64_t word, int frame) {
  std::string bytes(kFrameBytes, '\0');
  for (size_t i = 0; i < bytes.size(); i += 8) {
    const uint64_t value = Mix(word ^ static_cast<uint64_t>(frame), i);
    std::memcpy(bytes.data() + i, &value, sizeof(value));
  }
  return bytes;
}

struct Checkpoint {
  int pass = 0;
  int step = 0;
  Words words;
};

std::string Encode(const Checkpoint& checkpoint) {
  std::string body(16 + checkpoint.words.size() * 8, '\0');
  const int32_t numbers[4] = {1, checkpoint.pass, checkpoint.step, 0};
  std::memcpy(body.data(), numbers, 16);
  if (!checkpoint.words.empty()) {
    std::memcpy(body.data() + 16, checkpoint.words.data(), checkpoint.words.size() * 8);
  }
  const uint32_t crc = Crc32c(body);
  body.append(reinterpret_cast<const char*>(&crc), 4);
  return body;
}

std::optional<Checkpoint> DecodeCheckpoint(std::string_view blob) {
  if (blob.size() < 20 || (blob.size() - 20) % 8 != 0) return std::nullopt;
  uint32_t crc = 0;
  std::memcpy(&crc, blob.data() + blob.size() - 4, 4);
  if (Crc32c(blob.substr(0, blob.size() - 4)) != crc) return std::nullopt;
  int32_t numbers[4];
  std::memcpy(numbers, blob.data(), 16);
  if (numbers[0] != 1) return std::nullopt;
  Checkpoint checkpoint{numbers[1], numbers[2], Words((blob.size() - 20) / 8)};
  if (!checkpoint.words.empty()) {
    std::memcpy(checkpoint.words.data(), blob.data() + 16, checkpoint.words.size() * 8);
  }
  return checkpoint;
}

}  // namespace

SimulatedStage::SimulatedStage(SimulatedStageOptions options)
    : options_([&options] {
        if (!options.work) {
          options.work = [](absl::Duration d) {
            std::this_thread::sleep_for(absl::ToChronoNanoseconds(d));
          };
        }
        return std::move(options);
      }()) {}

absl::Status SimulatedStage::Load() {
  options_.work(options_.load_time);
  return absl::OkStatus();
}

absl::StatusOr<StageOutput> SimulatedStage::Run(const StageInput& input, StageContext& context) {
  if (options_.fail) {
    const absl::Status status = options_.fail(input);
    if (!status.ok()) return status;
  }
  return options_.stage == Stage::kDecoding ? Decode(input, context) : Denoise(input, context);
}

absl::Status SimulatedStage::Step(StageContext& context, const StageProgress& after) {
  if (context.ShouldStop()) return absl::CancelledError("stopped");
  options_.work(options_.step_time);
  ++steps_done_;
  context.ReportProgress(after);
  return absl::OkStatus();
}

absl::StatusOr<StageOutput> SimulatedStage::Denoise(const StageInput& input,
                                                    StageContext& context) {
  const bool keyframes = options_.stage == Stage::kKeyframes;
  const int passes = keyframes ? 1 : Passes(input.parameters.level);
  const int steps = options_.steps > 0 ? options_.steps : input.parameters.steps;
  const uint64_t key = Mix(RequestKey(input.parameters), static_cast<uint64_t>(options_.stage));
  Words words(kKeyframes);
  if (!keyframes) {
    if (!input.latents || input.latents->shape().empty() ||
        input.latents->shape()[0] != kKeyframes) {
      return absl::InvalidArgumentError("interpolation needs 16 keyframes");
    }
    words = Between(Digest(*input.latents, kKeyframes));
  }
  int pass = 0;
  int step = 0;
  if (input.checkpoint) {
    if (std::optional<Checkpoint> saved = DecodeCheckpoint(*input.checkpoint);
        saved && saved->pass < passes && saved->step <= steps) {
      pass = saved->pass;
      step = saved->step;
      words = std::move(saved->words);
    }
  }
  for (; pass < passes; ++pass, step = 0) {
    while (step < steps) {
      StageProgress progress;
      progress.pass = pass + 1;
      progress.passes = passes;
      progress.step = step + 1;
      progress.steps = steps;
      const absl::Status status = Step(context, progress);
      if (!status.ok()) return status;
      Advance(words, key, pass, step);
      ++step;
      if (context.CheckpointDue()) context.SaveCheckpoint(Encode({pass, step, words}));
    }
    if (pass + 1 < passes) words = Between(words);
  }
  if (keyframes) context.PublishPreview({kPngPixel, 1, 1});
  StageOutput output;
  output.latents = Spin(words, LatentShape(input.parameters, static_cast<int>(words.size())));
  return output;
}

absl::StatusOr<StageOutput> SimulatedStage::Decode(const StageInput& input, StageContext& context) {
  const int frames = Frames(Passes(input.parameters.level));
  if (!input.latents || input.latents->shape().empty() || input.latents->shape()[0] != frames) {
    return absl::InvalidArgumentError(absl::StrCat("decoding needs ", frames, " latents"));
  }
  const Words words = Digest(*input.latents, static_cast<size_t>(frames));
  for (int frame = 0; frame < frames; ++frame) {
    StageProgress progress;
    progress.step = frame + 1;
    progress.steps = frames;
    absl::Status status = Step(context, progress);
    if (status.ok()) status = context.WriteVideo(FrameBytes(words[frame], frame));
    if (!status.ok()) return status;
  }
  VideoInfo video;
  video.mime_type = "video/mp4";
  video.frames = frames;
  video.width = input.parameters.width;
  video.height = input.parameters.height;
  video.fps = input.parameters.fps;
  StageOutput output;
  output.video = video;
  return output;
}

std::string SimulatedStage::ExpectedVideo(const GenerationParameters& parameters, int steps) {
  if (steps <= 0) steps = parameters.steps;
  const uint64_t request = RequestKey(parameters);
  Words words(kKeyframes);
  for (int step = 0; step < steps; ++step) {
    Advance(words, Mix(request, static_cast<uint64_t>(Stage::kKeyframes)), 0, step);
  }
  HostTensor latents = Spin(words, LatentShape(parameters, kKeyframes));
  const int passes = Passes(parameters.level);
  if (passes > 0) {
    words = Between(Digest(latents, kKeyframes));
    for (int pass = 0; pass < passes; ++pass) {
      if (pass > 0) words = Between(words);
      for (int step = 0; step < steps; ++step) {
        Advance(words, Mix(request, static_cast<uint64_t>(Stage::kInterpolation)), pass, step);
      }
    }
    latents = Spin(words, LatentShape(parameters, static_cast<int>(words.size())));
  }
  const Words digest = Digest(latents, static_cast<size_t>(Frames(passes)));
  std::string video;
  for (int frame = 0; frame < Frames(passes); ++frame) video += FrameBytes(digest[frame], frame);
  return video;
}

}  // namespace kandinsky
