#include <algorithm>
#include <nlohmann/json.hpp>

#include "training/data/clip_source.h"
#include "training/domain/captions.h"
#include "training/domain/random.h"
#include "worker/model/error.h"

namespace kandinsky::training {
namespace {

constexpr uint64_t kStartStream = 11;  // where in the clip the frames start

class ShapesSource : public ClipSource {
 public:
  ShapesSource(uint64_t seed, const ClipOptions& options, double leave_out)
      : seed_(seed), options_(options), leave_out_(leave_out) {}

  nlohmann::json Fingerprint() const override {
    return {{"data", "shapes"},
            {"seed", seed_},
            {"split", static_cast<int>(options_.split)},
            {"pace", static_cast<int>(options_.pace)},
            {"fast_fraction", options_.fast_fraction},
            {"circling_fraction", options_.circling_fraction},
            {"directional_weight", options_.directional_weight},
            {"unnamed_colors", options_.unnamed_colors},
            {"mixed_colors", options_.mixed_colors},
            {"leave_out", leave_out_}};
  }

  Clip Read(uint64_t index, const ClipRequest& request) const override {
    constexpr double kLast = kDenseFrames - 1;
    const double length = request.spacing * static_cast<double>(request.frames - 1);
    if (length > kLast) {
      throw model::ModelError(model::ModelError::Kind::kInvalidArgument,
                              "frames * spacing is longer than the 241 frames of a clip");
    }
    const ClipSpec spec = ClipAt(seed_, index, options_);
    Random random = Random::At(seed_, kStartStream, index);
    const double start = random.Uniform(0, kLast - length);

    Clip clip;
    clip.frames = at::empty({request.frames, request.height, request.width, 3}, at::kByte);
    clip.focus = at::empty({request.frames, 2}, at::kFloat);
    const auto side = static_cast<double>(std::min(request.height, request.width));
    for (int64_t frame = 0; frame < request.frames; ++frame) {
      const double t =
          std::min(1.0, (start + request.spacing * static_cast<double>(frame)) / kLast);
      RenderFrame(spec, t, static_cast<int>(request.height), static_cast<int>(request.width),
                  clip.frames[frame].data_ptr<uint8_t>());
      const Point center = spec.CenterAt(t);
      float* focus = clip.focus[frame].data_ptr<float>();
      focus[0] =
          static_cast<float>(center.x * side + (static_cast<double>(request.width) - side) / 2);
      focus[1] =
          static_cast<float>(center.y * side + (static_cast<double>(request.height) - side) / 2);
    }
    static_cast<Description&>(clip) = Describe(index, spec, request, 0);
    return clip;
  }

  std::optional<Description> Redescribe(uint64_t index, const ClipRequest& request,
                                        uint64_t variant) const override {
    return Describe(index, ClipAt(seed_, index, options_), request, variant);
  }

 private:
  Description Describe(uint64_t index, const ClipSpec& spec, const ClipRequest& request,
                       uint64_t variant) const {
    const Captioned captioned =
        CaptionAt(seed_, index, spec, {.leave_out = leave_out_, .motion = request.motion}, variant);
    const auto known = [](bool mentioned, auto value) {
      return mentioned ? static_cast<int64_t>(value) : int64_t{-1};
    };
    return {captioned.text,
            {known(captioned.shape, spec.shape), known(captioned.color, spec.color),
             known(captioned.background, spec.background), known(captioned.motion, spec.motion)}};
  }

  const uint64_t seed_;
  const ClipOptions options_;
  const double leave_out_;
};

}  // namespace

std::vector<std::string> ClipSource::SheetPrompts() const {
  return {"a red circle moves to the right on a white background",
          "a blue square moves up on a white background",
          "a yellow triangle grows on a black background",
          "a green circle moves down on a gray background",
          "a purple square moves to the left on a cyan background",
          "an orange triangle shrinks on a black background",
          "a black square stays still on a white background",
          "a purple triangle moves to the right on a gray background"};
}

std::unique_ptr<ClipSource> MakeShapesSource(uint64_t seed, const ClipOptions& options,
                                             double leave_out) {
  return std::make_unique<ShapesSource>(seed, options, leave_out);
}

at::Tensor ToNetworkInput(const at::Tensor& pixels) {
  return pixels.movedim(-1, -3).to(at::kFloat).div_(127.5).sub_(1).contiguous();
}

}  // namespace kandinsky::training
