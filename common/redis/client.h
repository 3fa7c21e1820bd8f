// A pool of connections to one Redis master.
//
//   RedisClient client(*RedisOptions::Parse("redis://127.0.0.1/0"));
//   absl::StatusOr<RedisValue> value = client.Command({"GET", "key"});
//
// Thread-safe. Every call ends within connect and command timeout. When the server is away, calls
// fail at once with UNAVAILABLE between tries that are spaced by exponential backoff with jitter. A
// command is never sent twice by itself: after UNAVAILABLE the caller cannot know whether it was
// carried out. When the server says that it is no master any more (READONLY), all connections are
// dropped and the Sentinels are asked again.
#ifndef KANDINSKY_COMMON_REDIS_CLIENT_H_
#define KANDINSKY_COMMON_REDIS_CLIENT_H_

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/redis/connection.h"
#include "common/redis/connector.h"
#include "common/redis/options.h"
#include "common/redis/script.h"
#include "common/redis/value.h"

namespace kandinsky {

class RedisClient;

// One connection, borrowed: for commands that must share it. Give it back by destroying it. One
// thread at a time.
class RedisSession {
 public:
  RedisSession(RedisSession&& other) = default;
  ~RedisSession();

  // Error replies become statuses.
  absl::StatusOr<RedisValue> Command(const RedisCommand& command,
                                     absl::Duration wait = absl::ZeroDuration());
  // Error replies stay in the values.
  absl::StatusOr<std::vector<RedisValue>> Pipeline(const std::vector<RedisCommand>& commands,
                                                   absl::Duration wait = absl::ZeroDuration());
  // Calls its function, and loads the library if the server does not know it yet. Without a
  // library, or where a full server refuses to load one: EVALSHA, and EVAL if it does not know the
  // script yet.
  absl::StatusOr<RedisValue> Eval(const RedisScript& script, const RedisCommand& arguments);

 private:
  friend class RedisClient;
  RedisSession(RedisClient* client, std::unique_ptr<RedisConnection> connection, uint64_t epoch)
      : client_(client), connection_(std::move(connection)), epoch_(epoch) {}
  void Look(const RedisValue& value);
  // What Eval sends first.
  static RedisCommand FirstTry(const RedisScript& script, const RedisCommand& arguments);
  // The server does not know the script: nothing was done.
  static bool Unknown(const RedisValue& reply);
  static absl::StatusOr<RedisValue> Result(const RedisScript& script, RedisValue reply);
  // `command` is FirstTry; its first two words are replaced for further tries.
  absl::StatusOr<RedisValue> Run(const RedisScript& script, RedisCommand& command);
  absl::StatusOr<RedisValue> LoadLibrary(const RedisLibrary& library);

  RedisClient* client_;
  std::unique_ptr<RedisConnection> connection_;
  uint64_t epoch_;
  bool drop_ = false;
};

class RedisClient {
 public:
  // Looks at each new connection before anybody uses it; one that it does not like is closed, and
  // its status is what calls get.
  using Admit = std::function<absl::Status(RedisConnection& connection)>;

  explicit RedisClient(RedisOptions options, Admit admit = nullptr);
  // No session may be out any more.
  ~RedisClient() = default;

  absl::StatusOr<RedisSession> Acquire();

  // Each with a session of its own.
  absl::StatusOr<RedisValue> Command(const RedisCommand& command,
                                     absl::Duration wait = absl::ZeroDuration());
  absl::StatusOr<std::vector<RedisValue>> Pipeline(const std::vector<RedisCommand>& commands);
  // Calls that come while others are under way travel together: a server under load spends as much
  // on waking clients as on short scripts. They are as independent as before, but a connection that
  // breaks fails all that it carried, and those that wait for it fail unsent.
  absl::StatusOr<RedisValue> Eval(const RedisScript& script, const RedisCommand& arguments);

  const RedisOptions& options() const { return connector_.options(); }

 private:
  friend class RedisSession;
  struct Call;
  // Sends the calls through one connection and fills their replies.
  void Send(const std::vector<Call*>& calls);
  void Return(std::unique_ptr<RedisConnection> connection, uint64_t epoch, bool drop);

  RedisConnector connector_;
  const Admit admit_;

  std::mutex mutex_;
  std::condition_variable returned_;
  std::vector<std::unique_ptr<RedisConnection>> idle_;
  int open_ = 0;        // idle and borrowed
  uint64_t epoch_ = 0;  // connections of an older epoch are not used again
  int failures_ = 0;    // connects in a row that failed
  absl::Time next_try_ = absl::InfinitePast();
  absl::Status last_error_;
  std::mt19937_64 random_;

  std::mutex calls_mutex_;
  std::vector<Call*> waiting_;  // not taken by a sender yet
  int senders_ = 0;             // threads in Send
};

}  // namespace kandinsky

#endif  // KANDINSKY_COMMON_REDIS_CLIENT_H_
