#include "training/domain/emoji.h"

#include <algorithm>
#include <numeric>

namespace kandinsky::training {
namespace {

constexpr uint64_t kClipStream = 21;
constexpr double kMargin = 0.01;

// A step through 0 … n - 1 that meets each once before it comes back: near the golden section, so
// that neighbours of the list do not follow each other.
uint64_t Stride(uint64_t n) {
  auto stride = static_cast<uint64_t>(static_cast<double>(n) * 0.381966);
  stride = std::max<uint64_t>(stride, 1);
  while (std::gcd(stride, n) != 1) ++stride;
  return stride;
}

Motion DrawMotion(Random& random, double directional_weight) {
  const double directional = 4 * directional_weight;
  const double u = random.Uniform(0, directional + (kEmojiMotions - 4));
  if (u < directional)
    return static_cast<Motion>(std::min(3, static_cast<int>(u / directional_weight)));
  return static_cast<Motion>(std::min(kEmojiMotions - 1, 4 + static_cast<int>(u - directional)));
}

// The one background, and the one motion, of the emoji that training never shows.
EmojiBackground HeldOutBackground(int emoji) {
  return static_cast<EmojiBackground>((emoji * 3 + 1) % kEmojiBackgrounds);
}
Motion HeldOutMotion(int emoji) { return static_cast<Motion>((emoji * 3 + 2) % kEmojiMotions); }

void Place(Random& random, EmojiSpec& clip) {
  const double middle_x = random.Uniform(-1, 1), middle_y = random.Uniform(-1, 1);
  switch (clip.motion) {
    case Motion::kGrow:
    case Motion::kShrink: {
      const double small = random.Uniform(0.40, 0.50), large = random.Uniform(0.72, 0.84);
      clip.side0 = clip.motion == Motion::kGrow ? small : large;
      clip.side1 = clip.motion == Motion::kGrow ? large : small;
      break;
    }
    case Motion::kLeft:
    case Motion::kRight:
    case Motion::kUp:
    case Motion::kDown:
      clip.side0 = clip.side1 = random.Uniform(0.54, 0.64);
      break;
    default:
      clip.side0 = clip.side1 = random.Uniform(0.60, 0.84);
  }
  // How far the centre may be from the middle.
  const double room = 0.5 - std::max(clip.side0, clip.side1) / 2 - kMargin;
  clip.start = {0.5 + 0.6 * room * middle_x, 0.5 + 0.6 * room * middle_y};
  if (clip.motion > Motion::kDown) return;
  const double travel = random.Uniform(0.82, 1) * 2 * room;
  const double from = random.Uniform(-room, room - travel);  // towards right and down
  const bool horizontal = clip.motion == Motion::kLeft || clip.motion == Motion::kRight;
  const double sign = clip.motion == Motion::kLeft || clip.motion == Motion::kUp ? -1 : 1;
  (horizontal ? clip.start.x : clip.start.y) = 0.5 + sign * from;
  (horizontal ? clip.travel.x : clip.travel.y) = sign * travel;
}

}  // namespace

std::string_view Name(EmojiBackground background) {
  constexpr std::string_view kNames[] = {"white",  "black", "gray", "red",
                                         "yellow", "green", "blue", "purple"};
  return kNames[static_cast<int>(background)];
}

Rgb ColorOf(EmojiBackground background) {
  constexpr Rgb kValues[] = {{245, 245, 245}, {24, 24, 24},   {140, 140, 140}, {205, 60, 60},
                             {250, 222, 110}, {100, 180, 96}, {86, 148, 226},  {146, 98, 190}};
  return kValues[static_cast<int>(background)];
}

bool HeldOut(int emoji, EmojiBackground background) {
  return background == HeldOutBackground(emoji);
}
bool HeldOut(int emoji, Motion motion) { return motion == HeldOutMotion(emoji); }

EmojiSpec EmojiClipAt(uint64_t seed, uint64_t index, int classes, const EmojiClipOptions& options) {
  Random random = Random::At(seed, kClipStream, index);
  const auto n = static_cast<uint64_t>(classes);
  EmojiSpec clip;
  clip.emoji = static_cast<int>((index % n) * Stride(n) % n);
  const bool held_background = options.split == Split::kHeldOut && random.Chance(0.5);
  const bool held_motion = options.split == Split::kHeldOut && !held_background;
  do {
    clip.background = static_cast<EmojiBackground>(random.Below(kEmojiBackgrounds));
  } while (options.split != Split::kAll && HeldOut(clip.emoji, clip.background));
  do {
    clip.motion = DrawMotion(random, options.directional_weight);
  } while (options.split != Split::kAll && HeldOut(clip.emoji, clip.motion));
  if (held_background) clip.background = HeldOutBackground(clip.emoji);
  if (held_motion) clip.motion = HeldOutMotion(clip.emoji);
  Place(random, clip);
  return clip;
}

}  // namespace kandinsky::training
