#include "training/eval/reconstruction.h"

#include <cmath>
#include <limits>
#include <optional>
#include <span>

#include "training/eval/frechet.h"
#include "training/eval/judge_frames.h"
#include "training/eval/metrics.h"
#include "worker/model/error.h"

namespace kandinsky::training {
namespace {

using Json = nlohmann::ordered_json;
using model::ModelError;

std::span<const uint8_t> Levels(const at::Tensor& frames) {
  return {frames.data_ptr<uint8_t>(), static_cast<size_t>(frames.numel())};
}

Json JsonOf(double value) { return std::isfinite(value) ? Json(value) : Json(nullptr); }

// What of a clip's description is still to be seen in frames [T, H, W, 3].
Json Right(const Description& clip, const at::Tensor& frames) {
  const Verdict verdict = JudgeFrames(frames);
  Json right = Json::object();
  const auto compare = [&](size_t attribute, const auto& shown) {
    const int64_t said = clip.attributes[attribute];
    if (said < 0) return;
    right[kAttributeNames[attribute]] = shown && static_cast<int64_t>(*shown) == said;
  };
  compare(kShapeAttribute, verdict.shape);
  compare(kColorAttribute, verdict.color);
  compare(kBackgroundAttribute, verdict.background);
  return right;
}

}  // namespace

double NumberOf(const Json& value) {
  return value.is_number() ? value.get<double>() : std::numeric_limits<double>::quiet_NaN();
}

double MeanPerceptualDistance(const at::Tensor& frames, const at::Tensor& truth,
                              PerceptualNetwork& network) {
  at::NoGradGuard no_grad;
  double sum = 0;
  const std::vector<double> distances = PerceptualDistance(
      network.Activations(ToNetworkInput(frames)), network.Activations(ToNetworkInput(truth)));
  for (const double distance : distances) sum += distance;
  return sum / static_cast<double>(distances.size());
}

Json CompareFrames(const at::Tensor& frames, const at::Tensor& truth,
                   PerceptualNetwork* perceptual) {
  if (frames.sizes() != truth.sizes() || frames.dim() != 4) {
    throw ModelError(ModelError::Kind::kInvalidArgument,
                     "frames have shape " + c10::str(frames.sizes()) + ", must have that of " +
                         c10::str(truth.sizes()));
  }
  const at::Tensor a = frames.contiguous(), b = truth.contiguous();
  const int count = static_cast<int>(a.size(0));
  Json json;
  json["squared_error"] = MeanSquaredError(Levels(a), Levels(b));
  json["ssim"] = JsonOf(ClipSsim(Levels(a), Levels(b), count, static_cast<int>(a.size(1)),
                                 static_cast<int>(a.size(2))));
  json["flicker"] = JsonOf(Flicker(Levels(a), Levels(b), count));
  if (perceptual != nullptr) json["perceptual"] = MeanPerceptualDistance(a, b, *perceptual);
  return json;
}

Json ReconstructionRecord(const std::vector<Reconstructor>& reconstructors, const Clip& clip,
                          PerceptualNetwork* perceptual) {
  Json record;
  for (const Reconstructor& reconstructor : reconstructors) {
    const at::Tensor frames = reconstructor.run(clip.frames);
    record[reconstructor.name] = CompareFrames(frames, clip.frames, perceptual);
    record[reconstructor.name]["right"] = Right(clip, frames);
  }
  return record;
}

void SummarizeReconstruction(const std::vector<Reconstructor>& reconstructors,
                             const std::vector<Json>& records, bool held_out, uint64_t seed,
                             Result& result) {
  const std::string pairs = held_out ? "held-out pairs" : "seen pairs";
  const std::string prefix = held_out ? "held-out." : "";
  Table right{.title = "Attributes right after encoding and decoding, " + pairs,
              .row_title = "decoder",
              .columns = {{"shape", "%", 1},
                          {"colour", "%", 1},
                          {"background", "%", 1},
                          {"colour and shape", "%", 1}}};
  Table table{.title = "Reconstruction of unseen clips, " + pairs,
              .row_title = "decoder",
              .columns = {{"PSNR", "dB", 2},
                          {"SSIM", "", 4},
                          {"LPIPS-style distance", "", 4},
                          {"flicker", "levels", 2}}};
  for (const Reconstructor& reconstructor : reconstructors) {
    const auto column = [&](const char* measure) {
      std::vector<double> values;
      for (const Json& record : records) {
        const Json& measured = record[reconstructor.name];
        if (measured.contains(measure)) values.push_back(NumberOf(measured[measure]));
      }
      return values;
    };
    const std::vector<double> errors = column("squared_error");
    const Interval psnr = Bootstrap(
        static_cast<int64_t>(errors.size()),
        [&](std::span<const int64_t> drawn) {
          double sum = 0;
          for (const int64_t i : drawn) sum += errors[static_cast<size_t>(i)];
          return PsnrOfError(sum / static_cast<double>(drawn.size()));
        },
        seed);
    const Interval ssim = Mean(column("ssim")), flicker = Mean(column("flicker"));
    std::optional<Interval> distance;
    if (const std::vector<double> distances = column("perceptual"); !distances.empty()) {
      distance = Mean(distances);
      result.figures[prefix + reconstructor.name + ".perceptual"] = *distance;
    }
    result.figures[prefix + reconstructor.name + ".psnr"] = psnr;
    result.figures[prefix + reconstructor.name + ".ssim"] = ssim;
    result.figures[prefix + reconstructor.name + ".flicker"] = flicker;
    table.Add(reconstructor.title, {psnr, ssim, distance, flicker});

    const auto share = [&](const std::string& figure, std::initializer_list<size_t> attributes) {
      int64_t successes = 0, count = 0;
      for (const Json& record : records) {
        const Json& seen = record[reconstructor.name]["right"];
        bool known = true, all = true;
        for (const size_t attribute : attributes) {
          known = known && seen.contains(kAttributeNames[attribute]);
          all = all && seen.value(kAttributeNames[attribute], false);
        }
        count += known ? 1 : 0;
        successes += known && all ? 1 : 0;
      }
      return result.figures[prefix + reconstructor.name + "." + figure] =
                 Proportion(successes, count);
    };
    right.Add(reconstructor.title,
              {share("shape", {kShapeAttribute}), share("color", {kColorAttribute}),
               share("background", {kBackgroundAttribute}),
               share("color_and_shape", {kColorAttribute, kShapeAttribute})});
  }
  result.report.tables.push_back(std::move(table));
  result.report.tables.push_back(std::move(right));
  result.clips = records;
}

}  // namespace kandinsky::training
