// What the edge has to know about text: whether bytes are UTF-8, how many characters they are, and
// which are refused.
#ifndef KANDINSKY_SERVICES_FRONTEND_TEXT_H_
#define KANDINSKY_SERVICES_FRONTEND_TEXT_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace kandinsky {

struct TextProperties {
  int64_t characters = 0;           // Unicode code points
  bool blank = true;                // nothing but white space and zero-width characters, or empty
  std::optional<uint32_t> control;  // the first control character other than line feed and tab
};

// Empty when `bytes` are not well-formed UTF-8: overlong forms, surrogates (U+D800 to U+DFFF), code
// points above U+10FFFF and truncated sequences are not.
std::optional<TextProperties> InspectText(std::string_view bytes);

// 1 to `max` characters of [A-Za-z0-9] and `extra`.
bool IsIdentifier(std::string_view text, std::string_view extra, size_t max);

// `text` in double quotes, printable ASCII with escapes, at most 40 characters of it: fit for an
// error message whatever the client sent.
std::string Quote(std::string_view text);

}  // namespace kandinsky

#endif  // KANDINSKY_SERVICES_FRONTEND_TEXT_H_
