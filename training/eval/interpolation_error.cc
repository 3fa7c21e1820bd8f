#include "training/eval/interpolation_error.h"

#include <chrono>
#include <cmath>
#include <memory>
#include <optional>
#include <span>
#include <utility>

#include "training/eval/metrics.h"
#include "training/eval/reconstruction.h"
#include "training/trainers/export.h"
#include "worker/model/checkpoint/load.h"
#include "worker/model/checkpoint/tensor_source.h"
#include "worker/model/error.h"
#include "worker/model/interpolation.h"
#include "worker/model/mfi.h"
#include "worker/model/noise.h"
#include "worker/model/pipeline_parts.h"
#include "worker/model/sampler.h"
#include "worker/model/unet.h"

namespace kandinsky::training {
namespace {

using Json = nlohmann::ordered_json;
using model::ModelError;

constexpr const char* kQuestions[] = {"first", "second", "both"};

// A U-Net that fills in frames, and what it has instead of text.
struct Network {
  model::Unet unet;
  at::Tensor null_embedding;  // [W]
};

std::shared_ptr<Network> LoadNetwork(const model::UnetConfig& config, const std::string& directory,
                                     const model::WeightSource& unet,
                                     const model::WeightSource& null_embedding, at::Device device) {
  auto network = std::make_shared<Network>(Network{model::Unet(config, at::kMeta), {}});
  LoadModule(network->unet, directory, unet, device);
  network->unet.eval();
  network->null_embedding =
      model::LoadNullEmbedding(*model::OpenCheckpoint(directory + "/" + null_embedding.file),
                               null_embedding.prefix, config.context_dim);
  return network;
}

// Numbers of the frames 0 … frames - 1 that are no multiple of `every`.
at::Tensor Between(int64_t frames, int64_t every) {
  std::vector<int64_t> numbers;
  for (int64_t i = 0; i < frames; ++i) {
    if (i % every != 0) numbers.push_back(i);
  }
  return at::tensor(numbers, at::kLong);
}

struct Answer {
  at::Tensor made, truth;  // [T, z, h, w]
  int64_t every = 4;       // frames that were given
};

Json Compare(const Answer& answer,
             const std::function<at::Tensor(const at::Tensor& latents)>& decode,
             std::optional<at::Tensor>& decoded_truth) {
  const at::Tensor between = Between(answer.truth.size(0), answer.every);
  Json json;
  json["error"] = (answer.made.index_select(0, between) - answer.truth.index_select(0, between))
                      .to(at::kDouble)
                      .square()
                      .mean()
                      .item<double>();
  if (!decode) return json;
  if (!decoded_truth) decoded_truth = decode(answer.truth).contiguous();
  const at::Tensor decoded = decode(answer.made).contiguous();  // [T, H, W, 3]
  const auto levels = [](const at::Tensor& frames) {
    return std::span<const uint8_t>(frames.data_ptr<uint8_t>(),
                                    static_cast<size_t>(frames.numel()));
  };
  json["squared_error"] = MeanSquaredError(levels(decoded.index_select(0, between)),
                                           levels(decoded_truth->index_select(0, between)));
  json["flicker"] =
      Flicker(levels(decoded), levels(*decoded_truth), static_cast<int>(decoded.size(0)));
  return json;
}

}  // namespace

InterpolationMethod LinearBlending() {
  return {"linear", "linear blending", [](const at::Tensor& video, int, uint64_t) {
            const at::Tensor left = model::LeftKeyframes(video);
            const at::Tensor right = model::RightKeyframes(video);
            std::vector<at::Tensor> between;
            for (int k = 1; k <= model::kFramesPerGroup; ++k) {
              between.push_back(at::lerp(left, right, k / 4.0));
            }
            return model::MergeGroups(video, at::cat(between, 1));  // [G, 3 z, h, w]
          }};
}

InterpolationMethod UnetInterpolation(const model::ModelConfig& config,
                                      const std::string& directory, at::Device device,
                                      const InterpolationSampling& sampling) {
  const auto network =
      LoadNetwork(config.interpolation_unet, directory, config.weights.interpolation_unet,
                  config.weights.interpolation_null, device);
  model::SamplerConfig sampler = config.interpolation_sampling;
  sampler.steps = sampling.steps;
  return {
      "ours", "interpolation U-Net",
      [=, skip_frames = config.skip_frames, scale = sampling.guidance_scale](
          const at::Tensor& video, int pass, uint64_t seed) {
        const at::Tensor groups = model::SampleGroups(
            network->unet, video, network->null_embedding,
            {.pass = pass, .passes = 2, .skip_frames = skip_frames.at(static_cast<size_t>(pass))},
            sampler, {.scale = scale}, model::SeededNoise(seed));
        return model::MergeGroups(video, groups);
      }};
}

InterpolationMethod MaskedFrameInterpolation(const model::ModelConfig& config,
                                             const std::string& file, at::Device device,
                                             const InterpolationSampling& sampling) {
  const size_t slash = file.rfind('/');
  const std::string directory = slash == std::string::npos ? "." : file.substr(0, slash);
  const std::string name = slash == std::string::npos ? file : file.substr(slash + 1);
  const auto network = LoadNetwork(model::MfiUnetConfig(config.keyframe_unet), directory,
                                   {name, "unet."}, {name, "null_embedding"}, device);
  model::SamplerConfig sampler_config = config.keyframe_sampling;
  sampler_config.steps = sampling.steps;
  const auto sampler = std::make_shared<const model::Sampler>(sampler_config);
  return {"mfi", "masked frame interpolation",
          [=, scale = sampling.guidance_scale](const at::Tensor& video, int pass, uint64_t seed) {
            at::NoGradGuard no_grad;
            const model::SeededNoise noise(seed);
            const model::DenoisingLoop loop(
                *sampler,
                model::MakeMfiDenoiser(network->unet, video.to(device),
                                       network->null_embedding.to(device), {.scale = scale}),
                noise, model::NoiseStage::kInterpolation, pass, device);
            const at::Tensor sequences =
                loop.Run(loop.Start({(video.size(0) - 1) * model::kMfiFrames, video.size(1),
                                     video.size(2), video.size(3)}));
            return model::MergeMfi(video, sequences.to(at::kCPU, at::kFloat));
          }};
}

Json InterpolationRecord(const std::vector<InterpolationMethod>& methods, const at::Tensor& truth,
                         bool fast, uint64_t seed,
                         const std::function<at::Tensor(const at::Tensor& latents)>& decode) {
  if (truth.dim() != 4 || truth.size(0) < 17 || truth.size(0) % 16 != 1) {
    throw ModelError(
        ModelError::Kind::kInvalidArgument,
        "truth has shape " + c10::str(truth.sizes()) + ", must be [16 n + 1, z, h, w]");
  }
  const at::Tensor middle = truth.slice(0, 0, truth.size(0), 4);  // [4 n + 1, z, h, w]
  const at::Tensor keyframes = truth.slice(0, 0, truth.size(0), 16);
  std::optional<at::Tensor> decoded_middle, decoded_truth;
  Json record;
  record["fast"] = fast;
  for (const InterpolationMethod& method : methods) {
    const auto start = std::chrono::steady_clock::now();
    const at::Tensor first = method.run(keyframes, 0, seed);
    const at::Tensor both = method.run(first, 1, seed);
    const double seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    const at::Tensor second = method.run(middle, 1, seed);
    Json& json = record[method.name];
    json["first"] = Compare({first, middle, 4}, decode, decoded_middle);
    json["second"] = Compare({second, truth, 4}, decode, decoded_truth);
    json["both"] = Compare({both, truth, 16}, decode, decoded_truth);
    json["seconds"] = seconds;
  }
  return record;
}

void SummarizeInterpolation(const std::vector<InterpolationMethod>& methods,
                            const std::vector<Json>& records, uint64_t seed, Result& result) {
  constexpr const char* kTitles[] = {"First pass: 16 true keyframes to 61 frames",
                                     "Second pass: 61 true frames to 241",
                                     "Both passes: 16 true keyframes to 241 frames"};
  for (size_t q = 0; q < std::size(kQuestions); ++q) {
    const std::string question = kQuestions[q];
    Table table{.title = kTitles[q],
                .row_title = "clips, method",
                .columns = {{"squared latent error", "", 6},
                            {"linear blending's error / this one's", "", 2},
                            {"PSNR of frames", "dB", 2},
                            {"flicker", "levels", 3}}};
    const bool both = question == "both";
    if (both) table.columns.push_back({"time a clip", "s", 2});
    for (const char* pace : {"all", "slow", "fast"}) {
      std::vector<const Json*> part;
      for (const Json& record : records) {
        const bool fast = record["fast"].get<bool>();
        if (pace == std::string("all") || fast == (pace == std::string("fast"))) {
          part.push_back(&record);
        }
      }
      if (part.empty()) continue;
      const auto count = static_cast<int64_t>(part.size());
      const auto column = [&](const std::string& method, const char* measure) {
        std::vector<double> values;
        for (const Json* record : part) {
          const Json& measured = (*record)[method][question];
          if (measured.contains(measure)) values.push_back(NumberOf(measured[measure]));
        }
        return values;
      };
      const auto sum = [](const std::vector<double>& values, std::span<const int64_t> drawn) {
        double total = 0;
        for (const int64_t i : drawn) total += values[static_cast<size_t>(i)];
        return total;
      };
      const std::vector<double> linear = column("linear", "error");
      for (const InterpolationMethod& method : methods) {
        const std::vector<double> errors = column(method.name, "error");
        const std::vector<double> squares = column(method.name, "squared_error");
        const std::string prefix = question + "." + pace + "." + method.name + ".";
        std::vector<std::optional<Interval>> cells(table.columns.size());
        const auto put = [&](size_t cell, const char* figure, const Interval& value) {
          cells[cell] = value;
          result.figures[prefix + figure] = value;
        };
        put(0, "error", Mean(errors));
        if (method.name == "linear") cells[1] = Interval{1, 1, 1, count};
        if (!linear.empty() && method.name != "linear") {
          put(1, "ratio",
              Bootstrap(
                  count,
                  [&](std::span<const int64_t> drawn) {
                    return sum(linear, drawn) / sum(errors, drawn);
                  },
                  seed));
        }
        if (!squares.empty()) {
          put(2, "psnr",
              Bootstrap(
                  count,
                  [&](std::span<const int64_t> drawn) {
                    return PsnrOfError(sum(squares, drawn) / static_cast<double>(drawn.size()));
                  },
                  seed));
          put(3, "flicker", Mean(column(method.name, "flicker")));
        }
        if (both) {
          std::vector<double> seconds;
          for (const Json* record : part) {
            seconds.push_back((*record)[method.name]["seconds"].get<double>());
          }
          put(4, "seconds", Mean(seconds));
        }
        table.Add(std::string(pace) + ", " + method.title, std::move(cells));
      }
    }
    result.report.tables.push_back(std::move(table));
  }
  result.clips = records;
}

}  // namespace kandinsky::training
