#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>
#include <utility>

#include "training/data/clip_source.h"
#include "training/data/emoji_art.h"
#include "training/domain/emoji.h"
#include "training/domain/random.h"
#include "worker/model/error.h"

namespace kandinsky::training {
namespace {

using model::ModelError;

constexpr uint64_t kStartStream = 23;  // where in the clip the frames start

class EmojiSource : public ClipSource {
 public:
  EmojiSource(std::shared_ptr<const EmojiArt> art, uint64_t seed, const EmojiClipOptions& options,
              double leave_out)
      : art_(std::move(art)), seed_(seed), options_(options), leave_out_(leave_out) {}

  nlohmann::json Fingerprint() const override {
    return {{"data", "emoji"},
            {"list", art_->checksum()},
            {"seed", seed_},
            {"split", static_cast<int>(options_.split)},
            {"directional_weight", options_.directional_weight},
            {"leave_out", leave_out_}};
  }

  AttributeCounts attribute_values() const override {
    return {classes(), 1, kEmojiBackgrounds, kEmojiMotions};
  }

  std::vector<std::string> SheetPrompts() const override {
    return {"a panda on a yellow background moves left",
            "a fox on a blue background stays still",
            "лягушка на красном фоне растёт",
            "a rocket on a black background moves up",
            "a red heart on a white background grows",
            "единорог на фиолетовом фоне движется вправо",
            "a clown on a green background shrinks",
            "a smiling cat on a gray background moves down"};
  }

  Clip Read(uint64_t index, const ClipRequest& request) const override {
    constexpr double kLast = kDenseFrames - 1;
    const double length = request.spacing * static_cast<double>(request.frames - 1);
    if (length > kLast) {
      throw ModelError(ModelError::Kind::kInvalidArgument,
                       "frames * spacing is longer than the 241 frames of a clip");
    }
    const EmojiSpec spec = SpecOf(index);
    Random random = Random::At(seed_, kStartStream, index);
    const double start = random.Uniform(0, kLast - length);
    Clip clip;
    clip.frames = at::empty({request.frames, request.height, request.width, 3}, at::kByte);
    clip.focus = at::empty({request.frames, 2}, at::kFloat);
    const auto side = static_cast<double>(std::min(request.height, request.width));
    for (int64_t frame = 0; frame < request.frames; ++frame) {
      const double t =
          std::min(1.0, (start + request.spacing * static_cast<double>(frame)) / kLast);
      art_->Draw(spec, t, static_cast<int>(request.height), static_cast<int>(request.width),
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
    return Describe(index, SpecOf(index), request, variant);
  }

 private:
  int classes() const { return static_cast<int>(art_->classes().size()); }
  EmojiSpec SpecOf(uint64_t index) const { return EmojiClipAt(seed_, index, classes(), options_); }

  Description Describe(uint64_t index, const EmojiSpec& spec, const ClipRequest& request,
                       uint64_t variant) const {
    const EmojiCaptioned captioned =
        EmojiCaptionAt(seed_, index, spec, art_->classes()[static_cast<size_t>(spec.emoji)],
                       {.leave_out = leave_out_, .motion = request.motion}, variant);
    return {captioned.text,
            {spec.emoji, -1, captioned.background ? static_cast<int64_t>(spec.background) : -1,
             captioned.motion ? static_cast<int64_t>(spec.motion) : -1}};
  }

  const std::shared_ptr<const EmojiArt> art_;
  const uint64_t seed_;
  const EmojiClipOptions options_;
  const double leave_out_;
};

}  // namespace

std::unique_ptr<ClipSource> MakeEmojiSource(const std::string& folder, uint64_t seed,
                                            const EmojiClipOptions& options, double leave_out) {
  absl::StatusOr<std::shared_ptr<const EmojiArt>> art = EmojiArt::Open(folder);
  if (!art.ok()) {
    ModelError::Kind kind = ModelError::Kind::kDataLoss;
    if (absl::IsInvalidArgument(art.status())) kind = ModelError::Kind::kInvalidArgument;
    if (absl::IsNotFound(art.status())) kind = ModelError::Kind::kNotFound;
    throw ModelError(kind, std::string(art.status().message()));
  }
  return std::make_unique<EmojiSource>(*std::move(art), seed, options, leave_out);
}

}  // namespace kandinsky::training
