// The engine on Redis under faults: what the common tests of engine_test.cc cannot see.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <condition_variable>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/queue_redis/engine.h"
#include "common/queue_redis/keys.h"
#include "common/redis/client.h"
#include "tests/support/redis_server.h"

namespace kandinsky {
namespace {

using ::testing::UnorderedElementsAre;

constexpr absl::Duration kNow = absl::ZeroDuration();
constexpr absl::Duration kSoon = absl::Seconds(30);

std::unique_ptr<RedisServer> MustStart(RedisServer::Options options = {}) {
  auto server = RedisServer::Start(std::move(options));
  EXPECT_TRUE(server.ok()) << server.status();
  return server.ok() ? *std::move(server) : nullptr;
}

std::unique_ptr<RedisEngine> MustOpen(const RedisEngineOptions& options) {
  auto engine = OpenRedisEngine(options);
  EXPECT_TRUE(engine.ok()) << engine.status();
  return engine.ok() ? *std::move(engine) : nullptr;
}

template <typename Call>
absl::Status Eventually(Call call) {
  absl::Status status;
  for (absl::Time end = absl::Now() + kSoon; absl::Now() < end;) {
    status = call();
    if (status.ok()) return status;
    absl::SleepFor(absl::Milliseconds(2));
  }
  return status;
}

std::vector<std::string> AllKeys(const RedisServer& server) {
  RedisClient client(*RedisOptions::Parse(server.address()));
  auto keys = client.Command({"KEYS", "*"});
  EXPECT_TRUE(keys.ok()) << keys.status();
  std::vector<std::string> names;
  for (const RedisValue& key : keys->elements) names.push_back(key.text);
  return names;
}

JobSpec LowSpec() {
  JobSpec spec;
  spec.parameters.prompt = "p";
  spec.parameters.level = Level::kLow;
  return spec;
}

// Takes one job of level LOW through both of its stages.
void RunOne(RedisEngine& engine) {
  TaskQueue& tasks = engine.task_queue();
  auto lease = tasks.Claim(Stage::kKeyframes, "k", kSoon);
  ASSERT_TRUE(lease.ok() && lease->has_value()) << lease.status();
  ASSERT_TRUE(tasks.SaveCheckpoint(**lease, "checkpoint").ok());
  ASSERT_TRUE(tasks.Renew(**lease, StageProgress{1, 1, 1, 2, 0.5, absl::Seconds(1)}).ok());
  ASSERT_TRUE(tasks.Complete(**lease, LatentLocation{}).ok());
  lease = tasks.Claim(Stage::kDecoding, "d", kSoon);
  ASSERT_TRUE(lease.ok() && lease->has_value()) << lease.status();
  VideoStore& videos = engine.video_store();
  ASSERT_TRUE(videos.Append((*lease)->job_id, (*lease)->video_generation, 0, "video").ok());
  ASSERT_TRUE(videos.Seal((*lease)->job_id, (*lease)->video_generation).ok());
  ASSERT_TRUE(tasks.Finish(**lease, VideoInfo()).ok());
}

TEST(RedisEngineTest, NoOrphanKeys) {
  // What stays of an idle engine: streams without entries, and counters.
  const std::set<std::string> kIdle = {"kv:tasks:keyframes:interactive",
                                       "kv:tasks:decoding:interactive",
                                       "kv:sweep:keyframes",
                                       "kv:sweep:decoding",
                                       "kv:sweep:interpolation",
                                       "kv:wake:keyframes",
                                       "kv:wake:decoding",
                                       "kv:rate",
                                       "kv:schema"};
  enum class How { kDelete, kExpire };
  for (How how : {How::kDelete, How::kExpire}) {
    auto server = MustStart();
    RedisEngineOptions options;
    options.address = server->address();
    options.video_segment_bytes = 2;
    if (how == How::kExpire) {
      options.queue.retention = options.queue.dead_letter_retention = absl::Milliseconds(300);
    }
    auto engine = MustOpen(options);
    JobStore& jobs = engine->job_store();
    JobSpec spec = LowSpec();
    spec.request_id = "r";
    const std::string done = jobs.Create(spec)->job.id;
    RunOne(*engine);
    const std::string cancelled = jobs.Create(LowSpec())->job.id;
    ASSERT_TRUE(jobs.Cancel(cancelled).ok());
    const std::string failed = jobs.Create(LowSpec())->job.id;
    auto lease = engine->task_queue().Claim(Stage::kKeyframes, "k", kSoon);
    ASSERT_TRUE(engine->task_queue().SaveCheckpoint(**lease, "x").ok());
    ASSERT_TRUE(
        engine->task_queue().Fail(**lease, {TaskFailure::Class::kPermanent, "X", "y"}).ok());
    // All keys of one job share its hash tag.
    for (const std::string& id : {done, cancelled, failed}) {
      for (const std::string& key : AllKeys(*server)) {
        if (key.find(id) != std::string::npos) {
          EXPECT_EQ(key.rfind("kv:{" + id + "}:", 0), 0u) << key;
        }
      }
    }
    if (how == How::kDelete) {
      EXPECT_THAT(AllKeys(*server), testing::Contains("kv:{" + done + "}:video:1:2"));
      ASSERT_TRUE(jobs.Delete(done).ok());
      ASSERT_TRUE(jobs.Delete(cancelled).ok());
      ASSERT_TRUE(jobs.PurgeDead(failed).ok());
    } else {
      ASSERT_TRUE(Eventually([&]() -> absl::Status {
                    if (absl::Status s = engine->task_queue().Maintain(); !s.ok()) return s;
                    auto page = jobs.List({}, 10, "");
                    if (!page.ok()) return page.status();
                    return page->jobs.empty() && jobs.ListDead(10)->empty()
                               ? absl::OkStatus()
                               : absl::UnavailableError("not yet");
                  }).ok());
    }
    std::set<std::string> left;
    ASSERT_TRUE(Eventually([&]() -> absl::Status {
                  (void)engine->task_queue().Maintain();
                  left.clear();
                  for (const std::string& key : AllKeys(*server)) {
                    if (!kIdle.contains(key)) left.insert(key);
                  }
                  return left.empty() ? absl::OkStatus() : absl::UnavailableError("not yet");
                }).ok())
        << testing::PrintToString(left);
  }
}

TEST(RedisEngineTest, WithdrawnWhenReplicasAreMissing) {
  RedisServer::Options tcp;
  tcp.tcp = true;
  auto master = MustStart(tcp);
  RedisEngineOptions options;
  options.address = master->address();
  options.min_replicas = 1;
  options.replica_timeout = absl::Milliseconds(50);
  auto engine = MustOpen(options);
  JobSpec spec = LowSpec();
  spec.request_id = "r";
  EXPECT_TRUE(absl::IsUnavailable(engine->job_store().Create(spec).status()));
  EXPECT_TRUE(engine->job_store().List({}, 10, "")->jobs.empty());
  for (const std::string& key : AllKeys(*master)) {
    EXPECT_TRUE(key == "kv:wake:keyframes" || key == "kv:schema") << key << " was left behind";
  }
  tcp.settings = {"--replicaof", absl::StrCat("127.0.0.1 ", master->port()),
                  "--repl-diskless-sync-delay", "0"};
  auto replica = MustStart(tcp);
  absl::StatusOr<CreateResult> created;
  ASSERT_TRUE(Eventually([&] {
                created = engine->job_store().Create(spec);
                return created.status();
              }).ok());
  EXPECT_EQ(created->outcome, CreateResult::Outcome::kCreated);
  EXPECT_THAT(AllKeys(*replica), testing::Contains("kv:{" + created->job.id + "}:job"));
}

TEST(RedisEngineTest, NothingIsLostWhenRedisRestarts) {
  RedisServer::Options durable;
  durable.append_only = true;
  auto server = MustStart(durable);
  RedisEngineOptions options;
  options.address = server->address();
  options.queue.lease_duration = absl::Seconds(60);
  auto engine = MustOpen(options);
  JobStore& jobs = engine->job_store();
  TaskQueue& tasks = engine->task_queue();
  const std::string running = jobs.Create(LowSpec())->job.id;
  const std::string waiting = jobs.Create(LowSpec())->job.id;
  const std::string cancelled = jobs.Create(LowSpec())->job.id;
  ASSERT_TRUE(jobs.Cancel(cancelled).ok());
  auto lease = tasks.Claim(Stage::kKeyframes, "w", kNow);
  ASSERT_EQ((*lease)->job_id, running);
  ASSERT_TRUE(tasks.SaveCheckpoint(**lease, "step 3").ok());
  auto before = jobs.ReadEvents(running, "", 100);

  server->Kill();
  EXPECT_TRUE(absl::IsUnavailable(jobs.Get(running).status()));
  EXPECT_TRUE(absl::IsUnavailable(jobs.Create(LowSpec()).status()));
  EXPECT_TRUE(absl::IsUnavailable(tasks.Renew(**lease, std::nullopt).status()));
  EXPECT_TRUE(absl::IsUnavailable(tasks.Claim(Stage::kKeyframes, "v", kNow).status()));
  ASSERT_TRUE(server->StartAgain().ok());

  ASSERT_TRUE(Eventually([&] { return engine->Ping(); }).ok());
  EXPECT_EQ(jobs.Get(running)->state, JobState::kRunning);
  EXPECT_EQ(jobs.Get(waiting)->state, JobState::kQueued);
  EXPECT_EQ(jobs.Get(cancelled)->state, JobState::kCancelled);
  EXPECT_EQ(jobs.ReadEvents(running, "", 100)->size(), before->size());
  // The lease is still ours, with its checkpoint.
  EXPECT_TRUE(tasks.Renew(**lease, std::nullopt).ok());
  EXPECT_EQ(*tasks.LoadCheckpoint(**lease), "step 3");
  EXPECT_TRUE(tasks.Complete(**lease, {}).ok());
  EXPECT_EQ((*tasks.Claim(Stage::kKeyframes, "w", kNow))->job_id, waiting);
}

TEST(RedisEngineTest, WaitingClaimsSurviveARestart) {
  RedisServer::Options durable;
  durable.append_only = true;
  auto server = MustStart(durable);
  RedisEngineOptions options;
  options.address = server->address();
  auto engine = MustOpen(options);
  std::atomic<bool> claimed{false};
  std::thread worker([&] {
    ASSERT_TRUE(Eventually([&]() -> absl::Status {
                  auto lease = engine->task_queue().Claim(Stage::kKeyframes, "w", kSoon);
                  if (!lease.ok()) return lease.status();
                  return lease->has_value() ? absl::OkStatus() : absl::NotFoundError("none");
                }).ok());
    claimed = true;
  });
  server->Kill();
  ASSERT_TRUE(server->StartAgain().ok());
  EXPECT_FALSE(claimed);
  ASSERT_TRUE(Eventually([&] { return engine->job_store().Create(LowSpec()).status(); }).ok());
  worker.join();
  EXPECT_TRUE(claimed);
}

TEST(RedisEngineTest, FeedReportsAGapAndTheStoreHasWhatWasMissed) {
  RedisServer::Options durable;
  durable.append_only = true;
  auto server = MustStart(durable);
  RedisEngineOptions options;
  options.address = server->address();
  auto engine = MustOpen(options);
  std::mutex mutex;
  std::condition_variable changed;
  int gaps = 0;
  std::set<std::string> seen;
  ASSERT_TRUE(engine->event_feed()
                  .Start(
                      [&](const JobEvent& event) {
                        std::lock_guard<std::mutex> lock(mutex);
                        seen.insert(event.job_id + "/" + event.id);
                        changed.notify_all();
                      },
                      [&] {
                        std::lock_guard<std::mutex> lock(mutex);
                        ++gaps;
                        changed.notify_all();
                      })
                  .ok());
  const std::string id = engine->job_store().Create(LowSpec())->job.id;
  server->Kill();
  ASSERT_TRUE(server->StartAgain().ok());
  ASSERT_TRUE(Eventually([&] { return engine->job_store().Cancel(id).status(); }).ok());
  std::unique_lock<std::mutex> lock(mutex);
  ASSERT_TRUE(changed.wait_for(lock, absl::ToChronoSeconds(kSoon), [&] { return gaps >= 1; }));
  auto events = engine->job_store().ReadEvents(id, "", 10);
  ASSERT_TRUE(events.ok()) << events.status();
  for (const JobEvent& event : *events) {
    seen.insert(event.job_id + "/" + event.id);
  }
  EXPECT_THAT(seen, UnorderedElementsAre(id + "/1", id + "/2"));
}

TEST(RedisEngineTest, FailoverIsFollowed) {
  RedisServer::Options tcp;
  tcp.tcp = true;
  auto master = MustStart(tcp);
  tcp.settings = {"--replicaof", absl::StrCat("127.0.0.1 ", master->port()),
                  "--repl-diskless-sync-delay", "0"};
  auto replica = MustStart(tcp);
  RedisServer::Options watch;
  watch.sentinel = {absl::StrCat("sentinel monitor kv 127.0.0.1 ", master->port(), " 1"),
                    "sentinel down-after-milliseconds kv 300", "sentinel failover-timeout kv 2000"};
  auto sentinel = MustStart(watch);
  RedisClient ask(*RedisOptions::Parse(sentinel->address()));
  ASSERT_TRUE(Eventually([&]() -> absl::Status {
                auto known = ask.Command({"SENTINEL", "REPLICAS", "kv"});
                if (!known.ok()) return known.status();
                return known->elements.empty() ? absl::UnavailableError("not yet")
                                               : absl::OkStatus();
              }).ok());
  RedisEngineOptions options;
  options.address = absl::StrCat("sentinel://127.0.0.1:", sentinel->port(), "/kv");
  options.min_replicas = 1;
  options.replica_timeout = absl::Seconds(1);
  options.queue.lease_duration = absl::Seconds(60);
  auto engine = MustOpen(options);
  JobStore& jobs = engine->job_store();
  TaskQueue& tasks = engine->task_queue();
  absl::StatusOr<CreateResult> created;
  ASSERT_TRUE(Eventually([&] {
                created = jobs.Create(LowSpec());
                return created.status();
              }).ok());
  const std::string id = created->job.id;
  auto lease = tasks.Claim(Stage::kKeyframes, "w", kSoon);
  ASSERT_TRUE(lease.ok() && lease->has_value());
  // Until the replica has the lease too.
  RedisClient direct(*RedisOptions::Parse(replica->address()));
  Keys keys("kv");
  ASSERT_TRUE(Eventually([&]() -> absl::Status {
                auto core = direct.Command({"HGET", keys.Job(id), "c"});
                if (!core.ok()) return core.status();
                return core->text.find(" l ") != std::string::npos
                           ? absl::OkStatus()
                           : absl::UnavailableError("not yet");
              }).ok());
  master->Kill();
  ASSERT_TRUE(Eventually([&] { return tasks.Renew(**lease, std::nullopt).status(); }).ok());
  EXPECT_TRUE(tasks.Complete(**lease, {}).ok());
  EXPECT_EQ(jobs.Get(id)->stage, Stage::kDecoding);
  // With one replica asked for and none left, nothing new is accepted.
  EXPECT_TRUE(absl::IsUnavailable(jobs.Create(LowSpec()).status()));
}

TEST(RedisEngineTest, ServerSettingsAreChecked) {
  const struct {
    const char* name;
    bool append_only;
    std::vector<std::string> settings;
    bool eviction, no_aof;
  } kCases[] = {
      {"as it should be", true, {"--maxmemory-policy", "noeviction"}, false, false},
      {"no AOF", false, {}, false, true},
      {"eviction", true, {"--maxmemory-policy", "allkeys-lru"}, true, false},
  };
  for (const auto& test : kCases) {
    SCOPED_TRACE(test.name);
    RedisServer::Options settings;
    settings.append_only = test.append_only;
    settings.settings = test.settings;
    auto server = MustStart(settings);
    RedisEngineOptions options;
    options.address = server->address();
    auto check = MustOpen(options)->CheckServer();
    ASSERT_TRUE(check.ok()) << check.status();
    EXPECT_EQ(check->eviction_enabled, test.eviction);
    EXPECT_EQ(check->aof_disabled, test.no_aof);
    EXPECT_FALSE(check->too_old);
    EXPECT_EQ(check->version[0], '7');
    EXPECT_EQ(check->warnings.size(), static_cast<size_t>(test.eviction + test.no_aof));
  }
}

TEST(RedisEngineTest, NewerSchemaIsRefused) {
  const struct {
    std::string found;  // "": none
    std::string want_left;
    bool want_open;
  } kCases[] = {{"", "1", true},       {"1", "1", true},    {"1.3", "1.3", true}, {"2", "2", false},
                {"2.0", "2.0", false}, {"10", "10", false}, {"x", "x", false}};
  auto server = MustStart();
  RedisClient client(*RedisOptions::Parse(server->address()));
  for (const auto& [found, want_left, want_open] : kCases) {
    ASSERT_TRUE(client.Command({"FLUSHALL"}).ok());
    if (!found.empty()) {
      ASSERT_TRUE(client.Command({"SET", "kv:schema", found}).ok());
    }
    RedisEngineOptions options;
    options.address = server->address();
    auto engine = OpenRedisEngine(options);
    EXPECT_EQ(engine.ok(), want_open) << found << ": " << engine.status();
    if (!engine.ok()) {
      EXPECT_EQ(engine.status().code(), absl::StatusCode::kFailedPrecondition);
      EXPECT_THAT(std::string(engine.status().message()),
                  testing::AllOf(testing::HasSubstr("version '" + found + "'"),
                                 testing::HasSubstr("up to 1")));
    }
    EXPECT_EQ(client.Command({"GET", "kv:schema"})->text, want_left) << found;
  }
}

// Also when the engine opened while Redis was away.
TEST(RedisEngineTest, NewerSchemaIsRefusedByCalls) {
  auto server = MustStart({.append_only = true});
  RedisClient client(*RedisOptions::Parse(server->address()));
  ASSERT_TRUE(client.Command({"SET", "kv:schema", "2"}).ok());
  server->Stop();
  RedisEngineOptions options;
  options.address = server->address();
  auto engine = MustOpen(options);
  ASSERT_TRUE(server->StartAgain().ok());
  absl::Status status;
  ASSERT_TRUE(Eventually([&] {
                status = engine->job_store().Create(LowSpec()).status();
                return absl::IsUnavailable(status) ? status : absl::OkStatus();
              }).ok());
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
  EXPECT_THAT(AllKeys(*server), testing::ElementsAre("kv:schema"));
}

// A server that lost its functions, or never had them, gets them; old libraries go.
TEST(RedisEngineTest, FunctionsComeBack) {
  auto server = MustStart();
  RedisEngineOptions options;
  options.address = server->address();
  auto engine = MustOpen(options);
  RedisClient client(*RedisOptions::Parse(server->address()));
  for (int i = 0; i < 70; ++i) {
    const std::string n = absl::StrCat(absl::Dec(i, absl::kZeroPad12));
    ASSERT_TRUE(
        client
            .Command({"FUNCTION", "LOAD",
                      absl::StrCat("#!lua name=kandinsky_", n, "_old\nredis.register_function('old",
                                   n, "', function() return 1 end)")})
            .ok());
  }
  for (const char* how : {"never there", "flushed", "too full to load them"}) {
    SCOPED_TRACE(how);
    if (std::string(how) != "never there") {
      ASSERT_TRUE(client.Command({"FUNCTION", "FLUSH"}).ok());
    }
    JobSpec spec = LowSpec();
    ASSERT_TRUE(engine->job_store().Create(spec).ok());
    auto lease = engine->task_queue().Claim(Stage::kKeyframes, "k", kSoon);
    ASSERT_TRUE(lease.ok() && lease->has_value()) << lease.status();
    auto list = client.Command({"FUNCTION", "LIST", "LIBRARYNAME", "kandinsky_*"});
    ASSERT_TRUE(list.ok());
    EXPECT_EQ(list->elements.size(), std::string(how) == "never there" ? 64u : 1u);
    if (std::string(how) == "too full to load them") {
      ASSERT_TRUE(client.Command({"FUNCTION", "FLUSH"}).ok());
      ASSERT_TRUE(client.Command({"CONFIG", "SET", "maxmemory", "1"}).ok());
    }
    // The endings work in any case.
    EXPECT_TRUE(engine->task_queue().Complete(**lease, LatentLocation{}).ok());
  }
  EXPECT_EQ(client.Command({"FUNCTION", "LIST"})->elements.size(), 0u);
  EXPECT_TRUE(absl::IsResourceExhausted(engine->job_store().Create(LowSpec()).status()));
}

TEST(RedisEngineTest, ExpiredJobsLeaveNoFiles) {
  auto server = MustStart();
  TemporaryDirectory files;
  RedisEngineOptions options;
  options.address = server->address();
  options.video_store = VideoStoreKind::kDirectory;
  options.video_directory = files.path();
  options.queue.retention = absl::Milliseconds(100);
  auto engine = MustOpen(options);
  ASSERT_TRUE(engine->job_store().Create(LowSpec()).ok());
  RunOne(*engine);
  EXPECT_FALSE(std::filesystem::is_empty(files.path()));
  EXPECT_TRUE(Eventually([&]() -> absl::Status {
                if (absl::Status s = engine->task_queue().Maintain(); !s.ok()) return s;
                return std::filesystem::is_empty(files.path()) ? absl::OkStatus()
                                                               : absl::UnavailableError("not yet");
              }).ok());
}

TEST(RedisEngineTest, UnreadableRecordFailsItsJobOnly) {
  auto server = MustStart();
  RedisEngineOptions options;
  options.address = server->address();
  auto engine = MustOpen(options);
  const std::string broken = engine->job_store().Create(LowSpec())->job.id;
  const std::string good = engine->job_store().Create(LowSpec())->job.id;
  RedisClient client(*RedisOptions::Parse(server->address()));
  ASSERT_TRUE(client.Command({"HSET", Keys("kv").Job(broken), "spec", "\xff\xff"}).ok());
  auto lease = engine->task_queue().Claim(Stage::kKeyframes, "w", kNow);
  ASSERT_TRUE(lease.ok()) << lease.status();
  ASSERT_TRUE(lease->has_value());
  EXPECT_EQ((*lease)->job_id, good);
  EXPECT_EQ(engine->job_store().Get(broken).status().code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(client.Command({"HGET", Keys("kv").Job(broken), "er"})->text, "RECORD_UNREADABLE");
}

// Workers that die at any moment, come back late and do the same thing twice; leases that end all
// the time.
TEST(RedisEngineTest, EveryJobEndsOnceWhateverWorkersDo) {
  constexpr int kJobs = 60;
  auto server = MustStart();
  RedisEngineOptions options;
  options.address = server->address();
  options.queue.lease_duration = absl::Milliseconds(100);
  options.queue.max_attempts = 1000;
  options.queue.retry_base_delay = absl::Milliseconds(1);
  options.queue.retry_max_delay = absl::Milliseconds(5);
  options.queue.avoid_duration = absl::Milliseconds(5);
  options.queue.max_send_backs = 1000;
  auto engine = MustOpen(options);
  TaskQueue& tasks = engine->task_queue();
  JobStore& jobs = engine->job_store();

  std::mutex mutex;
  std::map<std::string, int> endings;  // job -> final states seen on the feed
  std::map<std::string, uint64_t> last_sequence;
  std::atomic<int> ended{0};
  std::atomic<int> disorder{0};
  ASSERT_TRUE(engine->event_feed()
                  .Start(
                      [&](const JobEvent& event) {
                        std::lock_guard<std::mutex> lock(mutex);
                        if (event.sequence != ++last_sequence[event.job_id]) ++disorder;
                        if (event.type == JobEvent::Type::kStateChanged &&
                            IsFinished(event.state)) {
                          ++endings[event.job_id];
                          ++ended;
                        }
                      },
                      [] {})
                  .ok());
  std::atomic<int> finishes{0};
  std::atomic<bool> stop{false};
  std::vector<std::thread> threads;
  for (int i = 0; i < 6; ++i) {
    threads.emplace_back([&, i] {
      std::mt19937 random(i);
      const Stage stage = kStages[i % 3];
      std::vector<Lease> abandoned;
      for (int turn = 0; !stop; ++turn) {
        auto claimed = tasks.Claim(stage, absl::StrCat("w", i, "-", turn), absl::Milliseconds(20));
        ASSERT_TRUE(claimed.ok()) << claimed.status();
        // A worker that everybody believes dead wakes up and acts.
        if (!abandoned.empty() && random() % 2 == 0) {
          const Lease& stale = abandoned[random() % abandoned.size()];
          (void)tasks.Renew(stale, StageProgress());
          absl::Status late = stage == Stage::kDecoding ? tasks.Finish(stale, VideoInfo())
                                                        : tasks.Complete(stale, {});
          // It may have been in time after all; then that was its one ending.
          if (late.ok() && stage == Stage::kDecoding) ++finishes;
          if (late.ok())
            std::erase_if(abandoned, [&](const Lease& l) { return l.entry_id == stale.entry_id; });
        }
        if (!claimed->has_value()) continue;
        const Lease& lease = **claimed;
        switch (random() % 6) {
          case 0:
            abandoned.push_back(lease);
            break;
          case 1:
            (void)tasks.Release(lease);
            break;
          case 2:
            (void)tasks.Fail(lease, {TaskFailure::Class::kTransient, "FLAKY", "sometimes"});
            break;
          case 3:
            if (stage != Stage::kKeyframes && random() % 4 == 0) {
              (void)tasks.SendBack(lease, "gone");
              break;
            }
            [[fallthrough]];
          default: {
            (void)tasks.Renew(lease, StageProgress());
            absl::Status done = stage == Stage::kDecoding ? tasks.Finish(lease, VideoInfo())
                                                          : tasks.Complete(lease, {});
            if (done.ok() && stage == Stage::kDecoding) ++finishes;
          }
        }
      }
    });
  }
  std::thread maintainer([&] {
    while (!stop) EXPECT_TRUE(tasks.Maintain().ok());
  });
  std::vector<std::string> ids;
  for (int i = 0; i < kJobs; ++i) {
    JobSpec spec;
    spec.parameters.level = i % 2 == 0 ? Level::kLow : Level::kHigh;
    spec.tenant = absl::StrCat("t", i % 5);
    auto created = jobs.Create(spec);
    ASSERT_TRUE(created.ok());
    ids.push_back(created->job.id);
    if (i % 10 == 9) {
      EXPECT_TRUE(jobs.Cancel(ids[i]).ok());
    }
  }
  EXPECT_TRUE(Eventually([&]() -> absl::Status {
                return ended >= kJobs ? absl::OkStatus() : absl::UnavailableError("not yet");
              }).ok());
  stop = true;
  for (std::thread& thread : threads) thread.join();
  maintainer.join();
  engine->event_feed().Stop();

  int succeeded = 0;
  for (const std::string& id : ids) {
    auto job = jobs.Get(id);
    ASSERT_TRUE(job.ok());
    EXPECT_TRUE(IsFinished(job->state)) << Name(job->state);
    EXPECT_EQ(endings[id], 1) << id;
    succeeded += job->state == JobState::kSucceeded;
  }
  EXPECT_EQ(finishes, succeeded);
  EXPECT_GE(succeeded, kJobs * 9 / 10);
  EXPECT_EQ(disorder, 0);
  auto all = tasks.Stats();
  ASSERT_TRUE(all.ok()) << all.status();
  for (const StageQueueStats& stats : *all) {
    EXPECT_EQ(stats.waiting + stats.delayed + stats.running, 0);
  }
  for (const std::string& id : ids) EXPECT_TRUE(jobs.Delete(id).ok());
  for (const std::string& key : AllKeys(*server)) {
    EXPECT_TRUE(
        key.find('{') == std::string::npos && key.find("line") == std::string::npos &&
        key.find("turns") == std::string::npos && key.find("waiting") == std::string::npos &&
        key.find("delayed") == std::string::npos && key.find("unfinished") == std::string::npos &&
        key.find("deadlines") == std::string::npos && key != "kv:jobs" && key != "kv:expiry" &&
        key != "kv:dead")
        << key;
  }
}

}  // namespace
}  // namespace kandinsky
