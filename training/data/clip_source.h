// Where trainers get their clips: the generated domain, or a folder of videos.
#ifndef KANDINSKY_TRAINING_DATA_CLIP_SOURCE_H_
#define KANDINSKY_TRAINING_DATA_CLIP_SOURCE_H_

#include <ATen/ATen.h>

#include <array>
#include <cstdint>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "training/domain/emoji.h"
#include "training/domain/shapes.h"

namespace kandinsky::training {

// Samples from this number on are never trained on: sample sheets and evaluation use them.
inline constexpr uint64_t kUnseen = uint64_t{1} << 40;

// What a trainer wants to see of a clip.
struct ClipRequest {
  int64_t frames = 1;
  // Distance of neighbouring frames, in frames of 30 a second: 16 for keyframes, 1 for finished
  // video. They start anywhere in the clip where all of them have room.
  double spacing = 1;
  int64_t height = 64, width = 64;  // pixels
  bool motion = true;               // captions may mention motion
};

// What captions may mention, in the order of Clip::attributes.
inline constexpr int64_t kAttributes = 4;
inline constexpr size_t kShapeAttribute = 0, kColorAttribute = 1, kBackgroundAttribute = 2,
                        kMotionAttribute = 3;
inline constexpr const char* kAttributeNames[kAttributes] = {"shape", "color", "background",
                                                             "motion"};
using AttributeCounts = std::array<int64_t, kAttributes>;

struct Description {
  std::string caption;  // UTF-8
  // Shape (or emoji), colour, background and motion as the caption mentions them, numbered as in
  // the domain; -1: not mentioned or not known.
  std::array<int64_t, kAttributes> attributes = {-1, -1, -1, -1};
};

struct Clip : Description {
  at::Tensor frames;  // uint8 [T, H, W, 3]
  // Where to look in each frame: float [T, 2], (x, y) in pixels; undefined: nowhere special.
  at::Tensor focus;
};

// Immutable and thread-safe.
class ClipSource {
 public:
  virtual ~ClipSource() = default;
  // What decides on the data.
  virtual nlohmann::json Fingerprint() const = 0;
  // Sample `index` of an endless, shuffled order; equal arguments give equal clips. Throws
  // ModelError when a file cannot be read.
  virtual Clip Read(uint64_t index, const ClipRequest& request) const = 0;
  // How many values each attribute has; 1 where the source knows none, so that no description has
  // one.
  virtual AttributeCounts attribute_values() const {
    return {kShapes, kColors, kBackgrounds, kMotions};
  }
  // What sample sheets show: eight prompts about what the source has.
  virtual std::vector<std::string> SheetPrompts() const;
  // Another description of the same clip, a function of `variant` (0: that of Read), or none if the
  // source knows only the one. A network that meets a clip many times, always under the same
  // words, learns to recognise the clip by them.
  virtual std::optional<Description> Redescribe(uint64_t index, const ClipRequest& request,
                                                uint64_t variant) const {
    (void)index, (void)request, (void)variant;
    return std::nullopt;
  }
};

// The moving shapes of training/domain. `leave_out` as in CaptionOptions.
std::unique_ptr<ClipSource> MakeShapesSource(uint64_t seed, const ClipOptions& options,
                                             double leave_out = 0.1);

// A folder of videos with captions (video_folder.h); it is looked through when it is first read.
std::unique_ptr<ClipSource> MakeFolderSource(const std::string& folder, uint64_t seed);

// The animated emoji of training/domain/emoji.h over plain backgrounds, with the pictures of
// `folder` (emoji_art.h). Attribute 0 is the line of emoji.tsv, there is no colour; motions are
// those of shapes.h. Throws ModelError when the folder is not as it must be.
std::unique_ptr<ClipSource> MakeEmojiSource(const std::string& folder, uint64_t seed,
                                            const EmojiClipOptions& options,
                                            double leave_out = 0.1);

// uint8 [..., H, W, 3] -> float32 [..., 3, H, W] in [-1, 1]
at::Tensor ToNetworkInput(const at::Tensor& pixels);

}  // namespace kandinsky::training

#endif  // KANDINSKY_TRAINING_DATA_CLIP_SOURCE_H_
