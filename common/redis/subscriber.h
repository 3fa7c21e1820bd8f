// Listens to one channel on a connection and a thread of its own, and says when it may have missed
// something.
#ifndef KANDINSKY_COMMON_REDIS_SUBSCRIBER_H_
#define KANDINSKY_COMMON_REDIS_SUBSCRIBER_H_

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <thread>

#include "absl/status/status.h"
#include "common/redis/connector.h"
#include "common/redis/options.h"

namespace kandinsky {

class RedisSubscriber {
 public:
  RedisSubscriber(RedisOptions options, std::string channel);
  ~RedisSubscriber();  // calls Stop

  // Both functions are called from the subscriber's thread. `on_gap`: the subscription stands
  // (again), and messages may have been missed before. Start tries to subscribe before it returns;
  // if that works there is no gap at first. A lost connection is opened again with backoff until
  // Stop; a silent one is probed every few seconds. FAILED_PRECONDITION when it runs already.
  absl::Status Start(std::function<void(std::string_view message)> on_message,
                     std::function<void()> on_gap);
  // Returns when the thread has ended. Must not be called from the thread itself.
  void Stop();

 private:
  absl::StatusOr<std::unique_ptr<RedisConnection>> Subscribe();
  void Loop(std::unique_ptr<RedisConnection> connection);
  void Listen(RedisConnection& connection);
  // False when stopped.
  bool Wait(absl::Duration duration);

  RedisConnector connector_;
  const std::string channel_;
  int stop_event_ = -1;
  std::atomic<bool> stopping_{false};
  std::function<void(std::string_view)> on_message_;
  std::function<void()> on_gap_;
  std::thread thread_;
};

}  // namespace kandinsky

#endif  // KANDINSKY_COMMON_REDIS_SUBSCRIBER_H_
