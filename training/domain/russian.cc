#include "training/domain/russian.h"

namespace kandinsky::training {
namespace {

// [case][gender]
constexpr std::string_view kHard[2][3] = {{"ый", "ая", "ое"}, {"ом", "ой", "ом"}};
constexpr std::string_view kSoft[2][3] = {{"ий", "яя", "ее"}, {"ем", "ей", "ем"}};
constexpr std::string_view kParticiple[3] = {"ий", "ая", "ее"};

}  // namespace

std::string DeclineAdjective(std::string_view masculine, Gender gender, Case grammatical_case) {
  if (gender == Gender::kMasculine && grammatical_case == Case::kNominative) {
    return std::string(masculine);
  }
  const bool soft = masculine.ends_with("ий");
  if (!soft && !masculine.ends_with("ый") && !masculine.ends_with("ой")) {
    return std::string(masculine);
  }
  const auto& endings = soft ? kSoft : kHard;
  std::string form(masculine.substr(0, masculine.size() - kHard[0][0].size()));
  form += endings[static_cast<int>(grammatical_case)][static_cast<int>(gender)];
  return form;
}

std::string CombiningForm(std::string_view masculine) {
  const std::string stem(masculine.substr(0, masculine.size() - kHard[0][0].size()));
  return stem + (masculine.ends_with("ий") ? "е" : "о");
}

std::string Participle(std::string_view stem, bool reflexive, Gender gender) {
  std::string form(stem);
  form += kParticiple[static_cast<int>(gender)];
  if (reflexive) form += "ся";
  return form;
}

std::string Capitalized(std::string_view text) {
  std::string out(text);
  if (out.empty()) return out;
  if (out[0] >= 'a' && out[0] <= 'z') out[0] = static_cast<char>(out[0] - 'a' + 'A');
  if (out.size() < 2) return out;
  // Lower case is U+0430 to U+044F, upper case 32 below; U+0451 (yo) goes to U+0401.
  const auto first = static_cast<unsigned char>(out[0]);
  const auto second = static_cast<unsigned char>(out[1]);
  if (first != 0xd0 && first != 0xd1) return out;
  int code = (first & 0x1f) << 6 | (second & 0x3f);
  if (code >= 0x430 && code <= 0x44f) {
    code -= 32;
  } else if (code == 0x451) {
    code = 0x401;
  }
  out[0] = static_cast<char>(0xc0 | code >> 6);
  out[1] = static_cast<char>(0x80 | (code & 0x3f));
  return out;
}

std::string WithoutYo(std::string_view text) {
  constexpr std::string_view kYo = "ё";
  constexpr std::string_view kYe = "е";
  std::string out;
  for (size_t i = 0; i < text.size();) {
    if (text.substr(i).starts_with(kYo)) {
      out += kYe;
      i += kYo.size();
    } else {
      out += text[i++];
    }
  }
  return out;
}

}  // namespace kandinsky::training
