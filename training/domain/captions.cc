#include "training/domain/captions.h"

#include <optional>
#include <string_view>
#include <vector>

#include "training/domain/russian.h"

namespace kandinsky::training {
namespace {

constexpr uint64_t kCaptionStream = 2;

using Words = std::vector<std::string_view>;

// The first of each list is the plainest and the most frequent one.
template <typename T>
const T& Pick(const std::vector<T>& list, Random& random, bool plain) {
  if (plain || list.size() == 1 || random.Chance(0.45)) return list[0];
  return list[random.Below(static_cast<int>(list.size()))];
}

// Replaces each "%c" of the pattern by what `value` gives for c.
template <typename F>
std::string Fill(std::string_view pattern, const F& value) {
  std::string out;
  for (size_t i = 0; i < pattern.size(); ++i) {
    if (pattern[i] == '%' && i + 1 < pattern.size()) {
      out += value(pattern[++i]);
    } else {
      out += pattern[i];
    }
  }
  return out;
}

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

struct EnglishVerb {
  std::string_view finite;  // "moves"
  std::string_view gerund;  // "moving"
};

// For directional motion: combined with the words of EnglishDirections.
const std::vector<EnglishVerb>& EnglishGoing() {
  static const auto* const verbs = new std::vector<EnglishVerb>{
      {"moves", "moving"},    {"slides", "sliding"},     {"glides", "gliding"},
      {"drifts", "drifting"}, {"travels", "travelling"}, {"goes", "going"}};
  return *verbs;
}

const Words& EnglishDirections(Motion motion) {
  static const Words* const words =
      new Words[4]{{"to the left", "left", "leftward", "leftwards", "towards the left"},
                   {"to the right", "right", "rightward", "rightwards", "towards the right"},
                   {"up", "upward", "upwards", "towards the top"},
                   {"down", "downward", "downwards", "towards the bottom"}};
  return words[static_cast<int>(motion)];
}

// For the rest, and other words for up and down.
const std::vector<EnglishVerb>& EnglishVerbs(Motion motion) {
  static const auto* const verbs = new std::vector<EnglishVerb>[kMotions] {
    {}, {}, {{"rises", "rising"}, {"climbs", "climbing"}, {"ascends", "ascending"}},
        {{"falls", "falling"},
         {"sinks", "sinking"},
         {"descends", "descending"},
         {"drops", "dropping"}},
        {{"stays still", "staying still"},
         {"does not move", "not moving"},
         {"stands still", "standing still"},
         {"stays in place", "staying in place"},
         {"remains motionless", "remaining motionless"}},
        {{"grows", "growing"},
         {"gets bigger", "getting bigger"},
         {"gets larger", "getting larger"},
         {"expands", "expanding"},
         {"becomes larger", "becoming larger"}},
        {{"shrinks", "shrinking"},
         {"gets smaller", "getting smaller"},
         {"contracts", "contracting"},
         {"becomes smaller", "becoming smaller"}},
        {{"bounces between the edges", "bouncing between the edges"},
         {"bounces around", "bouncing around"},
         {"bounces off the edges", "bouncing off the edges"},
         {"ricochets between the edges", "ricocheting between the edges"}},
        {{"circles around", "circling around"},
         {"moves in a circle", "moving in a circle"},
         {"goes round in circles", "going round in circles"},
         {"travels along a circle", "travelling along a circle"}},
  };
  return verbs[static_cast<int>(motion)];
}

// "a red circle", "an orange square", "something red".
std::string WithArticle(std::string_view words) {
  const bool vowel = std::string_view("aeiou").find(words.front()) != std::string_view::npos;
  return (vowel ? "an " : "a ") + std::string(words);
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

  std::string finite;
  std::string gerund;
  if (clip.motion) {
    const std::vector<EnglishVerb>& own = EnglishVerbs(*clip.motion);
    const bool directional = *clip.motion <= Motion::kDown;
    if (directional && (own.empty() || plain || random.Chance(0.75))) {
      const EnglishVerb verb = Pick(EnglishGoing(), random, plain);
      const std::string direction(Pick(EnglishDirections(*clip.motion), random, plain));
      finite = std::string(verb.finite) + " " + direction;
      gerund = std::string(verb.gerund) + " " + direction;
    } else {
      const EnglishVerb verb = Pick(own, random, plain);
      finite = verb.finite;
      gerund = verb.gerund;
    }
  }

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
        return finite;
      case 'G':
        return gerund;
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

struct RussianVerb {
  std::string_view finite;  // "движется"; with '~' where the ending of a short adjective goes
  std::string_view stem;    // of the participle: "движущ"
  bool reflexive = false;
  std::string_view tail;  // follows both
};

const std::vector<RussianVerb>& RussianGoing() {
  static const auto* const verbs = new std::vector<RussianVerb>{{"движется", "движущ", true, ""},
                                                                {"едет", "едущ", false, ""},
                                                                {"плывёт", "плывущ", false, ""},
                                                                {"скользит", "скользящ", false, ""},
                                                                {"летит", "летящ", false, ""}};
  return *verbs;
}

const Words& RussianDirections(Motion motion) {
  static const Words* const words = new Words[4]{
      {"влево", "налево"}, {"вправо", "направо"}, {"вверх", "наверх"}, {"вниз", "к нижнему краю"}};
  return words[static_cast<int>(motion)];
}

const std::vector<RussianVerb>& RussianVerbs(Motion motion) {
  static const auto* const verbs = new std::vector<RussianVerb>[kMotions] {
    {}, {}, {{"поднимается", "поднимающ", true, ""}},
        {{"опускается", "опускающ", true, ""}, {"падает", "падающ", false, ""}},
        {{"стоит", "стоящ", false, " на месте"},
         {"не движется", "не движущ", true, ""},
         {"остаётся", "остающ", true, " на месте"},
         {"неподвижен~", "стоящ", false, ""}},
        {{"растёт", "растущ", false, ""},
         {"увеличивается", "увеличивающ", true, ""},
         {"становится", "становящ", true, " больше"}},
        {{"уменьшается", "уменьшающ", true, ""},
         {"сжимается", "сжимающ", true, ""},
         {"становится", "становящ", true, " меньше"}},
        {{"отскакивает", "отскакивающ", false, " от краёв"},
         {"прыгает", "прыгающ", false, " от края к краю"},
         {"мечется", "мечущ", true, " между краями"}},
        {{"движется", "движущ", true, " по кругу"},
         {"кружит", "кружащ", false, ""},
         {"описывает", "описывающ", false, " круги"}},
  };
  return verbs[static_cast<int>(motion)];
}

std::string RussianFinite(const RussianVerb& verb, Gender gender) {
  std::string text(verb.finite);
  if (text.ends_with('~')) {
    constexpr std::string_view kForms[3] = {"неподвижен", "неподвижна", "неподвижно"};
    text = kForms[static_cast<int>(gender)];
  }
  return text + std::string(verb.tail);
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

  std::string finite;
  std::string participle;
  if (clip.motion) {
    const std::vector<RussianVerb>& own = RussianVerbs(*clip.motion);
    const bool directional = *clip.motion <= Motion::kDown;
    const bool going = directional && (own.empty() || plain || random.Chance(0.75));
    const RussianVerb verb = Pick(going ? RussianGoing() : own, random, plain);
    finite = RussianFinite(verb, noun.gender);
    participle = Participle(verb.stem, verb.reflexive, noun.gender) + std::string(verb.tail);
    if (going) {
      const std::string direction(Pick(RussianDirections(*clip.motion), random, plain));
      finite += " " + direction;
      participle += " " + direction;
    }
  }

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
        return finite;
      case 'G':
        return participle;
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
