// What both engines, in memory and on Redis, must do alike.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/queue/fake_queue.h"
#include "common/queue/identity.h"
#include "common/queue_redis/engine.h"
#include "tests/support/redis_server.h"

namespace kandinsky {
namespace {

using std::string_literals::operator""s;
using ::testing::ElementsAre;

constexpr absl::Duration kNow = absl::ZeroDuration();
constexpr absl::Duration kSoon = absl::Seconds(20);  // an upper bound; waits end when it happens

enum class Kind { kMemory, kRedis };

std::string KindName(const testing::TestParamInfo<Kind>& info) {
  return info.param == Kind::kMemory ? "Memory" : "Redis";
}

// One server for all tests of the process; every test has keys of its own.
RedisServer& Server() {
  static std::unique_ptr<RedisServer> server = [] {
    auto started = RedisServer::Start();
    EXPECT_TRUE(started.ok()) << started.status();
    return started.ok() ? *std::move(started) : nullptr;
  }();
  return *server;
}

LatentLocation Latents(const std::string& key) {
  return {"10.0.0.1:7000", key, "float32", {16, 4, 8, 8}, 0xdeadbeef};
}

VideoInfo Video() { return {1000, 0x12345678, "video/mp4", 241, 64, 64, 30}; }

class EngineTest : public testing::TestWithParam<Kind> {
 protected:
  void Open(QueueOptions options = {}) {
    memory_.reset();
    redis_.reset();
    if (GetParam() == Kind::kMemory) {
      memory_ = std::make_unique<InMemoryEngine>(options);
      tasks_ = memory_.get();
      jobs_ = memory_.get();
      feed_ = memory_.get();
      videos_ = memory_.get();
      return;
    }
    static int count = 0;
    RedisEngineOptions redis;
    redis.address = Server().address();
    redis.key_prefix = absl::StrCat("t", ++count);
    redis.queue = options;
    auto engine = OpenRedisEngine(redis);
    ASSERT_TRUE(engine.ok()) << engine.status();
    redis_ = *std::move(engine);
    tasks_ = &redis_->task_queue();
    jobs_ = &redis_->job_store();
    feed_ = &redis_->event_feed();
    videos_ = &redis_->video_store();
  }

  void SetUp() override { Open(); }

  static JobSpec Spec(Level level = Level::kHigh) {
    JobSpec spec;
    spec.parameters.prompt = "a red panda";
    spec.parameters.level = level;
    spec.parameters.seed = 7;
    spec.parameters.model = "tiny";
    return spec;
  }

  std::string MustCreate(const JobSpec& spec) {
    auto created = jobs_->Create(spec);
    EXPECT_TRUE(created.ok()) << created.status();
    if (!created.ok()) return "";
    EXPECT_EQ(created->outcome, CreateResult::Outcome::kCreated);
    return created->job.id;
  }

  std::optional<Lease> Claim(Stage stage, const std::string& worker = "w",
                             absl::Duration wait = kNow) {
    auto lease = tasks_->Claim(stage, worker, wait);
    EXPECT_TRUE(lease.ok()) << lease.status();
    return lease.ok() ? *lease : std::nullopt;
  }

  Lease MustClaim(Stage stage, const std::string& worker = "w", absl::Duration wait = kSoon) {
    std::optional<Lease> lease = Claim(stage, worker, wait);
    EXPECT_TRUE(lease.has_value());
    return lease.value_or(Lease());
  }

  Job MustGet(const std::string& id) {
    auto job = jobs_->Get(id);
    EXPECT_TRUE(job.ok()) << job.status();
    return job.ok() ? *job : Job();
  }

  std::vector<JobEvent> Events(const std::string& id, const std::string& after = "") {
    auto events = jobs_->ReadEvents(id, after, 10000);
    EXPECT_TRUE(events.ok()) << events.status();
    return events.ok() ? *events : std::vector<JobEvent>();
  }

  // "state:queued", "started:keyframes:1", …
  std::vector<std::string> History(const std::string& id) {
    std::vector<std::string> history;
    for (const JobEvent& event : Events(id)) {
      const std::string stage(Name(event.stage));
      switch (event.type) {
        case JobEvent::Type::kStateChanged:
          history.push_back("state:" + std::string(Name(event.state)));
          break;
        case JobEvent::Type::kStageStarted:
          history.push_back(absl::StrCat("started:", stage, ":", event.attempt));
          break;
        case JobEvent::Type::kProgress:
          history.push_back(absl::StrCat("progress:", event.step));
          break;
        case JobEvent::Type::kPreview:
          history.push_back("preview");
          break;
        case JobEvent::Type::kStageFinished:
          history.push_back("finished:" + stage);
          break;
        case JobEvent::Type::kRetry:
          history.push_back(absl::StrCat("retry:", event.error ? event.error->reason : "?"));
          break;
      }
    }
    return history;
  }

  StageQueueStats Stats(Stage stage, Priority priority = Priority::kInteractive) {
    auto all = tasks_->Stats();
    EXPECT_TRUE(all.ok()) << all.status();
    for (const StageQueueStats& stats : all.ok() ? *all : std::vector<StageQueueStats>()) {
      if (stats.stage == stage && stats.priority == priority) return stats;
    }
    ADD_FAILURE() << "no such row";
    return {};
  }

  // Calls Maintain until `done` holds.
  template <typename Condition>
  bool MaintainUntil(Condition done) {
    for (absl::Time end = absl::Now() + kSoon; absl::Now() < end;) {
      EXPECT_TRUE(tasks_->Maintain().ok());
      if (done()) return true;
      absl::SleepFor(absl::Milliseconds(2));
    }
    return false;
  }

