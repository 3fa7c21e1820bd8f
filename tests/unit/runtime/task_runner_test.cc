#include "worker/runtime/task_runner.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <prometheus/text_serializer.h>

#include <algorithm>

#include "tests/unit/runtime/runtime_test_util.h"

namespace kandinsky {
namespace {

using testing::HasSubstr;

constexpr Level kLevels[] = {Level::kLow, Level::kMedium, Level::kHigh};

SimulatedStageOptions AtStep(int step, std::function<void()> action) {
  auto count = std::make_shared<std::atomic<int>>(0);
  SimulatedStageOptions options;
  options.work = [=](absl::Duration) {
    if (++*count == step) action();
  };
  return options;
}

TEST(TaskRunnerTest, WholeJobs) {
  for (const Level level : kLevels) {
    SCOPED_TRACE(Name(level));
    World world;
    TestWorker keyframes(&world, Stage::kKeyframes, "k");
    TestWorker interpolation(&world, Stage::kInterpolation, "i");
    TestWorker decoding(&world, Stage::kDecoding, "d");
    const JobSpec spec = world.Spec(level);
    const std::string id = world.Create(spec);
    EXPECT_EQ(keyframes.RunOne(), TaskOutcome::kCompleted);
    EXPECT_EQ(keyframes.latents->GetStats().entries, 1u);
    if (level != Level::kLow) {
      EXPECT_EQ(interpolation.RunOne(), TaskOutcome::kCompleted);
      // The consumer is done: the producer may forget.
      EXPECT_EQ(keyframes.latents->GetStats().entries, 0u);
    }
    EXPECT_EQ(decoding.RunOne(), TaskOutcome::kCompleted);
    const Job job = world.Get(id);
    EXPECT_EQ(job.state, JobState::kSucceeded);
    EXPECT_EQ(world.Video(id), SimulatedStage::ExpectedVideo(spec.parameters));
    ASSERT_TRUE(job.video.has_value());
    EXPECT_EQ(job.video->size_bytes, world.Video(id).size());
    EXPECT_EQ(job.video->frames, level == Level::kLow ? 16 : level == Level::kMedium ? 61 : 241);
    for (const TestWorker* worker : {&keyframes, &interpolation, &decoding}) {
      EXPECT_EQ(worker->latents->GetStats().entries, 0u) << worker->id;
    }
  }
}

TEST(TaskRunnerTest, StageErrors) {
  const struct {
    absl::Status error;
    TaskOutcome want;
    JobState want_state;
    std::string want_reason;  // of the job's error or of its retry event
  } kCases[] = {
      {absl::InvalidArgumentError("no"), TaskOutcome::kFailedPermanent, JobState::kFailed,
       "MODEL_ERROR"},
      {absl::FailedPreconditionError("no"), TaskOutcome::kFailedPermanent, JobState::kFailed,
       "MODEL_ERROR"},
      {absl::DataLossError("no"), TaskOutcome::kFailedPermanent, JobState::kFailed, "MODEL_ERROR"},
      {absl::ResourceExhaustedError("no"), TaskOutcome::kOutOfMemory, JobState::kQueued,
       "OUT_OF_MEMORY"},
      {absl::InternalError("no"), TaskOutcome::kFailedTransient, JobState::kQueued, "STAGE_ERROR"},
      {absl::CancelledError("of its own"), TaskOutcome::kFailedTransient, JobState::kQueued,
       "STAGE_ERROR"},
  };
  for (const auto& c : kCases) {
    SCOPED_TRACE(c.error.ToString());
    World world;
    SimulatedStageOptions options;
    options.fail = [&](const StageInput&) { return c.error; };
    TestWorker worker(&world, Stage::kKeyframes, "k", options);
    const std::string id = world.Create(world.Spec());
    EXPECT_EQ(worker.RunOne(), c.want);
    const Job job = world.Get(id);
    if (c.want_state == JobState::kFailed) {
      EXPECT_EQ(job.state, JobState::kFailed);
      ASSERT_TRUE(job.error.has_value());
      EXPECT_EQ(job.error->reason, c.want_reason);
    } else {
      EXPECT_FALSE(IsFinished(job.state));
      const auto events = world.engine.ReadEvents(id, "", 100);
      const auto retry = std::find_if(events->begin(), events->end(), [](const JobEvent& event) {
        return event.type == JobEvent::Type::kRetry;
      });
      ASSERT_NE(retry, events->end());
      ASSERT_TRUE(retry->error.has_value());
      EXPECT_EQ(retry->error->reason, c.want_reason);
    }
  }
}

TEST(TaskRunnerTest, ThrowingStagesAreFailures) {
  World world;
  SimulatedStageOptions options;
  options.work = [](absl::Duration) { throw std::runtime_error("thrown"); };
  TestWorker worker(&world, Stage::kKeyframes, "k", options);
  world.Create(world.Spec());
  EXPECT_EQ(worker.RunOne(), TaskOutcome::kFailedTransient);
  SimulatedStageOptions hungry;
  hungry.work = [](absl::Duration) { throw std::bad_alloc(); };
  TestWorker other(&world, Stage::kKeyframes, "k2", hungry);
  EXPECT_EQ(other.RunOne(), TaskOutcome::kOutOfMemory);
}

TEST(TaskRunnerTest, UnknownModelIsLeftToOthers) {
  World world;
  SimulatedStageOptions options;
  options.models = {"another"};
  TestWorker worker(&world, Stage::kKeyframes, "k", options);
  world.Create(world.Spec());
  EXPECT_EQ(worker.RunOne(), TaskOutcome::kFailedTransient);
  TestWorker right(&world, Stage::kKeyframes, "k2");
  EXPECT_EQ(right.RunOne(), TaskOutcome::kCompleted);
}

// Stopped at step 3 of 8, for different reasons; not one more step begins.
TEST(TaskRunnerTest, CancelAndDeadlineStopWithinAStep) {
  const struct {
    const char* name;
    std::function<void(World&, const std::string&)> stop;
    TaskOutcome want;
    JobState want_state;
  } kCases[] = {
      {"cancel", [](World& world, const std::string& id) { (void)world.engine.Cancel(id); },
       TaskOutcome::kCancelled, JobState::kCancelled},
      {"deadline", [](World& world, const std::string&) { world.clock.Advance(absl::Seconds(6)); },
       TaskOutcome::kExpired, JobState::kExpired},
  };
  for (const auto& c : kCases) {
    SCOPED_TRACE(c.name);
    World world;
    JobSpec spec = world.Spec();
    spec.timeout = absl::Seconds(5);
    const std::string id = world.Create(spec);
    TestWorker worker(&world, Stage::kKeyframes, "k", AtStep(3, [&] {
      c.stop(world, id);
      world.queue.WaitForRenewals();
    }));
    EXPECT_EQ(worker.RunOne(), c.want);
    EXPECT_EQ(worker.runner.steps_done(), 3);
    EXPECT_EQ(world.Get(id).state, c.want_state);
    EXPECT_EQ(worker.latents->GetStats().entries, 0u);
  }
}

// A worker that stood still for longer than its lease: another one takes over from the checkpoint,
// and the first changes nothing when it comes back, in whichever stage and however far it was.
TEST(TaskRunnerTest, StaleWorkersChangeNothing) {
  for (const Stage stage : kStages) {
    for (const int step : {1, 5, stage == Stage::kDecoding ? 61 : 8}) {
      SCOPED_TRACE(absl::StrCat(std::string(Name(stage)), " at step ", step));
      World world;
      const JobSpec spec = world.Spec();
      const std::string id = world.Create(spec);
      std::map<Stage, std::unique_ptr<TestWorker>> workers;
      for (const Stage s : kStages) {
        workers[s] =
            std::make_unique<TestWorker>(&world, s, absl::StrCat("good-", std::string(Name(s))));
      }
      std::optional<TaskOutcome> successor;
      TestWorker stale(&world, stage, "stale", AtStep(step, [&] {
        world.clock.Advance(absl::Seconds(11));
        successor = workers[stage]->RunOne();
      }));
      for (const Stage s : kStages) {
        if (s == stage) {
          EXPECT_EQ(stale.RunOne(), TaskOutcome::kLeaseLost);
          EXPECT_EQ(successor, TaskOutcome::kCompleted);
        } else {
          EXPECT_EQ(workers[s]->RunOne(), TaskOutcome::kCompleted);
        }
      }
      EXPECT_EQ(world.Get(id).state, JobState::kSucceeded);
      EXPECT_EQ(world.Video(id), SimulatedStage::ExpectedVideo(spec.parameters));
    }
  }
}

TEST(TaskRunnerTest, SuccessorGoesOnFromTheCheckpoint) {
  World world;
  const std::string id = world.Create(world.Spec());
  Metrics* stale_metrics = nullptr;
  TestWorker successor(&world, Stage::kKeyframes, "b");
  TestWorker stale(&world, Stage::kKeyframes, "a", AtStep(6, [&] {
    // The checkpoints of the steps before travel in the background.
    WaitUntil([&] {
      const std::string text =
          prometheus::TextSerializer().Serialize(stale_metrics->registry().Collect());
      return text.find("kandinsky_worker_checkpoints_total{stage=\"keyframes\"} 0") ==
             std::string::npos;
    });
    world.clock.Advance(absl::Seconds(11));
    EXPECT_EQ(successor.RunOne(), TaskOutcome::kCompleted);
  }));
  stale_metrics = &stale.registry;
  EXPECT_EQ(stale.RunOne(), TaskOutcome::kLeaseLost);
  EXPECT_LT(successor.runner.steps_done(), 8);
  EXPECT_GE(successor.runner.steps_done(), 3);
  EXPECT_EQ(world.Get(id).stage, Stage::kInterpolation);
}

TEST(TaskRunnerTest, DrainFinishesOrSavesAndHandsBack) {
  const struct {
    const char* name;
    std::function<void(World&, Drain&)> drain;
    TaskOutcome want;
    int want_steps_max;
  } kCases[] = {
      {"time enough", [](World&, Drain& drain) { drain.Begin(absl::Hours(1)); },
       TaskOutcome::kCompleted, 8},
      {"in a hurry", [](World&, Drain& drain) { drain.Hurry(); }, TaskOutcome::kReleased, 4},
      {"second signal",
       [](World&, Drain& drain) {
         drain.Begin(absl::Hours(1));
         drain.Hurry();
       },
       TaskOutcome::kReleased, 4},
      {"most of the grace period is over",
       [](World& world, Drain& drain) {
         drain.Begin(absl::Seconds(9));
         world.clock.Advance(absl::Seconds(8));
       },
       TaskOutcome::kReleased, 4},
  };
  for (const auto& c : kCases) {
    SCOPED_TRACE(c.name);
    World world;
    const JobSpec spec = world.Spec(Level::kLow);
    const std::string id = world.Create(spec);
    Drain* drain = nullptr;
    TestWorker leaving(&world, Stage::kKeyframes, "leaving",
                       AtStep(3, [&] { c.drain(world, *drain); }));
    drain = &leaving.drain;
    EXPECT_EQ(leaving.RunOne(), c.want);
    EXPECT_LE(leaving.runner.steps_done(), c.want_steps_max);
    TestWorker next(&world, Stage::kKeyframes, "next");
    if (c.want == TaskOutcome::kReleased) {
      EXPECT_EQ(world.Get(id).attempt, 1);
      EXPECT_EQ(next.RunOne(), TaskOutcome::kCompleted);
      // Nothing was computed twice.
      EXPECT_EQ(leaving.runner.steps_done() + next.runner.steps_done(), 8);
    }
    TestWorker decoding(&world, Stage::kDecoding, "d");
    EXPECT_EQ(decoding.RunOne(), TaskOutcome::kCompleted);
    EXPECT_EQ(world.Video(id), SimulatedStage::ExpectedVideo(spec.parameters));
  }
}

TEST(TaskRunnerTest, DecodingIsHandedBackInAHurryToo) {
  World world;
  const JobSpec spec = world.Spec(Level::kLow);
  const std::string id = world.Create(spec);
  TestWorker keyframes(&world, Stage::kKeyframes, "k");
  EXPECT_EQ(keyframes.RunOne(), TaskOutcome::kCompleted);
  Drain* drain = nullptr;
  TestWorker leaving(&world, Stage::kDecoding, "leaving", AtStep(5, [&] { drain->Hurry(); }));
  drain = &leaving.drain;
  EXPECT_EQ(leaving.RunOne(), TaskOutcome::kReleased);
  EXPECT_LE(leaving.runner.steps_done(), 6);
  EXPECT_EQ(keyframes.latents->GetStats().entries, 1u);  // still needed
  TestWorker next(&world, Stage::kDecoding, "next");
  EXPECT_EQ(next.RunOne(), TaskOutcome::kCompleted);
  EXPECT_EQ(world.Video(id), SimulatedStage::ExpectedVideo(spec.parameters));
}

TEST(TaskRunnerTest, LostLatentsSendTheTaskBack) {
  for (const absl::Status& failure :
       {absl::NotFoundError("gone"), absl::UnavailableError("unreachable"),
        absl::DataLossError("damaged")}) {
    SCOPED_TRACE(failure.ToString());
    World world;
    const JobSpec spec = world.Spec(Level::kLow);
    const std::string id = world.Create(spec);
    TestWorker keyframes(&world, Stage::kKeyframes, "k");
    TestWorker decoding(&world, Stage::kDecoding, "d");
    EXPECT_EQ(keyframes.RunOne(), TaskOutcome::kCompleted);
    world.source.FailWith(failure);
    EXPECT_EQ(decoding.RunOne(), TaskOutcome::kSentBack);
    EXPECT_EQ(world.Get(id).stage, Stage::kKeyframes);
    world.source.FailWith(absl::OkStatus());
    EXPECT_EQ(keyframes.RunOne(), TaskOutcome::kCompleted);
    EXPECT_EQ(decoding.RunOne(), TaskOutcome::kCompleted);
    EXPECT_EQ(world.Get(id).state, JobState::kSucceeded);
    EXPECT_EQ(world.Video(id), SimulatedStage::ExpectedVideo(spec.parameters));
  }
}

// Away from step 2 of one stage on, for longer than the lease; back while the worker tries to
// acknowledge, or before.
TEST(TaskRunnerTest, StoreOutageIsWaitedOut) {
  for (const Stage stage : kStages) {
    SCOPED_TRACE(Name(stage));
    World world;
    const JobSpec spec = world.Spec();
    const std::string id = world.Create(spec);
    std::thread repair;
    const auto outage = [&] {
      world.failures.FailAll(true);
      world.clock.Advance(absl::Seconds(11));
      repair = std::thread([&] {
        world.queue.WaitForRenewals();
        world.failures.FailAll(false);
      });
    };
    std::vector<std::unique_ptr<TestWorker>> workers;
    for (const Stage s : kStages) {
      workers.push_back(
          std::make_unique<TestWorker>(&world, s, std::string(Name(s)),
                                       s == stage ? AtStep(2, outage) : SimulatedStageOptions()));
      EXPECT_EQ(workers.back()->RunOne(), TaskOutcome::kCompleted);
    }
    repair.join();
    EXPECT_EQ(world.Get(id).state, JobState::kSucceeded);
    EXPECT_EQ(world.Video(id), SimulatedStage::ExpectedVideo(spec.parameters));
  }
}

TEST(TaskRunnerTest, LostRepliesChangeNothing) {
  World world;
  const JobSpec spec = world.Spec(Level::kLow);
  const std::string id = world.Create(spec);
  // The last step's end is followed by Complete (Finish); the reply of whatever comes next gets
  // lost.
  TestWorker keyframes(&world, Stage::kKeyframes, "k",
                       AtStep(8, [&] { world.failures.LoseReplies(4); }));
  EXPECT_EQ(keyframes.RunOne(), TaskOutcome::kCompleted);
  TestWorker decoding(&world, Stage::kDecoding, "d",
                      AtStep(16, [&] { world.failures.LoseReplies(4); }));
  EXPECT_EQ(decoding.RunOne(), TaskOutcome::kCompleted);
  EXPECT_EQ(world.Get(id).state, JobState::kSucceeded);
  EXPECT_EQ(world.Video(id), SimulatedStage::ExpectedVideo(spec.parameters));
}

TEST(TaskRunnerTest, FullStoresFailTheTaskForAWhile) {
  World world;
  const JobSpec spec = world.Spec(Level::kLow);
  const std::string id = world.Create(spec);
  LatentStoreOptions no_room;
  no_room.memory_bytes = 1;
  TestWorker full(&world, Stage::kKeyframes, "full", {}, nullptr, no_room);
  EXPECT_EQ(full.RunOne(), TaskOutcome::kFailedTransient);
  TestWorker keyframes(&world, Stage::kKeyframes, "k");
  EXPECT_EQ(keyframes.RunOne(), TaskOutcome::kCompleted);
  FullVideoStore full_store(&world.engine, 12);
  TestWorker decoding(&world, Stage::kDecoding, "d", {}, &full_store);
  EXPECT_EQ(decoding.RunOne(), TaskOutcome::kFailedTransient);
  EXPECT_EQ(decoding.RunOne(), TaskOutcome::kCompleted);
  std::vector<std::string> reasons;
  const auto events = world.engine.ReadEvents(id, "", 1000);
  for (const JobEvent& event : *events) {
    if (event.type == JobEvent::Type::kRetry && event.error) reasons.push_back(event.error->reason);
  }
  EXPECT_THAT(reasons, testing::ElementsAre("LATENT_STORE_FULL", "VIDEO_STORE_FULL"));
  EXPECT_EQ(world.Video(id), SimulatedStage::ExpectedVideo(spec.parameters));
}

TEST(TaskRunnerTest, Metrics) {
  World world;
  world.Create(world.Spec());
  TestWorker worker(&world, Stage::kKeyframes, "k");
  world.clock.Advance(absl::Seconds(3));
  EXPECT_EQ(worker.RunOne(), TaskOutcome::kCompleted);
  const std::string text =
      prometheus::TextSerializer().Serialize(worker.registry.registry().Collect());
  for (const char* want :
       {"kandinsky_worker_tasks_total{outcome=\"completed\",stage=\"keyframes\"} 1",
        "kandinsky_worker_queue_wait_seconds_sum{priority=\"interactive\",stage=\"keyframes\"} 3",
        "kandinsky_worker_denoising_step_seconds_count{stage=\"keyframes\"} 8",
        "kandinsky_worker_stage_duration_seconds_count{outcome=\"completed\",stage=\"keyframes\"} "
        "1",
        "le=\"1800\"", "kandinsky_worker_leases_lost_total{stage=\"keyframes\"} 0"}) {
    EXPECT_THAT(text, HasSubstr(want));
  }
}

}  // namespace
}  // namespace kandinsky
