// kandinsky-train: makes the weights of a model directory.
#include <ATen/Parallel.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <iterator>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/strings/str_split.h"
#include "training/core/commands.h"
#include "training/core/distributed.h"
#include "training/core/flag_set.h"
#include "training/core/loop.h"
#include "training/core/options.h"
#include "training/core/task.h"
#include "training/data/clip_source.h"
#include "training/domain/export.h"
#include "training/domain/shapes.h"
#include "training/trainers/average.h"
#include "training/trainers/export.h"
#include "training/trainers/extractor_task.h"
#include "training/trainers/movq_task.h"
#include "training/trainers/text_task.h"
#include "training/trainers/tokenizer.h"
#include "training/trainers/unet_tasks.h"
#include "worker/model/error.h"
#include "worker/model/model_config.h"
#include "worker/model/pipeline.h"
#include "worker/model/weights_init.h"
#include "worker/process/processors.h"

namespace kandinsky::training {
namespace {

using model::ModelConfig;

std::atomic<int> signals{0};

void OnSignal(int signal) {
  // The first one ends the run after the step at hand, a second one at once.
  if (signals.fetch_add(1) > 0) {
    std::signal(signal, SIG_DFL);
    std::raise(signal);
  }
}

// What every trainer takes.
struct Common {
  std::string preset;
  std::string device = "auto";
  int threads = 0;  // resolved by Prepare
  std::string videos, emoji;
  uint64_t data_seed = 1;
  ClipOptions clip;
  double leave_out = 0.1;
  std::string optimizer = "adamw";
  TrainOptions train;

