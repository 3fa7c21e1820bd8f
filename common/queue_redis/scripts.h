// The Lua scripts of the engine, ready to run: each with the key names, the options and the shared
// functions before it.
#ifndef KANDINSKY_COMMON_QUEUE_REDIS_SCRIPTS_H_
#define KANDINSKY_COMMON_QUEUE_REDIS_SCRIPTS_H_

#include <memory>
#include <string>
#include <string_view>

#include "common/queue/options.h"
#include "common/queue_redis/keys.h"
#include "common/redis/script.h"

namespace kandinsky {

// Immutable; thread-safe.
class Scripts {
 public:
  Scripts(const Keys& keys, const QueueOptions& options);

  const RedisScript acknowledge, cancel, checkpoint, claim, complete, create, delete_job, fail,
      fence, finish, heartbeat, list, maintain, preview, release, renew, retry_dead, send_back,
      stats, video_append, video_remove, video_seal, withdraw, workers;

 private:
  Scripts(const std::string& preamble);
};

namespace internal {
struct EmbeddedScript {
  const char* name;
  const char* body;
};
// Ends with a row of null pointers.
extern const EmbeddedScript kEmbeddedScripts[];
}  // namespace internal

}  // namespace kandinsky

#endif  // KANDINSKY_COMMON_QUEUE_REDIS_SCRIPTS_H_
