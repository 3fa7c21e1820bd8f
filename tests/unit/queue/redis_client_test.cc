#include "common/redis/client.h"

#include <gtest/gtest.h>

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <set>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/redis/subscriber.h"
#include "tests/support/redis_server.h"

namespace kandinsky {
namespace {

constexpr absl::Duration kSoon = absl::Seconds(30);

std::unique_ptr<RedisServer> MustStart(RedisServer::Options options = {}) {
  auto server = RedisServer::Start(std::move(options));
  EXPECT_TRUE(server.ok()) << server.status();
  return server.ok() ? *std::move(server) : nullptr;
}

RedisOptions Options(const std::string& address) {
  auto options = RedisOptions::Parse(address);
  EXPECT_TRUE(options.ok()) << options.status();
  options->backoff_max = absl::Milliseconds(50);
  return *options;
}

// Calls `call` until it gives an OK status.
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

TEST(RedisClientTest, CommandsOfAnyBytes) {
  auto server = MustStart();
  RedisClient client(Options(server->address()));
  std::string bytes("a\0b\r\n$5\r\n", 10);
  ASSERT_TRUE(client.Command({"SET", bytes, bytes}).ok());
  EXPECT_EQ(client.Command({"GET", bytes})->text, bytes);
  EXPECT_TRUE(client.Command({"GET", "none"})->nil());
  EXPECT_EQ(client.Command({"STRLEN", bytes})->integer, 10);
  EXPECT_EQ(client.Command({"NOSUCH"}).status().code(), absl::StatusCode::kInternal);
  auto replies = client.Pipeline({{"INCR", "n"}, {"NOSUCH"}, {"INCR", "n"}});
  ASSERT_TRUE(replies.ok());
  EXPECT_EQ(replies->at(0).integer, 1);
  EXPECT_TRUE(replies->at(1).error());
  EXPECT_EQ(replies->at(2).integer, 2);
}

TEST(RedisClientTest, AuthenticationAndDatabase) {
  RedisServer::Options options;
  options.settings = {"--requirepass", "secret"};
  auto server = MustStart(options);
  RedisOptions admin = Options(server->address());
  admin.password = "secret";
  ASSERT_TRUE(RedisClient(admin)
                  .Command({"ACL", "SETUSER", "kv", "on", ">kvpass", "~*", "&*", "+@all"})
                  .ok());
  const struct {
    const char* user;
    const char* password;
    absl::StatusCode want;
  } kCases[] = {
      {"", "secret", absl::StatusCode::kOk},
      {"kv", "kvpass", absl::StatusCode::kOk},
      {"", "wrong", absl::StatusCode::kUnauthenticated},
      {"kv", "secret", absl::StatusCode::kUnauthenticated},
      {"", "", absl::StatusCode::kUnauthenticated},
  };
  for (const auto& test : kCases) {
    RedisOptions redis = Options(server->address());
    redis.user = test.user;
    redis.password = test.password;
    RedisClient client(redis);
    EXPECT_EQ(client.Command({"PING"}).status().code(), test.want)
        << test.user << " " << test.password;
  }
  RedisOptions redis = Options(server->address());
  redis.password = "secret";
  redis.database = 3;
  RedisClient three(redis);
  redis.database = 0;
  RedisClient zero(redis);
  ASSERT_TRUE(three.Command({"SET", "k", "v"}).ok());
  EXPECT_TRUE(zero.Command({"GET", "k"})->nil());
  redis.database = 99;
  RedisClient none(redis);
  EXPECT_EQ(none.Command({"PING"}).status().code(), absl::StatusCode::kInternal);
}

TEST(RedisClientTest, EveryCallEndsInTime) {
  auto server = MustStart();
  RedisOptions options = Options(server->address());
  options.command_timeout = absl::Milliseconds(100);
  options.connect_timeout = absl::Milliseconds(100);
  RedisClient client(options);
  ASSERT_TRUE(client.Command({"PING"}).ok());
  server->Pause();
  for (int i = 0; i < 3; ++i) {
    absl::Time start = absl::Now();
    EXPECT_TRUE(absl::IsUnavailable(client.Command({"PING"}).status()));
    EXPECT_LT(absl::Now() - start, absl::Seconds(5));
  }
  server->Continue();
  EXPECT_TRUE(Eventually([&] { return client.Command({"PING"}).status(); }).ok());
  // A command that blocks by itself gets its time on top.
  EXPECT_TRUE(client.Command({"BLPOP", "nothing", "0.3"}, absl::Milliseconds(300))->nil());
}

TEST(RedisClientTest, PoolIsBounded) {
  auto server = MustStart();
  RedisOptions options = Options(server->address());
  options.max_connections = 2;
  options.command_timeout = absl::Milliseconds(200);
  RedisClient client(options);
  auto first = client.Acquire();
  {
    auto second = client.Acquire();
    ASSERT_TRUE(first.ok() && second.ok());
    EXPECT_TRUE(absl::IsUnavailable(client.Acquire().status()));
  }
  EXPECT_TRUE(client.Acquire().ok());
  // Many threads share what there is.
  RedisOptions patient = Options(server->address());
  patient.max_connections = 3;
  RedisClient shared(patient);
  std::vector<std::thread> threads;
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back([&] {
      for (int k = 0; k < 200; ++k) EXPECT_TRUE(shared.Command({"INCR", "n"}).ok());
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(client.Command({"GET", "n"})->text, "1600");
}

TEST(RedisClientTest, ComesBackAfterARestart) {
  auto server = MustStart();
  RedisClient client(Options(server->address()));
  ASSERT_TRUE(client.Pipeline({{"PING"}}).ok());
  server->Kill();
  EXPECT_TRUE(absl::IsUnavailable(client.Command({"PING"}).status()));
  ASSERT_TRUE(server->StartAgain().ok());
  EXPECT_TRUE(Eventually([&] { return client.Command({"PING"}).status(); }).ok());
  // Connections that died while idle are noticed before they are used.
  server->Kill();
  ASSERT_TRUE(server->StartAgain().ok());
  EXPECT_TRUE(client.Command({"PING"}).ok());
}

TEST(RedisClientTest, BackoffFailsAtOnce) {
  RedisOptions options = Options("unix:///nowhere/at/all");
  options.backoff_base = options.backoff_max = absl::Hours(1);
  RedisClient client(options);
  absl::Status first = client.Command({"PING"}).status();
  EXPECT_TRUE(absl::IsUnavailable(first));
  EXPECT_EQ(client.Command({"PING"}).status(), first);
}

TEST(RedisClientTest, ScriptsAreLoadedWhenNeeded) {
  auto server = MustStart();
  RedisClient client(Options(server->address()));
  RedisScript script("twice", "return {ARGV[1] .. ARGV[1], #ARGV}");
  for (int i = 0; i < 3; ++i) {
    auto reply = client.Eval(script, {"ab", "c"});
    ASSERT_TRUE(reply.ok()) << reply.status();
    EXPECT_EQ(reply->elements.at(0).text, "abab");
    EXPECT_EQ(reply->elements.at(1).integer, 2);
    if (i == 1) {
      ASSERT_TRUE(client.Command({"SCRIPT", "FLUSH"}).ok());
    }
  }
  RedisScript broken("broken", "error('no')");
  absl::Status status = client.Eval(broken, {}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_NE(std::string(status.message()).find("broken"), std::string::npos) << status;
}

TEST(RedisSubscriberTest, ReportsGaps) {
  auto server = MustStart();
  RedisOptions options = Options(server->address());
  RedisClient client(options);
  std::mutex mutex;
  std::condition_variable changed;
  std::vector<std::string> seen;
  RedisSubscriber subscriber(options, "channel");
  ASSERT_TRUE(subscriber
                  .Start(
                      [&](std::string_view message) {
                        std::lock_guard<std::mutex> lock(mutex);
                        seen.emplace_back(message);
                        changed.notify_all();
                      },
                      [&] {
                        std::lock_guard<std::mutex> lock(mutex);
                        seen.push_back("GAP");
                        changed.notify_all();
                      })
                  .ok());
  auto wait_for = [&](size_t count) {
    std::unique_lock<std::mutex> lock(mutex);
    EXPECT_TRUE(
        changed.wait_for(lock, absl::ToChronoSeconds(kSoon), [&] { return seen.size() >= count; }));
  };
  ASSERT_TRUE(client.Command({"PUBLISH", "channel", "one"}).ok());
  ASSERT_TRUE(client.Command({"PUBLISH", "other", "not for us"}).ok());
  wait_for(1);
  server->Kill();
  ASSERT_TRUE(server->StartAgain().ok());
  wait_for(2);
  ASSERT_TRUE(client.Command({"PUBLISH", "channel", std::string("t\0wo", 4)}).ok());
  wait_for(3);
  subscriber.Stop();
  EXPECT_EQ(seen, (std::vector<std::string>{"one", "GAP", std::string("t\0wo", 4)}));
  // It can start again, also while the server is away: then there is a gap first.
  seen.clear();
  server->Kill();
  ASSERT_TRUE(subscriber
                  .Start([](std::string_view) {},
                         [&] {
                           std::lock_guard<std::mutex> lock(mutex);
                           seen.push_back("GAP");
                           changed.notify_all();
                         })
                  .ok());
  ASSERT_TRUE(server->StartAgain().ok());
  wait_for(1);
}

TEST(RedisSentinelTest, FailoverIsFollowed) {
  RedisServer::Options options;
  options.tcp = true;
  auto master = MustStart(options);
  options.settings = {"--replicaof", absl::StrCat("127.0.0.1 ", master->port()),
                      "--repl-diskless-sync-delay", "0"};
  auto replica = MustStart(options);
  RedisServer::Options watch;
  watch.sentinel = {absl::StrCat("sentinel monitor kv 127.0.0.1 ", master->port(), " 1"),
                    "sentinel down-after-milliseconds kv 300", "sentinel failover-timeout kv 2000"};
  auto sentinel = MustStart(watch);
  // The first Sentinel of the list is not there.
  RedisOptions redis =
      Options(absl::StrCat("sentinel://127.0.0.1:1,127.0.0.1:", sentinel->port(), "/kv"));
  RedisClient client(redis);
  ASSERT_TRUE(client.Command({"SET", "k", "before"}).ok());
  auto replicas = client.Acquire();
  ASSERT_TRUE(replicas->Command({"SET", "k", "replicated"}).ok());
  ASSERT_TRUE(Eventually([&]() -> absl::Status {
                auto count = replicas->Command({"WAIT", "1", "100"}, absl::Seconds(1));
                if (!count.ok()) return count.status();
                return count->integer >= 1 ? absl::OkStatus() : absl::UnavailableError("not yet");
              }).ok());
  // The Sentinel must know the replica before it can promote it.
  RedisClient ask(Options(absl::StrCat("redis://127.0.0.1:", sentinel->port())));
  ASSERT_TRUE(Eventually([&]() -> absl::Status {
                auto known = ask.Command({"SENTINEL", "REPLICAS", "kv"});
                if (!known.ok()) return known.status();
                return known->elements.empty() ? absl::UnavailableError("not yet")
                                               : absl::OkStatus();
              }).ok());
  master->Kill();
  EXPECT_TRUE(absl::IsUnavailable(replicas->Command({"PING"}).status()));
  ASSERT_TRUE(Eventually([&] { return client.Command({"SET", "after", "1"}).status(); }).ok());
  EXPECT_EQ(client.Command({"GET", "k"})->text, "replicated");
  RedisClient direct(Options(replica->address()));
  EXPECT_EQ(direct.Command({"GET", "after"})->text, "1");
}

TEST(RedisSentinelTest, DemotedMasterIsLeft) {
  RedisServer::Options options;
  options.tcp = true;
  auto old_master = MustStart(options);
  auto new_master = MustStart(options);
  RedisServer::Options watch;
  watch.sentinel = {absl::StrCat("sentinel monitor kv 127.0.0.1 ", old_master->port(), " 1")};
  auto sentinel = MustStart(watch);
  RedisClient client(Options(absl::StrCat("sentinel://127.0.0.1:", sentinel->port(), "/kv")));
  ASSERT_TRUE(client.Command({"SET", "k", "old"}).ok());
  // The Sentinel learns of another master, and the old one becomes its replica, while our
  // connection stays open.
  RedisClient admin(Options(absl::StrCat("redis://127.0.0.1:", sentinel->port())));
  ASSERT_TRUE(admin.Command({"SENTINEL", "REMOVE", "kv"}).ok());
  ASSERT_TRUE(admin
                  .Command({"SENTINEL", "MONITOR", "kv", "127.0.0.1",
                            std::to_string(new_master->port()), "1"})
                  .ok());
  auto held = client.Acquire();
  ASSERT_TRUE(held.ok());
  RedisClient demote(Options(old_master->address()));
  ASSERT_TRUE(demote.Command({"REPLICAOF", "127.0.0.1", std::to_string(new_master->port())}).ok());
  EXPECT_TRUE(absl::IsUnavailable(held->Command({"SET", "k", "lost"}).status()));
  ASSERT_TRUE(Eventually([&] { return client.Command({"SET", "k", "new"}).status(); }).ok());
  RedisClient direct(Options(new_master->address()));
  EXPECT_EQ(direct.Command({"GET", "k"})->text, "new");
}

TEST(RedisClientTest, ManyThreadsKeepTheirRepliesApart) {
  auto server = MustStart();
  RedisOptions options = Options(server->address());
  options.max_connections = 3;
  RedisClient client(options);
  RedisScript echo("echo", "if ARGV[1] == 'bad' then error('bad') end return ARGV[1]");
  std::vector<std::thread> threads;
  for (int i = 0; i < 16; ++i) {
    threads.emplace_back([&, i] {
      for (int k = 0; k < 200; ++k) {
        if (k % 50 == 17) {
          EXPECT_EQ(client.Eval(echo, {"bad"}).status().code(), absl::StatusCode::kInternal);
          continue;
        }
        std::string text = absl::StrCat(i, "-", k, std::string(k % 20 == 3 ? 20000 : 10, 'x'));
        auto reply = client.Eval(echo, {text});
        ASSERT_TRUE(reply.ok()) << reply.status();
        EXPECT_EQ(reply->text, text);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  server->Kill();
  threads.clear();
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back(
        [&] { EXPECT_TRUE(absl::IsUnavailable(client.Eval(echo, {"x"}).status())); });
  }
  for (std::thread& thread : threads) thread.join();
  ASSERT_TRUE(server->StartAgain().ok());
  EXPECT_TRUE(Eventually([&] { return client.Eval(echo, {"x"}).status(); }).ok());
}

}  // namespace
}  // namespace kandinsky
