// The Lua scripts of the engine, ready to run: functions of one library, which begins with the key
// names, the options and what the scripts share.
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
  explicit Scripts(const std::string& preamble);
  Scripts(const std::string& preamble, const std::shared_ptr<const RedisLibrary>& library);
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
