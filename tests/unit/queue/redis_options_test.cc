#include "common/redis/options.h"

#include <gtest/gtest.h>

#include "common/queue_redis/engine.h"
#include "common/redis/script.h"
#include "common/redis/value.h"

namespace kandinsky {
namespace {

TEST(RedisOptionsTest, Parse) {
  const struct {
    const char* address;
    std::vector<RedisEndpoint> endpoints;
    const char* master;
    const char* user;
    const char* password;
    int database;
    const char* shown;
  } kCases[] = {
      {"redis://h", {{"h", 6379, ""}}, "", "", "", 0, "redis://h:6379/0"},
      {"redis://h:1/3", {{"h", 1, ""}}, "", "", "", 3, "redis://h:1/3"},
      {"redis://:secret@h:1/", {{"h", 1, ""}}, "", "", "secret", 0, "redis://h:1/0"},
      {"redis://u:p%40%3a@h/2", {{"h", 6379, ""}}, "", "u", "p@:", 2, "redis://h:6379/2"},
      {"redis://[::1]:7/1", {{"::1", 7, ""}}, "", "", "", 1, "redis://[::1]:7/1"},
      {"unix:///tmp/r.sock", {{"", 0, "/tmp/r.sock"}}, "", "", "", 0, "unix:///tmp/r.sock?db=0"},
      {"unix:///r?db=4", {{"", 0, "/r"}}, "", "", "", 4, "unix:///r?db=4"},
      {"sentinel://a:1,b/m",
       {{"a", 1, ""}, {"b", 26379, ""}},
       "m",
       "",
       "",
       0,
       "sentinel://a:1,b:26379/m?db=0"},
      {"sentinel://u:p@a,[::2]:5/m?db=9",
       {{"a", 26379, ""}, {"::2", 5, ""}},
       "m",
       "u",
       "p",
       9,
       "sentinel://a:26379,[::2]:5/m?db=9"},
  };
  for (const auto& test : kCases) {
    SCOPED_TRACE(test.address);
    auto got = RedisOptions::Parse(test.address);
    ASSERT_TRUE(got.ok()) << got.status();
    EXPECT_EQ(got->endpoints, test.endpoints);
    EXPECT_EQ(got->master_name, test.master);
    EXPECT_EQ(got->user, test.user);
    EXPECT_EQ(got->password, test.password);
    EXPECT_EQ(got->database, test.database);
    EXPECT_EQ(got->ToString(), test.shown);
  }
}

TEST(RedisOptionsTest, Refused) {
  for (const char* bad : {"",
                          "h:1",
                          "http://h",
                          "redis://",
                          "redis://h:0",
                          "redis://h:65536",
                          "redis://h:x",
                          "redis://h/x",
                          "redis://h/-1",
                          "redis://secretword@h",
                          "redis://u:secretword%4@h",
                          "redis://u:secretword@h:x",
                          "unix://relative",
                          "unix://",
                          "unix:///a?x=1",
                          "unix:///a?db=",
                          "sentinel://a:1",
                          "sentinel://a:1/",
                          "sentinel://a,,b/m",
                          "sentinel:///m",
                          "redis://[::1"}) {
    auto got = RedisOptions::Parse(bad);
    EXPECT_EQ(got.status().code(), absl::StatusCode::kInvalidArgument) << bad;
    EXPECT_EQ(std::string(got.status().message()).find("secretword"), std::string::npos);
  }
}

TEST(RedisOptionsTest, EngineOptionsAreChecked) {
  const struct {
    const char* name;
    void (*change)(RedisEngineOptions*);
  } kCases[] = {
      {"address", [](RedisEngineOptions* o) { o->address = "nowhere"; }},
      {"prefix", [](RedisEngineOptions* o) { o->key_prefix = "a'b"; }},
      {"no prefix", [](RedisEngineOptions* o) { o->key_prefix = ""; }},
      {"connections", [](RedisEngineOptions* o) { o->max_connections = 0; }},
      {"timeout", [](RedisEngineOptions* o) { o->command_timeout = absl::ZeroDuration(); }},
      {"queue", [](RedisEngineOptions* o) { o->queue.max_attempts = 0; }},
      {"directory", [](RedisEngineOptions* o) { o->video_store = VideoStoreKind::kDirectory; }},
  };
  for (const auto& test : kCases) {
    RedisEngineOptions options;
    test.change(&options);
    EXPECT_EQ(OpenRedisEngine(options).status().code(), absl::StatusCode::kInvalidArgument)
        << test.name;
  }
  RedisEngineOptions away;
  away.address = "unix:///nowhere/at/all";
  EXPECT_TRUE(OpenRedisEngine(away).ok()) << "Redis may come later";
  away.require_connection = true;
  EXPECT_EQ(OpenRedisEngine(away).status().code(), absl::StatusCode::kUnavailable);
}

TEST(RedisScriptTest, Sha1) {
  const struct {
    std::string text;
    const char* want;
  } kCases[] = {
      {"", "da39a3ee5e6b4b0d3255bfef95601890afd80709"},
      {"abc", "a9993e364706816aba3e25717850c26c9cd0d89d"},
      {"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
       "84983e441c3bd26ebaae4aa1f95129e5e54670f1"},
      {std::string(1000000, 'a'), "34aa973cd4c4daa4f61eeb2bdbad27316534016f"},
  };
  for (const auto& test : kCases) EXPECT_EQ(Sha1Hex(test.text), test.want);
}

TEST(RedisValueTest, ErrorsMapToStatuses) {
  const struct {
    const char* text;
    absl::StatusCode want;
  } kCases[] = {
      {"LOADING Redis is loading the dataset in memory", absl::StatusCode::kUnavailable},
      {"READONLY You can't write against a read only replica.", absl::StatusCode::kUnavailable},
      {"MASTERDOWN Link with MASTER is down", absl::StatusCode::kUnavailable},
      {"CLUSTERDOWN The cluster is down", absl::StatusCode::kUnavailable},
      {"OOM command not allowed when used memory > 'maxmemory'.",
       absl::StatusCode::kResourceExhausted},
      {"WRONGPASS invalid username-password pair", absl::StatusCode::kUnauthenticated},
      {"NOAUTH Authentication required.", absl::StatusCode::kUnauthenticated},
      {"NOPERM this user has no permissions", absl::StatusCode::kPermissionDenied},
      {"WRONGTYPE Operation against a key", absl::StatusCode::kInternal},
      {"ERR unknown command", absl::StatusCode::kInternal},
  };
  for (const auto& test : kCases) {
    RedisValue value{RedisValue::Type::kError, test.text, 0, {}};
    EXPECT_EQ(RedisErrorStatus(value).code(), test.want) << test.text;
  }
  EXPECT_TRUE(RedisErrorStatus({RedisValue::Type::kString, "OOM not an error", 0, {}}).ok());
}

}  // namespace
}  // namespace kandinsky
