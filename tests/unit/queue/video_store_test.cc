// What all video stores must do alike, and what happens when they are full.
#include "common/queue/video_store.h"

#include <gtest/gtest.h>
#include <sys/mount.h>

#include <filesystem>
#include <fstream>
#include <memory>
#include <thread>

#include "absl/strings/str_cat.h"
#include "common/queue/fake_queue.h"
#include "common/queue/identity.h"
#include "common/queue_redis/directory_video_store.h"
#include "common/queue_redis/engine.h"
#include "tests/support/redis_server.h"

namespace kandinsky {
namespace {

enum class Kind { kMemory, kRedis, kDirectory };

class VideoStoreTest : public testing::TestWithParam<Kind> {
 protected:
  void SetUp() override {
    switch (GetParam()) {
      case Kind::kMemory:
        memory_ = std::make_unique<InMemoryEngine>();
        store_ = memory_.get();
        return;
      case Kind::kDirectory:
        directory_ = std::make_unique<DirectoryVideoStore>(files_.path());
        store_ = directory_.get();
        return;
      case Kind::kRedis: {
        auto server = RedisServer::Start();
        ASSERT_TRUE(server.ok()) << server.status();
        server_ = *std::move(server);
        RedisEngineOptions options;
        options.address = server_->address();
        options.video_segment_bytes = 10;
        auto engine = OpenRedisEngine(options);
        ASSERT_TRUE(engine.ok()) << engine.status();
        engine_ = *std::move(engine);
        store_ = &engine_->video_store();
        return;
      }
    }
  }

