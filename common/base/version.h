// What this binary was built from.
#ifndef KANDINSKY_COMMON_BASE_VERSION_H_
#define KANDINSKY_COMMON_BASE_VERSION_H_

namespace kandinsky {

inline constexpr char kVersion[] = "0.1.0";

// Short commit hash at configuration time, "unknown" outside a checkout.
const char* BuildCommit();

}  // namespace kandinsky

#endif  // KANDINSKY_COMMON_BASE_VERSION_H_
