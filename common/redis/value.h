// What Redis answers, and how its errors map to absl::Status.
#ifndef KANDINSKY_COMMON_REDIS_VALUE_H_
#define KANDINSKY_COMMON_REDIS_VALUE_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"

namespace kandinsky {

// A command with its arguments; any bytes.
using RedisCommand = std::vector<std::string>;

struct RedisValue {
  enum class Type { kNil, kString, kInteger, kArray, kError };
  Type type = Type::kNil;
  std::string text;                  // kString (bulk and status), kError
  int64_t integer = 0;               // kInteger
  std::vector<RedisValue> elements;  // kArray

  bool nil() const { return type == Type::kNil; }
  bool error() const { return type == Type::kError; }
};

// OK unless `value` is an error: UNAVAILABLE for a server that cannot serve now (LOADING, READONLY,
// MASTERDOWN, CLUSTERDOWN, TRYAGAIN, NOREPLICAS, BUSY), RESOURCE_EXHAUSTED for OOM, UNAUTHENTICATED
// for NOAUTH and WRONGPASS, PERMISSION_DENIED for NOPERM, INTERNAL for the rest.
absl::Status RedisErrorStatus(const RedisValue& value);

}  // namespace kandinsky

#endif  // KANDINSKY_COMMON_REDIS_VALUE_H_
