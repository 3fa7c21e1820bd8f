// The little of Russian grammar that captions need: agreement of adjectives and participles.
// Strings are UTF-8.
#ifndef KANDINSKY_TRAINING_DOMAIN_RUSSIAN_H_
#define KANDINSKY_TRAINING_DOMAIN_RUSSIAN_H_

#include <string>
#include <string_view>

namespace kandinsky::training {

enum class Gender { kMasculine, kFeminine, kNeuter };
enum class Case { kNominative, kPrepositional };

// Declines an adjective given as masculine nominative: hard ("красный", "голубой") or soft
// ("синий"). What does not end like one is returned as it is.
std::string DeclineAdjective(std::string_view masculine, Gender gender, Case grammatical_case);

// The first half of a compound, from a masculine nominative: "красный" -> "красно", "синий" ->
// "сине".
std::string CombiningForm(std::string_view masculine);

// A present active participle in the nominative from its stem: "движущ" -> "движущаяся" (feminine,
// reflexive).
std::string Participle(std::string_view stem, bool reflexive, Gender gender);

// With a capital first letter, Latin or Cyrillic.
std::string Capitalized(std::string_view text);

// With "е" for every "ё", as most people type.
std::string WithoutYo(std::string_view text);

}  // namespace kandinsky::training

#endif  // KANDINSKY_TRAINING_DOMAIN_RUSSIAN_H_