  void AddTo(FlagSet& flags) {
    flags.Add("preset", &preset, "directory with model.json and tokenizer to copy into --out");
    flags.Add("out", &train.out, "model directory to fill; runs go on where they ended");
    flags.Add("steps", &train.steps, "training steps");
    flags.Add("batch_size", &train.batch_size, "samples a step, of all processes together");
    flags.Add("seed", &train.seed, "of weights and noise");
    flags.Add("videos", &videos,
              "folder of videos with captions to learn from; empty: the moving shapes");
    flags.Add("emoji", &emoji,
              "folder of animated emoji to learn from (training/data/fetch_emoji); empty: none");
    flags.Add("data_seed", &data_seed, "of the clips, or of the order of the videos");
    flags.Add("fast_fraction", &clip.fast_fraction, "part of the clips that bounce or circle");
    flags.Add("circling_fraction", &clip.circling_fraction, "part of those that circle");
    flags.Add("directional_weight", &clip.directional_weight,
              "how often left, right, up, down are drawn for once that others are");
    flags.Add("unnamed_colors", &clip.unnamed_colors,
              "part of the clips whose shape has a colour that no caption names");
    flags.Add("mixed_colors", &clip.mixed_colors,
              "part of the clips whose shape has the middle of two colours, which captions name");
    flags.Add("leave_out", &leave_out, "how often a caption leaves a word out, each on its own");
    flags.Add("optimizer", &optimizer,
              "adamw, or muon: matrices and kernels move in orthogonalised directions");
    flags.Add("learning_rate", &train.learning_rate, "the optimizer's, after the warm-up");
    flags.Add("beta1", &train.beta1, "AdamW's");
    flags.Add("beta2", &train.beta2, "AdamW's");
    flags.Add("weight_decay", &train.weight_decay, "AdamW's");
    flags.Add("warmup_steps", &train.warmup_steps, "linear");
    flags.Add("gradient_clip", &train.gradient_clip, "largest gradient norm; 0: none");
    flags.Add("ema_decay", &train.ema_decay, "of the averaged weights, which are exported");
    flags.Add("stop_at", &train.stop_at, "end after this step as if interrupted; 0: do not");
    flags.Add("export_at_stop", &train.export_at_stop,
              "write the weights at --stop_at, too, not only at the last step");
    flags.Add("checkpoint_seconds", &train.checkpoint_seconds, "between states on disk");
    flags.Add("log_every", &train.log_every, "steps between lines of log.csv");
    flags.Add("sample_every", &train.sample_every, "steps between sample sheets; 0: at the end");
    flags.Add("loader_threads", &train.loader_threads, "threads that make batches");
    flags.Add("resume", &train.resume, "go on with a state that is there");
    flags.Add("metrics_listen", &train.metrics_listen, "host:port of /metrics; empty: none");
    flags.Add("progress", &train.progress, "show it on standard error");
    flags.Add("device", &device, "auto, cpu, cuda or cuda:N (auto: by LOCAL_RANK)");
    flags.Add("threads", &threads, "CPU threads of the arithmetic; 0: one a usable processor");
  }
};

struct Prepared {
  ModelConfig config;
  at::Device device = at::kCPU;
  std::shared_ptr<const ClipSource> source;
};

Prepared Prepare(Common& common) {
  Prepared prepared;
  common.train.optimizer = ParseOptimizer(common.optimizer);
  if (common.train.out.empty()) {
    throw model::ModelError(model::ModelError::Kind::kInvalidArgument, "--out is needed");
  }
  prepared.device = model::ParsePlacement(common.device, "float32").device;
  if (common.device == "auto" && prepared.device.is_cuda()) {
    prepared.device =
        model::ParsePlacement("cuda:" + std::to_string(LocalRank()), "float32").device;
  }
  CheckRange("--fast_fraction", common.clip.fast_fraction, 0, 1, "0 to 1");
  CheckRange("--circling_fraction", common.clip.circling_fraction, 0, 1, "0 to 1");
  CheckRange("--unnamed_colors", common.clip.unnamed_colors, 0, 1, "0 to 1");
  CheckRange("--mixed_colors", common.clip.mixed_colors, 0, 1 - common.clip.unnamed_colors,
             "0 to 1 - unnamed_colors");
  CheckRange("--leave_out", common.leave_out, 0, 1, "0 to 1");
  CheckRange("--threads", common.threads, 0, kMaxThreads, "0 (auto) to 1024");
  common.threads = ThreadsOrAuto(common.threads);
  at::set_num_threads(common.threads);
  if (!common.preset.empty()) {
    PrepareModelDirectory(ModelConfig::Load(common.preset), common.preset, common.train.out);
  }
  prepared.config = ModelConfig::Load(common.train.out);
  if (!common.emoji.empty()) {
    const ClipOptions defaults;
    const auto refuse = [](const char* flag, bool given) {
      if (!given) return;
      throw model::ModelError(model::ModelError::Kind::kInvalidArgument,
                              std::string(flag) + " is for the moving shapes, not for --emoji");
    };
    refuse("--videos", !common.videos.empty());
    refuse("--fast_fraction", common.clip.fast_fraction != defaults.fast_fraction);
    refuse("--circling_fraction", common.clip.circling_fraction != defaults.circling_fraction);
    refuse("--unnamed_colors", common.clip.unnamed_colors != 0);
    refuse("--mixed_colors", common.clip.mixed_colors != 0);
    prepared.source =
        MakeEmojiSource(common.emoji, common.data_seed,
                        {.directional_weight = common.clip.directional_weight}, common.leave_out);
  } else if (!common.videos.empty()) {
    prepared.source = MakeFolderSource(common.videos, common.data_seed);
  } else {
    prepared.source = MakeShapesSource(common.data_seed, common.clip, common.leave_out);
  }
  return prepared;
}

int Run(Task& task, const Common& common, at::Device device) {
  const std::unique_ptr<ProcessGroup> group = JoinProcessGroup(device);
  task.Prepare(*group);  // which signals end at once
  std::signal(SIGINT, OnSignal);
  std::signal(SIGTERM, OnSignal);
  const TrainResult result = Train(task, common.train, *group, [] { return signals.load() > 0; });
  if (group->rank() == 0) {
    std::printf("%s: %lld of %lld steps%s\n", task.name().c_str(),
                static_cast<long long>(result.step), static_cast<long long>(common.train.steps),
                result.finished ? ", weights written" : "; run the same command to go on");
  }
  return 0;
}

int Init(const std::vector<std::string>& arguments, bool help) {
  std::string preset, out;
  uint64_t seed = 0;
  FlagSet flags;
  flags.Add("preset", &preset, "directory with model.json and a tokenizer, such as models/tiny");
  flags.Add("out", &out, "model directory to write; existing files are replaced");
  flags.Add("seed", &seed, "0 to 2^64-1; equal presets and seeds give equal files");
  if (help) return std::printf("%s", flags.Usage().c_str()), 0;
  flags.Parse(arguments);
  if (preset.empty() || out.empty()) {
    throw model::ModelError(model::ModelError::Kind::kInvalidArgument,
                            "--preset and --out are needed");
  }
  model::WriteRandomModel(ModelConfig::Load(preset), preset, out, seed);
  std::printf("%s\n", out.c_str());
  return 0;
}

int Average(const std::vector<std::string>& arguments, bool help) {
  std::string weights, out;
  FlagSet flags;
  flags.Add("weights", &weights, "weight files of one network, with commas between them");
  flags.Add("out", &out, "safetensors file to write; an existing one is replaced");
  if (help) return std::printf("%s", flags.Usage().c_str()), 0;
  flags.Parse(arguments);
  if (out.empty()) {
    throw model::ModelError(model::ModelError::Kind::kInvalidArgument, "--out is needed");
  }
  AverageWeights(absl::StrSplit(weights, ',', absl::SkipEmpty()), out);
  std::printf("%s\n", out.c_str());
  return 0;
}

int TrainTokenizer(const std::vector<std::string>& arguments, bool help) {
  std::string emoji, out;
  TokenizerOptions options;
  int64_t captions = 200000;
  uint64_t data_seed = 1;
  FlagSet flags;
  flags.Add("emoji", &emoji,
            "folder of animated emoji whose captions it learns; empty: the moving shapes");
  flags.Add("out", &out, "SentencePiece file to write; an existing one is replaced");
  flags.Add("captions", &captions, "how many captions, 1000 to 10000000");
  flags.Add("data_seed", &data_seed, "of the clips");
  flags.Add("pieces", &options.pieces, "of the vocabulary");
  if (help) return std::printf("%s", flags.Usage().c_str()), 0;
  flags.Parse(arguments);
  if (out.empty()) {
    throw model::ModelError(model::ModelError::Kind::kInvalidArgument, "--out is needed");
  }
  CheckRange("--captions", static_cast<double>(captions), 1000, 1e7, "1000 to 10000000");
  const std::unique_ptr<ClipSource> source =
      emoji.empty() ? MakeShapesSource(data_seed, {}) : MakeEmojiSource(emoji, data_seed, {});
  std::vector<std::string> texts;
  for (int64_t i = 0; i < captions; ++i) {
    texts.push_back(source->Redescribe(static_cast<uint64_t>(i), {}, 0)->caption);
  }
  const std::string wrong = WriteTokenizer(texts, options, out);
  if (!wrong.empty()) {
    throw model::ModelError(model::ModelError::Kind::kInvalidArgument, wrong);
  }
  std::printf("%s\n", out.c_str());
  return 0;
}

int TrainMovq(const std::vector<std::string>& arguments, bool help) {
  Common common;
  MovqTaskOptions options;
  FlagSet flags;
  common.AddTo(flags);
  flags.Add("height", &options.height, "pixels");
  flags.Add("width", &options.width, "pixels");
  flags.Add("crop", &options.crop, "side of the crops at the start; 0: whole frames only");
  flags.Add("crop_part", &options.crop_part, "part of the steps that see crops");
  flags.Add("squared_weight", &options.squared_weight, "of the squared error beside the absolute");
  flags.Add("gradient_weight", &options.gradient_weight,
            "of the absolute error of differences of neighbouring pixels");
  flags.Add("latent_noise", &options.latent_noise, "deviation of noise on latents");
  flags.Add("range_weight", &options.range_weight, "of relu(|z| - 1)^2");
  flags.Add("codebook_size", &options.codebook_size, "vectors of the quantiser; 0: none");
  flags.Add("commitment", &options.commitment, "weight that pulls latents to the codebook");
  flags.Add("perceptual_extractor", &options.perceptual_extractor,
            "TorchScript file of features; empty: none");
  flags.Add("perceptual_weight", &options.perceptual_weight, "of the features' squared error");
  flags.Add("adversarial_weight", &options.adversarial_weight,
            "of the patch discriminator; 0: none");
  flags.Add("adversarial_start", &options.adversarial_start,
            "part of the steps before it takes part");
  flags.Add("from", &options.from,
            "model directory of the autoencoder to start from; empty: random weights");
  flags.Add(
      "anchor", &options.anchor,
      "model directory of an autoencoder whose latents of clips with one of the eight colours "
      "in their captions are to stay; empty: none");
  flags.Add("anchor_weight", &options.anchor_weight, "of the squared distance from those latents");
  flags.Add("freeze_encoder", &options.freeze_encoder,
            "train the decoder only, so that latents stay what they are");
  if (help) return std::printf("%s", flags.Usage().c_str()), 0;
  flags.Parse(arguments);
  if (!options.anchor.empty() && !(common.videos.empty() && common.emoji.empty())) {
    throw model::ModelError(
        model::ModelError::Kind::kInvalidArgument,
        "--anchor holds colours of the moving shapes, which --videos and --emoji have not");
  }
  const Prepared prepared = Prepare(common);
  const auto task =
      MakeMovqTask(prepared.config, prepared.source, options, common.train.seed, prepared.device);
  return Run(*task, common, prepared.device);
}

int TrainDecoder(const std::vector<std::string>& arguments, bool help) {
  Common common;
  common.train.batch_size = 2;
  common.train.learning_rate = 3e-4;
  DecoderTaskOptions options;
  FlagSet flags;
  common.AddTo(flags);
  flags.Add("height", &options.height, "pixels");
  flags.Add("width", &options.width, "pixels");
  flags.Add("frames", &options.frames, "of a clip");
  flags.Add("spacing", &options.spacing, "of the frames, in frames of 30 a second");
  flags.Add("squared_weight", &options.squared_weight, "of the squared error beside the absolute");
  flags.Add("latent_noise", &options.latent_noise, "deviation of noise on latents");
  flags.Add("temporal_only", &options.temporal_only, "train only what the image decoder lacks");
  if (help) return std::printf("%s", flags.Usage().c_str()), 0;
  flags.Parse(arguments);
  const Prepared prepared = Prepare(common);
  const auto task = MakeDecoderTask(prepared.config, common.train.out, prepared.source, options,
                                    common.train.seed, prepared.device);
  return Run(*task, common, prepared.device);
}

void AddUnetFlags(UnetTaskOptions& options, FlagSet& flags) {
  flags.Add("height", &options.height, "pixels");
  flags.Add("width", &options.width, "pixels");
  flags.Add("clips", &options.clips, "clips of the pool, encoded once before training");
  flags.Add("encode_ahead", &options.encode_ahead,
            "encode the pool before the first step; false: each clip when it is first drawn");
  flags.Add("pool", &options.pool,
            "file that keeps the pool, for runs with the same clips; empty: "
            "training/TASK/latents.safetensors of --out");
  flags.Add("schedule_steps", &options.schedule_steps, "steps of the noise schedule");
  flags.Add("timestep_shift", &options.timestep_shift,
            "above 1: more training on high noise; 1: on all timesteps alike");
  flags.Add("unconditional", &options.unconditional, "how often the condition is left out");
  flags.Add("captions", &options.captions,
            "captions of each clip of the shapes; 0: a new one whenever it is drawn");
  flags.Add("from", &options.from,
            "model directory of the weights to start from; empty: that of --out");
}

void AddTuneFlag(UnetTaskOptions& options, FlagSet& flags) {
  flags.Add("tune", &options.tune,
            "model directory whose weights of the same network are trained on; empty: start from "
            "text-to-image weights");
}

int TrainTextToImage(const std::vector<std::string>& arguments, bool help) {
  Common common;
  common.train.batch_size = 48;
  TextToImageOptions options;
  FlagSet flags;
  common.AddTo(flags);
  AddUnetFlags(options, flags);
  flags.Add("frames", &options.frames, "frames of each clip of the pool");
  flags.Add("attribute_weight", &options.attribute_weight,
            "of the heads that read attributes off the pooled text; 0: none");
  flags.Add("interpolation", &options.interpolation,
            "with the dimensions of the interpolation U-Net, as a start for its trainer");
  if (help) return std::printf("%s", flags.Usage().c_str()), 0;
  flags.Parse(arguments);
  const Prepared prepared = Prepare(common);
  options.threads = common.threads;
  const auto task = MakeTextToImageTask(prepared.config, common.train.out, prepared.source, options,
                                        common.train.seed, prepared.device);
  return Run(*task, common, prepared.device);
}

int TrainText(const std::vector<std::string>& arguments, bool help) {
  Common common;
  common.train.batch_size = 128;
  TextTaskOptions options;
  FlagSet flags;
  common.AddTo(flags);
  flags.Add("from", &options.from,
            "model directory of the text encoder to start from; empty: that of --out");
  flags.Add("anchor_weight", &options.anchor_weight,
            "of the squared distance from the contexts at the start");
  if (help) return std::printf("%s", flags.Usage().c_str()), 0;
  flags.Parse(arguments);
  if (!common.videos.empty()) {
    throw model::ModelError(
        model::ModelError::Kind::kInvalidArgument,
        "text learns the attributes of the moving shapes, which --videos has not");
  }
  const Prepared prepared = Prepare(common);
  const auto task =
      MakeTextTask(prepared.config, common.train.out, prepared.source, options, prepared.device);
  return Run(*task, common, prepared.device);
}

// Names of an attribute's `count` values, with commas between them.
template <typename Attribute>
std::vector<Attribute> ParseNames(const std::string& flag, const std::string& names, int count) {
  const std::vector<std::string> split = absl::StrSplit(names, ',', absl::SkipEmpty());
  std::vector<Attribute> values;
  for (const std::string& name : split) {
    std::string known;
    int value = 0;
    for (; value < count && Name(static_cast<Attribute>(value)) != name; ++value) {
      known += (value > 0 ? ", " : "") + std::string(Name(static_cast<Attribute>(value)));
    }
    if (value == count) {
      throw model::ModelError(model::ModelError::Kind::kInvalidArgument,
                              flag + " has \"" + name + "\", must be of " + known);
    }
    values.push_back(static_cast<Attribute>(value));
  }
  return values;
}

int TrainKeyframes(const std::vector<std::string>& arguments, bool help) {
  Common common;
  common.train.batch_size = 6;
  common.clip.directional_weight = 2;
  KeyframesOptions options;
  std::string variant, colors, backgrounds, motions;
  FlagSet flags;
  common.AddTo(flags);
  AddUnetFlags(options, flags);
  AddTuneFlag(options, flags);
  flags.Add(
      "variant", &variant,
      "Conv1dAttn1dLayers, Conv1dAttn1dBlocks, Conv1dAttn3dBlocks or Conv3dAttn1dBlocks; empty: "
      "that of model.json");
  flags.Add("spacing", &options.spacing, "of keyframes, in frames of 30 a second");
  flags.Add("spacing_least", &options.spacing_least,
            "clips of the pool have spacings from this to --spacing; 0: all have that");
  flags.Add("spatial_rate", &options.spatial_rate,
            "learning rate of the spatial parts for 1 of the temporal ones; 0: frozen");
  flags.Add("frames", &options.frames,
            "keyframes of each clip, spread evenly over it; 0: all of them");
  flags.Add("layout_weight", &options.layout_weight,
            "of a head that reads off where things are, whatever their colour; 0: none");
  const std::string only = "only clips whose captions say one of these, such as ";
  flags.Add("colors", &colors, only + "red,blue; empty: any");
  flags.Add("backgrounds", &backgrounds, only + "white,gray; empty: any");
  flags.Add("motions", &motions, only + "right,down,grow; empty: any");
  if (help) return std::printf("%s", flags.Usage().c_str()), 0;
  flags.Parse(arguments);
  options.colors = ParseNames<Color>("--colors", colors, kColors);
  options.backgrounds = ParseNames<Background>("--backgrounds", backgrounds, kBackgrounds);
  options.motions = ParseNames<Motion>("--motions", motions, kMotions);
  if (!common.emoji.empty() && !(colors.empty() && backgrounds.empty())) {
    throw model::ModelError(
        model::ModelError::Kind::kInvalidArgument,
        "--colors and --backgrounds are for the moving shapes, not for --emoji");
  }
  Prepared prepared = Prepare(common);
  options.threads = common.threads;
  if (!variant.empty()) {
    prepared.config.keyframe_unet.temporal_variant = model::ParseTemporalVariant(variant);
    prepared.config.variant = variant;
  }
  const auto task = MakeKeyframesTask(prepared.config, common.train.out, prepared.source, options,
                                      common.train.seed, prepared.device);
  return Run(*task, common, prepared.device);
}

int TrainInterpolation(const std::vector<std::string>& arguments, bool help) {
  Common common;
  common.train.batch_size = 8;
  InterpolationOptions options;
  std::string baseline;
  FlagSet flags;
  common.AddTo(flags);
  AddUnetFlags(options, flags);
  AddTuneFlag(options, flags);
  flags.Add("baseline", &baseline, "mfi: masked frame interpolation instead; empty: none");
  flags.Add("groups", &options.groups, "of a sample: 4 groups + 1 frames");
  flags.Add("skip_least", &options.skip_least, "least distance of frames, 30 a second");
  flags.Add("skip_most", &options.skip_most, "largest distance of frames");
  flags.Add("served_skips", &options.served_skips,
            "only the distances that the service asks for, interpolation_sampling.skip_frames of "
            "model.json, instead of those two");
  flags.Add("perturbation_most", &options.perturbation_most,
            "most steps of noise on the keyframes");
  if (help) return std::printf("%s", flags.Usage().c_str()), 0;
  flags.Parse(arguments);
  if (!baseline.empty() && baseline != "mfi") {
    throw model::ModelError(model::ModelError::Kind::kInvalidArgument,
                            "--baseline is \"" + baseline + "\", must be mfi or empty");
  }
  options.mfi = baseline == "mfi";
  const Prepared prepared = Prepare(common);
  options.threads = common.threads;
  const auto task = MakeInterpolationTask(prepared.config, common.train.out, prepared.source,
                                          options, common.train.seed, prepared.device);
  return Run(*task, common, prepared.device);
}

int TrainExtractor(const std::vector<std::string>& arguments, bool help) {
  Common common;
  common.train.batch_size = 32;
  ExtractorOptions options;
  FlagSet flags;
  common.AddTo(flags);
  flags.Add("height", &options.height, "pixels");
  flags.Add("width", &options.width, "pixels");
  flags.Add("frames", &options.frames, "of a clip");
  flags.Add("spacing", &options.spacing, "of the frames, in frames of 30 a second");
  flags.Add("contrast_weight", &options.contrast_weight,
            "of the loss that brings frames and captions together");
  if (help) return std::printf("%s", flags.Usage().c_str()), 0;
  flags.Parse(arguments);
  if (!common.emoji.empty()) {
    throw model::ModelError(model::ModelError::Kind::kInvalidArgument,
                            "extractor learns the attributes of the moving shapes, not --emoji");
  }
  const Prepared prepared = Prepare(common);
  const auto task = MakeExtractorTask(prepared.config, common.train.out, prepared.source, options,
                                      common.train.seed, prepared.device);
  return Run(*task, common, prepared.device);
}

// The number of the name among names.
template <typename T, size_t N>
T Choose(const char* flag, const std::string& name, const std::string_view (&names)[N]) {
  const auto found = std::find(std::begin(names), std::end(names), name);
  if (found == std::end(names)) {
    std::string list(names[0]);
    for (size_t i = 1; i < N; ++i) list += (i + 1 < N ? ", " : " or ") + std::string(names[i]);
    throw model::ModelError(model::ModelError::Kind::kInvalidArgument,
                            std::string(flag) + " is \"" + name + "\", must be " + list);
  }
  return static_cast<T>(found - std::begin(names));
}

int MakeDataset(const std::vector<std::string>& arguments, bool help) {
  DatasetOptions options;
  std::string split = "train", pace = "any";
  FlagSet flags;
  flags.Add("out", &options.out, "folder to write; goes on where it ended");
  flags.Add("count", &options.count, "clips");
  flags.Add("seed", &options.seed, "of the data set");
  flags.Add("first", &options.first, "number of the first clip");
  flags.Add("size", &options.size, "pixels of each side, even, 16 to 4096");
  flags.Add("dense", &options.dense, "241 frames at 32 fps instead of 16 at 2 fps");
  flags.Add("split", &split, "train, held-out or all");
  flags.Add("pace", &pace, "any, slow or fast");
  flags.Add("russian", &options.caption.russian, "part of the captions that is Russian");
  flags.Add("leave_out", &options.caption.leave_out, "how often a caption leaves a word out");
  flags.Add("quality", &options.quality, "of the encoder, 0 to 100");
  flags.Add("threads", &options.threads, "0: one a core");
  if (help) return std::printf("%s", flags.Usage().c_str()), 0;
  flags.Parse(arguments);
  options.clip.split = Choose<Split>("--split", split, kSplitNames);
  options.clip.pace = Choose<Pace>("--pace", pace, kPaceNames);
  const bool terminal = isatty(STDERR_FILENO) != 0;
  const int64_t every = std::max<int64_t>(1, options.count / 100);
  const absl::Status written = WriteDataset(options, [&](int64_t done) {
    if (terminal && (done % every == 0 || done == options.count)) {
      std::fprintf(stderr, "\r%lld of %lld clips", static_cast<long long>(done),
                   static_cast<long long>(options.count));
    }
  });
  if (terminal) std::fputc('\n', stderr);
  if (absl::IsInvalidArgument(written)) {
    throw model::ModelError(model::ModelError::Kind::kInvalidArgument,
                            "--" + std::string(written.message()));
  }
  if (!written.ok()) {
    std::fprintf(stderr, "kandinsky-train dataset: %s\n", std::string(written.message()).c_str());
    return 1;
  }
  std::printf("%lld clips and captions.jsonl are in %s\n", static_cast<long long>(options.count),
              options.out.c_str());
  return 0;
}

const std::vector<Command> kCommands = {
    {"init", "write random weights for a preset", Init},
    {"average", "write the mean of weights that were trained from the same ones", Average},
    {"dataset", "write moving shapes as MP4 files with captions", MakeDataset},
    {"tokenizer", "train a SentencePiece tokenizer on captions", TrainTokenizer},
    {"movq", "train the MoVQ-GAN image autoencoder", TrainMovq},
    {"text-to-image", "train text encoder and spatial U-Net on single frames", TrainTextToImage},
    {"text", "train the text encoder on captions alone", TrainText},
    {"keyframes", "train the temporal parts of the keyframe U-Net", TrainKeyframes},
    {"interpolation", "train the interpolation U-Net, or --baseline mfi", TrainInterpolation},
    {"decoder", "train the temporal layers of the video decoder", TrainDecoder},
    {"extractor", "train small feature extractors for FVD, IS and CLIPSIM in kind", TrainExtractor},
};

constexpr char kNotes[] =
    "A run that ends early (Ctrl-C, SIGTERM,\n"
    "kill -9) goes on when the same command is given again. Several processes share the work when\n"
    "RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT are set.\n"
    "Exit status: 0 done or interrupted, 1 failed, 2 wrong usage.\n";

}  // namespace
}  // namespace kandinsky::training

int main(int argc, char** argv) {
  using namespace kandinsky::training;
  return RunCommand("kandinsky-train", kCommands, kNotes, {argv + 1, argv + argc});
}
