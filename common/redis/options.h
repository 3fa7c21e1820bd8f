// Where Redis is and how patient we are with it.
#ifndef KANDINSKY_COMMON_REDIS_OPTIONS_H_
#define KANDINSKY_COMMON_REDIS_OPTIONS_H_

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace kandinsky {

struct RedisEndpoint {
  std::string host;  // empty: unix_path
  int port = 0;
  std::string unix_path;

  bool operator==(const RedisEndpoint&) const = default;
  std::string ToString() const;
};

struct RedisOptions {
  // One server; or, with a master_name, the Sentinels to ask for it.
  std::vector<RedisEndpoint> endpoints;
  std::string master_name;
  std::string user;
  std::string password;
  // Of the Sentinels themselves.
  std::string sentinel_user;
  std::string sentinel_password;
  int database = 0;

  absl::Duration connect_timeout = absl::Seconds(2);
  // Of every command; blocking ones get it on top of what they wait.
  absl::Duration command_timeout = absl::Seconds(5);
  int max_connections = 32;
  // After a failed connect, calls fail at once for a random time between half and all of
  // min(backoff_max, backoff_base * 2^failures).
  absl::Duration backoff_base = absl::Milliseconds(20);
  absl::Duration backoff_max = absl::Seconds(1);

  // "redis://[[user]:password@]host[:port][/db]", "unix:///path[?db=n]" or
  // "sentinel://[[user]:password@]host[:port],…/master_name[?db=n]". User and password may have %XX
  // escapes; an IPv6 host stands in brackets. INVALID_ARGUMENT never quotes the password.
  static absl::StatusOr<RedisOptions> Parse(std::string_view address);

  // For logs: without user and password.
  std::string ToString() const;
};

}  // namespace kandinsky

#endif  // KANDINSKY_COMMON_REDIS_OPTIONS_H_
