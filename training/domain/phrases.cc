#include "training/domain/phrases.h"

namespace kandinsky::training {
namespace {

// --- English ---

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

// --- Russian ---

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

}  // namespace

std::string WithArticle(std::string_view words) {
  const bool vowel = std::string_view("aeiou").find(words.front()) != std::string_view::npos;
  return (vowel ? "an " : "a ") + std::string(words);
}

EnglishMotion DrawEnglishMotion(Motion motion, Random& random, bool plain) {
  const std::vector<EnglishVerb>& own = EnglishVerbs(motion);
  const bool directional = motion <= Motion::kDown;
  if (directional && (own.empty() || plain || random.Chance(0.75))) {
    const EnglishVerb verb = Pick(EnglishGoing(), random, plain);
    const std::string direction(Pick(EnglishDirections(motion), random, plain));
    return {std::string(verb.finite) + " " + direction, std::string(verb.gerund) + " " + direction};
  }
  const EnglishVerb verb = Pick(own, random, plain);
  return {std::string(verb.finite), std::string(verb.gerund)};
}

RussianMotion DrawRussianMotion(Motion motion, std::optional<Gender> gender, Random& random,
                                bool plain) {
  const std::vector<RussianVerb>& own = RussianVerbs(motion);
  const bool directional = motion <= Motion::kDown;
  const bool going = directional && (own.empty() || plain || random.Chance(0.75));
  RussianVerb verb = Pick(going ? RussianGoing() : own, random, plain);
  if (!gender && verb.finite.ends_with('~')) verb = own[0];
  RussianMotion said;
  said.finite = RussianFinite(verb, gender.value_or(Gender::kMasculine));
  if (gender) {
    said.participle = Participle(verb.stem, verb.reflexive, *gender) + std::string(verb.tail);
  }
  if (going) {
    const std::string direction(Pick(RussianDirections(motion), random, plain));
    said.finite += " " + direction;
    if (gender) said.participle += " " + direction;
  }
  return said;
}

}  // namespace kandinsky::training
