#include "training/eval/judge.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <functional>
#include <numbers>
#include <optional>
#include <string>
#include <vector>

#include "tests/unit/training/degrade.h"

namespace kandinsky::training {
namespace {

std::string Describe(const ClipSpec& clip) {
  return std::string(Name(clip.color)) + " " + std::string(Name(clip.shape)) + " " +
         std::string(Name(clip.motion)) + " on " + std::string(Name(clip.background));
}

template <typename T>
std::string Describe(const std::optional<T>& value) {
  return value ? std::string(Name(*value)) : "unknown";
}

std::string Describe(const Verdict& verdict) {
  return Describe(verdict.color) + " " + Describe(verdict.shape) + " " + Describe(verdict.motion) +
         " on " + Describe(verdict.background);
}

// A frame painted by hand: `inside` says where the shape is, in pixels from the middle.
using Inside = std::function<bool(double x, double y)>;

void Paint(std::vector<uint8_t>& rgb, int size, const Inside& inside, Rgb color, Rgb background) {
  for (int y = 0; y < size; ++y) {
    for (int x = 0; x < size; ++x) {
      const bool in = inside(x + 0.5 - size / 2.0, y + 0.5 - size / 2.0);
      const Rgb& value = in ? color : background;
      rgb.insert(rgb.end(), value.begin(), value.end());
    }
  }
}

Sight JudgePainted(const Inside& inside, Rgb color = {220, 40, 40},
                   Rgb background = {245, 245, 245}) {
  std::vector<uint8_t> rgb;
  Paint(rgb, 64, inside, color, background);
  return JudgeFrame(rgb.data(), 64, 64);
}

bool Disc(double x, double y) { return std::hypot(x, y) < 9; }

// A clip of a red disc whose centre and radius are functions of time.
Verdict JudgePath(
    const std::function<Point(double t)>& center, int frames = kKeyframes,
    const std::function<double(double t)>& radius = [](double) { return 0.14; }) {
  std::vector<uint8_t> rgb;
  for (int i = 0; i < frames; ++i) {
    const double t = i / (frames - 1.0);
    const Point c = center(t);
    Paint(rgb, 64,
          [&](double x, double y) {
            return std::hypot(x - (c.x - 0.5) * 64, y - (c.y - 0.5) * 64) < 64 * radius(t);
          },
          {220, 40, 40}, {245, 245, 245});
  }
  return Judge(rgb.data(), frames, 64, 64);
}

TEST(JudgeTest, SeesTrueClipsAsTheyAre) {
  struct Case {
    std::string name;
    int size;
    int frames;
    int clips;
    std::function<void(std::vector<uint8_t>&, Random&)> degrade;
  };
  const std::vector<Case> cases = {
      {"clean", 64, 16, 400, [](auto&, auto&) {}},
      {"clean, 96", 96, 16, 60, [](auto&, auto&) {}},
      {"clean, 61 frames", 64, 61, 30, [](auto&, auto&) {}},
      {"clean, 241 frames", 64, 241, 8, [](auto&, auto&) {}},
      {"blur", 64, 16, 200, [](auto& rgb, auto&) { AddBlur(rgb, 64, 64, 1.0); }},
      {"noise", 64, 16, 200, [](auto& rgb, auto& random) { AddNoise(rgb, 8, random); }},
      {"blur and noise", 64, 16, 200,
       [](auto& rgb, auto& random) {
         AddBlur(rgb, 64, 64, 1.0);
         AddNoise(rgb, 8, random);
       }},
      {"blocks", 64, 16, 200, [](auto& rgb, auto&) { AddBlocks(rgb, 64, 64, 16); }},
  };
  for (const Case& c : cases) {
    Random random(17);
    int right[4] = {};
    for (int i = 0; i < c.clips; ++i) {
      const ClipSpec clip = ClipAt(101, i, {.split = Split::kAll});
      std::vector<uint8_t> rgb = RenderClip(clip, c.frames, c.size, c.size);
      c.degrade(rgb, random);
      const Verdict verdict = Judge(rgb.data(), c.frames, c.size, c.size);
      EXPECT_EQ(verdict.frames.size(), static_cast<size_t>(c.frames));
      const bool match[4] = {verdict.shape == clip.shape, verdict.color == clip.color,
                             verdict.background == clip.background, verdict.motion == clip.motion};
      for (int k = 0; k < 4; ++k) right[k] += match[k];
      if (!(match[0] && match[1] && match[2] && match[3])) {
        std::printf("%s, clip %d: %s seen as %s\n", c.name.c_str(), i, Describe(clip).c_str(),
                    Describe(verdict).c_str());
      }
    }
    std::printf("%-18s %d clips: shape %d colour %d background %d motion %d\n", c.name.c_str(),
                c.clips, right[0], right[1], right[2], right[3]);
    for (int k = 0; k < 4; ++k) EXPECT_GE(right[k], 0.995 * c.clips) << c.name << ", " << k;
  }
}

TEST(JudgeTest, MeasuresInUnitsOfTheShorterSide) {
  ClipSpec clip{.shape = Shape::kSquare, .color = Color::kBlue, .background = Background::kGray};
  clip.radius0 = clip.radius1 = 0.15;
  clip.start = {0.3, 0.6};
  for (const auto& [height, width] : {std::pair{64, 64}, {64, 96}, {128, 80}}) {
    std::vector<uint8_t> rgb(height * width * 3);
    RenderFrame(clip, 0, height, width, rgb.data());
    const Sight sight = JudgeFrame(rgb.data(), height, width);
    ASSERT_TRUE(sight.found);
    EXPECT_NEAR(sight.centroid.x, -0.2, 0.005);
    EXPECT_NEAR(sight.centroid.y, 0.1, 0.005);
    EXPECT_NEAR(sight.area, 0.09, 0.002);
    EXPECT_EQ(sight.color_rgb, (std::array<double, 3>{45, 75, 220}));
    EXPECT_EQ(sight.background_rgb, (std::array<double, 3>{128, 128, 128}));
    EXPECT_EQ(sight.shape, Shape::kSquare);
  }
}

TEST(JudgeTest, ShapesInBetweenAreUnknown) {
  struct Case {
    std::string name;
    Inside inside;
    std::optional<Shape> want;
  };
  const auto square = [](double x, double y) { return std::max(std::abs(x), std::abs(y)) < 8; };
  const auto triangle = [](double x, double y) {
    return y > -9 && y < 9 && std::abs(x) < (y + 9) / 2;
  };
  const std::vector<Case> cases = {
      {"disc", Disc, Shape::kCircle},
      {"square", square, Shape::kSquare},
      {"triangle", triangle, Shape::kTriangle},
      {"triangle upside down", [&](double x, double y) { return triangle(x, -y); }, {}},
      {"diamond", [](double x, double y) { return std::abs(x) + std::abs(y) < 11; }, {}},
      {"bar", [](double x, double y) { return std::abs(x) < 12 && std::abs(y) < 6; }, {}},
      {"ring", [](double x, double y) { return Disc(x, y) && std::hypot(x, y) > 5; }, {}},
      {"half disc", [](double x, double y) { return Disc(x, y) && y > 0; }, {}},
      {"halfway from disc to square",
       [](double x, double y) {
         return std::pow(std::abs(x), 3.2) + std::pow(std::abs(y), 3.2) < std::pow(9, 3.2);
       },
       {}},
      {"cross",
       [](double x, double y) {
         return std::min(std::abs(x), std::abs(y)) < 3 && std::max(std::abs(x), std::abs(y)) < 10;
       },
       {}},
      {"two discs", [](double x, double y) { return Disc(x - 14, y) || Disc(x + 14, y + 3); }, {}},
      {"nothing", [](double, double) { return false; }, {}},
      {"a dot", [](double x, double y) { return std::hypot(x, y) < 2; }, {}},
  };
  for (const Case& c : cases) {
    const Sight sight = JudgePainted(c.inside);
    EXPECT_EQ(sight.shape, c.want)
        << c.name << ": " << Describe(sight.shape) << ", harmonics " << sight.harmonics[0] << " "
        << sight.harmonics[1] << " " << sight.harmonics[2] << ", overlap " << sight.overlap;
    EXPECT_EQ(sight.background, Background::kWhite) << c.name;
  }
}

TEST(JudgeTest, ColorsInBetweenAreUnknown) {
  struct Case {
    Rgb color;
    Rgb background;
    std::optional<Color> want;
    std::optional<Background> want_background;
  };
  const Rgb white = {245, 245, 245};
  const std::vector<Case> cases = {
      {{220, 40, 40}, white, Color::kRed, Background::kWhite},
      {{200, 60, 50}, white, Color::kRed, Background::kWhite},
      {{238, 176, 45}, white, {}, Background::kWhite},   // between orange and yellow
      {{120, 120, 120}, white, {}, Background::kWhite},  // gray is no colour
      {{60, 200, 210}, white, {}, Background::kWhite},   // cyan neither
      {{255, 120, 200}, white, {}, Background::kWhite},  // pink
      {{15, 15, 15}, {255, 255, 255}, Color::kBlack, Background::kWhite},
      {{15, 15, 15}, {185, 185, 185}, Color::kBlack, {}},    // light gray
      {{240, 140, 40}, {90, 160, 170}, Color::kOrange, {}},  // gray or cyan
      {{245, 245, 245}, {220, 40, 40}, Color::kWhite, {}},
  };
  for (const Case& c : cases) {
    const Sight sight = JudgePainted(Disc, c.color, c.background);
    const std::string name = std::to_string(c.color[0]) + "," + std::to_string(c.color[1]) + "," +
                             std::to_string(c.color[2]);
    EXPECT_EQ(sight.color, c.want) << name << ": " << Describe(sight.color);
    EXPECT_EQ(sight.background, c.want_background) << name << ": " << Describe(sight.background);
  }
}

TEST(JudgeTest, MotionsInBetweenAreUnknown) {
  const double pi = std::numbers::pi;
  const auto constant = [](double) { return 0.14; };
  struct Case {
    std::string name;
    std::function<Point(double)> center;
    std::optional<Motion> want;
    std::function<double(double)> radius;
  };
  const auto middle = [](double) { return Point{0.5, 0.5}; };
  const std::vector<Case> cases = {
      {"still", middle, Motion::kStill, constant},
      {"left",
       [](double t) {
         return Point{0.75 - 0.5 * t, 0.5};
       },
       Motion::kLeft, constant},
      {"right",
       [](double t) {
         return Point{0.25 + 0.5 * t, 0.5};
       },
       Motion::kRight, constant},
      {"up",
       [](double t) {
         return Point{0.5, 0.75 - 0.5 * t};
       },
       Motion::kUp, constant},
      {"down",
       [](double t) {
         return Point{0.5, 0.25 + 0.5 * t};
       },
       Motion::kDown, constant},
      {"too short",
       [](double t) {
         return Point{0.4 + 0.2 * t, 0.5};
       },
       {},
       constant},
      {"aslant",
       [](double t) {
         return Point{0.25 + 0.5 * t, 0.3 + 0.4 * t};
       },
       {},
       constant},
      {"there and back",
       [](double t) {
         return Point{0.25 + std::min(t, 1 - t), 0.5};
       },
       {},
       constant},
      {"a jump",
       [](double t) {
         return Point{t < 0.5 ? 0.25 : 0.75, 0.5};
       },
       {},
       constant},
      {"grows", middle, Motion::kGrow, [](double t) { return 0.09 + 0.08 * t; }},
      {"shrinks", middle, Motion::kShrink, [](double t) { return 0.17 - 0.08 * t; }},
      {"grows a little", middle, {}, [](double t) { return 0.13 + 0.04 * t; }},
      {"pulses", middle, {}, [&](double t) { return 0.13 + 0.04 * std::sin(4 * pi * t); }},
      {"grows at once", middle, {}, [](double t) { return t < 0.5 ? 0.09 : 0.17; }},
      {"grows and moves",
       [](double t) {
         return Point{0.3 + 0.3 * t, 0.5};
       },
       {},
       [](double t) { return 0.09 + 0.08 * t; }},
      {"circles",
       [&](double t) {
         return Point{0.5 + 0.25 * std::cos(10 * t), 0.5 + 0.25 * std::sin(10 * t)};
       },
       Motion::kCircle, constant},
      {"a quarter of a circle",
       [&](double t) {
         return Point{0.5 + 0.3 * std::cos(1.5 * t), 0.3 + 0.3 * std::sin(1.5 * t)};
       },
       {},
       constant},
      {"bounces",
       [](double t) {
         const double way = std::fmod(3 * t, 1.4);
         return Point{0.15 + (way < 0.7 ? way : 1.4 - way), 0.4};
       },
       Motion::kBounce, constant},
      {"bounces in the middle only",
       [](double t) {
         const double way = std::fmod(3 * t, 0.5);
         return Point{0.4 + (way < 0.25 ? way : 0.5 - way), 0.4};
       },
       {},
       constant},
  };
  for (const Case& c : cases) {
    const Verdict verdict = JudgePath(c.center, kKeyframes, c.radius);
    EXPECT_EQ(verdict.motion, c.want) << c.name << ": " << Describe(verdict.motion);
  }
  // The same at 61 frames, where a step is four times shorter.
  for (const Case& c : cases) {
    const Verdict verdict = JudgePath(c.center, 61, c.radius);
    EXPECT_EQ(verdict.motion, c.want) << c.name << ": " << Describe(verdict.motion);
  }
}

TEST(JudgeTest, RandomWalksAreNoBouncing) {
  int bouncing = 0;
  for (int i = 0; i < 100; ++i) {
    Random random(i);
    std::vector<Sight> frames(kKeyframes);
    for (Sight& sight : frames) {
      sight.found = true;
      sight.area = 0.05;
      sight.centroid = {random.Uniform(-0.35, 0.35), random.Uniform(-0.35, 0.35)};
    }
    const std::optional<Motion> motion = JudgeMotion(frames);
    bouncing += motion.has_value();
  }
  EXPECT_LE(bouncing, 2);
}

TEST(JudgeTest, AttributesMustHoldInMostFrames) {
  // Red in half of the frames, blue in the other half; a disc, then a square.
  const auto square = [](double x, double y) { return std::max(std::abs(x), std::abs(y)) < 8; };
  struct Case {
    int red_discs;
    std::optional<Color> want_color;
    std::optional<Shape> want_shape;
  };
  for (const Case& c :
       {Case{16, Color::kRed, Shape::kCircle}, Case{12, Color::kRed, Shape::kCircle},
        Case{11, {}, {}}, Case{8, {}, {}}, Case{0, Color::kBlue, Shape::kSquare}}) {
    std::vector<uint8_t> rgb;
    for (int i = 0; i < kKeyframes; ++i) {
      if (i < c.red_discs) {
        Paint(rgb, 64, Disc, {220, 40, 40}, {15, 15, 15});
      } else {
        Paint(rgb, 64, square, {45, 75, 220}, {15, 15, 15});
      }
    }
    const Verdict verdict = Judge(rgb.data(), kKeyframes, 64, 64);
    EXPECT_EQ(verdict.color, c.want_color) << c.red_discs;
    EXPECT_EQ(verdict.shape, c.want_shape) << c.red_discs;
    EXPECT_EQ(verdict.background, Background::kBlack) << c.red_discs;
  }
}

TEST(JudgeTest, NoiseAndOddSizesShowNothing) {
  Random random(3);
  std::vector<uint8_t> rgb(16 * 64 * 64 * 3);
  for (uint8_t& value : rgb) value = static_cast<uint8_t>(random.Below(256));
  Verdict verdict = Judge(rgb.data(), 16, 64, 64);
  EXPECT_FALSE(verdict.shape || verdict.color || verdict.motion || verdict.background);
  verdict = Judge(rgb.data(), 0, 64, 64);
  EXPECT_FALSE(verdict.shape || verdict.color || verdict.motion || verdict.background);
  EXPECT_TRUE(verdict.frames.empty());
  verdict = Judge(rgb.data(), 3, 8, 8);
  EXPECT_FALSE(verdict.shape || verdict.color || verdict.motion || verdict.background);
}

}  // namespace
}  // namespace kandinsky::training
