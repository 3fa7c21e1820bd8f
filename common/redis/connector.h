// Opens connections to the server that takes writes: a fixed one, or the master that the Sentinels
// name.
//
// With Sentinels, the first that answers is asked; what it names is connected and asked for its
// ROLE, so that a demoted master is never taken for one. Thread-safe.
#ifndef KANDINSKY_COMMON_REDIS_CONNECTOR_H_
#define KANDINSKY_COMMON_REDIS_CONNECTOR_H_

#include <atomic>
#include <memory>

#include "absl/status/statusor.h"
#include "common/redis/connection.h"
#include "common/redis/options.h"

namespace kandinsky {

class RedisConnector {
 public:
  explicit RedisConnector(RedisOptions options) : options_(std::move(options)) {}

  absl::StatusOr<std::unique_ptr<RedisConnection>> Connect();
  const RedisOptions& options() const { return options_; }

 private:
  absl::StatusOr<std::unique_ptr<RedisConnection>> ConnectTo(const RedisEndpoint& endpoint);
  absl::StatusOr<RedisEndpoint> AskSentinel(const RedisEndpoint& sentinel);

  const RedisOptions options_;
  // Index of the Sentinel that answered last.
  std::atomic<size_t> first_sentinel_{0};
};

}  // namespace kandinsky

#endif  // KANDINSKY_COMMON_REDIS_CONNECTOR_H_
