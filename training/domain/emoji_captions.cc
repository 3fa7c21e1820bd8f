#include <algorithm>
#include <iterator>
#include <optional>
#include <string>
#include <string_view>

#include "training/domain/emoji.h"
#include "training/domain/phrases.h"
#include "training/domain/russian.h"

namespace kandinsky::training {
namespace {

constexpr uint64_t kCaptionStream = 22;

struct Mentioned {
  std::string name;
  std::optional<EmojiBackground> background;
  std::optional<Motion> motion;
};

// --- English ---

const Words& EnglishBackgrounds(EmojiBackground background) {
  static const Words* const words = new Words[kEmojiBackgrounds]{
      {"white"},  {"black"}, {"gray", "grey"},       {"red"},
      {"yellow"}, {"green"}, {"blue", "light blue"}, {"purple", "violet"}};
  return words[static_cast<int>(background)];
}

// What takes no "a": names, and what is not counted.
bool IsBare(std::string_view name) {
  constexpr std::string_view kBare[] = {"Saturn", "lightning", "rain",   "snow", "wood",
                                        "beer",   "champagne", "coffee", "fire", "mind blown"};
  return std::find(std::begin(kBare), std::end(kBare), name) != std::end(kBare);
}

// With its article as speech has it: "an owl", "a unicorn", "a UFO", "an SUV".
std::string WithSpokenArticle(std::string_view name) {
  for (const std::string_view start : {"uni", "eu", "UFO"}) {
    if (name.starts_with(start)) return "a " + std::string(name);
  }
  if (name == "SUV") return "an SUV";
  return WithArticle(name);
}

// [has motion][has background]
const Words& EnglishTemplates(bool motion, bool background) {
  static const Words* const words =
      new Words[4]{{"%S", "%V of %S", "there is %S"},
                   {"%S %P %B %n", "%S, %b %n", "%b %n, %S", "%P %B %n, %S", "%B %n with %S",
                    "%V of %S %P %B %n", "there is %S %P %B %n", "%S %P %b"},
                   {"%S %M", "%S %G", "%S is %G", "%V of %S %G", "%S, %G", "%S that %M"},
                   {"%S %P %B %n %M", "%S %M %P %B %n", "%S %G %P %B %n", "%S %P %B %n, %G",
                    "%S %G, %b %n", "%S is %G %P %B %n", "%P %B %n, %S %M", "%b %n, %S %M",
                    "%S, %b %n, %M", "%S %M, %b %n", "%V of %S %G %P %B %n", "%B %n with %S %G",
                    "%S, %G, %b %n", "%S that %M %P %B %n", "%P %B %n %S %M"}};
  return words[2 * motion + background];
}

std::string English(const Mentioned& clip, Random& random, bool plain) {
  std::string subject = clip.name;
  const double article = plain ? 0 : random.Uniform();
  if (article < 0.7) {
    if (!IsBare(clip.name)) subject = WithSpokenArticle(clip.name);
  } else if (article < 0.8) {
    subject = "the " + clip.name;
  }
  EnglishMotion motion;
  if (clip.motion) motion = DrawEnglishMotion(*clip.motion, random, plain);
  std::string_view background;
  if (clip.background) background = Pick(EnglishBackgrounds(*clip.background), random, plain);
  static const Words* const nouns = new Words{"background", "backdrop"};
  static const Words* const prepositions = new Words{"on", "against", "in front of"};
  static const Words* const media = new Words{"a video", "a clip", "an animation", "an emoji"};
  const std::string_view noun = Pick(*nouns, random, plain);
  const std::string_view preposition = Pick(*prepositions, random, plain);
  const std::string_view medium = Pick(*media, random, plain);
  const Words& patterns = EnglishTemplates(clip.motion.has_value(), clip.background.has_value());
  return Fill(Pick(patterns, random, plain), [&](char c) -> std::string {
    switch (c) {
      case 'S':
        return subject;
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

const Words& RussianBackgrounds(EmojiBackground background) {
  static const Words* const words = new Words[kEmojiBackgrounds]{{"белый"},
                                                                 {"чёрный"},
                                                                 {"серый"},
                                                                 {"красный"},
                                                                 {"жёлтый"},
                                                                 {"зелёный"},
                                                                 {"синий", "голубой"},
                                                                 {"фиолетовый", "сиреневый"}};
  return words[static_cast<int>(background)];
}

// The verb agrees with every noun of the list, because it is in the present tense.
const Words& RussianTemplates(bool motion, bool background) {
  static const Words* const words =
      new Words[4]{{"%S", "%V: %S", "%V, на котором %S"},
                   {"%S на %b фоне", "%B фон, %S", "%S, %B фон", "на %b фоне %S",
                    "%V: %S на %b фоне", "%S, фон %B", "%S на %b"},
                   {"%S %M", "%M %S", "%V: %S %M", "%S, %M"},
                   {"%S на %b фоне %M", "%S %M на %b фоне", "на %b фоне %S %M", "на %b фоне %M %S",
                    "%B фон, %S %M", "%M %S на %b фоне", "%S %M, фон %B", "%S %M, %B фон",
                    "%S, %B фон, %M", "%V: %S %M на %b фоне"}};
  return words[2 * motion + background];
}

std::string Russian(const Mentioned& clip, Random& random, bool plain) {
  RussianMotion motion;
  if (clip.motion) motion = DrawRussianMotion(*clip.motion, std::nullopt, random, plain);
  std::string background, on_background;
  if (clip.background) {
    background = Pick(RussianBackgrounds(*clip.background), random, plain);
    on_background = DeclineAdjective(background, Gender::kMasculine, Case::kPrepositional);
  }
  static const Words* const media = new Words{"видео", "эмодзи"};
  const std::string_view medium = Pick(*media, random, plain);
  const Words& patterns = RussianTemplates(clip.motion.has_value(), clip.background.has_value());
  const std::string text = Fill(Pick(patterns, random, plain), [&](char c) -> std::string {
    switch (c) {
      case 'S':
        return clip.name;
      case 'M':
        return motion.finite;
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

EmojiCaptioned EmojiCaption(const EmojiSpec& clip, const EmojiClass& emoji, Random& random,
                            const EmojiCaptionOptions& options) {
  EmojiCaptioned result;
  result.russian = random.Chance(options.russian);
  result.background = !random.Chance(options.leave_out);
  result.motion = options.motion && !random.Chance(options.leave_out);
  Mentioned seen;
  const auto& synonyms = result.russian ? emoji.russian_synonyms : emoji.english_synonyms;
  seen.name = result.russian ? emoji.russian : emoji.english;
  if (!options.plain && !synonyms.empty() && random.Chance(options.synonym)) {
    seen.name = synonyms[static_cast<size_t>(random.Below(static_cast<int>(synonyms.size())))];
  }
  if (result.background) seen.background = clip.background;
  if (result.motion) seen.motion = clip.motion;
  result.text =
      result.russian ? Russian(seen, random, options.plain) : English(seen, random, options.plain);
  if (!options.plain) {
    if (random.Chance(0.15)) result.text = Capitalized(result.text);
    if (random.Chance(0.1)) result.text += '.';
  }
  return result;
}

EmojiCaptioned EmojiCaptionAt(uint64_t seed, uint64_t index, const EmojiSpec& clip,
                              const EmojiClass& emoji, const EmojiCaptionOptions& options,
                              uint64_t variant) {
  Random random = Random::At(seed, kCaptionStream + (variant << 8), index);
  return EmojiCaption(clip, emoji, random, options);
}

}  // namespace kandinsky::training
