#include "common/queue_redis/engine.h"

#include <sys/stat.h>

#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/queue_redis/directory_video_store.h"
#include "common/queue_redis/keys.h"
#include "common/queue_redis/redis_event_feed.h"
#include "common/queue_redis/redis_job_store.h"
#include "common/queue_redis/redis_task_queue.h"
#include "common/queue_redis/redis_video_store.h"
#include "common/queue_redis/scripts.h"
#include "common/redis/client.h"
#include "common/redis/connection.h"

namespace kandinsky {
namespace {

// Longer than any job: only what a dead worker of a dead job left behind waits for it.
absl::Duration UnfinishedVideoTtl(const QueueOptions& options) {
  return options.retention + absl::Hours(24);
}

// The value in a reply of CONFIG GET name; empty if there is none.
std::string ConfigValue(const RedisValue& reply) {
  return reply.elements.size() == 2 ? reply.elements[1].text : std::string();
}

std::string InfoField(const std::string& info, const std::string& name) {
  for (absl::string_view line : absl::StrSplit(info, absl::ByAnyChar("\r\n"))) {
    std::pair<absl::string_view, absl::string_view> field =
        absl::StrSplit(line, absl::MaxSplits(':', 1));
    if (field.first == name) return std::string(field.second);
  }
  return std::string();
}

// Writes the version of the schema if there is none. OK unless it is newer than ours.
absl::Status CheckSchema(RedisConnection& connection, const std::string& key) {
  const std::string ours = std::to_string(kRedisSchemaVersion);
  absl::StatusOr<RedisValue> found = connection.Command({"SET", key, ours, "NX", "GET"});
  // A full server refuses to write; what it has can be read.
  if (found.ok() && found->error()) found = connection.Command({"GET", key});
  if (!found.ok()) return found.status();
  if (absl::Status status = RedisErrorStatus(*found); !status.ok()) return status;
  if (found->nil()) return absl::OkStatus();
  int version = 0;
  if (absl::SimpleAtoi(found->text.substr(0, found->text.find('.')), &version) && version >= 1 &&
      version <= kRedisSchemaVersion) {
    return absl::OkStatus();
  }
  return absl::FailedPreconditionError(
      absl::StrCat("Redis holds a queue of schema version '", found->text, "' (key ", key,
                   "); this program supports versions up to ", ours,
                   ": use a newer program or another key prefix"));
}

class RedisEngineImpl : public RedisEngine {
 public:
  RedisEngineImpl(const RedisEngineOptions& options, const RedisOptions& redis)
      : keys_(options.key_prefix),
        scripts_(keys_, options.queue),
        client_(redis,
                [this](RedisConnection& connection) {
                  return CheckSchema(connection, keys_.Schema());
                }),
        videos_(MakeVideoStore(options)),
        tasks_(&client_, &keys_, &scripts_, options.queue, videos_.get()),
        jobs_(&client_, &keys_, &scripts_, videos_.get(), options.min_replicas,
              options.replica_timeout),
        feed_(redis, keys_) {}
  ~RedisEngineImpl() override { feed_.Stop(); }

  TaskQueue& task_queue() override { return tasks_; }
  JobStore& job_store() override { return jobs_; }
  EventFeed& event_feed() override { return feed_; }
  VideoStore& video_store() override { return *videos_; }

  absl::StatusOr<RedisServerCheck> CheckServer() override {
    absl::StatusOr<std::vector<RedisValue>> replies =
        client_.Pipeline({{"INFO", "server"},
                          {"CONFIG", "GET", "maxmemory-policy"},
                          {"CONFIG", "GET", "appendonly"}});
    if (!replies.ok()) return replies.status();
    const RedisValue& info = (*replies)[0];
    if (absl::Status status = RedisErrorStatus(info); absl::IsUnavailable(status)) return status;
    RedisServerCheck check;
    check.version = InfoField(info.text, "redis_version");
    int major = 0;
    std::string first = check.version.substr(0, check.version.find('.'));
    if (!absl::SimpleAtoi(first, &major) || major < 7) {
      check.too_old = true;
      check.warnings.push_back(absl::StrCat(
          "Redis 7.0 or newer is needed; this is ",
          check.version.empty() ? std::string("of an unknown version") : check.version));
    }
    const std::string policy = ConfigValue((*replies)[1]);
    const std::string append = ConfigValue((*replies)[2]);
    if (policy.empty() || append.empty()) {
      check.warnings.push_back("the settings of Redis cannot be read (CONFIG GET)");
    }
    if (!policy.empty() && policy != "noeviction") {
      check.eviction_enabled = true;
      check.warnings.push_back(
          absl::StrCat("maxmemory-policy is ", policy, ", not noeviction: jobs may vanish"));
    }
    if (append == "no") {
      check.aof_disabled = true;
      check.warnings.push_back("appendonly is no: a crash of Redis loses accepted jobs");
    }
    return check;
  }

  absl::Status Ping() override { return client_.Command({"PING"}).status(); }

 private:
  std::unique_ptr<VideoStore> MakeVideoStore(const RedisEngineOptions& options) {
    if (options.video_store == VideoStoreKind::kDirectory) {
      return std::make_unique<DirectoryVideoStore>(options.video_directory);
    }
    return std::make_unique<RedisVideoStore>(&client_, &keys_, &scripts_,
                                             UnfinishedVideoTtl(options.queue),
                                             options.video_segment_bytes);
  }

  const Keys keys_;
  const Scripts scripts_;
  RedisClient client_;
  const std::unique_ptr<VideoStore> videos_;
  RedisTaskQueue tasks_;
  RedisJobStore jobs_;
  RedisEventFeed feed_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<RedisEngine>> OpenRedisEngine(const RedisEngineOptions& options) {
  absl::StatusOr<RedisOptions> redis = RedisOptions::Parse(options.address);
  if (!redis.ok()) return redis.status();
  if (!options.user.empty()) redis->user = options.user;
  if (!options.password.empty()) redis->password = options.password;
  redis->connect_timeout = options.connect_timeout;
  redis->command_timeout = options.command_timeout;
  redis->max_connections = options.max_connections;
  if (absl::Status status = Validate(options.queue); !status.ok()) return status;
  constexpr char kPrefixCharacters[] =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_";
  if (options.key_prefix.empty() ||
      options.key_prefix.find_first_not_of(kPrefixCharacters) != std::string::npos) {
    return absl::InvalidArgumentError("key_prefix: letters, digits, '-' and '_' only");
  }
  if (options.connect_timeout <= absl::ZeroDuration() ||
      options.command_timeout <= absl::ZeroDuration() || options.max_connections < 1 ||
      options.min_replicas < 0 || options.replica_timeout <= absl::ZeroDuration() ||
      options.video_segment_bytes < 1 || options.video_segment_bytes > (256 << 20)) {
    return absl::InvalidArgumentError("Redis engine: an option is out of range");
  }
  if (options.video_store == VideoStoreKind::kDirectory) {
    struct stat about;
    if (options.video_directory.empty() || stat(options.video_directory.c_str(), &about) != 0 ||
        !S_ISDIR(about.st_mode)) {
      return absl::InvalidArgumentError(
          absl::StrCat("no such video directory: ", options.video_directory));
    }
  }
  auto engine = std::make_unique<RedisEngineImpl>(options, *redis);
  const absl::Status status = engine->Ping();
  if (!status.ok() && (options.require_connection || absl::IsFailedPrecondition(status))) {
    return status;
  }
  return std::unique_ptr<RedisEngine>(std::move(engine));
}

}  // namespace kandinsky
