// The job engine on Redis, as one object for a main: connections, scripts, queue, jobs, event feed
// and video store.
//
//   absl::StatusOr<std::unique_ptr<RedisEngine>> engine = OpenRedisEngine(options);
//   (*engine)->task_queue().Claim(…);
//
// Thread rule: everything may be called from any thread. Destroy the engine after all users of its
// parts; that stops the event feed. docs/queue.md explains keys, scripts and guarantees.
#ifndef KANDINSKY_COMMON_QUEUE_REDIS_ENGINE_H_
#define KANDINSKY_COMMON_QUEUE_REDIS_ENGINE_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/queue/job_store.h"
#include "common/queue/options.h"
#include "common/queue/task_queue.h"
#include "common/queue/video_store.h"

namespace kandinsky {

enum class VideoStoreKind { kRedis, kDirectory };

struct RedisEngineOptions {
  // "redis://[[user]:password@]host[:port][/db]", "unix:///path[?db=n]" or
  // "sentinel://[[user]:password@]host:port,host:port/master_name[?db=n]".
  std::string address = "redis://127.0.0.1:6379/0";
  // Override what the address says when not empty (so that a password need not stand in a command
  // line).
  std::string user;
  std::string password;
  absl::Duration connect_timeout = absl::Seconds(2);
  // Of every command; blocking ones get it on top of what they wait.
  absl::Duration command_timeout = absl::Seconds(5);
  int max_connections = 32;
  // Open: fail with UNAVAILABLE when Redis does not answer. Otherwise the engine opens and its
  // calls fail meanwhile.
  bool require_connection = false;

  // All keys begin with this and ':'. Letters, digits, '-', '_'.
  std::string key_prefix = "kv";

  QueueOptions queue;

  // Acceptance of a job waits until so many replicas have it, or fails with UNAVAILABLE.
  int min_replicas = 0;
  absl::Duration replica_timeout = absl::Seconds(1);

  VideoStoreKind video_store = VideoStoreKind::kRedis;
  // kDirectory: shared between frontends and decoding workers; must exist.
  std::string video_directory;
  // kRedis: bytes of one key.
  int video_segment_bytes = 4 << 20;
};

// What is wrong with the settings of the server that the engine talks to. Safe operation needs none
// of these.
struct RedisServerCheck {
  bool eviction_enabled = false;  // maxmemory-policy is not noeviction: jobs may vanish
  bool aof_disabled = false;      // appendonly is no: a crash loses accepted jobs
  bool too_old = false;           // older than 7.0
  std::string version;
  std::vector<std::string> warnings;  // one sentence each
};

class RedisEngine {
 public:
  virtual ~RedisEngine() = default;

  virtual TaskQueue& task_queue() = 0;
  virtual JobStore& job_store() = 0;
  virtual EventFeed& event_feed() = 0;
  virtual VideoStore& video_store() = 0;

  // Asks the server for its settings (at start, and whenever a metric wants to know).
  virtual absl::StatusOr<RedisServerCheck> CheckServer() = 0;
  // OK when the server answers.
  virtual absl::Status Ping() = 0;
};

// Version of keys and records that this program reads and writes. A change that older programs
// cannot live with raises it. docs/queue.md
inline constexpr int kRedisSchemaVersion = 1;

// INVALID_ARGUMENT for bad options. FAILED_PRECONDITION when a newer program has made the keys;
// when Redis does not answer now, that is found out by the first call that reaches it.
absl::StatusOr<std::unique_ptr<RedisEngine>> OpenRedisEngine(const RedisEngineOptions& options);

}  // namespace kandinsky

#endif  // KANDINSKY_COMMON_QUEUE_REDIS_ENGINE_H_
