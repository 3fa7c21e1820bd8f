// UTF-8, read a code point at a time. Standard library only; thread-safe.
#ifndef KANDINSKY_COMMON_SPEC_UTF8_H_
#define KANDINSKY_COMMON_SPEC_UTF8_H_

#include <optional>
#include <string_view>

namespace kandinsky {

// Decodes the code point at the front of `bytes`, which must not be empty, and removes it. Empty,
// with `bytes` unchanged, when that is not well-formed: overlong forms, surrogates (U+D800 to
// U+DFFF), code points above U+10FFFF and truncated sequences are not.
std::optional<char32_t> PopCodePoint(std::string_view& bytes);

}  // namespace kandinsky

#endif  // KANDINSKY_COMMON_SPEC_UTF8_H_
