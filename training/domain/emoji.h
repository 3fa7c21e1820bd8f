// The domain of models/emoji: one animated emoji on a plain background, moving for the length of a
// clip. A clip is a few numbers here; training/data/emoji_art.h has the pictures.
//
// Units are those of shapes.h: the frame is the square [0, 1] x [0, 1], x to the right, y down;
// time runs from 0 to 1 over the clip, keyframe k of 16 is at k / 15, frame j of 241 at j / 240.
//
// Everything here is a pure function: any thread, no state, no failure.
#ifndef KANDINSKY_TRAINING_DOMAIN_EMOJI_H_
#define KANDINSKY_TRAINING_DOMAIN_EMOJI_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "training/domain/random.h"
#include "training/domain/shapes.h"

namespace kandinsky::training {

// A line of emoji.tsv. Names have no article: "polar bear", "белый медведь".
struct EmojiClass {
  std::string code;  // code points in hexadecimal with "-" between them: the name of the picture
  std::string english, russian;
  std::string group;  // "Animals & Nature"
  std::vector<std::string> english_synonyms, russian_synonyms;
  // How much the picture moves: mean deviation from its mean frame, in levels of 255. `weak` where
  // the eye sees hardly any of it at 128 pixels.
  double animation = 0;
  bool weak = false;
};

enum class EmojiBackground { kWhite, kBlack, kGray, kRed, kYellow, kGreen, kBlue, kPurple };
inline constexpr int kEmojiBackgrounds = 8;

std::string_view Name(EmojiBackground background);
Rgb ColorOf(EmojiBackground background);

// Emoji have the slow motions: the first kSlowMotions of Motion.
inline constexpr int kEmojiMotions = kSlowMotions;

// One loop of the picture's own animation has so many frames of 1/24 s; a clip shows it once, so
// that keyframe k is at frame 4.5 k + 0.25. The quarter keeps keyframes away from the middle
// between two frames of the picture, whose mixture shows both.
inline constexpr int kArtFrames = 72;
inline constexpr double kArtFramesPerKeyframe = 4.5, kArtFrameOfStart = 0.25;

// One clip. At time t the picture, a square, has its centre at start + travel * t and a side from
// side0 to side1, linear in between.
struct EmojiSpec {
  int emoji = 0;  // line of emoji.tsv, from 0
  EmojiBackground background = EmojiBackground::kWhite;
  Motion motion = Motion::kStill;
  double side0 = 0.7, side1 = 0.7;
  Point start{0.5, 0.5};
  Point travel;

  Point CenterAt(double t) const { return {start.x + travel.x * t, start.y + travel.y * t}; }
  double SideAt(double t) const { return side0 + (side1 - side0) * t; }
  // Frame of the picture, 0 to below kArtFrames, with a fraction.
  static double ArtFrameAt(double t) {
    return kArtFrameOfStart + kArtFramesPerKeyframe * (kKeyframes - 1) * t;
  }

  bool operator==(const EmojiSpec&) const = default;
};

// Combinations that no training clip has: of each emoji one background (and all motions on it) and
// one motion (and all backgrounds with it).
bool HeldOut(int emoji, EmojiBackground background);
bool HeldOut(int emoji, Motion motion);

struct EmojiClipOptions {
  Split split = Split::kTrain;
  // How often each of left, right, up and down is drawn for once that still, grow or shrink is.
  double directional_weight = 1;
};

// Clip number `index` of the endless data set of this seed, of `classes` > 0 emoji: any `classes`
// clips in a row have each emoji once. Backgrounds and motions are drawn among those that the split
// allows; kHeldOut has either its held-out background or its held-out motion. Ranges:
//   left, right, up, down: side 0.54 to 0.64, travel 0.27 to 0.44 along one axis;
//   growing, shrinking: side from 0.40 .. 0.50 to 0.72 .. 0.84 or back;
//   still: side 0.60 to 0.84.
// The picture is always inside the frame.
EmojiSpec EmojiClipAt(uint64_t seed, uint64_t index, int classes, const EmojiClipOptions& options);

struct EmojiCaptionOptions {
  double russian = 0.4;    // how many captions are Russian
  double leave_out = 0.1;  // how often background and motion are left out, each on its own
  bool motion = true;      // false: captions never mention motion
  double synonym = 0.25;   // how often another name is used, where there is one
  // True: "a panda on a yellow background moves to the left", "панда на жёлтом фоне движется
  // влево".
  bool plain = false;
};

struct EmojiCaptioned {
  std::string text;  // UTF-8; always names the emoji
  bool background = false;
  bool motion = false;
  bool russian = false;
};

EmojiCaptioned EmojiCaption(const EmojiSpec& clip, const EmojiClass& emoji, Random& random,
                            const EmojiCaptionOptions& options);

// The caption of clip number `index`; `variant` numbers different captions of the same clip.
EmojiCaptioned EmojiCaptionAt(uint64_t seed, uint64_t index, const EmojiSpec& clip,
                              const EmojiClass& emoji, const EmojiCaptionOptions& options,
                              uint64_t variant = 0);

}  // namespace kandinsky::training

#endif  // KANDINSKY_TRAINING_DOMAIN_EMOJI_H_
