// What sentences about any moving thing share, in English and Russian: words that are drawn,
// patterns that are filled in, and how motions are said.
//
// Everything here is a pure function of its arguments and the random numbers it draws.
#ifndef KANDINSKY_TRAINING_DOMAIN_PHRASES_H_
#define KANDINSKY_TRAINING_DOMAIN_PHRASES_H_

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "training/domain/random.h"
#include "training/domain/russian.h"
#include "training/domain/shapes.h"

namespace kandinsky::training {

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

// "a red circle", "an orange square": an before a vowel.
std::string WithArticle(std::string_view words);

struct EnglishMotion {
  std::string finite;  // "moves to the left"
  std::string gerund;  // "moving to the left"
};
EnglishMotion DrawEnglishMotion(Motion motion, Random& random, bool plain);

struct RussianMotion {
  std::string finite;      // "движется влево"
  std::string participle;  // "движущийся влево"; empty without a gender
};
// Without a gender, only what is said alike of every noun.
RussianMotion DrawRussianMotion(Motion motion, std::optional<Gender> gender, Random& random,
                                bool plain);

}  // namespace kandinsky::training

#endif  // KANDINSKY_TRAINING_DOMAIN_PHRASES_H_
