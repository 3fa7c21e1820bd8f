#include "common/queue_redis/redis_event_feed.h"

#include <utility>

#include "common/base/log.h"
#include "common/queue_redis/codec.h"

namespace kandinsky {

absl::Status RedisEventFeed::Start(std::function<void(const JobEvent&)> on_event,
                                   std::function<void()> on_gap) {
  return subscriber_.Start(
      [on_event = std::move(on_event)](std::string_view message) {
        absl::StatusOr<JobEvent> event = DecodeEvent(message);
        if (event.ok()) {
          on_event(*event);
        } else {
          Log(LogLevel::kWarning, "event skipped", {{"error", event.status().ToString()}});
        }
      },
      std::move(on_gap));
}

}  // namespace kandinsky
