// One connection to one Redis server. No retries, no reconnect: see client.h.
//
// Thread rule: one thread at a time. Every call ends within its timeout. After an error that is not
// an error reply the connection is broken and every further call fails with UNAVAILABLE.
#ifndef KANDINSKY_COMMON_REDIS_CONNECTION_H_
#define KANDINSKY_COMMON_REDIS_CONNECTION_H_

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/redis/options.h"
#include "common/redis/value.h"

struct redisContext;

namespace kandinsky {

struct RedisCredentials {
  std::string user;
  std::string password;
  int database = 0;
};

class RedisConnection {
 public:
  // Connects, authenticates and selects the database. Ignores SIGPIPE in this process from then on,
  // unless it is handled already.
  static absl::StatusOr<std::unique_ptr<RedisConnection>> Connect(
      const RedisEndpoint& endpoint, const RedisCredentials& credentials,
      absl::Duration connect_timeout, absl::Duration command_timeout);
  ~RedisConnection();
  RedisConnection(const RedisConnection&) = delete;
  RedisConnection& operator=(const RedisConnection&) = delete;

  // The reply, which may be an error reply. `wait`: how long the command itself may block, on top
  // of the timeout.
  absl::StatusOr<RedisValue> Command(const RedisCommand& command,
                                     absl::Duration wait = absl::ZeroDuration());
  // Sends all, then reads all replies; error replies stay in place.
  absl::StatusOr<std::vector<RedisValue>> Pipeline(const std::vector<RedisCommand>& commands,
                                                   absl::Duration wait = absl::ZeroDuration());

  // --- For subscribers.
  absl::Status Send(const RedisCommand& command);
  // A reply that has arrived; reads from the socket at most once and only if `readable`.
  absl::StatusOr<std::optional<RedisValue>> Receive(bool readable);
  int fd() const;

  bool broken() const { return broken_; }
  // True when an idle connection was closed by the server (or sent something unasked).
  bool Stale() const;
  const RedisEndpoint& endpoint() const { return endpoint_; }

 private:
  RedisConnection() = default;
  absl::Status Broken(std::string_view doing);
  absl::Status SetTimeout(absl::Duration timeout);
  absl::Status Flush();
  absl::Status Append(const RedisCommand& command);
  absl::StatusOr<RedisValue> ReadReply();

  redisContext* context_ = nullptr;
  RedisEndpoint endpoint_;
  absl::Duration command_timeout_;
  absl::Duration current_timeout_ = absl::InfiniteDuration();
  bool broken_ = false;
};

}  // namespace kandinsky

#endif  // KANDINSKY_COMMON_REDIS_CONNECTION_H_
