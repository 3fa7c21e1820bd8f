// kandinsky-eval: measures a model directory.
#include <ATen/Parallel.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "training/core/commands.h"
#include "training/core/flag_set.h"
#include "training/core/picture.h"
#include "training/data/clip_source.h"
#include "training/data/video_folder.h"
#include "training/eval/emoji_prompts.h"
#include "training/eval/extractor.h"
#include "training/eval/feature_scores.h"
#include "training/eval/frechet.h"
#include "training/eval/generator.h"
#include "training/eval/interpolation_error.h"
#include "training/eval/prompt_match.h"
#include "training/eval/reconstruction.h"
#include "training/eval/result.h"
#include "training/eval/sha256.h"
#include "training/trainers/export.h"
#include "worker/model/checkpoint/load.h"
#include "worker/model/checkpoint/tensor_source.h"
#include "worker/model/error.h"
#include "worker/model/model_config.h"
#include "worker/model/movq.h"
#include "worker/model/pipeline.h"
#include "worker/model/text/tokenizer.h"
#include "worker/process/processors.h"

namespace kandinsky::training {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;
using model::ModelError;

constexpr int64_t kSheetClips = 12, kStripFrames = 16;

[[noreturn]] void Invalid(const std::string& message) {
  throw ModelError(ModelError::Kind::kInvalidArgument, message);
}

// What every measure takes.
struct Common {
  std::string command;  // as it was typed
  std::string model;
  int64_t count = 100;
  uint64_t seed = 1;
  std::string json;
  std::string device = "auto";
  int threads = 0;
  bool resume = true;
  bool progress = true;

  void AddTo(FlagSet& flags) {
    flags.Add("model", &model, "model directory");
    flags.Add("count", &count, "clips");
    flags.Add("seed", &seed, "of prompts, noise and resampling");
    flags.Add("json", &json, "file for the result; on the way FILE.partial; empty: none");
    flags.Add("device", &device, "auto, cpu, cuda or cuda:N");
    flags.Add("threads", &threads, "CPU threads of the arithmetic; 0: one a usable processor");
    flags.Add("resume", &resume, "go on with FILE.partial if it is there");
    flags.Add("progress", &progress, "show it on standard error");
  }

  // After parsing.
  model::Placement Prepare() const {
    if (model.empty()) Invalid("--model is needed");
    if (count < 1) Invalid("--count is " + std::to_string(count) + ", must be 1 or more");
    if (threads < 0 || threads > kMaxThreads) {
      Invalid("--threads is " + std::to_string(threads) + ", must be from 0 (auto) to " +
              std::to_string(kMaxThreads));
    }
    at::set_num_threads(ThreadsOrAuto(threads));
    return model::ParsePlacement(device, "float32");
  }

  // The records of all clips. The journal is good for as long as the settings stay the same.
  std::vector<Json> Measure(const Result& result,
                            const std::function<Json(int64_t clip)>& measure) const {
    Json header;
    header["measure"] = result.measure;
    for (const auto& [name, value] : result.report.settings) header[name] = value;
    const std::string path = json.empty() ? "" : json + ".partial";
    if (!resume && !path.empty()) fs::remove(path);
    Journal journal(path, header);
    return MeasureClips(result.measure, count, journal, progress, measure);
  }

