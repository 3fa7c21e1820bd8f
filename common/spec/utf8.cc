#include "common/spec/utf8.h"

#include <cstddef>
#include <cstdint>

namespace kandinsky {

std::optional<char32_t> PopCodePoint(std::string_view& bytes) {
  const auto first = static_cast<uint8_t>(bytes[0]);
  size_t length = 1;
  char32_t point = first;
  char32_t least = 0;  // smaller values in a form of this length are overlong
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

}  // namespace kandinsky
