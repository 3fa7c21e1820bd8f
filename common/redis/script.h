// A Lua script that Redis knows by its digest.
#ifndef KANDINSKY_COMMON_REDIS_SCRIPT_H_
#define KANDINSKY_COMMON_REDIS_SCRIPT_H_

#include <string>
#include <string_view>

namespace kandinsky {

// SHA-1 in hex, as EVALSHA wants it. Not for anything that needs security.
std::string Sha1Hex(std::string_view data);

struct RedisScript {
  RedisScript(std::string script_name, std::string script_body)
      : name(std::move(script_name)), body(std::move(script_body)), sha(Sha1Hex(body)) {}

  const std::string name;  // for messages
  const std::string body;
  const std::string sha;
};

}  // namespace kandinsky

#endif  // KANDINSKY_COMMON_REDIS_SCRIPT_H_
