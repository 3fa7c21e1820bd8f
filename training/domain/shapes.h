// The domain of the shipped model: one coloured shape on a plain background, moving for the length
// of a clip. A clip is a few numbers; frames are drawn from them at any time and size.
//
// Units: the frame is the square [0, 1] x [0, 1], x to the right, y down. In a picture that is not
// square, this square is as large as fits, in the middle, with background around it. Time runs from
// 0 to 1 over the clip: keyframe k of 16 is at k / 15, frame j of 241 at j / 240.
//
// Everything here is a pure function: any thread, no state, no failure.
#ifndef KANDINSKY_TRAINING_DOMAIN_SHAPES_H_
#define KANDINSKY_TRAINING_DOMAIN_SHAPES_H_

#include <array>
#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "training/domain/random.h"

namespace kandinsky::training {

inline constexpr int kKeyframes = 16;
inline constexpr int kDenseFrames = 241;  // the same clip, 16 times denser
inline constexpr double kKeyframesPerSecond = 2;

// Each fills a box of side 2 * radius: the circle touches all four sides, the square is the box,
// the triangle stands on the lower side and has its tip in the middle of the upper one.
enum class Shape { kCircle, kSquare, kTriangle };
inline constexpr int kShapes = 3;

enum class Color { kRed, kGreen, kBlue, kYellow, kPurple, kOrange, kWhite, kBlack };
inline constexpr int kColors = 8;

enum class Background { kWhite, kBlack, kGray, kCyan };
inline constexpr int kBackgrounds = 4;

// The last two are the fast ones. kCircle is motion along a circle.
enum class Motion { kLeft, kRight, kUp, kDown, kStill, kGrow, kShrink, kBounce, kCircle };
inline constexpr int kMotions = 9;
inline constexpr int kSlowMotions = 7;

using Rgb = std::array<uint8_t, 3>;  // sRGB

// "circle", "red", "white", "left": the words of reports, not of captions.
std::string_view Name(Shape shape);
std::string_view Name(Color color);
std::string_view Name(Background background);
std::string_view Name(Motion motion);

Rgb ColorOf(Color color);
Rgb ColorOf(Background background);

// A white shape on white and a black one on black do not exist.
bool SameColor(Color color, Background background);
// The six pairs that no training clip has: purple triangle, orange square, white circle, black
// triangle, green square, yellow circle.
bool HeldOut(Shape shape, Color color);
inline bool IsFast(Motion motion) { return motion == Motion::kBounce || motion == Motion::kCircle; }

struct Point {
  double x = 0;
  double y = 0;

  bool operator==(const Point&) const = default;
};

// One clip. At time t the shape has its centre at CenterAt(t) and the radius RadiusAt(t).
struct ClipSpec {
  Shape shape = Shape::kCircle;
  Color color = Color::kRed;
  Background background = Background::kWhite;
  Motion motion = Motion::kStill;
  // The shape has this colour instead, one that no single word names; `color` means nothing then.
  std::optional<Rgb> unnamed_color;
  // If that is the middle of two colours: these two, which captions name ("a yellow-white circle").
  std::optional<std::array<Color, 2>> mixed_colors;

  // Half of the side of the shape's box, at the first and the last moment; linear in between.
  double radius0 = 0.12;
  double radius1 = 0.12;
  // The centre at the first moment, if motion is not kCircle.
  Point start{0.5, 0.5};
  // Directional motion: start plus travel * t. kBounce: the way from start to the end if it were
  // not thrown back by the edges. Otherwise zero.
  Point travel;
  // kCircle: the middle and the radius of the circle; the angle at the first moment, 0 to the right
  // and pi/2 down; the angle from first to last moment, negative when counterclockwise.
  Point orbit_center{0.5, 0.5};
  double orbit_radius = 0;
  double orbit_angle = 0;
  double orbit_turn = 0;

  Point CenterAt(double t) const;
  double RadiusAt(double t) const { return radius0 + (radius1 - radius0) * t; }

  bool operator==(const ClipSpec&) const = default;
};

enum class Split { kTrain, kHeldOut, kAll };
enum class Pace { kAny, kSlow, kFast };

struct ClipOptions {
  Split split = Split::kTrain;
  Pace pace = Pace::kAny;
  // How many clips are fast when pace is kAny.
  double fast_fraction = 0.25;
  // How many of the fast clips circle; the others bounce.
  double circling_fraction = 0.5;
  // How often each of left, right, up and down is drawn for once that still, grow or shrink is.
  double directional_weight = 1;
  // How many clips show their shape in an unnamed colour: 60 or more (as a distance of sRGB values)
  // away from all of the eight, 110 or less from one of them, 100 or more from the background.
  // Which colours a shape has in the named clips is then no reason to doubt a caption that asks for
  // another.
  double unnamed_colors = 0;
  // How many clips, apart from those, show it in the middle of two of the eight colours, if that is
  // as far from all of them and from the background as an unnamed colour is. The caption then has a
  // word for a colour beside one for a shape that the two may not have without it.
  double mixed_colors = 0;
  // Every clip has this motion, whatever pace and weights say.
  std::optional<Motion> motion;
};

// Shapes and colours are drawn as pairs, each pair of the split equally often; then the background,
// equally often among those that differ from the colour; then the motion. Ranges:
//   radius 0.09 to 0.18; growing and shrinking multiply the area by 3 or more;
//   left, right, up, down: the centre travels 0.45 to 0.60 along one axis;
//   bounce: 0.15 to 0.25 of way from one keyframe to the next, within 35 degrees of an axis, thrown
//   back by the edges; circle: 0.15 to 0.25 of distance between neighbouring keyframes.
// The shape is always at least 0.01 inside the frame.
ClipSpec SampleClip(Random& random, const ClipOptions& options);

// Clip number `index` of the endless data set of this seed.
ClipSpec ClipAt(uint64_t seed, uint64_t index, const ClipOptions& options);

// Draws the clip at time t into rgb, [height][width][3]. Edges are anti-aliased: a pixel mixes the
// two colours by the part of it that the shape covers (exact along x, 16 lines a pixel along y).
void RenderFrame(const ClipSpec& clip, double t, int height, int width, uint8_t* rgb);

// Frames 0 … frames - 1 of the clip, evenly spaced from its first to its last moment:
// [frames][height][width][3].
std::vector<uint8_t> RenderClip(const ClipSpec& clip, int frames, int height, int width);

}  // namespace kandinsky::training

#endif  // KANDINSKY_TRAINING_DOMAIN_SHAPES_H_
