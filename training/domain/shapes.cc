#include "training/domain/shapes.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <utility>

namespace kandinsky::training {
namespace {

constexpr std::string_view kShapeNames[] = {"circle", "square", "triangle"};
constexpr std::string_view kColorNames[] = {"red",    "green",  "blue",  "yellow",
                                            "purple", "orange", "white", "black"};
constexpr std::string_view kBackgroundNames[] = {"white", "black", "gray", "cyan"};
constexpr std::string_view kMotionNames[] = {"left", "right",  "up",     "down",  "still",
                                             "grow", "shrink", "bounce", "circle"};

constexpr Rgb kColorValues[] = {{220, 40, 40},  {40, 170, 70},  {45, 75, 220},   {235, 215, 50},
                                {150, 60, 180}, {240, 140, 40}, {245, 245, 245}, {15, 15, 15}};
constexpr Rgb kBackgroundValues[] = {
    {245, 245, 245}, {15, 15, 15}, {128, 128, 128}, {60, 200, 210}};

constexpr double kMargin = 0.01;  // between the shape and the edges of the frame, at least
constexpr double kMinRadius = 0.09;
constexpr double kMaxRadius = 0.18;
constexpr int kSteps = kKeyframes - 1;
constexpr int kLines = 16;  // lines a pixel in RenderFrame
constexpr uint64_t kClipStream = 1;
constexpr double kUnnamedDistance = 60;  // of an unnamed colour from each that has a name, at least
constexpr double kUnnamedReach = 110;    // and from the nearest of them, at most
constexpr double kUnnamedContrast = 100;  // and from the background, at least

// The place of `value` on a line that is folded to lie between low and high.
double Fold(double value, double low, double high) {
  const double width = high - low;
  if (width <= 0) return low;
  double phase = std::fmod(value - low, 2 * width);
  if (phase < 0) phase += 2 * width;
  return low + (phase <= width ? phase : 2 * width - phase);
}

Motion DrawMotion(Random& random, const ClipOptions& options) {
  if (options.motion) return *options.motion;
  bool fast = options.pace == Pace::kFast;
  if (options.pace == Pace::kAny) fast = random.Chance(options.fast_fraction);
  if (fast) {
    return random.Chance(1 - options.circling_fraction) ? Motion::kBounce : Motion::kCircle;
  }
  const double weight = std::max(0.0, options.directional_weight);
  if (random.Uniform() * (4 * weight + 3) < 4 * weight) return static_cast<Motion>(random.Below(4));
  return static_cast<Motion>(static_cast<int>(Motion::kStill) + random.Below(3));
}

Point DrawInside(Random& random, double radius) {
  const double edge = radius + kMargin;
  const double x = random.Uniform(edge, 1 - edge);
  return {x, random.Uniform(edge, 1 - edge)};
}

void DrawStraight(Random& random, ClipSpec& clip) {
  const double distance = random.Uniform(0.45, 0.60);
  const double edge = clip.radius0 + kMargin;
  const bool horizontal = clip.motion == Motion::kLeft || clip.motion == Motion::kRight;
  const bool backward = clip.motion == Motion::kLeft || clip.motion == Motion::kUp;
  double along = random.Uniform(edge, 1 - edge - distance);
  if (backward) along += distance;
  const double across = random.Uniform(edge, 1 - edge);
  const double travel = backward ? -distance : distance;
  clip.start = horizontal ? Point{along, across} : Point{across, along};
  clip.travel = horizontal ? Point{travel, 0} : Point{0, travel};
}

void DrawBounce(Random& random, ClipSpec& clip) {
  clip.start = DrawInside(random, clip.radius0);
  const double way = kSteps * random.Uniform(0.15, 0.25);
  const double angle =
      random.Below(4) * (std::numbers::pi / 2) + random.Uniform(-35, 35) * (std::numbers::pi / 180);
  clip.travel = {way * std::cos(angle), way * std::sin(angle)};
}

void DrawCircling(Random& random, ClipSpec& clip) {
  const double distance = random.Uniform(0.15, 0.25);
  const double edge = clip.radius0 + kMargin;
  // At least 5.2 keyframes a turn, so that it looks like a circle; at most what the frame has room
  // for, which is 0.31 for the largest shape.
  clip.orbit_radius = random.Uniform(std::max(0.16, 0.9 * distance), 0.5 - edge);
  const double reach = edge + clip.orbit_radius;
  clip.orbit_center.x = random.Uniform(reach, 1 - reach);
  clip.orbit_center.y = random.Uniform(reach, 1 - reach);
  clip.orbit_angle = random.Uniform(0, 2 * std::numbers::pi);
  clip.orbit_turn = kSteps * 2 * std::asin(distance / (2 * clip.orbit_radius));
  if (random.Chance(0.5)) clip.orbit_turn = -clip.orbit_turn;
  clip.start = clip.CenterAt(0);
}

bool FurtherThan(double distance, const Rgb& a, const Rgb& b) {
  double squared = 0;
  for (size_t channel = 0; channel < a.size(); ++channel) {
    squared += (double(a[channel]) - b[channel]) * (double(a[channel]) - b[channel]);
  }
  return squared >= distance * distance;
}

bool MayBeUnnamed(const Rgb& color, Background background) {
  return FurtherThan(kUnnamedContrast, color, ColorOf(background)) &&
         std::all_of(std::begin(kColorValues), std::end(kColorValues),
                     [&](const Rgb& named) { return FurtherThan(kUnnamedDistance, color, named); });
}

// Around a colour that has a name, where it takes most to tell that it is another: far from all of
// them, a network need not treat both alike.
Rgb DrawUnnamedColor(Random& random, Background background) {
  while (true) {
    const Rgb& named = kColorValues[random.Below(kColors)];
    const double distance = random.Uniform(kUnnamedDistance, kUnnamedReach);
    // A direction, evenly over the sphere (Archimedes).
    const double z = random.Uniform(-1, 1), angle = random.Uniform(0, 2 * std::numbers::pi);
    const double ring = std::sqrt(1 - z * z);
    const std::array<double, 3> direction = {ring * std::cos(angle), ring * std::sin(angle), z};
    Rgb color;
    bool inside = true;
    for (size_t channel = 0; channel < color.size(); ++channel) {
      const double value = std::round(named[channel] + distance * direction[channel]);
      inside = inside && value >= 0 && value <= 255;
      color[channel] = static_cast<uint8_t>(std::clamp(value, 0.0, 255.0));
    }
    if (inside && MayBeUnnamed(color, background)) return color;
  }
}

void MixColors(Random& random, ClipSpec& clip) {
  do {
    const int first = random.Below(kColors);
    const int second = (first + 1 + random.Below(kColors - 1)) % kColors;
    clip.mixed_colors = {static_cast<Color>(first), static_cast<Color>(second)};
    clip.unnamed_color.emplace();
    for (size_t channel = 0; channel < clip.unnamed_color->size(); ++channel) {
      (*clip.unnamed_color)[channel] =
          static_cast<uint8_t>((kColorValues[first][channel] + kColorValues[second][channel]) / 2);
    }
  } while (!MayBeUnnamed(*clip.unnamed_color, clip.background));
}

// Where the horizontal line at height y (in pixels) runs inside the shape: [left, right), empty
// when left >= right.
std::pair<double, double> SpanAt(Shape shape, double center_x, double center_y, double radius,
                                 double y) {
  const double dy = y - center_y;
  if (std::abs(dy) >= radius) return {0, 0};
  double half = radius;
  if (shape == Shape::kCircle) half = std::sqrt(radius * radius - dy * dy);
  if (shape == Shape::kTriangle) half = (dy + radius) / 2;
  return {center_x - half, center_x + half};
}

}  // namespace

std::string_view Name(Shape shape) { return kShapeNames[static_cast<int>(shape)]; }
std::string_view Name(Color color) { return kColorNames[static_cast<int>(color)]; }
std::string_view Name(Background background) {
  return kBackgroundNames[static_cast<int>(background)];
}
std::string_view Name(Motion motion) { return kMotionNames[static_cast<int>(motion)]; }

Rgb ColorOf(Color color) { return kColorValues[static_cast<int>(color)]; }
Rgb ColorOf(Background background) { return kBackgroundValues[static_cast<int>(background)]; }

bool SameColor(Color color, Background background) { return ColorOf(color) == ColorOf(background); }

bool HeldOut(Shape shape, Color color) {
  switch (shape) {
    case Shape::kCircle:
      return color == Color::kWhite || color == Color::kYellow;
    case Shape::kSquare:
      return color == Color::kOrange || color == Color::kGreen;
    case Shape::kTriangle:
      return color == Color::kPurple || color == Color::kBlack;
  }
  return false;
}

Point ClipSpec::CenterAt(double t) const {
  switch (motion) {
    case Motion::kCircle: {
      const double angle = orbit_angle + orbit_turn * t;
      return {orbit_center.x + orbit_radius * std::cos(angle),
              orbit_center.y + orbit_radius * std::sin(angle)};
    }
    case Motion::kBounce: {
      const double edge = radius0 + kMargin;
      return {Fold(start.x + travel.x * t, edge, 1 - edge),
              Fold(start.y + travel.y * t, edge, 1 - edge)};
    }
    default:
      return {start.x + travel.x * t, start.y + travel.y * t};
  }
}

ClipSpec SampleClip(Random& random, const ClipOptions& options) {
  ClipSpec clip;
  std::array<int, kShapes * kColors> pairs;
  int count = 0;
  for (int pair = 0; pair < kShapes * kColors; ++pair) {
    const bool held_out = HeldOut(static_cast<Shape>(pair / kColors),  //
                                  static_cast<Color>(pair % kColors));
    if (options.split == Split::kAll || held_out == (options.split == Split::kHeldOut)) {
      pairs[count++] = pair;
    }
  }
  const int pair = pairs[random.Below(count)];
  clip.shape = static_cast<Shape>(pair / kColors);
  clip.color = static_cast<Color>(pair % kColors);

  std::array<Background, kBackgrounds> backgrounds;
  count = 0;
  for (int i = 0; i < kBackgrounds; ++i) {
    const auto background = static_cast<Background>(i);
    if (!SameColor(clip.color, background)) backgrounds[count++] = background;
  }
  clip.background = backgrounds[random.Below(count)];

  clip.motion = DrawMotion(random, options);
  clip.radius0 = clip.radius1 = random.Uniform(kMinRadius, kMaxRadius);
  switch (clip.motion) {
    case Motion::kLeft:
    case Motion::kRight:
    case Motion::kUp:
    case Motion::kDown:
      DrawStraight(random, clip);
      break;
    case Motion::kStill:
      clip.start = DrawInside(random, clip.radius0);
      break;
    case Motion::kGrow:
    case Motion::kShrink:
      // sqrt(3.05) * 0.102 < 0.18: the area grows by more than a factor of 3 whatever is drawn.
      clip.radius0 = random.Uniform(kMinRadius, 0.102);
      clip.radius1 = random.Uniform(std::sqrt(3.05) * clip.radius0, kMaxRadius);
      clip.start = DrawInside(random, clip.radius1);
      if (clip.motion == Motion::kShrink) std::swap(clip.radius0, clip.radius1);
      break;
    case Motion::kBounce:
      DrawBounce(random, clip);
      break;
    case Motion::kCircle:
      DrawCircling(random, clip);
      break;
  }
  if (options.unnamed_colors + options.mixed_colors > 0) {
    const double kind = random.Uniform();
    if (kind < options.unnamed_colors) {
      clip.unnamed_color = DrawUnnamedColor(random, clip.background);
    } else if (kind < options.unnamed_colors + options.mixed_colors) {
      MixColors(random, clip);
    }
  }
  return clip;
}

ClipSpec ClipAt(uint64_t seed, uint64_t index, const ClipOptions& options) {
  Random random = Random::At(seed, kClipStream, index);
  return SampleClip(random, options);
}

void RenderFrame(const ClipSpec& clip, double t, int height, int width, uint8_t* rgb) {
  const Rgb color = clip.unnamed_color.value_or(ColorOf(clip.color));
  const Rgb background = ColorOf(clip.background);
  uint8_t* const end = rgb + static_cast<size_t>(height) * width * 3;
  for (uint8_t* pixel = rgb; pixel < end; pixel += 3) {
    pixel[0] = background[0];
    pixel[1] = background[1];
    pixel[2] = background[2];
  }

  // In pixels from here on.
  const double size = std::min(height, width);
  const Point center = clip.CenterAt(t);
  const double center_x = center.x * size + (width - size) / 2;
  const double center_y = center.y * size + (height - size) / 2;
  const double radius = clip.RadiusAt(t) * size;
  const int top = std::max(0, static_cast<int>(std::floor(center_y - radius)));
  const int bottom = std::min(height, static_cast<int>(std::ceil(center_y + radius)));
  const int left = std::max(0, static_cast<int>(std::floor(center_x - radius)));
  const int right = std::min(width, static_cast<int>(std::ceil(center_x + radius)));
  if (left >= right) return;
  std::vector<double> covered(right - left);
  for (int row = top; row < bottom; ++row) {
    std::fill(covered.begin(), covered.end(), 0.0);
    for (int line = 0; line < kLines; ++line) {
      const auto [from, to] =
          SpanAt(clip.shape, center_x, center_y, radius, row + (line + 0.5) / kLines);
      const int first = std::max(left, static_cast<int>(std::floor(from)));
      const int last = std::min(right, static_cast<int>(std::ceil(to)));
      for (int column = first; column < last; ++column) {
        covered[column - left] +=
            std::max(0.0, std::min(to, column + 1.0) - std::max(from, double(column)));
      }
    }
    for (int column = left; column < right; ++column) {
      const double part = std::min(1.0, covered[column - left] / kLines);
      uint8_t* pixel = rgb + (static_cast<size_t>(row) * width + column) * 3;
      for (int channel = 0; channel < 3; ++channel) {
        const double value = background[channel] + part * (color[channel] - background[channel]);
        pixel[channel] = static_cast<uint8_t>(std::lround(value));
      }
    }
  }
}

std::vector<uint8_t> RenderClip(const ClipSpec& clip, int frames, int height, int width) {
  const size_t frame_bytes = static_cast<size_t>(height) * width * 3;
  std::vector<uint8_t> rgb(frames * frame_bytes);
  for (int frame = 0; frame < frames; ++frame) {
    const double t = frames > 1 ? static_cast<double>(frame) / (frames - 1) : 0;
    RenderFrame(clip, t, height, width, rgb.data() + frame * frame_bytes);
  }
  return rgb;
}

}  // namespace kandinsky::training
