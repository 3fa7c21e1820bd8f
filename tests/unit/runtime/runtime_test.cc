// The smaller parts of the runtime, and several workers at once.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <cstdlib>

#include "common/base/crc32c.h"
#include "common/base/fault_point.h"
#include "tests/unit/runtime/runtime_test_util.h"
#include "worker/runtime/failure.h"
#include "worker/runtime/heartbeat.h"
#include "worker/runtime/lease_keeper.h"
#include "worker/runtime/readiness.h"
#include "worker/runtime/store_retry.h"
#include "worker/runtime/video_sink.h"

namespace kandinsky {
namespace {

TEST(FailureTest, Classes) {
  using Class = TaskFailure::Class;
  const struct {
    absl::Status status;
    Class want;
    std::string want_reason;
  } kCases[] = {
      {absl::InvalidArgumentError("x"), Class::kPermanent, "MODEL_ERROR"},
      {absl::NotFoundError("x"), Class::kPermanent, "MODEL_ERROR"},
      {absl::ResourceExhaustedError("x"), Class::kOutOfMemory, "OUT_OF_MEMORY"},
      {absl::UnknownError("x"), Class::kTransient, "STAGE_ERROR"},
      {absl::UnavailableError("x"), Class::kTransient, "STAGE_ERROR"},
      {WithReason(absl::InternalError("x"), "ENCODER_ERROR"), Class::kTransient, "ENCODER_ERROR"},
      {WithReason(absl::DataLossError("x"), "BAD"), Class::kPermanent, "BAD"}};
  for (const auto& c : kCases) {
    const TaskFailure failure = ClassifyStageError(c.status);
    EXPECT_EQ(failure.failure_class, c.want) << c.status;
    EXPECT_EQ(failure.reason, c.want_reason) << c.status;
    EXPECT_EQ(failure.message, "x");
  }
  EXPECT_LE(ClassifyStageError(absl::InternalError(std::string(100000, 'x'))).message.size(),
            2000u);
}

TEST(RetryUntilTest, Table) {
  const absl::Status kAway = absl::UnavailableError("away");
  const absl::Status kLost = absl::FailedPreconditionError("lost");
  const struct {
    const char* name;
    std::vector<absl::Status> replies;  // the last one again and again
    int give_up_after;                  // calls of give_up
    absl::StatusCode want;
    int want_calls;
  } kCases[] = {
      {"at once", {absl::OkStatus()}, 100, absl::StatusCode::kOk, 1},
      {"lost", {kLost}, 100, absl::StatusCode::kFailedPrecondition, 1},
      {"back after two", {kAway, kAway, absl::OkStatus()}, 100, absl::StatusCode::kOk, 3},
      {"away, then lost", {kAway, kLost}, 100, absl::StatusCode::kFailedPrecondition, 2},
      {"one last try", {kAway}, 1, absl::StatusCode::kUnavailable, 2},
      {"the last try works", {kAway, absl::OkStatus()}, 1, absl::StatusCode::kOk, 2},
      {"full",
       {absl::ResourceExhaustedError("full"), absl::OkStatus()},
       100,
       absl::StatusCode::kOk,
       2},
  };
  for (const auto& c : kCases) {
    SCOPED_TRACE(c.name);
    int calls = 0;
    int asked = 0;
    const absl::Status got = RetryUntil(
        [&] {
          return c.replies[std::min<size_t>(static_cast<size_t>(calls++), c.replies.size() - 1)];
        },
        [&] { return ++asked >= c.give_up_after; });
    EXPECT_EQ(got.code(), c.want);
    EXPECT_EQ(calls, c.want_calls);
  }
}

TEST(VideoSinkTest, PiecesRepliesAndErrors) {
  World world;
  const std::string id = world.Create(world.Spec());
  VideoSink sink(&world.videos, id, 1, [] { return false; });
  std::string all;
  for (const size_t size : {size_t{1}, size_t{3} << 20, size_t{0}, (size_t{1} << 20) + 1}) {
    std::string data(size, '\0');
    for (size_t i = 0; i < size; ++i) data[i] = static_cast<char>(all.size() + i * 31);
    if (size > 1) world.failures.LoseReplies(1);  // written, but the reply is lost
    ASSERT_TRUE(sink.Write(data).ok());
    all += data;
  }
  world.failures.FailNext(2);
  ASSERT_TRUE(sink.Write("end").ok());
  all += "end";
  ASSERT_TRUE(sink.Seal().ok());
  EXPECT_EQ(sink.size(), all.size());
  EXPECT_EQ(sink.crc32c(), Crc32c(all));
  EXPECT_EQ(*world.engine.Read(id, 1, 0, uint64_t{1} << 30), all);

  VideoSink hopeless(&world.videos, id, 2, [] { return true; });
  world.failures.FailAll(true);
  EXPECT_TRUE(absl::IsUnavailable(hopeless.Write("x")));
  world.failures.FailAll(false);
  EXPECT_TRUE(absl::IsUnavailable(hopeless.Write("x"))) << "the first error sticks";
  EXPECT_FALSE(hopeless.Seal().ok());
}

TEST(LeaseKeeperTest, HoldsALeaseForLongerThanItLasts) {
  World world;
  world.Create(world.Spec());
  TestWorker worker(&world, Stage::kKeyframes, "k");
  const std::optional<Lease> lease = worker.Claim();
  ASSERT_TRUE(lease.has_value());
  LeaseKeeper keeper(&world.queue, *lease, &world.clock, &worker.metrics,
                     {.interval = absl::Milliseconds(1)});
  keeper.Start();
  for (int i = 0; i < 5; ++i) {
    world.clock.Advance(absl::Seconds(6));
    world.queue.WaitForRenewals();
  }
  EXPECT_EQ(keeper.state(), LeaseKeeper::State::kHeld);
  EXPECT_FALSE(worker.Claim().has_value());
  keeper.Stop();
  world.clock.Advance(absl::Seconds(11));
  EXPECT_TRUE(worker.Claim().has_value());
}

TEST(LeaseKeeperTest, PublishesProgressAndGivesUpOnAStoreThatStaysAway) {
  World world;
  const std::string id = world.Create(world.Spec());
  TestWorker worker(&world, Stage::kKeyframes, "k");
  const std::optional<Lease> lease = worker.Claim();
  LeaseKeeper keeper(&world.queue, *lease, &world.clock, &worker.metrics,
                     {.interval = absl::Milliseconds(1), .abandon_after = absl::Minutes(5)});
  keeper.Start();
  StageProgress progress;
  progress.step = 4;
  progress.steps = 8;
  progress.stage_fraction = 0.5;
  keeper.SetProgress(progress);
  WaitUntil([&] { return world.Get(id).fraction > 0; });
  world.failures.FailAll(true);
  world.queue.WaitForRenewals();
  world.clock.Advance(absl::Minutes(4));
  world.queue.WaitForRenewals();
  EXPECT_EQ(keeper.state(), LeaseKeeper::State::kHeld);
  world.clock.Advance(absl::Minutes(2));
  WaitUntil([&] { return keeper.state() == LeaseKeeper::State::kLost; });
}

TEST(ReadinessTest, Transitions) {
  using S = WorkerState;
  const struct {
    std::vector<S> set;
    std::vector<S> want;  // what a listener hears, LOADING first
  } kCases[] = {{{}, {S::kLoading}},
                {{S::kReady, S::kDraining}, {S::kLoading, S::kReady, S::kDraining}},
                {{S::kFailed, S::kReady, S::kDraining}, {S::kLoading, S::kFailed, S::kDraining}},
                {{S::kDraining, S::kReady, S::kFailed}, {S::kLoading, S::kDraining}},
                {{S::kReady, S::kReady, S::kLoading, S::kFailed}, {S::kLoading, S::kReady}}};
  for (const auto& c : kCases) {
    Readiness readiness;
    std::vector<S> heard;
    readiness.Subscribe([&](S state, const std::string&) { heard.push_back(state); });
    for (const S state : c.set) readiness.Set(state, "why");
    EXPECT_EQ(heard, c.want);
    EXPECT_EQ(readiness.Get().first, c.want.back());
  }
}

TEST(HeartbeatTest, RegistersTheWorkerAndKeepsHouse) {
  World world;
  const auto latents = *LatentStore::Open({}, &world.clock);
  TaskQueue::WorkerInfo info;
  info.id = "w";
  info.stage = Stage::kDecoding;
  info.address = "host:1";
  Heartbeat heartbeat(
      &world.queue, latents.get(), &world.clock, info,
      {.interval = absl::Milliseconds(5), .maintenance_interval = absl::Milliseconds(5)});
  const auto state = [&] {
    const auto workers = world.engine.Workers();
    return workers.ok() && workers->size() == 1 ? workers->front().state : "";
  };
  heartbeat.SetState("loading", {});
  heartbeat.Start();
  WaitUntil([&] { return state() == "loading"; });
  heartbeat.SetState("ready", {"tiny"});
  WaitUntil([&] { return state() == "ready"; });
  EXPECT_EQ(world.engine.Workers()->front().models, std::vector<std::string>{"tiny"});
  // A job past its deadline expires although no worker of its stage runs.
  JobSpec spec = world.Spec();
  spec.timeout = absl::Seconds(2);
  const std::string id = world.Create(spec);
  world.clock.Advance(absl::Seconds(3));
  WaitUntil([&] { return world.Get(id).state == JobState::kExpired; });
  heartbeat.SetState("draining", {"tiny"});
  heartbeat.Stop();
  EXPECT_EQ(state(), "draining");
}

TEST(FaultPointTest, KillsAtTheCountedPointOnly) {
  const struct {
    const char* value;  // of the environment variable; null: unset
    int want_signal;    // 0: goes through
    int want_status;    // when it is not killed
  } kCases[] = {{nullptr, 0, 0},
                {"", 0, 0},
                {"here", SIGKILL, 0},
                {"here:3", SIGKILL, 0},
                {"here:4", 0, 0},
                {"elsewhere", 0, 0},
                {"here:1:kill", SIGKILL, 0},
                {"here:0", 0, 2},
                {"here:x", 0, 2},
                {"here:1:explode", 0, 2},
                {"here:1:kill:more", 0, 2}};
  testing::FLAGS_gtest_death_test_style = "threadsafe";
  for (const auto& c : kCases) {
    SCOPED_TRACE(c.value == nullptr ? "unset" : c.value);
    const auto run = [&] {
      if (c.value == nullptr) {
        unsetenv("KANDINSKY_FAULT_POINT");
      } else {
        setenv("KANDINSKY_FAULT_POINT", c.value, 1);
      }
      for (int i = 0; i < 3; ++i) FaultPoint("here");
      std::_Exit(0);
    };
    if (c.want_signal != 0) {
      EXPECT_EXIT(run(), testing::KilledBySignal(c.want_signal), "");
    } else {
      EXPECT_EXIT(run(), testing::ExitedWithCode(c.want_status), "");
    }
  }
}

// Two workers a stage, thirty jobs, and every worker is replaced once while they run.
TEST(ClaimerTest, WorkersComeAndGoAndEveryJobHasItsVideo) {
  World world;
  std::vector<std::pair<std::string, JobSpec>> jobs;
  for (int i = 0; i < 30; ++i) {
    JobSpec spec = world.Spec(i % 3 == 0 ? Level::kLow : Level::kMedium);
    spec.parameters.seed = static_cast<uint64_t>(i);
    spec.tenant = absl::StrCat("tenant-", i % 4);
    jobs.emplace_back(world.Create(spec), spec);
  }
  std::vector<std::unique_ptr<TestWorker>> workers;
  const auto start = [&](Stage stage, int generation) {
    SimulatedStageOptions options;
    options.work = [](absl::Duration) {
      std::this_thread::sleep_for(std::chrono::microseconds(200));
    };
    workers.push_back(std::make_unique<TestWorker>(
        &world, stage, absl::StrCat(std::string(Name(stage)), "-", workers.size(), "-", generation),
        options));
    workers.back()->claimer->Start();
  };
  for (const Stage stage : kStages) {
    start(stage, 0);
    start(stage, 0);
  }
  const auto succeeded = [&] {
    return std::count_if(jobs.begin(), jobs.end(), [&](const auto& job) {
      return world.Get(job.first).state == JobState::kSucceeded;
    });
  };
  for (size_t i = 0; i < 6; ++i) {
    WaitUntil([&] { return succeeded() >= static_cast<long>(i + 1) * 3; });
    if (i % 2 == 0) {
      workers[i]->drain.Begin(absl::Hours(1));
    } else {
      workers[i]->drain.Hurry();
    }
    workers[i]->claimer->Join();
    start(workers[i]->runner.stage(), 1);
  }
  WaitUntil([&] { return succeeded() == static_cast<long>(jobs.size()); });
  for (const auto& worker : workers) worker->claimer->Stop();
  for (const auto& [id, spec] : jobs) {
    EXPECT_EQ(world.Video(id), SimulatedStage::ExpectedVideo(spec.parameters)) << id;
    EXPECT_EQ(world.Get(id).attempt, 1);
  }
}

// Where models are loaded, tasks run: a thread that computes has an OpenMP team of its own.
TEST(ClaimerTest, PreparesOnTheThreadThatRunsTasks) {
  World world;
  const std::string id = world.Create(world.Spec());
  std::thread::id prepared, ran;
  SimulatedStageOptions options;
  options.work = [&](absl::Duration) { ran = std::this_thread::get_id(); };
  TestWorker worker(&world, Stage::kKeyframes, "k", options);
  Claimer claimer(&world.queue, worker.tasks.get(), &worker.drain,
                  {.worker_id = "k", .stage = Stage::kKeyframes, .prepare = [&] {
                     prepared = std::this_thread::get_id();
                     return true;
                   }});
  claimer.Start();
  WaitUntil([&] { return world.Get(id).stage == Stage::kInterpolation; });
  claimer.Stop();
  EXPECT_NE(prepared, std::thread::id());
  EXPECT_EQ(prepared, ran);
}

TEST(ClaimerTest, ClaimsNothingIfItCannotPrepare) {
  World world;
  const std::string id = world.Create(world.Spec());
  TestWorker worker(&world, Stage::kKeyframes, "k");
  Claimer claimer(&world.queue, worker.tasks.get(), &worker.drain,
                  {.worker_id = "k", .stage = Stage::kKeyframes, .prepare = [] { return false; }});
  claimer.Start();
  claimer.Join();
  EXPECT_EQ(world.Get(id).state, JobState::kQueued);
}

TEST(ClaimerTest, SurvivesAStoreThatIsAwayAtTheStart) {
  World world;
  const std::string id = world.Create(world.Spec());
  world.failures.FailAll(true);
  TestWorker worker(&world, Stage::kKeyframes, "k");
  worker.claimer->Start();
  world.failures.FailAll(false);
  WaitUntil([&] { return world.Get(id).stage == Stage::kInterpolation; });
  worker.claimer->Stop();
}

}  // namespace
}  // namespace kandinsky
