#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <numbers>
#include <set>
#include <string>
#include <vector>

#include "training/domain/captions.h"
#include "training/domain/random.h"
#include "training/domain/russian.h"
#include "training/domain/shapes.h"

namespace kandinsky::training {
namespace {

std::string Describe(const ClipSpec& clip) {
  return std::string(Name(clip.color)) + " " + std::string(Name(clip.shape)) + " " +
         std::string(Name(clip.motion)) + " on " + std::string(Name(clip.background));
}

double Distance(Point a, Point b) { return std::hypot(a.x - b.x, a.y - b.y); }

TEST(RandomTest, GivesTheSameNumbersEverywhere) {
  // SplitMix64 with seed 0, as its authors publish it.
  Random random(0);
  EXPECT_EQ(random.Next(), 0xe220a8397b1dcdafu);
  EXPECT_EQ(random.Next(), 0x6e789e6aa1b965f4u);
  EXPECT_EQ(random.Next(), 0x06c45d188009454fu);
}

TEST(RandomTest, StaysInRangeAndIsEven) {
  Random random(5);
  std::vector<int> count(7);
  double sum = 0;
  for (int i = 0; i < 70000; ++i) {
    const double value = random.Uniform(2, 4);
    ASSERT_GE(value, 2);
    ASSERT_LT(value, 4);
    sum += value;
    ++count[random.Below(7)];
  }
  EXPECT_NEAR(sum / 70000, 3, 0.01);
  for (int n : count) EXPECT_NEAR(n, 10000, 500);
}

TEST(ClipTest, IsAFunctionOfSeedAndIndex) {
  const ClipSpec clip = ClipAt(3, 1000, {});
  EXPECT_EQ(clip, ClipAt(3, 1000, {}));
  EXPECT_NE(clip, ClipAt(3, 1001, {}));
  EXPECT_NE(clip, ClipAt(4, 1000, {}));
  EXPECT_EQ(RenderClip(clip, 5, 32, 32), RenderClip(clip, 5, 32, 32));
  EXPECT_EQ(CaptionAt(3, 1000, clip, {}).text, CaptionAt(3, 1000, clip, {}).text);
  std::set<std::string> texts;
  for (int variant = 0; variant < 8; ++variant) {
    texts.insert(CaptionAt(3, 1000, clip, {}, variant).text);
  }
  EXPECT_GT(texts.size(), 3u);
}

TEST(ClipTest, KeepsHeldOutPairsApart) {
  const std::set<std::string> held_out = {"purple triangle", "orange square", "white circle",
                                          "black triangle",  "green square",  "yellow circle"};
  const std::map<Split, size_t> want_pairs = {
      {Split::kTrain, 18}, {Split::kHeldOut, 6}, {Split::kAll, 24}};
  for (const auto& [split, pairs] : want_pairs) {
    std::map<std::string, int> seen;
    ClipOptions options;
    options.split = split;
    for (int i = 0; i < 20000; ++i) {
      const ClipSpec clip = ClipAt(1, i, options);
      const std::string pair = std::string(Name(clip.color)) + " " + std::string(Name(clip.shape));
      ++seen[pair];
      EXPECT_EQ(HeldOut(clip.shape, clip.color), held_out.contains(pair)) << pair;
      if (split != Split::kAll) {
        EXPECT_EQ(held_out.contains(pair), split == Split::kHeldOut) << pair;
      }
      EXPECT_NE(ColorOf(clip.color), ColorOf(clip.background));
    }
    EXPECT_EQ(seen.size(), pairs);
    for (const auto& [pair, count] : seen) {
      EXPECT_NEAR(count, 20000.0 / pairs, 6 * std::sqrt(20000.0 / pairs)) << pair;
    }
  }
}

TEST(ClipTest, DrawsMotionsAsOptionsSay) {
  struct Case {
    ClipOptions options;
    double want_fast;
    double want_left;
  };
  ClipOptions slow{.pace = Pace::kSlow};
  ClipOptions oversampled{.pace = Pace::kSlow, .directional_weight = 3};
  const std::vector<Case> cases = {
      {{}, 0.25, 0.75 / 7},
      {slow, 0, 1.0 / 7},
      {oversampled, 0, 3.0 / 15},
      {{.pace = Pace::kFast}, 1, 0},
      {{.fast_fraction = 0.5}, 0.5, 0.5 / 7},
      {{.pace = Pace::kFast, .motion = Motion::kLeft}, 0, 1},
  };
  for (const Case& c : cases) {
    const int count = 20000;
    int fast = 0;
    int left = 0;
    for (int i = 0; i < count; ++i) {
      const Motion motion = ClipAt(2, i, c.options).motion;
      fast += IsFast(motion);
      left += motion == Motion::kLeft;
    }
    EXPECT_NEAR(fast / double(count), c.want_fast, 0.015);
    EXPECT_NEAR(left / double(count), c.want_left, 0.015);
  }
}

TEST(ClipTest, BounceAndCircleShareTheFastClipsAsToldTo) {
  for (const double circling : {0.5, 0.8, 1.0}) {
    int circles = 0;
    for (int i = 0; i < 20000; ++i) {
      const ClipOptions options{.pace = Pace::kFast, .circling_fraction = circling};
      circles += ClipAt(2, i, options).motion == Motion::kCircle;
    }
    EXPECT_NEAR(circles / 20000.0, circling, 0.015);
  }
}

double ColorDistance(const Rgb& a, const Rgb& b) {
  return std::hypot(double(a[0]) - b[0], double(a[1]) - b[1], double(a[2]) - b[2]);
}

TEST(ClipTest, UnnamedColorsAreFarFromNamedOnes) {
  ClipOptions options;
  options.unnamed_colors = 0.3;
  int unnamed = 0;
  std::map<Shape, int> shapes;
  for (int i = 0; i < 20000; ++i) {
    const ClipSpec clip = ClipAt(1, i, options);
    if (!clip.unnamed_color) {
      EXPECT_EQ(clip, ClipAt(1, i, {}));  // as without the option
      continue;
    }
    ++unnamed;
    ++shapes[clip.shape];
    int near = 0;
    for (int color = 0; color < kColors; ++color) {
      const double distance =
          ColorDistance(*clip.unnamed_color, ColorOf(static_cast<Color>(color)));
      EXPECT_GE(distance, 60);
      near += distance <= 111;  // 110 before rounding
    }
    EXPECT_GE(near, 1);
    EXPECT_GE(ColorDistance(*clip.unnamed_color, ColorOf(clip.background)), 100);
  }
  EXPECT_NEAR(unnamed / 20000.0, 0.3, 0.015);
  for (const auto& [shape, count] : shapes) EXPECT_NEAR(count, unnamed / 3.0, 250);
}

TEST(ClipTest, MixedColorsAreTheMiddleOfTwo) {
  ClipOptions options;
  options.unnamed_colors = 0.2;
  options.mixed_colors = 0.3;
  int mixed = 0, unnamed = 0;
  std::map<Shape, int> shapes;
  std::set<std::array<Color, 2>> pairs;
  for (int i = 0; i < 20000; ++i) {
    const ClipSpec clip = ClipAt(1, i, options);
    if (!clip.mixed_colors) {
      unnamed += clip.unnamed_color.has_value();
      EXPECT_EQ(clip, ClipAt(1, i, {.unnamed_colors = 0.2}));  // as without the option
      continue;
    }
    ++mixed;
    ++shapes[clip.shape];
    pairs.insert(*clip.mixed_colors);
    const Rgb first = ColorOf((*clip.mixed_colors)[0]), second = ColorOf((*clip.mixed_colors)[1]);
    for (int channel = 0; channel < 3; ++channel) {
      EXPECT_EQ((*clip.unnamed_color)[channel], (first[channel] + second[channel]) / 2);
    }
    for (int color = 0; color < kColors; ++color) {
      EXPECT_GE(ColorDistance(*clip.unnamed_color, ColorOf(static_cast<Color>(color))), 60);
    }
    EXPECT_GE(ColorDistance(*clip.unnamed_color, ColorOf(clip.background)), 100);
  }
  EXPECT_NEAR(mixed / 20000.0, 0.3, 0.015);
  EXPECT_NEAR(unnamed / 20000.0, 0.2, 0.015);
  for (const auto& [shape, count] : shapes) EXPECT_NEAR(count, mixed / 3.0, 250);
  for (int color = 0; color < kColors; ++color) {  // with every shape, those held out included
    EXPECT_TRUE(std::any_of(pairs.begin(), pairs.end(), [&](const auto& pair) {
      return pair[0] == static_cast<Color>(color) || pair[1] == static_cast<Color>(color);
    })) << color;
  }
}

TEST(ClipTest, StaysInsideAndInRange) {
  for (int i = 0; i < 20000; ++i) {
    const ClipSpec clip = ClipAt(11, i, {.split = Split::kAll, .fast_fraction = 0.5});
    SCOPED_TRACE(Describe(clip));
    for (int j = 0; j < kDenseFrames; j += 3) {
      const double t = j / (kDenseFrames - 1.0);
      const Point center = clip.CenterAt(t);
      const double radius = clip.RadiusAt(t);
      ASSERT_GE(radius, 0.09);
      ASSERT_LE(radius, 0.18);
      ASSERT_GE(std::min(center.x, center.y) - radius, 0.01 - 1e-9);
      ASSERT_LE(std::max(center.x, center.y) + radius, 0.99 + 1e-9);
    }
    const Point first = clip.CenterAt(0);
    const Point last = clip.CenterAt(1);
    const double dx = last.x - first.x;
    const double dy = last.y - first.y;
    const double growth = std::pow(clip.RadiusAt(1) / clip.RadiusAt(0), 2);
    struct Want {
      double dx[2], dy[2], growth[2];
    };
    const std::map<Motion, Want> table = {
        {Motion::kLeft, {{-0.6, -0.45}, {0, 0}, {1, 1}}},
        {Motion::kRight, {{0.45, 0.6}, {0, 0}, {1, 1}}},
        {Motion::kUp, {{0, 0}, {-0.6, -0.45}, {1, 1}}},
        {Motion::kDown, {{0, 0}, {0.45, 0.6}, {1, 1}}},
        {Motion::kStill, {{0, 0}, {0, 0}, {1, 1}}},
        {Motion::kGrow, {{0, 0}, {0, 0}, {3, 4}}},
        {Motion::kShrink, {{0, 0}, {0, 0}, {0.25, 1.0 / 3}}},
        {Motion::kBounce, {{-0.8, 0.8}, {-0.8, 0.8}, {1, 1}}},
        {Motion::kCircle, {{-0.8, 0.8}, {-0.8, 0.8}, {1, 1}}},
    };
    const Want& want = table.at(clip.motion);
    const double slack = 1e-9;
    EXPECT_TRUE(dx >= want.dx[0] - slack && dx <= want.dx[1] + slack) << dx;
    EXPECT_TRUE(dy >= want.dy[0] - slack && dy <= want.dy[1] + slack) << dy;
    EXPECT_TRUE(growth >= want.growth[0] - slack && growth <= want.growth[1] + slack) << growth;
  }
}

TEST(ClipTest, FastClipsCover15To25PercentAKeyframe) {
  for (int i = 0; i < 5000; ++i) {
    const ClipSpec clip = ClipAt(13, i, {.pace = Pace::kFast});
    SCOPED_TRACE(Describe(clip));
    for (int k = 1; k < kKeyframes; ++k) {
      const double from = (k - 1.0) / (kKeyframes - 1);
      const double to = k / (kKeyframes - 1.0);
      double way = Distance(clip.CenterAt(from), clip.CenterAt(to));
      if (clip.motion == Motion::kBounce) {
        // Along the folded path: the sum of many small steps.
        way = 0;
        const int steps = 400;
        for (int s = 0; s < steps; ++s) {
          way += Distance(clip.CenterAt(from + (to - from) * s / steps),
                          clip.CenterAt(from + (to - from) * (s + 1) / steps));
        }
        ASSERT_GE(way, 0.149);
      } else {
        ASSERT_GE(way, 0.15 - 1e-9);
      }
      ASSERT_LE(way, 0.25 + 1e-9);
    }
  }
}

TEST(RenderTest, CoversTheAreaOfTheShape) {
  struct Case {
    Shape shape;
    double area;  // in units of radius^2
  };
  for (const Case& c : {Case{Shape::kCircle, std::numbers::pi}, Case{Shape::kSquare, 4},
                        Case{Shape::kTriangle, 2}}) {
    for (const auto& [height, width] : {std::pair{64, 64}, {96, 96}, {64, 96}, {80, 48}}) {
      for (const double radius : {0.09, 0.131, 0.18}) {
        ClipSpec clip{.shape = c.shape, .color = Color::kBlack, .background = Background::kWhite};
        clip.radius0 = clip.radius1 = radius;
        clip.start = {0.437, 0.519};
        std::vector<uint8_t> rgb(height * width * 3);
        RenderFrame(clip, 0.3, height, width, rgb.data());
        const double size = std::min(height, width);
        double area = 0;
        double sum_x = 0;
        for (int y = 0; y < height; ++y) {
          for (int x = 0; x < width; ++x) {
            const double part = (245 - rgb[(y * width + x) * 3]) / 230.0;
            area += part;
            sum_x += part * (x + 0.5);
          }
        }
        EXPECT_NEAR(area, c.area * radius * radius * size * size, 0.01 * area)
            << Name(c.shape) << height << "x" << width;
        EXPECT_NEAR(sum_x / area, 0.437 * size + (width - size) / 2, 0.02);
      }
    }
  }
}

TEST(RenderTest, PaintsTheExactColors) {
  for (int color = 0; color < kColors; ++color) {
    for (int background = 0; background < kBackgrounds; ++background) {
      for (int shape = 0; shape < kShapes; ++shape) {
        ClipSpec clip{.shape = static_cast<Shape>(shape),
                      .color = static_cast<Color>(color),
                      .background = static_cast<Background>(background)};
        clip.radius0 = clip.radius1 = 0.09;
        std::vector<uint8_t> rgb(64 * 64 * 3);
        RenderFrame(clip, 0, 64, 64, rgb.data());
        const uint8_t* center = rgb.data() + (32 * 64 + 31) * 3;
        EXPECT_EQ((Rgb{center[0], center[1], center[2]}), ColorOf(clip.color)) << Describe(clip);
        EXPECT_EQ((Rgb{rgb[0], rgb[1], rgb[2]}), ColorOf(clip.background)) << Describe(clip);
      }
    }
  }
  EXPECT_EQ(ColorOf(Color::kRed), (Rgb{220, 40, 40}));
  EXPECT_EQ(ColorOf(Color::kBlue), (Rgb{45, 75, 220}));
  EXPECT_EQ(ColorOf(Background::kCyan), (Rgb{60, 200, 210}));
  EXPECT_EQ(ColorOf(Background::kGray), (Rgb{128, 128, 128}));
}

TEST(RenderTest, PaintsAnUnnamedColor) {
  ClipSpec clip;
  clip.unnamed_color = Rgb{200, 120, 160};
  std::vector<uint8_t> frame(32 * 32 * 3);
  RenderFrame(clip, 0, 32, 32, frame.data());
  const uint8_t* const middle = frame.data() + (16 * 32 + 16) * 3;
  EXPECT_EQ((Rgb{middle[0], middle[1], middle[2]}), *clip.unnamed_color);
}

TEST(RenderTest, ToleratesShapesThatLeaveTheFrame) {
  std::vector<uint8_t> rgb(16 * 16 * 3);
  for (const double x : {-1.0, 0.0, 1.0, 3.0}) {
    ClipSpec clip;
    clip.start = {x, 0.5};
    RenderFrame(clip, 0, 16, 16, rgb.data());
  }
}

TEST(RenderTest, FramesOfAClipAreEvenlySpaced) {
  const ClipSpec clip = ClipAt(1, 4, {.motion = Motion::kRight});
  const std::vector<uint8_t> all = RenderClip(clip, kDenseFrames, 32, 32);
  const std::vector<uint8_t> key = RenderClip(clip, kKeyframes, 32, 32);
  const size_t frame = 32 * 32 * 3;
  for (int k = 0; k < kKeyframes; ++k) {
    EXPECT_TRUE(std::equal(key.begin() + k * frame, key.begin() + (k + 1) * frame,
                           all.begin() + k * 16 * frame))
        << k;
  }
}

// Words that betray an attribute, in lower case and without "ё".
bool HasAny(const std::string& text, const std::vector<std::string>& words) {
  return std::any_of(words.begin(), words.end(),
                     [&](const std::string& word) { return text.find(word) != std::string::npos; });
}

// "Red" and "Красный" as in the middle of a sentence.
std::string Folded(std::string text) {
  text = WithoutYo(text);
  for (const char* const c : {"г", "е", "м", "а", "б", "в", "д", "ж", "з", "и", "к",
                              "л", "н", "о", "п", "р", "с", "т", "у", "ф", "ч"}) {
    const std::string capital = Capitalized(c);
    if (text.starts_with(capital)) text.replace(0, capital.size(), c);
  }
  if (text[0] >= 'A' && text[0] <= 'Z') text[0] = static_cast<char>(text[0] - 'A' + 'a');
  return text;
}

TEST(CaptionTest, MentionsWhatItClaimsAndNothingElse) {
  const std::vector<std::vector<std::string>> colors = {
      {"red", "scarlet", "crimson", "красн", "ала", "алы", "ало"},
      {"green", "emerald", "зелен", "изумруд"},
      {"blue", "cobalt", "сини", "синя", "сине"},
      {"yellow", "golden", "lemon", "желт", "лимон"},
      {"purple", "violet", "фиолет", "пурпур"},
      {"orange", "tangerine", "оранж"},
      {"white", "бел"},
      {"black", "черн"}};
  const std::vector<std::vector<std::string>> shapes = {
      {"circle ", "circle,", "circle.", "disc", "disk", "round shape", "circle", "круг ", "диск",
       "круг", "кругла"},
      {"square", "квадрат"},
      {"triang", "треуг"}};
  const std::vector<std::vector<std::string>> backgrounds = {
      {"white", "бел"},
      {"black", "черн"},
      {"gray", "grey", "сер"},
      {"cyan", "turquoise", "бирюз", "голуб"}};
  const std::vector<std::string> ground = {"background", "backdrop", "canvas", "фон"};
  const std::vector<std::vector<std::string>> motions = {
      {"left", "влево", "налево"},
      {"right", "вправо", "направо"},
      {" up", "rise", "rising", "climb", "ascend", "top", "вверх", "наверх", "поднима"},
      {"down", "fall", "sink", "descend", "drops", "dropping", "bottom", "вниз", "нижн", "опуска",
       "пада"},
      {"still", "not mov", "not move", "in place", "motionless", "на месте", " не движ", "неподвиж",
       "стоящ"},
      {"grow", "bigger", "larger", "expand", "раст", "увелич", "больше"},
      {"shrink", "smaller", "contract", "уменьш", "сжима", "меньше"},
      {"bounc", "ricochet", "отскакива", "прыга", "мечет", "мечущ"},
      {"circling", "circles around", "in a circle", "in circles", "along a circle", "по кругу",
       "кружит", "кружащ", "круги"}};
  std::map<std::string, int> flags;
  for (int i = 0; i < 40000; ++i) {
    const ClipSpec clip = ClipAt(21, i, {.split = Split::kAll});
    CaptionOptions options;
    options.russian = 0.5;
    options.leave_out = 0.2;
    options.motion = i % 4 != 0;
    const Captioned caption = CaptionAt(21, i, clip, options);
    const std::string text = " " + Folded(caption.text);
    SCOPED_TRACE(caption.text + " | " + Describe(clip));
    EXPECT_TRUE(caption.shape || caption.color || caption.background || caption.motion);
    EXPECT_FALSE(caption.motion && !options.motion);
    EXPECT_EQ(HasAny(text, ground), caption.background);
    for (int m = 0; m < kMotions; ++m) {
      EXPECT_EQ(HasAny(text, motions[m]), caption.motion && m == static_cast<int>(clip.motion))
          << m;
    }
    for (int s = 1; s < kShapes; ++s) {  // "circle" is a motion, too
      EXPECT_EQ(HasAny(text, shapes[s]), caption.shape && s == static_cast<int>(clip.shape));
    }
    if (clip.motion != Motion::kCircle || !caption.motion) {
      EXPECT_EQ(HasAny(text, shapes[0]), caption.shape && clip.shape == Shape::kCircle);
    }
    for (int c = 0; c < kColors; ++c) {
      const bool as_background =
          caption.background && (c == 6 ? clip.background == Background::kWhite
                                        : c == 7 && clip.background == Background::kBlack);
      EXPECT_EQ(HasAny(text, colors[c]),
                (caption.color && c == static_cast<int>(clip.color)) || as_background)
          << c;
    }
    if (caption.background) {
      EXPECT_TRUE(HasAny(text, backgrounds[static_cast<int>(clip.background)]));
    }
    EXPECT_EQ(text.find('%'), std::string::npos);
    EXPECT_EQ(text.find("  "), std::string::npos);
    EXPECT_EQ(text.find('~'), std::string::npos);
    for (const char* const wrong : {"a orange", "a emerald", "a object", "an red", "an blue"}) {
      EXPECT_EQ(text.find(std::string(" ") + wrong), std::string::npos);
    }
    if (options.motion) {
      for (const bool flag : {caption.shape, caption.color, caption.background, caption.motion}) {
        ++flags[flag ? "kept" : "left out"];
      }
    }
    if (HasFailure()) return;
  }
  EXPECT_NEAR(flags["left out"] / 120000.0, 0.2, 0.01);
}

TEST(CaptionTest, NeverMentionsAColorWithoutAName) {
  ClipSpec clip = ClipAt(3, 1, {});
  for (const double leave_out : {0.0, 0.5, 1.0}) {
    for (int variant = 0; variant < 500; ++variant) {
      clip.unnamed_color = Rgb{200, 120, 160};
      const Captioned unnamed = CaptionAt(3, 1, clip, {.leave_out = leave_out}, variant);
      EXPECT_FALSE(unnamed.color);
      EXPECT_TRUE(unnamed.shape || unnamed.background || unnamed.motion);
      ClipSpec other = clip;  // nothing in the text comes from `color`
      other.color = static_cast<Color>((static_cast<int>(clip.color) + 1) % kColors);
      EXPECT_EQ(CaptionAt(3, 1, other, {.leave_out = leave_out}, variant).text, unnamed.text);
    }
  }
}

TEST(CaptionTest, PlainCaptions) {
  ClipSpec clip{.shape = Shape::kSquare,
                .color = Color::kBlue,
                .background = Background::kWhite,
                .motion = Motion::kUp};
  const CaptionOptions english{.russian = 0, .leave_out = 0, .plain = true};
  const CaptionOptions russian{.russian = 1, .leave_out = 0, .plain = true};
  CaptionOptions image = english;
  image.motion = false;
  Random random(1);
  EXPECT_EQ(Caption(clip, random, english).text, "a blue square moves up on a white background");
  EXPECT_EQ(Caption(clip, random, image).text, "a blue square on a white background");
  EXPECT_EQ(Caption(clip, random, russian).text, "синий квадрат движется вверх на белом фоне");
  struct Case {
    Shape shape;
    Color color;
    Background background;
    Motion motion;
    std::string english;
    std::string russian;
  };
  const std::vector<Case> cases = {
      {Shape::kCircle, Color::kRed, Background::kWhite, Motion::kRight,
       "a red circle moves to the right on a white background",
       "красный круг движется вправо на белом фоне"},
      {Shape::kTriangle, Color::kYellow, Background::kCyan, Motion::kGrow,
       "a yellow triangle grows on a cyan background",
       "жёлтый треугольник растёт на бирюзовом фоне"},
      {Shape::kSquare, Color::kOrange, Background::kBlack, Motion::kStill,
       "an orange square stays still on a black background",
       "оранжевый квадрат стоит на месте на чёрном фоне"},
      {Shape::kCircle, Color::kGreen, Background::kGray, Motion::kBounce,
       "a green circle bounces between the edges on a gray background",
       "зелёный круг отскакивает от краёв на сером фоне"},
      {Shape::kCircle, Color::kGreen, Background::kGray, Motion::kCircle,
       "a green circle circles around on a gray background",
       "зелёный круг движется по кругу на сером фоне"},
  };
  for (const Case& c : cases) {
    ClipSpec want{
        .shape = c.shape, .color = c.color, .background = c.background, .motion = c.motion};
    EXPECT_EQ(Caption(want, random, english).text, c.english);
    EXPECT_EQ(Caption(want, random, russian).text, c.russian);
  }
}

TEST(CaptionTest, PromptsOfTheReadmeAreMembers) {
  struct Case {
    ClipSpec clip;
    std::string text;
  };
  const ClipSpec blue{.shape = Shape::kSquare,
                      .color = Color::kBlue,
                      .background = Background::kWhite,
                      .motion = Motion::kUp};
  const ClipSpec red{.shape = Shape::kCircle,
                     .color = Color::kRed,
                     .background = Background::kWhite,
                     .motion = Motion::kRight};
  // With the defaults, the third is one caption in 10 million.
  const CaptionOptions options{.russian = 0, .leave_out = 0, .capital = 0, .full_stop = 0};
  for (const Case& c : {Case{blue, "a blue square moves up on a white background"},
                        Case{red, "a red circle moves to the right on a white background"},
                        Case{red, "scarlet disc sliding right, white backdrop"}}) {
    int found = 0;
    for (int i = 0; i < 5000000 && found == 0; ++i) {
      found = CaptionAt(5, i, c.clip, options).text == c.text;
    }
    EXPECT_EQ(found, 1) << c.text;
  }
}

TEST(CaptionTest, VariesWords) {
  const ClipSpec clip = ClipAt(5, 1, {});
  std::set<std::string> texts;
  for (int i = 0; i < 2000; ++i) texts.insert(CaptionAt(5, i, clip, {}).text);
  EXPECT_GT(texts.size(), 1000u);
}

TEST(CaptionTest, NamesBothOfMixedColors) {
  ClipSpec clip;
  clip.shape = Shape::kTriangle;
  clip.motion = Motion::kUp;
  clip.unnamed_color = Rgb{240, 230, 148};
  clip.mixed_colors = {Color::kYellow, Color::kWhite};
  CaptionOptions options;
  options.plain = true;
  options.leave_out = 0;
  Random random(1);
  options.russian = 0;
  const Captioned english = Caption(clip, random, options);
  EXPECT_EQ(english.text, "a yellow-white triangle moves up on a white background");
  EXPECT_FALSE(english.color);
  EXPECT_TRUE(english.shape && english.background && english.motion);
  options.russian = 1;
  clip.mixed_colors = {Color::kBlue, Color::kGreen};
  EXPECT_EQ(Caption(clip, random, options).text,
            "сине-зелёный треугольник движется вверх на белом фоне");
  // As often left out as other attributes, and never alone.
  options.russian = 0;
  options.leave_out = 0.4;
  int named = 0;
  for (int i = 0; i < 2000; ++i) {
    const Captioned captioned = Caption(clip, random, options);
    const bool both = captioned.text.find("blue-green") != std::string::npos;
    named += both;
    EXPECT_EQ(both, captioned.text.find("blue") != std::string::npos) << captioned.text;
    EXPECT_EQ(both, captioned.text.find("green") != std::string::npos) << captioned.text;
    EXPECT_FALSE(captioned.color);
  }
  EXPECT_NEAR(named / 2000.0, 0.6, 0.04);
}

TEST(RussianTest, CombiningForms) {
  EXPECT_EQ(CombiningForm("красный"), "красно");
  EXPECT_EQ(CombiningForm("жёлтый"), "жёлто");
  EXPECT_EQ(CombiningForm("синий"), "сине");
}

TEST(RussianTest, Agreement) {
  struct Row {
    std::string masculine, feminine, neuter, on;
  };
  const std::vector<Row> cases = {{"красный", "красная", "красное", "красном"},
                                  {"синий", "синяя", "синее", "синем"},
                                  {"голубой", "голубая", "голубое", "голубом"},
                                  {"жёлтый", "жёлтая", "жёлтое", "жёлтом"},
                                  {"чёрный", "чёрная", "чёрное", "чёрном"},
                                  {"алый", "алая", "алое", "алом"},
                                  {"беж", "беж", "беж", "беж"}};
  for (const Row& c : cases) {
    EXPECT_EQ(DeclineAdjective(c.masculine, Gender::kMasculine, Case::kNominative), c.masculine);
    EXPECT_EQ(DeclineAdjective(c.masculine, Gender::kFeminine, Case::kNominative), c.feminine);
    EXPECT_EQ(DeclineAdjective(c.masculine, Gender::kNeuter, Case::kNominative), c.neuter);
    EXPECT_EQ(DeclineAdjective(c.masculine, Gender::kMasculine, Case::kPrepositional), c.on);
  }
  EXPECT_EQ(Participle("движущ", true, Gender::kMasculine), "движущийся");
  EXPECT_EQ(Participle("движущ", true, Gender::kFeminine), "движущаяся");
  EXPECT_EQ(Participle("растущ", false, Gender::kNeuter), "растущее");
  EXPECT_EQ(Capitalized("синий"), "Синий");
  EXPECT_EQ(Capitalized("алый"), "Алый");
  EXPECT_EQ(Capitalized("ёлка"), "Ёлка");
  EXPECT_EQ(Capitalized("a disc"), "A disc");
  EXPECT_EQ(Capitalized(""), "");
  EXPECT_EQ(WithoutYo("жёлтый круг растёт"), "желтый круг растет");
}

TEST(RussianTest, CaptionsAgreeInGender) {
  const CaptionOptions options{.russian = 1};
  for (int i = 0; i < 20000; ++i) {
    const ClipSpec clip = ClipAt(31, i, {.split = Split::kAll});
    const std::string text = Folded(CaptionAt(31, i, clip, options).text);
    const bool feminine = text.find("фигура") != std::string::npos;
    const bool neuter = text.find("пятно") != std::string::npos;
    if (feminine) {
      EXPECT_FALSE(HasAny(text, {"ый фигура", "ий фигура", "ое фигура", "щийся", "щееся",
                                 "неподвижен", "неподвижно"}))
          << text;
    } else if (neuter) {
      EXPECT_FALSE(
          HasAny(text, {"ый пятно", "ая пятно", "щийся", "щаяся", "неподвижен", "неподвижна"}))
          << text;
    } else {
      EXPECT_FALSE(HasAny(text, {"ная ", "тая ", "лая ", "вая ", "няя ", "щаяся", "щееся",
                                 "неподвижна", "неподвижно"}))
          << text;
    }
    if (text.find("фоне") != std::string::npos) {
      EXPECT_TRUE(HasAny(text, {"на белом фоне", "на черном фоне", "на сером фоне",
                                "на бирюзовом фоне", "на голубом фоне"}))
          << text;
    }
  }
}

}  // namespace
}  // namespace kandinsky::training
