#include "services/frontend/text.h"

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "common/spec/utf8.h"

namespace kandinsky {
namespace {

bool IsBlank(uint32_t point) {
  return point == ' ' || point == '\t' || point == '\n' || point == 0xA0 || point == 0x1680 ||
         (point >= 0x2000 && point <= 0x200F) || point == 0x2028 || point == 0x2029 ||
         point == 0x202F || point == 0x205F || point == 0x2060 || point == 0x3000 ||
         point == 0xFEFF;
}

bool IsRefusedControl(uint32_t point) {
  return (point < 0x20 && point != '\n' && point != '\t') || (point >= 0x7F && point < 0xA0);
}

}  // namespace

std::optional<TextProperties> InspectText(std::string_view bytes) {
  TextProperties properties;
  while (!bytes.empty()) {
    const std::optional<char32_t> point = PopCodePoint(bytes);
    if (!point) return std::nullopt;
    ++properties.characters;
    if (!IsBlank(*point)) properties.blank = false;
    if (!properties.control && IsRefusedControl(*point)) properties.control = point;
  }
  return properties;
}

bool IsIdentifier(std::string_view text, std::string_view extra, size_t max) {
  if (text.empty() || text.size() > max) return false;
  for (const char c : text) {
    const bool alphanumeric =
        (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
    if (!alphanumeric && extra.find(c) == std::string_view::npos) return false;
  }
  return true;
}

std::string Quote(std::string_view text) {
  constexpr size_t kShown = 40;
  const std::string shown = absl::CHexEscape(std::string(text.substr(0, kShown)));
  return absl::StrCat("\"", shown, text.size() > kShown ? "\"…" : "\"");
}

}  // namespace kandinsky
