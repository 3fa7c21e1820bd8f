// EventFeed on Redis pub/sub: one connection and one thread, however many watchers.
#ifndef KANDINSKY_COMMON_QUEUE_REDIS_REDIS_EVENT_FEED_H_
#define KANDINSKY_COMMON_QUEUE_REDIS_REDIS_EVENT_FEED_H_

#include <functional>

#include "common/queue/job_store.h"
#include "common/queue_redis/keys.h"
#include "common/redis/options.h"
#include "common/redis/subscriber.h"

namespace kandinsky {

class RedisEventFeed : public EventFeed {
 public:
  RedisEventFeed(RedisOptions options, const Keys& keys)
      : subscriber_(std::move(options), keys.Channel()) {}

  absl::Status Start(std::function<void(const JobEvent&)> on_event,
                     std::function<void()> on_gap) override;
  void Stop() override { subscriber_.Stop(); }

 private:
  RedisSubscriber subscriber_;
};

}  // namespace kandinsky

#endif  // KANDINSKY_COMMON_QUEUE_REDIS_REDIS_EVENT_FEED_H_
