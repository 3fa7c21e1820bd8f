// Lua that Redis keeps: scripts by their digest, functions by their name.
#ifndef KANDINSKY_COMMON_REDIS_SCRIPT_H_
#define KANDINSKY_COMMON_REDIS_SCRIPT_H_

#include <memory>
#include <string>
#include <string_view>
#include <utility>

namespace kandinsky {

// SHA-1 in hex, as EVALSHA wants it. Not for anything that needs security.
std::string Sha1Hex(std::string_view data);

// A library of functions. Its tables and functions are made once, when it is loaded, and not at
// every call like those of a script. The names of its functions contain the digest of its content,
// so that processes of different versions and options can use one server.
struct RedisLibrary {
  std::string family;  // libraries of one family are limited in number: old ones are deleted
  std::string digest;  // letters and digits
  std::string code;    // without its first line
};

struct RedisScript {
  RedisScript(std::string script_name, std::string script_body)
      : name(std::move(script_name)), body(std::move(script_body)), sha(Sha1Hex(body)) {}
  // Also a function of a library that does the same. The body serves where the library cannot be
  // loaded: a server that is full refuses that, but still runs scripts that may run then.
  RedisScript(std::string script_name, std::string script_body,
              std::shared_ptr<const RedisLibrary> of_library, std::string function_name)
      : name(std::move(script_name)),
        body(std::move(script_body)),
        sha(Sha1Hex(body)),
        library(std::move(of_library)),
        function(std::move(function_name)) {}

  const std::string name;  // for messages
  const std::string body;
  const std::string sha;
  const std::shared_ptr<const RedisLibrary> library;  // null: not a function
  const std::string function;
};

}  // namespace kandinsky

#endif  // KANDINSKY_COMMON_REDIS_SCRIPT_H_
