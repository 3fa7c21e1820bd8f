#include "services/frontend/text.h"

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace kandinsky {
namespace {

// Decodes the code point at the front of `bytes` and removes it.
std::optional<uint32_t> PopCodePoint(std::string_view& bytes) {
  const auto first = static_cast<uint8_t>(bytes[0]);
  size_t length = 1;
  uint32_t point = first;
  uint32_t least = 0;  // smaller values in a form of this length are overlong
  if (first >= 0xF0 && first <= 0xF4) {
    length = 4, point = first & 0x07, least = 0x10000;
  } else if (first >= 0xE0 && first < 0xF0) {
    length = 3, point = first & 0x0F, least = 0x800;
  } else if (first >= 0xC2 && first < 0xE0) {
    length = 2, point = first & 0x1F, least = 0x80;
  } else if (first >= 0x80) {
    return std::nullopt;
  }
  if (bytes.size() < length) return std::nullopt;
  for (size_t i = 1; i < length; ++i) {
    const auto next = static_cast<uint8_t>(bytes[i]);
    if ((next & 0xC0) != 0x80) return std::nullopt;
    point = point << 6 | (next & 0x3F);
  }
  if (point < least || point > 0x10FFFF || (point >= 0xD800 && point <= 0xDFFF)) {
    return std::nullopt;
  }
  bytes.remove_prefix(length);
  return point;
}

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
    const std::optional<uint32_t> point = PopCodePoint(bytes);
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