  std::unique_ptr<InMemoryEngine> memory_;
  std::unique_ptr<RedisEngine> redis_;
  TaskQueue* tasks_ = nullptr;
  JobStore* jobs_ = nullptr;
  EventFeed* feed_ = nullptr;
  VideoStore* videos_ = nullptr;
};

INSTANTIATE_TEST_SUITE_P(Both, EngineTest, testing::Values(Kind::kMemory, Kind::kRedis), KindName);

TEST_P(EngineTest, JobGoesThroughItsStages) {
  const struct {
    Level level;
    std::vector<Stage> stages;
  } kCases[] = {
      {Level::kLow, {Stage::kKeyframes, Stage::kDecoding}},
      {Level::kMedium, {Stage::kKeyframes, Stage::kInterpolation, Stage::kDecoding}},
      {Level::kHigh, {Stage::kKeyframes, Stage::kInterpolation, Stage::kDecoding}},
  };
  for (const auto& test : kCases) {
    SCOPED_TRACE(Name(test.level));
    JobSpec spec = Spec(test.level);
    const std::string id = MustCreate(spec);
    Job job = MustGet(id);
    EXPECT_EQ(job.state, JobState::kQueued);
    EXPECT_EQ(job.spec.parameters, spec.parameters);
    EXPECT_EQ(job.deadline - job.create_time, spec.timeout);
    std::vector<std::string> want{"state:queued"};
    std::optional<LatentLocation> input;
    double fraction = 0;
    for (Stage stage : test.stages) {
      Lease lease = MustClaim(stage);
      EXPECT_EQ(lease.job_id, id);
      EXPECT_EQ(lease.parameters, spec.parameters);
      EXPECT_EQ(lease.attempt, 1);
      EXPECT_EQ(lease.input, input);
      EXPECT_EQ(lease.video_generation, stage == Stage::kDecoding ? 1 : 0);
      EXPECT_EQ(lease.deadline, job.deadline);
      EXPECT_FALSE(lease.reclaimed);
      Job running = MustGet(id);
      EXPECT_EQ(running.state, JobState::kRunning);
      EXPECT_EQ(running.stage, stage);
      EXPECT_GE(running.fraction, fraction);
      fraction = running.fraction;
      if (want.size() == 1) want.push_back("state:running");
      want.push_back(absl::StrCat("started:", std::string(Name(stage)), ":1"));
      input = Latents(std::string(Name(stage)));
      if (stage == Stage::kDecoding) {
        EXPECT_TRUE(absl::IsInvalidArgument(tasks_->Complete(lease, *input)));
        EXPECT_TRUE(tasks_->Finish(lease, Video()).ok());
      } else {
        EXPECT_TRUE(absl::IsInvalidArgument(tasks_->Finish(lease, Video())));
        EXPECT_TRUE(tasks_->Complete(lease, *input).ok());
      }
      want.push_back("finished:" + std::string(Name(stage)));
    }
    want.push_back("state:succeeded");
    EXPECT_EQ(History(id), want);
    job = MustGet(id);
    EXPECT_EQ(job.state, JobState::kSucceeded);
    EXPECT_EQ(job.fraction, 1);
    EXPECT_EQ(job.video, Video());
    EXPECT_EQ(job.video_generation, 1);
    EXPECT_EQ(job.error, std::nullopt);
    EXPECT_LE(job.create_time, job.start_time);
    EXPECT_LE(job.start_time, job.finish_time);
    EXPECT_EQ(job.expire_time - job.finish_time, QueueOptions().retention);
    std::vector<JobEvent> events = Events(id);
    for (size_t i = 0; i < events.size(); ++i) {
      EXPECT_EQ(events[i].sequence, i + 1);
      EXPECT_EQ(events[i].id, absl::StrCat(i + 1));
      EXPECT_EQ(events[i].job_id, id);
    }
    EXPECT_EQ(events.back().video, Video());
    EXPECT_EQ(job.last_event_id, events.back().id);
    EXPECT_EQ(Events(id, events[2].id).size(), events.size() - 3);
  }
}

TEST_P(EngineTest, FailuresByClass) {
  using Class = TaskFailure::Class;
  const struct {
    const char* name;
    std::vector<Class> failures;
    JobState state;
    std::string reason;
    int attempts;
  } kCases[] = {
      {"transient once", {Class::kTransient}, JobState::kRunning, "", 2},
      {"transient twice", {Class::kTransient, Class::kTransient}, JobState::kRunning, "", 3},
      {"transient too often",
       {Class::kTransient, Class::kTransient, Class::kTransient},
       JobState::kFailed,
       "ATTEMPTS_EXHAUSTED",
       3},
      {"permanent", {Class::kPermanent}, JobState::kFailed, "BROKEN", 1},
      {"transient, then permanent",
       {Class::kTransient, Class::kPermanent},
       JobState::kFailed,
       "BROKEN",
       2},
      {"memory once", {Class::kOutOfMemory}, JobState::kRunning, "", 2},
      {"memory twice", {Class::kOutOfMemory, Class::kOutOfMemory}, JobState::kFailed, "BROKEN", 2},
  };
  QueueOptions options;
  options.max_attempts = 3;
  options.retry_base_delay = absl::Milliseconds(2);
  options.retry_max_delay = absl::Milliseconds(4);
  for (const auto& test : kCases) {
    SCOPED_TRACE(test.name);
    Open(options);
    const std::string id = MustCreate(Spec());
    int attempt = 0;
    for (Class failure_class : test.failures) {
      // Always another worker, so that nobody need avoid the task.
      const std::string worker = absl::StrCat("w", ++attempt);
      Lease lease = MustClaim(Stage::kKeyframes, worker);
      EXPECT_EQ(lease.attempt, attempt);
      EXPECT_TRUE(tasks_->Fail(lease, {failure_class, "BROKEN", "it broke"}).ok());
      // The reply may have been lost: the same again is fine, anything by another is not.
      EXPECT_TRUE(tasks_->Fail(lease, {failure_class, "BROKEN", "it broke"}).ok());
      EXPECT_TRUE(absl::IsFailedPrecondition(tasks_->Renew(lease, std::nullopt).status()));
    }
    Job job = MustGet(id);
    EXPECT_EQ(job.state, test.state);
    auto dead = jobs_->ListDead(10);
    ASSERT_TRUE(dead.ok());
    if (test.state == JobState::kFailed) {
      ASSERT_TRUE(job.error.has_value());
      EXPECT_EQ(job.error->reason, test.reason);
      EXPECT_EQ(job.error->attempts, test.attempts);
      EXPECT_EQ(job.error->worker, absl::StrCat("w", attempt));
      EXPECT_EQ(job.error->stage, Stage::kKeyframes);
      EXPECT_THAT(job.error->message, testing::HasSubstr("it broke"));
      EXPECT_EQ(dead->size(), 1u);
      EXPECT_EQ(job.expire_time - job.finish_time, options.dead_letter_retention);
      EXPECT_FALSE(Claim(Stage::kKeyframes, "x").has_value());
    } else {
      EXPECT_EQ(job.attempt, test.attempts);
      EXPECT_EQ(dead->size(), 0u);
      EXPECT_EQ(MustClaim(Stage::kKeyframes, "x").attempt, test.attempts);
    }
  }
}

TEST_P(EngineTest, BackoffDelaysARetry) {
  QueueOptions options;
  options.retry_base_delay = absl::Hours(10);
  options.retry_max_delay = absl::Hours(20);
  Open(options);
  MustCreate(Spec());
  Lease lease = MustClaim(Stage::kKeyframes);
  ASSERT_TRUE(tasks_->Fail(lease, {TaskFailure::Class::kTransient, "X", ""}).ok());
  EXPECT_FALSE(Claim(Stage::kKeyframes).has_value());
  StageQueueStats stats = Stats(Stage::kKeyframes);
  EXPECT_EQ(stats.waiting, 0);
  EXPECT_EQ(stats.delayed, 1);
  EXPECT_EQ(stats.running, 0);
}

TEST_P(EngineTest, OutOfMemoryGoesToAnotherWorker) {
  const std::string id = MustCreate(Spec());
  Lease lease = MustClaim(Stage::kKeyframes, "small");
  ASSERT_TRUE(tasks_->Fail(lease, {TaskFailure::Class::kOutOfMemory, "OUT_OF_MEMORY", ""}).ok());
  EXPECT_FALSE(Claim(Stage::kKeyframes, "small").has_value());
  // A task behind it can still be taken by the small one.
  const std::string second = MustCreate(Spec());
  EXPECT_EQ(MustClaim(Stage::kKeyframes, "small").job_id, second);
  Lease again = MustClaim(Stage::kKeyframes, "large");
  EXPECT_EQ(again.job_id, id);
  EXPECT_THAT(again.avoid_workers, ElementsAre("small"));
}

TEST_P(EngineTest, AvoidedTaskIsTakenAfterAWhile) {
  QueueOptions options;
  options.avoid_duration = absl::Milliseconds(30);
  options.lease_duration = absl::Milliseconds(400);
  Open(options);
  MustCreate(Spec());
  Lease lease = MustClaim(Stage::kKeyframes, "only");
  ASSERT_TRUE(tasks_->Fail(lease, {TaskFailure::Class::kOutOfMemory, "OUT_OF_MEMORY", ""}).ok());
  EXPECT_EQ(MustClaim(Stage::kKeyframes, "only").attempt, 2);
}

TEST_P(EngineTest, LeaseIsFenced) {
  QueueOptions options;
  options.lease_duration = absl::Milliseconds(50);
  Open(options);
  const std::string id = MustCreate(Spec());
  Lease stale = MustClaim(Stage::kKeyframes, "slow");
  Lease lease = MustClaim(Stage::kKeyframes, "quick");
  EXPECT_EQ(lease.job_id, id);
  EXPECT_TRUE(lease.reclaimed);
  EXPECT_EQ(lease.attempt, 2);
  EXPECT_EQ(lease.delivery, stale.delivery + 1);
  Lease forged = lease;
  forged.worker_id = "slow";
  Lease old_delivery = lease;
  old_delivery.delivery = 1;
  Lease other_entry = lease;
  other_entry.entry_id = "1-1";
  const struct {
    const char* name;
    const Lease& lease;
  } kLost[] = {
      {"stale", stale}, {"worker", forged}, {"delivery", old_delivery}, {"entry", other_entry}};
  for (const auto& lost : kLost) {
    SCOPED_TRACE(lost.name);
    auto refused = [](const absl::Status& status) {
      EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
    };
    refused(tasks_->Renew(lost.lease, StageProgress()).status());
    refused(tasks_->PublishPreview(lost.lease, {"png", 1, 1}));
    refused(tasks_->SaveCheckpoint(lost.lease, "stale"));
    refused(tasks_->LoadCheckpoint(lost.lease).status());
    refused(tasks_->Complete(lost.lease, Latents("stale")));
    refused(tasks_->Fail(lost.lease, {TaskFailure::Class::kPermanent, "X", ""}));
    refused(tasks_->Release(lost.lease));
    refused(tasks_->AcknowledgeCancel(lost.lease));
  }
  // None of that had any effect. (The lease may have ended meanwhile; nobody else claimed, so it
  // still counts.)
  auto checkpoint = tasks_->LoadCheckpoint(lease);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_EQ(*checkpoint, std::nullopt);
  EXPECT_THAT(History(id), ElementsAre("state:queued", "state:running", "started:keyframes:1",
                                       "retry:WORKER_LOST", "started:keyframes:2"));
  EXPECT_TRUE(tasks_->Complete(lease, Latents("good")).ok());
  EXPECT_EQ(MustClaim(Stage::kInterpolation).input, Latents("good"));
}

TEST_P(EngineTest, LastStageIsFencedToo) {
  QueueOptions options;
  options.lease_duration = absl::Milliseconds(50);
  Open(options);
  const std::string id = MustCreate(Spec(Level::kLow));
  // A busy machine may let a lease end between two calls: then it is claimed again.
  for (Stage stage : {Stage::kKeyframes, Stage::kDecoding}) {
    if (stage == Stage::kKeyframes) {
      ASSERT_TRUE(tasks_->Complete(MustClaim(stage), Latents("k")).ok());
      continue;
    }
    Lease stale = MustClaim(stage, "slow");
    Lease lease = MustClaim(stage, "quick");
    EXPECT_EQ(stale.video_generation, 1);
    EXPECT_EQ(lease.video_generation, 2);
    EXPECT_EQ(MustGet(id).video_generation, 2);
    EXPECT_TRUE(absl::IsFailedPrecondition(tasks_->Finish(stale, Video())));
    EXPECT_TRUE(absl::IsFailedPrecondition(tasks_->SendBack(stale, "gone")));
    EXPECT_EQ(MustGet(id).state, JobState::kRunning);
    EXPECT_TRUE(tasks_->Finish(lease, Video()).ok());
    EXPECT_TRUE(absl::IsFailedPrecondition(tasks_->Finish(stale, Video())));
  }
  EXPECT_EQ(MustGet(id).state, JobState::kSucceeded);
}

TEST_P(EngineTest, RenewKeepsALease) {
  QueueOptions options;
  options.lease_duration = absl::Milliseconds(500);
  Open(options);
  MustCreate(Spec());
  Lease lease = MustClaim(Stage::kKeyframes, "holder");
  std::atomic<bool> stop{false};
  std::thread holder([&] {
    while (!stop) {
      auto verdict = tasks_->Renew(lease, std::nullopt);
      EXPECT_TRUE(verdict.ok()) << verdict.status();
      absl::SleepFor(absl::Milliseconds(20));
    }
  });
  EXPECT_FALSE(Claim(Stage::kKeyframes, "thief", absl::Milliseconds(1500)).has_value());
  stop = true;
  holder.join();
  EXPECT_EQ(MustClaim(Stage::kKeyframes, "heir").attempt, 2);
}

TEST_P(EngineTest, LostWorkersUseUpAttempts) {
  QueueOptions options;
  options.lease_duration = absl::Milliseconds(20);
  options.max_attempts = 3;
  Open(options);
  const std::string id = MustCreate(Spec());
  for (int attempt = 1; attempt <= 3; ++attempt) {
    EXPECT_EQ(MustClaim(Stage::kKeyframes, absl::StrCat("w", attempt)).attempt, attempt);
  }
  // The next claim finds the third lease ended, and no attempt left.
  ASSERT_TRUE(MaintainUntil([&] {
    EXPECT_FALSE(Claim(Stage::kKeyframes, "w4").has_value());
    return IsFinished(MustGet(id).state);
  }));
  Job job = MustGet(id);
  EXPECT_EQ(job.state, JobState::kFailed);
  ASSERT_TRUE(job.error.has_value());
  EXPECT_EQ(job.error->reason, "ATTEMPTS_EXHAUSTED");
  EXPECT_EQ(job.error->worker, "w3");
  EXPECT_EQ(job.error->attempts, 3);
}

TEST_P(EngineTest, ReleaseCountsNoAttemptAndKeepsThePlace) {
  const std::string first = MustCreate(Spec());
  const std::string second = MustCreate(Spec());
  for (int i = 0; i < 10; ++i) {
    Lease lease = MustClaim(Stage::kKeyframes, absl::StrCat("w", i));
    EXPECT_EQ(lease.job_id, first);
    EXPECT_EQ(lease.attempt, 1);
    EXPECT_FALSE(lease.reclaimed);
    EXPECT_TRUE(tasks_->Release(lease).ok());
    EXPECT_TRUE(tasks_->Release(lease).ok()) << "again";
  }
  EXPECT_EQ(MustClaim(Stage::kKeyframes).job_id, first);
  EXPECT_EQ(MustClaim(Stage::kKeyframes).job_id, second);
}

TEST_P(EngineTest, SendBackRunsTheStageBeforeAgain) {
  QueueOptions options;
  options.max_send_backs = 3;
  Open(options);
  const std::string id = MustCreate(Spec());
  ASSERT_TRUE(tasks_->Complete(MustClaim(Stage::kKeyframes), Latents("1")).ok());
  for (int i = 0; i < 3; ++i) {
    Lease consumer = MustClaim(Stage::kInterpolation);
    EXPECT_EQ(consumer.attempt, 1);
    EXPECT_TRUE(tasks_->SendBack(consumer, "producer and disk are gone").ok());
    EXPECT_FALSE(Claim(Stage::kInterpolation).has_value());
    Job job = MustGet(id);
    EXPECT_EQ(job.stage, Stage::kKeyframes);
    EXPECT_EQ(job.state, JobState::kRunning);
    EXPECT_EQ(job.fraction, 0);
    Lease producer = MustClaim(Stage::kKeyframes);
    EXPECT_EQ(producer.attempt, 1);
    EXPECT_EQ(producer.input, std::nullopt);
    EXPECT_TRUE(tasks_->Complete(producer, Latents(absl::StrCat(i + 2))).ok());
  }
  Lease last = MustClaim(Stage::kInterpolation);
  EXPECT_EQ(last.input, Latents("4"));
  EXPECT_TRUE(tasks_->SendBack(last, "again").ok());
  Job job = MustGet(id);
  EXPECT_EQ(job.state, JobState::kFailed);
  ASSERT_TRUE(job.error.has_value());
  EXPECT_EQ(job.error->reason, "INPUT_LOST");

  MustCreate(Spec());
  EXPECT_TRUE(absl::IsInvalidArgument(tasks_->SendBack(MustClaim(Stage::kKeyframes), "")));
}

TEST_P(EngineTest, Cancel) {
  enum class When { kQueued, kRunning, kBetweenStages, kDelayed, kWorkerGone, kFinished };
  enum class Then { kNothing, kAcknowledge, kComplete, kFail, kRelease, kFinish };
  const struct {
    const char* name;
    When when;
    Then then;
    JobState at_once;
    JobState at_last;
  } kCases[] = {
      {"queued", When::kQueued, Then::kNothing, JobState::kCancelled, JobState::kCancelled},
      {"between stages", When::kBetweenStages, Then::kNothing, JobState::kCancelled,
       JobState::kCancelled},
      {"delayed", When::kDelayed, Then::kNothing, JobState::kCancelled, JobState::kCancelled},
      {"running", When::kRunning, Then::kAcknowledge, JobState::kRunning, JobState::kCancelled},
      {"running, completed", When::kRunning, Then::kComplete, JobState::kRunning,
       JobState::kCancelled},
      {"running, failed", When::kRunning, Then::kFail, JobState::kRunning, JobState::kCancelled},
      {"running, released", When::kRunning, Then::kRelease, JobState::kRunning,
       JobState::kCancelled},
      {"worker gone", When::kWorkerGone, Then::kNothing, JobState::kRunning, JobState::kCancelled},
      {"finished", When::kFinished, Then::kNothing, JobState::kSucceeded, JobState::kSucceeded},
  };
  for (const auto& test : kCases) {
    SCOPED_TRACE(test.name);
    QueueOptions options;
    options.retry_base_delay = absl::Hours(1);
    options.retry_max_delay = absl::Hours(1);
    options.lease_duration =
        test.when == When::kWorkerGone ? absl::Milliseconds(300) : absl::Seconds(60);
    Open(options);
    const std::string id = MustCreate(Spec(Level::kLow));
    Lease lease;
    if (test.when != When::kQueued) lease = MustClaim(Stage::kKeyframes);
    if (test.when == When::kBetweenStages || test.when == When::kFinished) {
      ASSERT_TRUE(tasks_->Complete(lease, Latents("k")).ok());
    }
    if (test.when == When::kDelayed) {
      ASSERT_TRUE(tasks_->Fail(lease, {TaskFailure::Class::kTransient, "X", ""}).ok());
    }
    if (test.when == When::kFinished) {
      ASSERT_TRUE(tasks_->Finish(MustClaim(Stage::kDecoding), Video()).ok());
    }
    auto cancelled = jobs_->Cancel(id);
    ASSERT_TRUE(cancelled.ok()) << cancelled.status();
    EXPECT_EQ(cancelled->state, test.at_once);
    if (test.when == When::kRunning) {
      auto verdict = tasks_->Renew(lease, StageProgress());
      ASSERT_TRUE(verdict.ok());
      EXPECT_EQ(*verdict, LeaseVerdict::kCancelRequested);
    }
    absl::Status status;
    if (test.then == Then::kAcknowledge) status = tasks_->AcknowledgeCancel(lease);
    if (test.then == Then::kComplete) status = tasks_->Complete(lease, Latents("k"));
    if (test.then == Then::kRelease) status = tasks_->Release(lease);
    if (test.then == Then::kFail) {
      status = tasks_->Fail(lease, {TaskFailure::Class::kTransient, "X", ""});
    }
    EXPECT_TRUE(status.ok()) << status;
    if (test.when == When::kWorkerGone) {
      EXPECT_TRUE(MaintainUntil([&] { return IsFinished(MustGet(id).state); }));
    }
    EXPECT_EQ(MustGet(id).state, test.at_last);
    EXPECT_TRUE(jobs_->Cancel(id).ok()) << "again";
    EXPECT_EQ(MustGet(id).state, test.at_last);
    for (Stage stage : kStages) {
      EXPECT_FALSE(Claim(stage).has_value());
      EXPECT_EQ(Stats(stage).waiting + Stats(stage).delayed + Stats(stage).running, 0);
    }
    std::vector<std::string> history = History(id);
    EXPECT_EQ(history.back(), "state:" + std::string(Name(test.at_last)));
  }
  EXPECT_TRUE(absl::IsNotFound(jobs_->Cancel(NewJobId(absl::Now())).status()));
}

TEST_P(EngineTest, NothingToAcknowledge) {
  const std::string id = MustCreate(Spec());
  Lease lease = MustClaim(Stage::kKeyframes);
  EXPECT_TRUE(absl::IsFailedPrecondition(tasks_->AcknowledgeCancel(lease)));
  EXPECT_EQ(MustGet(id).state, JobState::kRunning);
}

TEST_P(EngineTest, Deadline) {
  enum class How { kMaintain, kClaim, kRenew, kComplete };
  for (How how : {How::kMaintain, How::kClaim, How::kRenew, How::kComplete}) {
    SCOPED_TRACE(static_cast<int>(how));
    Open();
    JobSpec spec = Spec();
    bool held = how == How::kRenew || how == How::kComplete;
    spec.timeout = held ? absl::Milliseconds(400) : absl::Milliseconds(20);
    const std::string id = MustCreate(spec);
    if (how == How::kMaintain) {
      EXPECT_TRUE(MaintainUntil([&] { return IsFinished(MustGet(id).state); }));
    } else if (how == How::kClaim) {
      absl::Time deadline = MustGet(id).deadline;
      while (absl::Now() <= deadline) absl::SleepFor(absl::Milliseconds(1));
      EXPECT_FALSE(Claim(Stage::kKeyframes).has_value());
    } else {
      Lease lease = MustClaim(Stage::kKeyframes);
      LeaseVerdict verdict = LeaseVerdict::kHeld;
      while (verdict == LeaseVerdict::kHeld) {
        auto renewed = tasks_->Renew(lease, std::nullopt);
        ASSERT_TRUE(renewed.ok()) << renewed.status();
        verdict = *renewed;
      }
      EXPECT_EQ(verdict, LeaseVerdict::kDeadlineExceeded);
      EXPECT_TRUE(tasks_->Maintain().ok());
      EXPECT_EQ(MustGet(id).state, JobState::kRunning) << "its worker is at work";
      if (how == How::kRenew) {
        EXPECT_TRUE(tasks_->AcknowledgeCancel(lease).ok());
      } else {
        EXPECT_TRUE(tasks_->Complete(lease, Latents("k")).ok());
      }
    }
    Job job = MustGet(id);
    EXPECT_EQ(job.state, JobState::kExpired);
    ASSERT_TRUE(job.error.has_value());
    EXPECT_EQ(job.error->reason, "DEADLINE_EXCEEDED");
    EXPECT_EQ(job.error->worker, held ? "w" : "");
    EXPECT_EQ(History(id).back(), "state:expired");
    EXPECT_FALSE(Claim(Stage::kInterpolation).has_value());
  }
}

TEST_P(EngineTest, RequestIds) {
  auto create = [&](const std::string& tenant, const std::string& request_id,
                    const std::string& prompt, const std::string& digest = "") {
    JobSpec spec = Spec();
    spec.tenant = tenant;
    spec.request_id = request_id;
    spec.parameters.prompt = prompt;
    spec.payload_digest = digest;
    auto created = jobs_->Create(spec);
    EXPECT_TRUE(created.ok()) << created.status();
    return created.ok() ? *created : CreateResult();
  };
  using Outcome = CreateResult::Outcome;
  CreateResult first = create("a", "r1", "one");
  const struct {
    const char* name;
    const char* tenant;
    const char* request_id;
    const char* prompt;
    const char* digest;
    Outcome want;
    bool same;
  } kCases[] = {
      {"same", "a", "r1", "one", "", Outcome::kExisting, true},
      {"other payload", "a", "r1", "two", "", Outcome::kRequestIdConflict, true},
      {"other tenant", "b", "r1", "two", "", Outcome::kCreated, false},
      {"other id", "a", "r2", "one", "", Outcome::kCreated, false},
      {"none", "a", "", "one", "", Outcome::kCreated, false},
      {"none again", "a", "", "one", "", Outcome::kCreated, false},
      {"digest", "a", "r3", "one", "d1", Outcome::kCreated, false},
      {"names must not run together", "a:", "r1", "one", "", Outcome::kCreated, false},
  };
  for (const auto& test : kCases) {
    SCOPED_TRACE(test.name);
    CreateResult got = create(test.tenant, test.request_id, test.prompt, test.digest);
    EXPECT_EQ(got.outcome, test.want);
    EXPECT_EQ(got.job.id == first.job.id, test.same);
  }
  EXPECT_EQ(create("a", "r3", "other seed, same request", "d1").outcome, Outcome::kExisting);
  EXPECT_EQ(create("a", "r3", "one", "d2").outcome, Outcome::kRequestIdConflict);
  // It is remembered as long as the job.
  ASSERT_TRUE(jobs_->Cancel(first.job.id).ok());
  EXPECT_EQ(create("a", "r1", "one").outcome, Outcome::kExisting);
  ASSERT_TRUE(jobs_->Delete(first.job.id).ok());
  EXPECT_EQ(create("a", "r1", "two").outcome, Outcome::kCreated);
}

TEST_P(EngineTest, NoticesStandInTheJobAndItsFirstEvent) {
  JobSpec spec = Spec();
  spec.notices = {{"UNKNOWN_WORDS", "parameters.prompt", "what?", {"dragonfly", "стрекоза"}}};
  const auto created = jobs_->Create(spec);
  ASSERT_TRUE(created.ok()) << created.status();
  EXPECT_EQ(created->job.spec.notices, spec.notices);
  const auto job = jobs_->Get(created->job.id);
  ASSERT_TRUE(job.ok()) << job.status();
  EXPECT_EQ(job->spec.notices, spec.notices);
  ASSERT_TRUE(jobs_->Cancel(job->id).ok());
  const auto events = jobs_->ReadEvents(job->id, "", 100);
  ASSERT_TRUE(events.ok()) << events.status();
  ASSERT_EQ(events->size(), 2u);
  EXPECT_EQ((*events)[0].notices, spec.notices);
  EXPECT_EQ((*events)[0].state, JobState::kQueued);
  EXPECT_TRUE((*events)[1].notices.empty());
}

TEST_P(EngineTest, Admission) {
  QueueOptions options;
  options.limits.max_unfinished_jobs = 3;
  options.limits.max_unfinished_jobs_per_tenant = 2;
  Open(options);
  using Outcome = CreateResult::Outcome;
  auto create = [&](const std::string& tenant) {
    JobSpec spec = Spec();
    spec.tenant = tenant;
    auto created = jobs_->Create(spec);
    EXPECT_TRUE(created.ok()) << created.status();
    return *created;
  };
  CreateResult first = create("a");
  EXPECT_EQ(first.outcome, Outcome::kCreated);
  EXPECT_EQ(create("a").outcome, Outcome::kCreated);
  CreateResult refused = create("a");
  EXPECT_EQ(refused.outcome, Outcome::kTenantQueueFull);
  EXPECT_TRUE(refused.job.id.empty());
  EXPECT_EQ(refused.retry_after, absl::Minutes(1)) << "nothing was measured yet";
  EXPECT_EQ(create("b").outcome, Outcome::kCreated);
  EXPECT_EQ(create("c").outcome, Outcome::kQueueFull);
  // Every way out of the queue frees a place.
  ASSERT_TRUE(jobs_->Cancel(first.job.id).ok());
  refused = create("a");
  EXPECT_EQ(refused.outcome, Outcome::kCreated);
  refused = create("c");
  EXPECT_EQ(refused.outcome, Outcome::kQueueFull);
  // One job finished within the last moments: the next place is not a minute away.
  EXPECT_GE(refused.retry_after, absl::Seconds(1));
  EXPECT_LT(refused.retry_after, absl::Minutes(1));
  Lease lease = MustClaim(Stage::kKeyframes);
  ASSERT_TRUE(tasks_->Fail(lease, {TaskFailure::Class::kPermanent, "X", ""}).ok());
  EXPECT_EQ(create("c").outcome, Outcome::kCreated);
}

TEST_P(EngineTest, TenantsTakeTurns) {
  auto create = [&](const std::string& tenant, int count) {
    JobSpec spec = Spec();
    spec.tenant = tenant;
    for (int i = 0; i < count; ++i) MustCreate(spec);
  };
  auto next = [&](int count) {
    std::string order;
    for (int i = 0; i < count; ++i) order += MustClaim(Stage::kKeyframes).tenant;
    return order;
  };
  create("a", 100);
  EXPECT_EQ(next(3), "aaa");
  create("b", 1);
  create("c", 2);
  // Each of the late tenants is served within one round of the others.
  std::string order = next(8);
  EXPECT_LE(order.find('b'), 3u) << order;
  EXPECT_LE(order.find('c'), 3u) << order;
  EXPECT_EQ(std::count(order.begin(), order.end(), 'b'), 1) << order;
  EXPECT_EQ(std::count(order.begin(), order.end(), 'c'), 2) << order;
  // One that always comes back does not starve the others.
  std::string shared;
  for (int i = 0; i < 10; ++i) {
    create("b", 1);
    shared += next(1);
  }
  EXPECT_GE(std::count(shared.begin(), shared.end(), 'a'), 4) << shared;
  EXPECT_GE(std::count(shared.begin(), shared.end(), 'b'), 4) << shared;
}

TEST_P(EngineTest, InteractiveBeforeBatchUnlessItHasAged) {
  auto claim_order = [&](absl::Duration ageing) {
    QueueOptions options;
    options.batch_ageing = ageing;
    options.batch_share = 4;
    Open(options);
    JobSpec spec = Spec();
    spec.priority = Priority::kBatch;
    for (int i = 0; i < 3; ++i) MustCreate(spec);
    spec.priority = Priority::kInteractive;
    for (int i = 0; i < 9; ++i) MustCreate(spec);
    std::string order;
    for (int i = 0; i < 12; ++i) {
      order += MustClaim(Stage::kKeyframes).priority == Priority::kBatch ? 'b' : 'i';
    }
    return order;
  };
  EXPECT_EQ(claim_order(absl::Hours(1)), "iiiiiiiiibbb");
  EXPECT_EQ(claim_order(absl::ZeroDuration()), "iiibiiibiiib");
}

TEST_P(EngineTest, ProgressPreviewAndCheckpoint) {
  QueueOptions options;
  options.max_progress_events = 5;
  Open(options);
  const std::string id = MustCreate(Spec());
  Lease lease = MustClaim(Stage::kKeyframes);
  auto checkpoint = tasks_->LoadCheckpoint(lease);
  ASSERT_TRUE(checkpoint.ok());
  EXPECT_EQ(*checkpoint, std::nullopt);
  for (int step = 1; step <= 20; ++step) {
    StageProgress progress{1, 1, step, 20, step / 20.0, absl::Seconds(20 - step)};
    auto verdict = tasks_->Renew(lease, progress);
    ASSERT_TRUE(verdict.ok());
    EXPECT_EQ(*verdict, LeaseVerdict::kHeld);
    EXPECT_DOUBLE_EQ(MustGet(id).fraction,
                     JobFraction(Stage::kKeyframes, Level::kHigh, step / 20.0));
    if (step == 10) {
      EXPECT_TRUE(tasks_->PublishPreview(lease, {"\0png\n"s, 64, 8}).ok());
    }
  }
  // The oldest progress is gone, nothing else; sequences tell what is missing.
  EXPECT_THAT(History(id), ElementsAre("state:queued", "state:running", "started:keyframes:1",
                                       "preview", "progress:16", "progress:17", "progress:18",
                                       "progress:19", "progress:20"));
  std::vector<JobEvent> events = Events(id);
  EXPECT_EQ(events[3].sequence, 14u);
  EXPECT_EQ(events[3].preview, (Preview{"\0png\n"s, 64, 8}));
  EXPECT_EQ(events.back().sequence, 24u);
  EXPECT_EQ(events.back().steps, 20);
  EXPECT_TRUE(events.back().eta == std::nullopt || *events.back().eta >= absl::ZeroDuration());
  ASSERT_TRUE(events[5].eta.has_value());
  EXPECT_LT(absl::AbsDuration(*events[5].eta - *JobEta(Stage::kKeyframes, Level::kHigh, 17 / 20.0,
                                                       absl::Seconds(3))),
            absl::Microseconds(2));
  EXPECT_TRUE(absl::IsInvalidArgument(jobs_->ReadEvents(id, "x", 1).status()));
  EXPECT_EQ(jobs_->ReadEvents(id, "4", 2)->size(), 2u);

  std::string blob(300000, '\0');
  for (size_t i = 0; i < blob.size(); ++i) blob[i] = static_cast<char>(i * 7);
  EXPECT_TRUE(tasks_->SaveCheckpoint(lease, "first").ok());
  EXPECT_TRUE(tasks_->SaveCheckpoint(lease, blob).ok());
  ASSERT_TRUE(tasks_->Release(lease).ok());
  Lease heir = MustClaim(Stage::kKeyframes, "heir");
  checkpoint = tasks_->LoadCheckpoint(heir);
  ASSERT_TRUE(checkpoint.ok());
  EXPECT_EQ(*checkpoint, blob);
  // It belongs to its stage.
  ASSERT_TRUE(tasks_->Complete(heir, Latents("k")).ok());
  Lease next = MustClaim(Stage::kInterpolation);
  checkpoint = tasks_->LoadCheckpoint(next);
  ASSERT_TRUE(checkpoint.ok());
  EXPECT_EQ(*checkpoint, std::nullopt);
  // When the stage before runs again, it starts anew.
  ASSERT_TRUE(tasks_->SaveCheckpoint(next, "interpolation").ok());
  ASSERT_TRUE(tasks_->SendBack(next, "gone").ok());
  Lease again = MustClaim(Stage::kKeyframes);
  EXPECT_EQ(*tasks_->LoadCheckpoint(again), std::nullopt);
  ASSERT_TRUE(tasks_->Complete(again, Latents("k")).ok());
  EXPECT_EQ(*tasks_->LoadCheckpoint(MustClaim(Stage::kInterpolation)), "interpolation");
}

TEST_P(EngineTest, List) {
  std::vector<std::string> ids;
  for (int i = 0; i < 25; ++i) {
    JobSpec spec = Spec();
    spec.tenant = i % 5 == 0 ? "five" : "rest";
    ids.insert(ids.begin(), MustCreate(spec));
  }
  for (int i = 0; i < 25; i += 2) ASSERT_TRUE(jobs_->Cancel(ids[i]).ok());
  auto all = [&](const JobFilter& filter, int page_size) {
    std::vector<std::string> got;
    std::string token;
    do {
      auto page = jobs_->List(filter, page_size, token);
      EXPECT_TRUE(page.ok()) << page.status();
      if (!page.ok()) break;
      EXPECT_LE(page->jobs.size(), static_cast<size_t>(page_size));
      for (const Job& job : page->jobs) got.push_back(job.id);
      token = page->next_page_token;
    } while (!token.empty());
    return got;
  };
  auto want = [&](auto keep) {
    std::vector<std::string> some;
    for (int i = 0; i < 25; ++i) {
      if (keep(i)) some.push_back(ids[i]);
    }
    return some;
  };
  for (int page_size : {1, 3, 24, 25, 26, 1000}) {
    SCOPED_TRACE(page_size);
    EXPECT_EQ(all({}, page_size), ids);
    EXPECT_EQ(all({{JobState::kCancelled}, ""}, page_size), want([](int i) { return i % 2 == 0; }));
    EXPECT_EQ(all({{JobState::kQueued, JobState::kRunning}, ""}, page_size),
              want([](int i) { return i % 2 == 1; }));
    EXPECT_EQ(all({{}, "five"}, page_size), want([](int i) { return (24 - i) % 5 == 0; }));
    EXPECT_EQ(all({{JobState::kSucceeded}, ""}, page_size), std::vector<std::string>());
    EXPECT_EQ(all({{}, "none"}, page_size), std::vector<std::string>());
  }
  // Pages stay in step while jobs come and go.
  auto first = jobs_->List({}, 5, "");
  ASSERT_TRUE(first.ok());
  MustCreate(Spec());
  ASSERT_TRUE(jobs_->Delete(ids[4]).ok());
  auto second = jobs_->List({}, 5, first->next_page_token);
  ASSERT_TRUE(second.ok());
  EXPECT_EQ(second->jobs.at(0).id, ids[5]);
  for (const std::string& bad : {std::string("x"), std::string("AAAA"),
                                 first->next_page_token + "A", std::string(1000, 'A')}) {
    EXPECT_TRUE(absl::IsInvalidArgument(jobs_->List({}, 5, bad).status())) << bad;
  }
  EXPECT_TRUE(
      absl::IsInvalidArgument(jobs_->List({{}, "five"}, 5, first->next_page_token).status()))
      << "of another filter";
  EXPECT_TRUE(absl::IsInvalidArgument(jobs_->List({}, 0, "").status()));
}

TEST_P(EngineTest, GetOfWhatIsNotThere) {
  for (const std::string& id : {std::string(), std::string("x"), std::string("a}{b:*\n"),
                                std::string(26, '!'), NewJobId(absl::Now())}) {
    SCOPED_TRACE(id);
    EXPECT_TRUE(absl::IsNotFound(jobs_->Get(id).status()));
    EXPECT_TRUE(absl::IsNotFound(jobs_->ReadEvents(id, "", 1).status()));
    EXPECT_TRUE(absl::IsNotFound(jobs_->Cancel(id).status()));
    EXPECT_TRUE(absl::IsNotFound(jobs_->Delete(id)));
    EXPECT_TRUE(absl::IsNotFound(jobs_->RetryDead(id).status()));
    EXPECT_TRUE(absl::IsNotFound(jobs_->PurgeDead(id)));
  }
}

TEST_P(EngineTest, DeleteOnlyWhatIsFinished) {
  const std::string id = MustCreate(Spec(Level::kLow));
  EXPECT_TRUE(absl::IsFailedPrecondition(jobs_->Delete(id)));
  ASSERT_TRUE(tasks_->Complete(MustClaim(Stage::kKeyframes), Latents("k")).ok());
  Lease lease = MustClaim(Stage::kDecoding);
  ASSERT_TRUE(videos_->Append(id, lease.video_generation, 0, "video").ok());
  EXPECT_TRUE(absl::IsFailedPrecondition(jobs_->Delete(id)));
  ASSERT_TRUE(videos_->Seal(id, lease.video_generation).ok());
  ASSERT_TRUE(tasks_->Finish(lease, Video()).ok());
  EXPECT_EQ(*videos_->Read(id, lease.video_generation, 0, 100), "video");
  EXPECT_TRUE(jobs_->Delete(id).ok());
  EXPECT_TRUE(absl::IsNotFound(jobs_->Get(id).status()));
  EXPECT_TRUE(absl::IsNotFound(videos_->Read(id, lease.video_generation, 0, 100).status()));
  EXPECT_TRUE(jobs_->List({}, 10, "")->jobs.empty());
}

TEST_P(EngineTest, RetentionEnds) {
  QueueOptions options;
  options.retention = absl::Milliseconds(200);
  options.dead_letter_retention = absl::Milliseconds(200);
  Open(options);
  JobSpec spec = Spec();
  spec.request_id = "r";
  const std::string kept = MustCreate(Spec());
  const std::string cancelled = MustCreate(spec);
  const std::string failed = MustCreate(Spec());
  ASSERT_TRUE(jobs_->Cancel(cancelled).ok());
  Lease lease = MustClaim(Stage::kKeyframes);
  while (lease.job_id != failed) {
    Lease other = lease;
    lease = MustClaim(Stage::kKeyframes);
    ASSERT_TRUE(tasks_->Release(other).ok());
  }
  ASSERT_TRUE(tasks_->Fail(lease, {TaskFailure::Class::kPermanent, "X", ""}).ok());
  EXPECT_EQ(jobs_->ListDead(10)->size(), 1u);
  EXPECT_TRUE(MaintainUntil([&] {
    return absl::IsNotFound(jobs_->Get(cancelled).status()) &&
           absl::IsNotFound(jobs_->Get(failed).status());
  }));
  ASSERT_TRUE(tasks_->Maintain().ok());
  EXPECT_TRUE(absl::IsNotFound(jobs_->ReadEvents(failed, "", 10).status()));
  EXPECT_TRUE(jobs_->ListDead(10)->empty());
  auto page = jobs_->List({}, 10, "");
  ASSERT_EQ(page->jobs.size(), 1u);
  EXPECT_EQ(page->jobs[0].id, kept);
  EXPECT_NE(MustCreate(spec), cancelled) << "the request id is free again";
}

TEST_P(EngineTest, DeadLetters) {
  std::vector<std::string> ids;
  for (int i = 0; i < 3; ++i) {
    ids.push_back(MustCreate(Spec()));
    Lease lease = MustClaim(Stage::kKeyframes);
    ASSERT_TRUE(tasks_->Complete(lease, Latents("k")).ok());
    lease = MustClaim(Stage::kInterpolation, "w9");
    ASSERT_TRUE(tasks_->Fail(lease, {TaskFailure::Class::kPermanent, "BROKEN", "why"}).ok());
  }
  auto dead = jobs_->ListDead(2);
  ASSERT_TRUE(dead.ok());
  ASSERT_EQ(dead->size(), 2u);
  EXPECT_EQ(dead->at(0).job.id, ids[2]);
  EXPECT_EQ(dead->at(0).job.error->worker, "w9");

  EXPECT_TRUE(jobs_->PurgeDead(ids[0]).ok());
  EXPECT_TRUE(absl::IsNotFound(jobs_->Get(ids[0]).status()));
  auto retried = jobs_->RetryDead(ids[1]);
  ASSERT_TRUE(retried.ok()) << retried.status();
  EXPECT_EQ(retried->state, JobState::kQueued);
  EXPECT_EQ(retried->stage, Stage::kInterpolation);
  EXPECT_EQ(retried->attempt, 1);
  EXPECT_EQ(retried->error, std::nullopt);
  EXPECT_EQ(retried->expire_time, absl::InfiniteFuture());
  EXPECT_GT(retried->deadline, absl::Now());
  EXPECT_TRUE(absl::IsFailedPrecondition(jobs_->RetryDead(ids[1]).status()));
  EXPECT_TRUE(absl::IsFailedPrecondition(jobs_->PurgeDead(ids[1])));
  EXPECT_EQ(jobs_->ListDead(10)->size(), 1u);
  Lease lease = MustClaim(Stage::kInterpolation);
  EXPECT_EQ(lease.job_id, ids[1]);
  EXPECT_EQ(lease.attempt, 1);
  EXPECT_EQ(lease.input, Latents("k"));
  ASSERT_TRUE(tasks_->Complete(lease, Latents("i")).ok());
  ASSERT_TRUE(tasks_->Finish(MustClaim(Stage::kDecoding), Video()).ok());
  EXPECT_EQ(MustGet(ids[1]).state, JobState::kSucceeded);
  std::vector<JobEvent> events = Events(ids[1]);
  for (size_t i = 0; i < events.size(); ++i) EXPECT_EQ(events[i].sequence, i + 1);
}

TEST_P(EngineTest, StatsCountTasks) {
  JobSpec batch = Spec();
  batch.priority = Priority::kBatch;
  for (int i = 0; i < 3; ++i) MustCreate(Spec());
  for (int i = 0; i < 2; ++i) MustCreate(batch);
  ASSERT_TRUE(tasks_->Complete(MustClaim(Stage::kKeyframes), Latents("k")).ok());
  MustClaim(Stage::kKeyframes);
  EXPECT_EQ(tasks_->Stats()->size(), 6u);
  EXPECT_EQ(Stats(Stage::kKeyframes).waiting, 1);
  EXPECT_EQ(Stats(Stage::kKeyframes).running, 1);
  EXPECT_EQ(Stats(Stage::kKeyframes, Priority::kBatch).waiting, 2);
  EXPECT_EQ(Stats(Stage::kInterpolation).waiting, 1);
  EXPECT_EQ(Stats(Stage::kDecoding).waiting, 0);
  absl::Duration age = Stats(Stage::kKeyframes).oldest_age;
  EXPECT_GE(age, absl::ZeroDuration());
  EXPECT_LT(age, absl::Minutes(1));
  EXPECT_EQ(Stats(Stage::kDecoding).oldest_age, absl::ZeroDuration());
}

TEST_P(EngineTest, WorkersAreForgotten) {
  QueueOptions options;
  options.heartbeat_interval = absl::Milliseconds(100);
  Open(options);
  TaskQueue::WorkerInfo worker{"w1", Stage::kDecoding, "ready", "10.0.0.7:1", {"tiny", "big"}, {}};
  ASSERT_TRUE(tasks_->Heartbeat(worker).ok());
  auto workers = tasks_->Workers();
  ASSERT_TRUE(workers.ok());
  ASSERT_EQ(workers->size(), 1u);
  EXPECT_EQ(workers->at(0).id, "w1");
  EXPECT_EQ(workers->at(0).stage, Stage::kDecoding);
  EXPECT_EQ(workers->at(0).state, "ready");
  EXPECT_EQ(workers->at(0).address, "10.0.0.7:1");
  EXPECT_EQ(workers->at(0).models, worker.models);
  EXPECT_LT(absl::Now() - workers->at(0).heartbeat, absl::Minutes(1));
  EXPECT_TRUE(MaintainUntil([&] { return tasks_->Workers()->empty(); }));
}

TEST_P(EngineTest, WaitingClaimsWakeUp) {
  constexpr int kWorkers = 4;
  std::vector<std::thread> workers;
  std::mutex mutex;
  std::set<std::string> claimed;
  for (int i = 0; i < kWorkers; ++i) {
    workers.emplace_back([&, i] {
      Lease lease = MustClaim(Stage::kKeyframes, absl::StrCat("w", i), kSoon);
      std::lock_guard<std::mutex> lock(mutex);
      claimed.insert(lease.job_id);
    });
  }
  std::set<std::string> created;
  for (int i = 0; i < kWorkers; ++i) created.insert(MustCreate(Spec()));
  for (std::thread& worker : workers) worker.join();
  EXPECT_EQ(claimed, created);
}

TEST_P(EngineTest, FeedCarriesEveryEventInOrder) {
  std::mutex mutex;
  std::vector<std::string> got;
  std::condition_variable changed;
  int gaps = 0;
  ASSERT_TRUE(feed_
                  ->Start(
                      [&](const JobEvent& event) {
                        std::lock_guard<std::mutex> lock(mutex);
                        got.push_back(absl::StrCat(event.job_id, " ", event.id, " ",
                                                   static_cast<int>(event.type)));
                        changed.notify_all();
                      },
                      [&] {
                        std::lock_guard<std::mutex> lock(mutex);
                        ++gaps;
                      })
                  .ok());
  EXPECT_FALSE(feed_->Start([](const JobEvent&) {}, [] {}).ok()) << "it runs already";
  const std::string id = MustCreate(Spec(Level::kLow));
  ASSERT_TRUE(tasks_->Complete(MustClaim(Stage::kKeyframes), Latents("k")).ok());
  Lease lease = MustClaim(Stage::kDecoding);
  ASSERT_TRUE(tasks_->Renew(lease, StageProgress{1, 1, 3, 16, 0.2, absl::Seconds(4)}).ok());
  ASSERT_TRUE(tasks_->Finish(lease, Video()).ok());
  std::vector<std::string> want;
  for (const JobEvent& event : Events(id)) {
    want.push_back(absl::StrCat(id, " ", event.id, " ", static_cast<int>(event.type)));
  }
  {
    std::unique_lock<std::mutex> lock(mutex);
    EXPECT_TRUE(changed.wait_for(lock, absl::ToChronoMilliseconds(kSoon),
                                 [&] { return got.size() >= want.size(); }));
    EXPECT_EQ(got, want);
    EXPECT_EQ(gaps, 0);
  }
  feed_->Stop();
  feed_->Stop();
  MustCreate(Spec());
  std::lock_guard<std::mutex> lock(mutex);
  EXPECT_EQ(got, want);
}

TEST_P(EngineTest, ManyWorkersFinishEveryJobOnce) {
  constexpr int kJobs = 120;
  QueueOptions options;
  options.lease_duration = absl::Seconds(30);
  Open(options);
  std::atomic<int> finished{0};
  std::vector<std::thread> threads;
  std::mutex mutex;
  std::map<std::string, int> completions;
  for (Stage stage : kStages) {
    for (int i = 0; i < 2; ++i) {
      threads.emplace_back([&, stage, i] {
        const std::string worker = absl::StrCat(std::string(Name(stage)), i);
        int turn = 0;
        while (finished < kJobs) {
          auto lease = tasks_->Claim(stage, worker, absl::Milliseconds(50));
          ASSERT_TRUE(lease.ok()) << lease.status();
          if (!lease->has_value()) continue;
          // Every fifth task is given back.
          if (++turn % 5 == 0) {
            ASSERT_TRUE(tasks_->Release(**lease).ok());
            continue;
          }
          absl::Status status = stage == Stage::kDecoding ? tasks_->Finish(**lease, Video())
                                                          : tasks_->Complete(**lease, Latents("x"));
          ASSERT_TRUE(status.ok()) << status;
          std::lock_guard<std::mutex> lock(mutex);
          ++completions[absl::StrCat((*lease)->job_id, std::string(Name(stage)))];
          if (stage == Stage::kDecoding) ++finished;
        }
      });
    }
  }
  std::vector<std::string> ids;
  for (int i = 0; i < kJobs; ++i) {
    JobSpec spec = Spec();
    spec.tenant = absl::StrCat("tenant", i % 7);
    spec.priority = i % 3 == 0 ? Priority::kBatch : Priority::kInteractive;
    ids.push_back(MustCreate(spec));
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(completions.size(), 3u * kJobs);
  for (const auto& [task, count] : completions) EXPECT_EQ(count, 1) << task;
  for (const std::string& id : ids) {
    EXPECT_EQ(MustGet(id).state, JobState::kSucceeded);
    std::vector<JobEvent> events = Events(id);
    for (size_t i = 0; i < events.size(); ++i) EXPECT_EQ(events[i].sequence, i + 1);
  }
}

}  // namespace
}  // namespace kandinsky