  TemporaryDirectory files_;
  std::unique_ptr<InMemoryEngine> memory_;
  std::unique_ptr<DirectoryVideoStore> directory_;
  std::unique_ptr<RedisServer> server_;
  std::unique_ptr<RedisEngine> engine_;
  VideoStore* store_ = nullptr;
  const std::string id_ = NewJobId(absl::FromUnixSeconds(1700000000));
};

INSTANTIATE_TEST_SUITE_P(All, VideoStoreTest,
                         testing::Values(Kind::kMemory, Kind::kRedis, Kind::kDirectory));

TEST_P(VideoStoreTest, GrowsAndIsReadAtAnyOffset) {
  EXPECT_EQ(*store_->Size(id_, 1), 0u);
  EXPECT_TRUE(absl::IsNotFound(store_->Read(id_, 1, 0, 10).status()));
  EXPECT_TRUE(absl::IsNotFound(store_->Seal(id_, 1)));
  std::string bytes;
  for (size_t size : {1, 9, 10, 11, 0, 25, 3}) {
    std::string part;
    for (size_t i = 0; i < size; ++i) part += static_cast<char>(bytes.size() + i);
    EXPECT_TRUE(store_->Append(id_, 1, bytes.size(), part).ok());
    bytes += part;
    EXPECT_EQ(*store_->Size(id_, 1), bytes.size());
  }
  for (uint64_t offset : {bytes.size() + 1, bytes.size() - 1, size_t{0}, size_t{1}}) {
    EXPECT_TRUE(absl::IsFailedPrecondition(store_->Append(id_, 1, offset, "x"))) << offset;
  }
  EXPECT_TRUE(absl::IsFailedPrecondition(store_->Append(id_, 2, 5, "x")));
  EXPECT_EQ(*store_->Size(id_, 1), bytes.size());
  for (int sealed = 0; sealed < 2; ++sealed) {
    for (uint64_t offset = 0; offset <= bytes.size() + 2; ++offset) {
      for (uint64_t max : {0, 1, 10, 21, 1000}) {
        std::string want = offset < bytes.size() ? bytes.substr(offset, max) : "";
        auto got = store_->Read(id_, 1, offset, max);
        ASSERT_TRUE(got.ok()) << got.status();
        EXPECT_EQ(*got, want) << offset << " " << max;
      }
    }
    EXPECT_TRUE(store_->Seal(id_, 1).ok());
  }
  EXPECT_TRUE(store_->Seal(id_, 1).ok()) << "again";
  EXPECT_EQ(*store_->Size(id_, 1), bytes.size());
}

TEST_P(VideoStoreTest, GenerationsAreApart) {
  const std::string other = NewJobId(absl::FromUnixSeconds(1700000001));
  ASSERT_TRUE(store_->Append(id_, 1, 0, "first").ok());
  ASSERT_TRUE(store_->Append(id_, 2, 0, "second").ok());
  ASSERT_TRUE(store_->Append(id_, 3, 0, "third").ok());
  ASSERT_TRUE(store_->Append(other, 1, 0, "other").ok());
  EXPECT_EQ(*store_->Read(id_, 1, 0, 99), "first");
  ASSERT_TRUE(store_->Seal(id_, 3).ok());
  ASSERT_TRUE(store_->Remove(id_, 3).ok());
  EXPECT_TRUE(absl::IsNotFound(store_->Read(id_, 1, 0, 99).status()));
  EXPECT_TRUE(absl::IsNotFound(store_->Read(id_, 2, 0, 99).status()));
  EXPECT_EQ(*store_->Read(id_, 3, 0, 99), "third");
  EXPECT_TRUE(store_->Remove(id_, std::nullopt).ok());
  EXPECT_TRUE(store_->Remove(id_, std::nullopt).ok()) << "again";
  EXPECT_TRUE(store_->Remove(id_, 1).ok());
  EXPECT_TRUE(absl::IsNotFound(store_->Read(id_, 3, 0, 99).status()));
  EXPECT_EQ(*store_->Read(other, 1, 0, 99), "other");
}

TEST(DirectoryVideoStoreTest, JobIdsNeverBecomePaths) {
  TemporaryDirectory files;
  DirectoryVideoStore store(files.path());
  for (const char* bad : {"", "..", "../../etc", "a/b", "0123456789abcdefghjkmnpq/."}) {
    EXPECT_TRUE(absl::IsInvalidArgument(store.Append(bad, 1, 0, "x"))) << bad;
    EXPECT_TRUE(absl::IsInvalidArgument(store.Seal(bad, 1)));
    EXPECT_TRUE(absl::IsInvalidArgument(store.Read(bad, 1, 0, 1).status()));
    EXPECT_TRUE(absl::IsInvalidArgument(store.Size(bad, 1).status()));
    EXPECT_TRUE(absl::IsInvalidArgument(store.Remove(bad, std::nullopt)));
  }
}

TEST(DirectoryVideoStoreTest, LeavesNothingBehind) {
  TemporaryDirectory files;
  DirectoryVideoStore store(files.path());
  const std::string id = NewJobId(absl::FromUnixSeconds(1700000000));
  ASSERT_TRUE(store.Append(id, 1, 0, "abc").ok());
  ASSERT_TRUE(store.Append(id, 2, 0, "abc").ok());
  ASSERT_TRUE(store.Seal(id, 2).ok());
  EXPECT_TRUE(absl::IsFailedPrecondition(store.Append(id, 2, 3, "d"))) << "sealed";
  ASSERT_TRUE(store.Remove(id, std::nullopt).ok());
  EXPECT_TRUE(std::filesystem::is_empty(files.path()));
}

TEST(DirectoryVideoStoreTest, FullDiskRefusesWithoutDamage) {
  TemporaryDirectory files;
  if (mount("tmpfs", files.path().c_str(), "tmpfs", 0, "size=1m") != 0) {
    GTEST_SKIP() << "cannot mount a small file system here";
  }
  struct Unmount {
    std::string path;
    ~Unmount() { umount2(path.c_str(), MNT_DETACH); }
  } unmount{files.path()};
  DirectoryVideoStore store(files.path());
  const std::string id = NewJobId(absl::FromUnixSeconds(1700000000));
  const std::string part(300000, 'x');
  uint64_t size = 0;
  absl::Status status;
  while (status.ok() && size < 10 * part.size()) {
    status = store.Append(id, 1, size, part);
    if (status.ok()) size += part.size();
  }
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  EXPECT_GT(size, 0u);
  EXPECT_EQ(*store.Size(id, 1), size) << "nothing of the failed part is left";
  EXPECT_EQ(store.Read(id, 1, 0, 1 << 20)->size(), size);
  // Room again: it goes on where it was.
  EXPECT_TRUE(store.Append(id, 1, size, "end").ok());
  EXPECT_TRUE(store.Seal(id, 1).ok());
  EXPECT_EQ(*store.Read(id, 1, size, 10), "end");
}

TEST(RedisVideoStoreTest, FullServerRefusesWithoutDamage) {
  RedisServer::Options settings;
  settings.settings = {"--maxmemory", "24mb", "--maxmemory-policy", "noeviction"};
  auto server = RedisServer::Start(settings);
  ASSERT_TRUE(server.ok()) << server.status();
  RedisEngineOptions options;
  options.address = (*server)->address();
  auto engine = OpenRedisEngine(options);
  ASSERT_TRUE(engine.ok());
  VideoStore& store = (*engine)->video_store();
  JobStore& jobs = (*engine)->job_store();
  TaskQueue& tasks = (*engine)->task_queue();
  JobSpec spec;
  spec.parameters.level = Level::kLow;
  auto created = jobs.Create(spec);
  ASSERT_TRUE(created.ok());
  auto waiting = jobs.Create(spec);
  ASSERT_TRUE(waiting.ok());
  auto keyframes = tasks.Claim(Stage::kKeyframes, "w", absl::ZeroDuration());
  ASSERT_TRUE(tasks.Complete(**keyframes, {}).ok());
  auto claimed = tasks.Claim(Stage::kDecoding, "w", absl::ZeroDuration());
  ASSERT_TRUE(claimed.ok() && claimed->has_value());
  const Lease& lease = **claimed;
  const std::string part(1 << 20, 'x');
  uint64_t size = 0;
  absl::Status status;
  while (status.ok() && size < 64 * part.size()) {
    status = store.Append(lease.job_id, lease.video_generation, size, part);
    if (status.ok()) size += part.size();
  }
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  EXPECT_GT(size, 0u);
  EXPECT_EQ(*store.Size(lease.job_id, lease.video_generation), size);
  EXPECT_EQ(*store.Read(lease.job_id, lease.video_generation, size - 3, 10), "xxx");
  EXPECT_TRUE(absl::IsInvalidArgument(
      store.Append(lease.job_id, lease.video_generation, size, part + "x")));
  // Nothing new comes in, but what is there goes on and can end.
  EXPECT_TRUE(absl::IsResourceExhausted(jobs.Create(spec).status()));
  EXPECT_TRUE(absl::IsResourceExhausted(tasks.SaveCheckpoint(lease, part)));
  EXPECT_TRUE(tasks.Renew(lease, StageProgress()).ok());
  EXPECT_TRUE(jobs.Cancel(waiting->job.id).ok());
  EXPECT_EQ(jobs.Get(waiting->job.id)->state, JobState::kCancelled);
  EXPECT_TRUE(tasks.Fail(lease, {TaskFailure::Class::kPermanent, "VIDEO_STORE_FULL", ""}).ok());
  EXPECT_EQ(jobs.Get(lease.job_id)->error->reason, "VIDEO_STORE_FULL");
  EXPECT_TRUE(jobs.Delete(lease.job_id).ok());
}

TEST(RedisVideoStoreTest, LateWritersAreRefused) {
  auto server = RedisServer::Start();
  ASSERT_TRUE(server.ok());
  RedisEngineOptions options;
  options.address = (*server)->address();
  options.queue.lease_duration = absl::Milliseconds(50);
  auto engine = OpenRedisEngine(options);
  ASSERT_TRUE(engine.ok());
  VideoStore& store = (*engine)->video_store();
  TaskQueue& tasks = (*engine)->task_queue();
  JobSpec spec;
  spec.parameters.level = Level::kLow;
  const std::string id = (*engine)->job_store().Create(spec)->job.id;
  auto keyframes = tasks.Claim(Stage::kKeyframes, "w", absl::Seconds(20));
  ASSERT_TRUE(tasks.Complete(**keyframes, {}).ok());
  auto stale = tasks.Claim(Stage::kDecoding, "slow", absl::Seconds(20));
  ASSERT_TRUE(store.Append(id, (*stale)->video_generation, 0, "old").ok());
  auto heir = tasks.Claim(Stage::kDecoding, "quick", absl::Seconds(20));
  ASSERT_TRUE(heir.ok() && heir->has_value());
  EXPECT_TRUE(absl::IsFailedPrecondition(store.Append(id, (*stale)->video_generation, 3, "er")));
  ASSERT_TRUE(store.Append(id, (*heir)->video_generation, 0, "new").ok());
  EXPECT_EQ(*store.Read(id, (*stale)->video_generation, 0, 9), "old") << "readers may go on";
  ASSERT_TRUE(store.Seal(id, (*heir)->video_generation).ok());
  ASSERT_TRUE(tasks.Finish(**heir, VideoInfo()).ok());
  EXPECT_TRUE(absl::IsNotFound(store.Read(id, (*stale)->video_generation, 0, 9).status()));
  EXPECT_EQ(*store.Read(id, (*heir)->video_generation, 0, 9), "new");
  EXPECT_TRUE(absl::IsFailedPrecondition(store.Append(id, (*stale)->video_generation, 0, "x")));
  EXPECT_TRUE(absl::IsFailedPrecondition(store.Append(id, (*heir)->video_generation, 3, "x")));
}

}  // namespace
}  // namespace kandinsky