  // Prints and writes the result.
  void Finish(Result& result) const {
    result.report.settings.insert(
        result.report.settings.begin(),
        {{"command", "`" + command + "`"}, {"clips", std::to_string(count)}});
    if (!json.empty()) {
      WriteText(json, ToJson(result).dump(1) + "\n");
      fs::remove(json + ".partial");
    }
    std::printf("%s", ToMarkdown(result.report).c_str());
  }
};

Pace ParsePace(const std::string& name) {
  if (name == "any") return Pace::kAny;
  if (name == "slow") return Pace::kSlow;
  if (name == "fast") return Pace::kFast;
  Invalid("--pace is \"" + name + "\", must be any, slow or fast");
}

void AddGeneratorFlags(GeneratorOptions& options, FlagSet& flags) {
  flags.Add("level", &options.level, "low, medium or high; empty: that of model.json");
  flags.Add("width", &options.width, "pixels; 0: that of model.json");
  flags.Add("height", &options.height, "pixels; 0: that of model.json");
  flags.Add("steps", &options.steps, "denoising steps; 0: those of model.json");
  flags.Add("guidance_scale", &options.guidance_scale, "negative: that of model.json");
  flags.Add("interpolation_guidance_scale", &options.interpolation_guidance_scale,
            "negative: that of model.json");
}

void AddSettings(Result& result, const std::vector<std::pair<std::string, std::string>>& settings) {
  result.report.settings.insert(result.report.settings.end(), settings.begin(), settings.end());
}

// A file that takes part in a measurement; "none" without one.
std::string DescribeFile(const std::string& path) {
  return path.empty() ? "none" : path + " (SHA-256 " + Sha256OfFile(path) + ")";
}

// At most `frames` frames of a clip [T, H, W, 3], evenly, first and last included.
at::Tensor Strip(const at::Tensor& clip, int64_t frames) {
  const int64_t last = clip.size(0) - 1, count = std::min(frames, clip.size(0));
  std::vector<int64_t> numbers;
  for (int64_t i = 0; i < count; ++i) numbers.push_back(count > 1 ? i * last / (count - 1) : 0);
  return clip.index_select(0, at::tensor(numbers, at::kLong));
}

void SaveFailure(const std::string& folder, int64_t clip, const Json& record,
                 const at::Tensor& frames) {
  fs::create_directories(folder);
  char number[24];
  std::snprintf(number, sizeof(number), "%04lld-", static_cast<long long>(clip));
  std::string name = number + record["prompt"].get<std::string>();
  std::replace(name.begin(), name.end(), ' ', '_');
  WritePng(folder + "/" + name + ".png", Tile(Strip(frames, kStripFrames), kStripFrames, 1));
}

// Measures the clips of prompts and keeps pictures of some of them. `prompt` says what clip i is
// asked for, `measure` generates and judges it, `right` says whether a record is all right.
std::vector<Json> MeasurePrompts(
    const Common& common, const Result& result, ClipGenerator& generator, const std::string& sheet,
    const std::string& failures, const std::function<const std::string&(int64_t i)>& prompt,
    const std::function<Json(int64_t i, uint64_t seed, at::Tensor* frames)>& measure,
    const std::function<bool(const Json&)>& right) {
  std::map<int64_t, at::Tensor> strips;
  const auto keep = [&](int64_t i, const at::Tensor& frames) {
    if (!sheet.empty() && i < kSheetClips) strips[i] = Strip(frames, kStripFrames);
  };
  const auto seed = [&](int64_t i) { return common.seed + static_cast<uint64_t>(i); };
  std::vector<Json> records = common.Measure(result, [&](int64_t i) {
    at::Tensor frames;
    Json record = measure(i, seed(i), &frames);
    keep(i, frames);
    if (!failures.empty() && !right(record)) SaveFailure(failures, i, record, frames);
    return record;
  });
  if (!sheet.empty()) {
    std::vector<at::Tensor> rows;
    for (int64_t i = 0; i < std::min(kSheetClips, common.count); ++i) {
      if (strips.count(i) == 0) {  // measured by an earlier run
        keep(i, generator.Generate(prompt(i), seed(i)));
      }
      rows.push_back(strips[i]);
    }
    WritePng(sheet, Tile(at::cat(rows), rows.front().size(0), 1));
  }
  return records;
}

Wording ParseWording(const std::string& name) {
  if (name == "plain") return Wording::kPlain;
  if (name == "synonyms") return Wording::kSynonyms;
  if (name == "typed") return Wording::kTyped;
  Invalid("--wording is \"" + name + "\", must be plain, synonyms or typed");
}

// prompts for a model of animated emoji.
int EmojiPrompts(const Common& common, const GeneratorOptions& options, const std::string& folder,
                 const EmojiPromptOptions& prompts, const std::string& wording,
                 const std::string& sheet, const std::string& failures) {
  absl::StatusOr<std::shared_ptr<const EmojiArt>> art = EmojiArt::Open(folder);
  if (!art.ok()) Invalid("--emoji: " + std::string(art.status().message()));
  const std::vector<EmojiClass>& classes = (*art)->classes();
  const EmojiJudge judge(*art);
  const std::vector<EmojiPromptClip> clips = DrawEmojiPrompts(prompts, classes);
  if (clips.empty()) Invalid("--wording synonyms: no emoji of the list has one in both languages");
  ModelGenerator generator(options);
  Result result;
  result.measure = "prompts";
  result.report.title = "Prompt match of " + generator.config().name;
  AddSettings(result, DescribeModel(generator.config(), common.model));
  AddSettings(result, generator.Settings());
  AddSettings(result,
              {{"combinations", prompts.held_out ? "held out of training" : "seen in training"},
               {"wording", wording},
               {"Russian prompts", Json(prompts.russian).dump()},
               {"emoji", std::to_string(classes.size()) + " (list " +
                             std::to_string((*art)->checksum()) + ")"},
               {"seed", std::to_string(common.seed)}});
  const auto clip = [&](int64_t i) -> const EmojiPromptClip& {
    return clips[static_cast<size_t>(i)];
  };
  const std::vector<Json> records = MeasurePrompts(
      common, result, generator, sheet, failures,
      [&](int64_t i) -> const std::string& { return clip(i).prompt; },
      [&](int64_t i, uint64_t seed, at::Tensor* frames) {
        const auto start = std::chrono::steady_clock::now();
        *frames = generator.Generate(clip(i).prompt, seed).contiguous();
        const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
        const EmojiVerdict verdict =
            judge.Judge(frames->data_ptr<uint8_t>(), static_cast<int>(frames->size(0)),
                        static_cast<int>(frames->size(1)), static_cast<int>(frames->size(2)));
        return EmojiPromptRecord(clip(i), seed, taken.count(), verdict, classes);
      },
      EmojiAllRight);
  SummarizeEmojiPrompts(records, prompts.held_out, result);
  common.Finish(result);
  return 0;
}

int Prompts(Common common, const std::vector<std::string>& arguments, bool help) {
  common.count = 200;
  GeneratorOptions options;
  bool held_out = false;
  std::string pace = "any", sheet, failures, emoji, wording = "plain";
  double russian = 0.5;
  FlagSet flags;
  common.AddTo(flags);
  AddGeneratorFlags(options, flags);
  flags.Add("held-out", &held_out,
            "what training never shows: the six pairs, or combinations with emoji");
  flags.Add("pace", &pace, "of the motions asked for: any, slow or fast; not with --emoji");
  flags.Add("emoji", &emoji,
            "folder of animated emoji, for a model that was trained on them; empty: moving shapes");
  flags.Add("wording", &wording, "with --emoji: plain, synonyms or typed (as people do)");
  flags.Add("russian", &russian, "with --emoji: how many prompts are Russian, 0 to 1");
  flags.Add("sheet", &sheet, "PNG file for the first clips, a row each; empty: none");
  flags.Add("failures", &failures, "folder for PNG strips of clips that are not all right");
  if (help) return std::printf("%s", flags.Usage().c_str()), 0;
  flags.Parse(arguments);
  options.placement = common.Prepare();
  options.model = common.model;
  if (!emoji.empty()) {
    CheckRange("--russian", russian, 0, 1, "0 to 1");
    if (pace != "any") Invalid("--pace is for the moving shapes, not for --emoji");
    return EmojiPrompts(common, options, emoji,
                        {.seed = common.seed,
                         .count = common.count,
                         .held_out = held_out,
                         .russian = russian,
                         .wording = ParseWording(wording)},
                        wording, sheet, failures);
  }
  ModelGenerator generator(options);
  const std::vector<PromptClip> clips = DrawPrompts(
      {.seed = common.seed, .count = common.count, .held_out = held_out, .pace = ParsePace(pace)});

  Result result;
  result.measure = "prompts";
  result.report.title = "Prompt match of " + generator.config().name;
  AddSettings(result, DescribeModel(generator.config(), common.model));
  AddSettings(result, generator.Settings());
  AddSettings(result, {{"pairs", held_out ? "held out of training" : "seen in training"},
                       {"motions", pace},
                       {"seed", std::to_string(common.seed)}});
  const auto clip = [&](int64_t i) -> const PromptClip& { return clips[static_cast<size_t>(i)]; };
  const std::vector<Json> records = MeasurePrompts(
      common, result, generator, sheet, failures,
      [&](int64_t i) -> const std::string& { return clip(i).prompt; },
      [&](int64_t i, uint64_t seed, at::Tensor* frames) {
        return RunPrompt(generator, clip(i), seed, frames);
      },
      AllRight);
  SummarizePrompts(records, held_out, result);
  common.Finish(result);
  return 0;
}

int Autoencoder(Common common, const std::vector<std::string>& arguments, bool help) {
  uint64_t data_seed = 1;
  int64_t frames = 8, width = 0, height = 0;
  double spacing = 1;
  bool held_out = false;
  std::string extractor;
  FlagSet flags;
  common.AddTo(flags);
  flags.Add("data_seed", &data_seed, "of the clips");
  flags.Add("held-out", &held_out, "the six pairs that training never shows");
  flags.Add("frames", &frames, "of a clip");
  flags.Add("spacing", &spacing, "of the frames, in frames of 30 a second");
  flags.Add("width", &width, "pixels; 0: that of model.json");
  flags.Add("height", &height, "pixels; 0: that of model.json");
  flags.Add("extractor", &extractor,
            "TorchScript file of layers for an LPIPS-style distance; empty: not measured");
  if (help) return std::printf("%s", flags.Usage().c_str()), 0;
  flags.Parse(arguments);
  const at::Device device = common.Prepare().device;
  if (frames < 1) Invalid("--frames is " + std::to_string(frames) + ", must be 1 or more");
  const model::ModelConfig config = model::ModelConfig::Load(common.model);
  if (width <= 0) width = config.defaults.width;
  if (height <= 0) height = config.defaults.height;
  const int64_t cell = config.movq.downsampling();
  if (width % cell != 0 || height % cell != 0) {
    Invalid("--width and --height must be multiples of " + std::to_string(cell));
  }

  model::Movq image(config.movq, at::kMeta);
  LoadModule(image, common.model, config.weights.movq, device);
  image.eval();
  const auto encode = [&](const at::Tensor& pixels) {  // [T, H, W, 3] -> [T, z, h, w]
    return image.Encode(ToNetworkInput(pixels).to(device));
  };
  std::vector<Reconstructor> reconstructors = {
      {"image", "image decoder", [&](const at::Tensor& pixels) {
         return model::ToPixels(image.Decode(encode(pixels))).cpu();
       }}};
  std::unique_ptr<model::Movq> video;
  if (config.video_movq && fs::exists(common.model + "/" + config.weights.video_movq->file)) {
    video = std::make_unique<model::Movq>(*config.video_movq, at::kMeta, /*decoder_only=*/true);
    model::LoadInto(*video,
                    *model::OpenCheckpoint(common.model + "/" + config.weights.video_movq->file),
                    {.prefix = config.weights.video_movq->prefix,
                     .ignored = {"encoder.", "quant_conv."},
                     .dtype = at::kFloat,
                     .device = device});
    video->eval();
    reconstructors.push_back({"video", "video decoder", [&](const at::Tensor& pixels) {
                                return model::ToPixels(video->Decode(encode(pixels))).cpu();
                              }});
  }
  std::unique_ptr<PerceptualNetwork> perceptual;
  if (!extractor.empty()) perceptual = std::make_unique<PerceptualNetwork>(extractor, device);

  const auto source = MakeShapesSource(
      data_seed, {.split = held_out ? Split::kHeldOut : Split::kTrain}, /*leave_out=*/0);
  Result result;
  result.measure = "autoencoder";
  result.report.title = "Autoencoder of " + config.name;
  AddSettings(result, DescribeModel(config, common.model));
  AddSettings(result, {{"size", std::to_string(width) + " x " + std::to_string(height)},
                       {"frames of a clip", std::to_string(frames)},
                       {"spacing", Json(spacing).dump()},
                       {"pairs", held_out ? "held out of training" : "seen in training"},
                       {"data seed", std::to_string(data_seed)},
                       {"seed", std::to_string(common.seed)},
                       {"perceptual network", DescribeFile(extractor)}});
  at::NoGradGuard no_grad;
  const std::vector<Json> records = common.Measure(result, [&](int64_t i) {
    const Clip clip =
        source->Read(kUnseen + static_cast<uint64_t>(i),
                     {.frames = frames, .spacing = spacing, .height = height, .width = width});
    return ReconstructionRecord(reconstructors, clip, perceptual.get());
  });
  SummarizeReconstruction(reconstructors, records, held_out, common.seed, result);
  if (extractor.empty()) {
    result.report.notes.push_back("No LPIPS-style distance: no --extractor was given.");
  }
  if (!video) result.report.notes.push_back("The model has no weights of a video decoder.");
  common.Finish(result);
  return 0;
}

int Interpolation(Common common, const std::vector<std::string>& arguments, bool help) {
  common.count = 40;
  uint64_t data_seed = 1;
  int64_t steps = 0;
  double scale = -1;
  bool decode = true;
  std::string mfi, pace = "any";
  FlagSet flags;
  common.AddTo(flags);
  flags.Add("data_seed", &data_seed, "of the clips");
  flags.Add("pace", &pace, "of the clips: any (every fourth is fast), slow or fast");
  flags.Add("steps", &steps, "denoising steps; 0: those of model.json");
  flags.Add("interpolation_guidance_scale", &scale, "negative: that of model.json");
  flags.Add("mfi", &mfi,
            "weights of masked frame interpolation; empty: training/mfi.safetensors of the model, "
            "if it is there");
  flags.Add("decode", &decode, "compare decoded frames, too");
  if (help) return std::printf("%s", flags.Usage().c_str()), 0;
  flags.Parse(arguments);
  const model::Placement placement = common.Prepare();
  const model::ModelConfig config = model::ModelConfig::Load(common.model);
  const InterpolationSampling sampling = {
      .steps = steps > 0 ? steps : config.InterpolationSteps(config.defaults.steps),
      .guidance_scale = scale >= 0 ? scale : config.defaults.interpolation_guidance_scale};
  const Pace wanted = ParsePace(pace);

  if (mfi.empty() && fs::exists(common.model + "/training/mfi.safetensors")) {
    mfi = common.model + "/training/mfi.safetensors";
  }
  std::vector<InterpolationMethod> methods = {
      LinearBlending(), UnetInterpolation(config, common.model, placement.device, sampling)};
  if (!mfi.empty()) {
    methods.push_back(MaskedFrameInterpolation(config, mfi, placement.device, sampling));
  }
  model::Movq encoder(config.movq, at::kMeta);
  LoadModule(encoder, common.model, config.weights.movq, placement.device);
  encoder.eval();
  model::DecodingStage decoding(common.model, {.placement = placement});
  const auto decoder = [&](const at::Tensor& latents) {  // [T, z, h, w] -> [T, H, W, 3]
    std::vector<at::Tensor> chunks;
    decoding.Run(latents, {},
                 [&](int64_t, const at::Tensor& chunk) { chunks.push_back(chunk.clone()); });
    return at::cat(chunks);
  };

  Result result;
  result.measure = "interpolation";
  result.report.title = "Interpolation of " + config.name;
  AddSettings(result, DescribeModel(config, common.model));
  AddSettings(result, {{"sampler", DescribeSampler(config.interpolation_sampling)},
                       {"steps", std::to_string(sampling.steps)},
                       {"interpolation guidance scale", Json(sampling.guidance_scale).dump()},
                       {"masked frame interpolation", DescribeFile(mfi)},
                       {"decoded", decode ? "yes" : "no"},
                       {"pace", pace},
                       {"data seed", std::to_string(data_seed)},
                       {"seed", std::to_string(common.seed)}});
  const auto height = static_cast<int>(config.defaults.height);
  const auto width = static_cast<int>(config.defaults.width);
  at::NoGradGuard no_grad;
  const std::vector<Json> records = common.Measure(result, [&](int64_t i) {
    const bool fast = wanted == Pace::kFast || (wanted == Pace::kAny && i % 4 == 3);
    const ClipSpec spec = ClipAt(data_seed, kUnseen + static_cast<uint64_t>(i),
                                 {.pace = fast ? Pace::kFast : Pace::kSlow});
    std::vector<uint8_t> rgb = RenderClip(spec, kDenseFrames, height, width);
    const at::Tensor pixels =
        at::from_blob(rgb.data(), {kDenseFrames, height, width, 3}, at::kByte);
    std::vector<at::Tensor> latents;
    for (const at::Tensor& part : pixels.split(16)) {
      latents.push_back(
          encoder.Encode(ToNetworkInput(part).to(placement.device)).to(at::kCPU, at::kFloat));
    }
    return InterpolationRecord(
        methods, at::cat(latents), fast, common.seed + static_cast<uint64_t>(i),
        decode ? std::function<at::Tensor(const at::Tensor&)>(decoder) : nullptr);
  });
  SummarizeInterpolation(methods, records, common.seed, result);
  if (mfi.empty()) {
    result.report.notes.push_back("No masked frame interpolation: there are no weights of it.");
  }
  common.Finish(result);
  return 0;
}

// Real clips with their texts: of the domain, or of a folder of videos.
struct RealClip {
  at::Tensor frames;  // uint8 [T, H, W, 3]
  std::string text;
};
using RealClips = std::function<RealClip(int64_t clip)>;

at::Tensor ToTensor(const std::vector<uint8_t>& rgb, int64_t frames, int64_t height,
                    int64_t width) {
  at::Tensor tensor = at::empty({frames, height, width, 3}, at::kByte);
  std::copy(rgb.begin(), rgb.end(), tensor.data_ptr<uint8_t>());
  return tensor;
}

RealClips OfDomain(const Common& common, const ModelGenerator& generator) {
  const auto clips = DrawPrompts({.seed = common.seed, .count = common.count});
  return [clips, frames = generator.level().frames, request = generator.request()](int64_t i) {
    const PromptClip& clip = clips[static_cast<size_t>(i)];
    const auto rgb = RenderClip(clip.spec, static_cast<int>(frames),
                                static_cast<int>(request.height), static_cast<int>(request.width));
    return RealClip{ToTensor(rgb, frames, request.height, request.width), clip.prompt};
  };
}

RealClips OfFolder(const Common& common, const ModelGenerator& generator,
                   const std::string& folder) {
  const model::Level& level = generator.level();
  const model::GenerationRequest& request = generator.request();
  absl::StatusOr<VideoFolder> opened = VideoFolder::Open(
      {.folder = folder,
       .frames = static_cast<int>(level.frames),
       .fps = static_cast<double>(level.fps_numerator) / static_cast<double>(level.fps_denominator),
       .height = static_cast<int>(request.height),
       .width = static_cast<int>(request.width),
       .random_start = false});
  if (!opened.ok()) Invalid("--videos: " + std::string(opened.status().message()));
  const auto videos = std::make_shared<const VideoFolder>(*std::move(opened));
  if (videos->size() < common.count) {
    Invalid("--videos holds " + std::to_string(videos->size()) +
            " videos that can be used, must hold at least --count");
  }
  return [videos, seed = common.seed, frames = level.frames, request](int64_t i) {
    absl::StatusOr<VideoSample> sample = videos->Get(seed, static_cast<uint64_t>(i));
    if (!sample.ok()) {
      throw ModelError(ModelError::Kind::kDataLoss,
                       "--videos: " + std::string(sample.status().message()));
    }
    return RealClip{ToTensor(sample->rgb, frames, request.height, request.width), sample->text};
  };
}

Preprocessing PreprocessingOf(const std::string& name, FeatureKind kind) {
  if (name == "i3d" || (name.empty() && kind == FeatureKind::kFvd)) return Preprocessing::I3d();
  if (name == "c3d" || (name.empty() && kind == FeatureKind::kIs)) return Preprocessing::C3d();
  if (name == "clip" || (name.empty() && kind == FeatureKind::kClipsim)) {
    return Preprocessing::ClipImage();
  }
  if (name == "inception") return Preprocessing::Inception(kind == FeatureKind::kFvd);
  if (name == "video" || name == "image") {
    Preprocessing plain;
    plain.video = name == "video";
    plain.switches = {{"return_features", kind == FeatureKind::kFvd}};
    return plain;
  }
  Invalid("--preprocessing is \"" + name +
          "\", must be i3d, c3d, inception, clip, video, image or empty");
}

// Lines {"text", "tokens"}.
std::map<std::string, std::vector<int64_t>> ReadTokens(const std::string& path) {
  std::ifstream stream(path, std::ios::binary);
  if (!stream) throw ModelError(ModelError::Kind::kNotFound, "cannot read " + path);
  std::map<std::string, std::vector<int64_t>> tokens;
  std::string line;
  for (int number = 1; std::getline(stream, line); ++number) {
    if (line.empty()) continue;
    try {
      const Json json = Json::parse(line);
      tokens[json.at("text").get<std::string>()] = json.at("tokens").get<std::vector<int64_t>>();
    } catch (const Json::exception& error) {
      throw ModelError(ModelError::Kind::kDataLoss,
                       path + " line " + std::to_string(number) + ": " + error.what());
    }
  }
  return tokens;
}

int Features(Common common, const std::vector<std::string>& arguments, bool help) {
  GeneratorOptions options;
  std::string kind_name, extractor, text_extractor, tokens_file, videos, preprocessing,
      write_prompts;
  int splits = 10;
  FlagSet flags;
  common.AddTo(flags);
  AddGeneratorFlags(options, flags);
  flags.Add("kind", &kind_name, "fvd, is or clipsim");
  flags.Add("extractor", &extractor, "TorchScript file: I3D, C3D, Inception, CLIP's images, ...");
  flags.Add("preprocessing", &preprocessing,
            "i3d, c3d, inception or clip as published; video or image: 0 to 1 as they are; empty: "
            "i3d, c3d or clip by the kind");
  flags.Add("text_extractor", &text_extractor, "clipsim: TorchScript file of the text encoder");
  flags.Add("tokens", &tokens_file,
            "clipsim: lines {\"text\", \"tokens\"}; empty: the model's own tokenizer");
  flags.Add("write_prompts", &write_prompts,
            "write the prompts, one a line, to this file and end; to make --tokens of");
  flags.Add("splits", &splits, "is: parts whose scores are averaged");
  flags.Add("videos", &videos, "folder of real videos with captions; empty: the domain");
  if (help) return std::printf("%s", flags.Usage().c_str()), 0;
  flags.Parse(arguments);
  options.placement = common.Prepare();
  options.model = common.model;
  const FeatureKind kind = ParseFeatureKind(kind_name);
  if (splits < 1) Invalid("--splits is " + std::to_string(splits) + ", must be 1 or more");
  ModelGenerator generator(options);
  const RealClips real =
      videos.empty() ? OfDomain(common, generator) : OfFolder(common, generator, videos);
  if (!write_prompts.empty()) {
    std::string text;
    for (int64_t i = 0; i < common.count; ++i) text += real(i).text + "\n";
    WriteText(write_prompts, text);
    return 0;
  }
  if (extractor.empty()) Invalid("--extractor is needed");
  FeatureExtractor images = FeatureExtractor::Load(extractor, PreprocessingOf(preprocessing, kind),
                                                   options.placement.device);
  std::optional<TextExtractor> texts;
  std::optional<model::Tokenizer> tokenizer;
  std::map<std::string, std::vector<int64_t>> tokens;
  if (kind == FeatureKind::kClipsim) {
    if (text_extractor.empty()) Invalid("--text_extractor is needed for clipsim");
    texts = TextExtractor::Load(text_extractor, options.placement.device);
    if (!tokens_file.empty()) {
      tokens = ReadTokens(tokens_file);
    } else {
      tokenizer.emplace(common.model + "/" + generator.config().tokenizer);
    }
  }
  const auto embed = [&](const std::string& text) {
    std::vector<int64_t> ids;
    if (tokenizer) {
      ids = tokenizer->EncodePadded(text, generator.config().text_encoder.max_length).ids;
    } else {
      const auto found = tokens.find(text);
      if (found == tokens.end()) Invalid("--tokens has no line for: " + text);
      ids = found->second;
    }
    return texts->Extract(at::tensor(ids, at::kLong).unsqueeze(0));  // [1, D]
  };
  // One observation a clip: frame by frame features are averaged.
  const auto features = [&](const at::Tensor& frames) {
    const at::Tensor out = images.Extract(frames.unsqueeze(0));  // [1, D] or [1, T, D]
    return out.dim() == 3 ? out.mean(1)[0] : out[0];
  };

  Result result;
  result.measure = "features";
  const std::string names[] = {"FVD", "IS", "CLIPSIM"};
  const std::string& name = names[static_cast<size_t>(kind)];
  result.report.title = name + " of " + generator.config().name;
  AddSettings(result, DescribeModel(generator.config(), common.model));
  AddSettings(result, generator.Settings());
  AddSettings(result, {{"kind", kind_name},
                       {"extractor", DescribeFile(extractor)},
                       {"preprocessing", preprocessing.empty() ? "as published" : preprocessing},
                       {"text extractor", DescribeFile(text_extractor)},
                       {"real clips", videos.empty() ? "the domain" : videos},
                       {"seed", std::to_string(common.seed)}});
  at::NoGradGuard no_grad;
  std::vector<Json> records = common.Measure(result, [&](int64_t i) {
    const RealClip clip = real(i);
    const at::Tensor made = generator.Generate(clip.text, common.seed + static_cast<uint64_t>(i));
    Json record;
    record["prompt"] = clip.text;
    switch (kind) {
      case FeatureKind::kFvd:
        record["real"] = ToRecord(features(clip.frames));
        record["generated"] = ToRecord(features(made));
        break;
      case FeatureKind::kIs:
        record["generated"] = ToRecord(features(made));
        break;
      case FeatureKind::kClipsim: {
        const at::Tensor text = embed(clip.text);
        record["generated"] = ClipSimilarity(images.Extract(made.unsqueeze(0)), text)[0];
        record["real"] = ClipSimilarity(images.Extract(clip.frames.unsqueeze(0)), text)[0];
        break;
      }
    }
    return record;
  });

  Table table{.title = name, .row_title = "clips", .columns = {{name, "", 3}}};
  if (kind == FeatureKind::kFvd) {
    const Interval fvd =
        FrechetInterval(FromRecords(records, "real"), FromRecords(records, "generated"));
    result.figures["fvd"] = fvd;
    table.Add("generated against real", {fvd});
    result.report.notes.push_back(
        "The distance falls with the number of clips: compare only figures of equal counts.");
  } else if (kind == FeatureKind::kIs) {
    const std::vector<double> scores = InceptionScore(FromRecords(records, "generated"), splits);
    result.figures["is"] = Mean(scores);
    table.Add("generated", {result.figures["is"]});
  } else {
    for (const char* which : {"generated", "real"}) {
      std::vector<double> values;
      for (const Json& record : records) values.push_back(record[which].get<double>());
      result.figures[which == std::string("real") ? "clipsim_real" : "clipsim"] = Mean(values);
      table.Add(which, {Mean(values)});
    }
  }
  result.report.tables.push_back(std::move(table));
  for (const Json& record : records) result.clips.push_back({{"prompt", record["prompt"]}});
  common.Finish(result);
  return 0;
}

int Compare(Common common, const std::vector<std::string>& arguments, bool help) {
  std::string out;
  FlagSet flags;
  flags.Add("out", &out, "Markdown file; empty: standard output only");
  if (help) {
    return std::printf("usage: kandinsky-eval table DIR... [--out FILE]\n%s",
                       flags.Usage().c_str()),
           0;
  }
  std::vector<std::string> folders, rest;
  for (const std::string& argument : arguments) {
    const bool value = !rest.empty() && rest.back() == "--out";
    (argument.starts_with("--") || value ? rest : folders).push_back(argument);
  }
  flags.Parse(rest);
  if (folders.empty()) Invalid("a folder with results is needed");
  Report report = CompareModels(folders);
  report.settings = {{"command", "`" + common.command + "`"}};
  const std::string text = ToMarkdown(report);
  if (!out.empty()) WriteText(out, text);
  std::printf("%s", text.c_str());
  return 0;
}

constexpr char kNotes[] =
    "With --json FILE, a run that ends early\n"
    "goes on when the same command is given again.\n"
    "Exit status: 0 done, 1 failed, 2 wrong usage.\n";

int Main(const std::vector<std::string>& arguments) {
  Common common;
  common.command = "kandinsky-eval";
  for (const std::string& argument : arguments) {
    const bool quote = argument.find(' ') != std::string::npos;
    common.command += quote ? " '" + argument + "'" : " " + argument;
  }
  const auto with_common = [&](auto run) {
    return [&common, run](const std::vector<std::string>& rest, bool help) {
      return run(common, rest, help);
    };
  };
  const std::vector<Command> commands = {
      {"prompts", "does a clip show what its prompt says?", with_common(Prompts)},
      {"autoencoder", "PSNR, SSIM, LPIPS-style distance and flicker of both decoders",
       with_common(Autoencoder)},
      {"interpolation", "error of interpolated frames, against linear blending and MFI",
       with_common(Interpolation)},
      {"features", "FVD, IS or CLIPSIM over TorchScript extractors", with_common(Features)},
      {"table", "results of several models side by side", with_common(Compare)},
  };
  return RunCommand("kandinsky-eval", commands, kNotes, arguments);
}

}  // namespace
}  // namespace kandinsky::training

int main(int argc, char** argv) { return kandinsky::training::Main({argv + 1, argv + argc}); }
