#include "training/domain/captions.h"

#include <optional>
#include <string_view>
#include <vector>

#include "training/domain/phrases.h"
#include "training/domain/russian.h"

namespace kandinsky::training {
namespace {

constexpr uint64_t kCaptionStream = 2;

// A clip as a caption sees it: what is not mentioned is not there.
struct Mentioned {
  std::optional<Shape> shape;
  std::vector<Color> colors;  // two of a mixed colour
  std::optional<Background> background;
  std::optional<Motion> motion;
  bool still_image = false;
};

// --- English ---

const Words& EnglishColors(Color color) {
  static const Words* const words = new Words[kColors]{{"red", "scarlet", "crimson"},
                                                       {"green", "emerald"},
                                                       {"blue", "cobalt", "royal blue"},
                                                       {"yellow", "golden", "lemon"},
                                                       {"purple", "violet"},
                                                       {"orange", "tangerine"},
                                                       {"white", "snow-white"},
                                                       {"black", "jet-black", "pitch-black"}};
  return words[static_cast<int>(color)];
}

const Words& EnglishShapes(Shape shape) {
  static const Words* const words = new Words[kShapes]{{"circle", "disc", "disk", "round shape"},
                                                       {"square", "square shape"},
                                                       {"triangle", "triangular shape"}};
  return words[static_cast<int>(shape)];
}

const Words& EnglishBackgrounds(Background background) {
  static const Words* const words =
      new Words[kBackgrounds]{{"white"}, {"black"}, {"gray", "grey"}, {"cyan", "turquoise"}};
  return words[static_cast<int>(background)];
}

// [has motion][has background]
const Words& EnglishTemplates(bool motion, bool background) {
  static const Words* const words = new Words[4]{
      {"%S", "%s", "%V of %S", "there is %S"},
      {"%S %P %B %n", "%s, %b %n", "%b %n, %S", "%S, %b %n", "%P %B %n, %S", "%B %n with %S",
       "%V of %S %P %B %n", "there is %S %P %B %n", "the %n is %b, with %S"},
      {"%S %M", "%S %G", "%s %G", "%S is %G", "%V of %S %G", "%G: %S", "%S that %M"},
      {"%S %M %P %B %n", "%S %G %P %B %n", "%s %G, %b %n", "%S is %G %P %B %n", "%P %B %n, %S %M",
       "%S %P %B %n %M", "%b %n, %S %M", "%S %M, %b %n", "%V of %S %G %P %B %n", "%B %n with %S %G",
       "%B %n, %S is %G", "%s, %G, %b %n", "%G: %S %P %B %n", "the %n is %b and %S %M",
       "%S that %M %P %B %n", "%b %n: %s %G"}};
  return words[2 * motion + background];
}

// "red", or "red-white" of two.
std::string EnglishColor(const std::vector<Color>& colors, Random& random, bool plain) {
  if (colors.size() == 1) return std::string(Pick(EnglishColors(colors[0]), random, plain));
  return std::string(EnglishColors(colors[0])[0]) + "-" + std::string(EnglishColors(colors[1])[0]);
}

std::string English(const Mentioned& clip, Random& random, bool plain) {
  std::string bare;
  std::string subject;
  const bool colored = !clip.colors.empty();
  if (colored) bare = EnglishColor(clip.colors, random, plain);
  if (!clip.shape && random.Chance(plain ? 0 : 0.2)) {
    bare = colored ? "something " + bare : "something";
    subject = bare;
  } else {
    if (colored) bare += ' ';
    static const Words* const unnamed = new Words{"shape", "object", "figure"};
    bare += Pick(clip.shape ? EnglishShapes(*clip.shape) : *unnamed, random, plain);
    subject = WithArticle(bare);
  }

  EnglishMotion motion;
  if (clip.motion) motion = DrawEnglishMotion(*clip.motion, random, plain);

  std::string_view background;
  std::string_view noun;
  if (clip.background) {
    static const Words* const nouns = new Words{"background", "backdrop", "canvas"};
    background = Pick(EnglishBackgrounds(*clip.background), random, plain);
    noun = Pick(*nouns, random, plain);
  }
  static const Words* const prepositions = new Words{"on", "against", "in front of"};
  static const Words* const images = new Words{"a picture", "an image", "a drawing"};
  static const Words* const videos = new Words{"a video", "a clip", "an animation"};
  const std::string_view preposition = Pick(*prepositions, random, plain);
  const std::string_view medium = Pick(clip.still_image ? *images : *videos, random, plain);

  const std::string_view pattern =
      Pick(EnglishTemplates(clip.motion.has_value(), clip.background.has_value()), random, plain);
  return Fill(pattern, [&](char c) -> std::string {
    switch (c) {
      case 'S':
        return subject;
      case 's':
        return bare;
      case 'M':
        return motion.finite;
      case 'G':
        return motion.gerund;
      case 'B':
        return WithArticle(background);
      case 'b':
        return std::string(background);
      case 'n':
        return std::string(noun);
      case 'P':
        return std::string(preposition);
      case 'V':
        return std::string(medium);
      default:
        return {};
    }
  });
}

// --- Russian ---

// Masculine nominative.
const Words& RussianColors(Color color) {
  static const Words* const words = new Words[kColors]{{"красный", "алый"},
                                                       {"зелёный", "изумрудный"},
                                                       {"синий"},
                                                       {"жёлтый", "лимонный"},
                                                       {"фиолетовый", "пурпурный"},
                                                       {"оранжевый"},
                                                       {"белый", "белоснежный"},
                                                       {"чёрный"}};
  return words[static_cast<int>(color)];
}

const Words& RussianBackgrounds(Background background) {
  static const Words* const words =
      new Words[kBackgrounds]{{"белый"}, {"чёрный"}, {"серый"}, {"бирюзовый", "голубой"}};
  return words[static_cast<int>(background)];
}

struct RussianNoun {
  std::string_view adjective;  // masculine nominative, or empty
  std::string_view noun;
  Gender gender = Gender::kMasculine;
};

const std::vector<RussianNoun>& RussianShapes(std::optional<Shape> shape) {
  static const auto* const nouns = new std::vector<RussianNoun>[kShapes + 1] {
    {{"", "круг", Gender::kMasculine},
     {"", "диск", Gender::kMasculine},
     {"круглый", "фигура", Gender::kFeminine}},
        {{"", "квадрат", Gender::kMasculine}, {"квадратный", "фигура", Gender::kFeminine}},
        {{"", "треугольник", Gender::kMasculine}, {"треугольный", "фигура", Gender::kFeminine}},
        {{"", "фигура", Gender::kFeminine},
         {"", "объект", Gender::kMasculine},
         {"", "пятно", Gender::kNeuter}},
  };
  return nouns[shape ? static_cast<int>(*shape) : kShapes];
}

// [has motion][has background]
const Words& RussianTemplates(bool motion, bool background) {
  static const Words* const words =
      new Words[4]{{"%S", "%V: %S", "%V, на котором %S"},
                   {"%S на %b фоне", "%B фон, %S", "%S, %B фон", "на %b фоне %S",
                    "%V: %S на %b фоне", "%S, фон %B"},
                   {"%S %M", "%S, %G", "%G %S", "%V: %S %M", "%V, на котором %S %M"},
                   {"%S %M на %b фоне", "на %b фоне %S %M", "на %b фоне %M %S", "%B фон, %S %M",
                    "%S на %b фоне %M", "%M %S на %b фоне", "%S, %G, на %b фоне", "%S %M, фон %B",
                    "%S %M, %B фон", "%V: %S %M на %b фоне", "%G %S на %b фоне"}};
  return words[2 * motion + background];
}

// Masculine nominative: "красный", or "красно-белый" of two.
std::string RussianColor(const std::vector<Color>& colors, Random& random, bool plain) {
  if (colors.size() == 1) return std::string(Pick(RussianColors(colors[0]), random, plain));
  return CombiningForm(RussianColors(colors[0])[0]) + "-" +
         std::string(RussianColors(colors[1])[0]);
}

std::string Russian(const Mentioned& clip, Random& random, bool plain) {
  const RussianNoun noun = Pick(RussianShapes(clip.shape), random, plain);
  std::string subject;
  if (!clip.colors.empty()) {
    const std::string color = RussianColor(clip.colors, random, plain);
    subject = DeclineAdjective(color, noun.gender, Case::kNominative) + " ";
  }
  if (!noun.adjective.empty()) {
    subject += DeclineAdjective(noun.adjective, noun.gender, Case::kNominative) + " ";
  }
  subject += noun.noun;

  RussianMotion motion;
  if (clip.motion) motion = DrawRussianMotion(*clip.motion, noun.gender, random, plain);

  std::string background;
  std::string on_background;
  if (clip.background) {
    background = Pick(RussianBackgrounds(*clip.background), random, plain);
    on_background = DeclineAdjective(background, Gender::kMasculine, Case::kPrepositional);
  }
  static const Words* const images = new Words{"изображение"};
  static const Words* const videos = new Words{"видео"};
  const std::string_view medium = Pick(clip.still_image ? *images : *videos, random, plain);

  const std::string_view pattern =
      Pick(RussianTemplates(clip.motion.has_value(), clip.background.has_value()), random, plain);
  const std::string text = Fill(pattern, [&](char c) -> std::string {
    switch (c) {
      case 'S':
        return subject;
      case 'M':
        return motion.finite;
      case 'G':
        return motion.participle;
      case 'B':
        return background;
      case 'b':
        return on_background;
      case 'V':
        return std::string(medium);
      default:
        return {};
    }
  });
  return !plain && random.Chance(0.3) ? WithoutYo(text) : text;
}

}  // namespace

Captioned Caption(const ClipSpec& clip, Random& random, const CaptionOptions& options) {
  Captioned result;
  const bool russian = random.Chance(options.russian);
  bool* const mentioned[] = {&result.shape, &result.color, &result.background, &result.motion};
  const int attributes = options.motion ? 4 : 3;
  bool any = false;
  for (int i = 0; i < attributes; ++i) {
    *mentioned[i] = !random.Chance(options.leave_out);
  }
  const bool nameless = clip.unnamed_color && !clip.mixed_colors;
  if (nameless) result.color = false;
  for (int i = 0; i < attributes; ++i) any = any || *mentioned[i];
  if (!any) *mentioned[nameless ? 0 : random.Below(attributes)] = true;

  Mentioned seen;
  seen.still_image = !options.motion;
  if (result.shape) seen.shape = clip.shape;
  if (result.color && clip.mixed_colors) {
    seen.colors = {clip.mixed_colors->begin(), clip.mixed_colors->end()};
    result.color = false;
  } else if (result.color) {
    seen.colors = {clip.color};
  }
  if (result.background) seen.background = clip.background;
  if (result.motion) seen.motion = clip.motion;
  result.text =
      russian ? Russian(seen, random, options.plain) : English(seen, random, options.plain);
  if (!options.plain) {
    if (random.Chance(options.capital)) result.text = Capitalized(result.text);
    if (random.Chance(options.full_stop)) result.text += '.';
  }
  return result;
}

Captioned CaptionAt(uint64_t seed, uint64_t index, const ClipSpec& clip,
                    const CaptionOptions& options, uint64_t variant) {
  Random random = Random::At(seed, kCaptionStream + (variant << 8), index);
  return Caption(clip, random, options);
}

}  // namespace kandinsky::training
