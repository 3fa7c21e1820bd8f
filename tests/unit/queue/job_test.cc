#include "common/queue/job.h"

#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "common/queue/fake_queue.h"
#include "common/queue/identity.h"
#include "common/queue/options.h"

namespace kandinsky {
namespace {

TEST(JobTest, NamesReadBack) {
  for (Stage stage : kStages) EXPECT_EQ(ParseStage(Name(stage)), stage);
  for (int i = 1; i <= 6; ++i) {
    EXPECT_EQ(ParseJobState(Name(static_cast<JobState>(i))), static_cast<JobState>(i));
  }
  for (int i = 1; i <= 3; ++i) {
    EXPECT_EQ(ParseLevel(Name(static_cast<Level>(i))), static_cast<Level>(i));
  }
  for (int i = 1; i <= 4; ++i) {
    EXPECT_EQ(ParseVideoFormat(Name(static_cast<VideoFormat>(i))), static_cast<VideoFormat>(i));
  }
  EXPECT_EQ(Name(VideoFormat::kFragmentedMp4), "fragmented-mp4");
  EXPECT_EQ(Name(Priority::kBatch), "batch");
  for (const char* bad : {"", "unknown", "Keyframes", "high "}) {
    EXPECT_EQ(ParseStage(bad), std::nullopt);
    EXPECT_EQ(ParseJobState(bad), std::nullopt);
    EXPECT_EQ(ParseLevel(bad), std::nullopt);
    EXPECT_EQ(ParseVideoFormat(bad), std::nullopt);
  }
}

TEST(JobTest, StagesOfALevel) {
  const struct {
    Level level;
    Stage stage;
    std::optional<Stage> previous, next;
  } kCases[] = {
      {Level::kLow, Stage::kKeyframes, std::nullopt, Stage::kDecoding},
      {Level::kLow, Stage::kDecoding, Stage::kKeyframes, std::nullopt},
      {Level::kMedium, Stage::kKeyframes, std::nullopt, Stage::kInterpolation},
      {Level::kMedium, Stage::kInterpolation, Stage::kKeyframes, Stage::kDecoding},
      {Level::kHigh, Stage::kInterpolation, Stage::kKeyframes, Stage::kDecoding},
      {Level::kHigh, Stage::kDecoding, Stage::kInterpolation, std::nullopt},
  };
  for (const auto& test : kCases) {
    EXPECT_EQ(PreviousStage(test.stage, test.level), test.previous);
    EXPECT_EQ(NextStage(test.stage, test.level), test.next);
  }
  EXPECT_EQ(Passes(Level::kLow), 0);
  EXPECT_EQ(Passes(Level::kHigh), 2);
}

TEST(JobTest, FractionGrowsFromZeroToOne) {
  for (Level level : {Level::kLow, Level::kMedium, Level::kHigh}) {
    double sum = 0, last = -1;
    for (Stage stage : kStages) {
      sum += StageWeight(stage, level);
      for (double f : {0.0, 0.25, 1.0}) {
        double fraction = JobFraction(stage, level, f);
        EXPECT_GE(fraction, last);
        last = fraction;
      }
    }
    EXPECT_NEAR(sum, 1, 1e-12);
    EXPECT_EQ(JobFraction(Stage::kKeyframes, level, 0), 0);
    EXPECT_NEAR(JobFraction(Stage::kDecoding, level, 1), 1, 1e-12);
  }
  const struct {
    Stage stage;
    double stage_fraction, want;
  } kHigh[] = {
      {Stage::kKeyframes, 0.5, 0.15},  {Stage::kKeyframes, 1, 0.3},
      {Stage::kInterpolation, 0, 0.3}, {Stage::kInterpolation, 1, 0.85},
      {Stage::kDecoding, 0.5, 0.925},  {Stage::kDecoding, 7, 1},
      {Stage::kKeyframes, -1, 0},      {Stage::kKeyframes, std::nan(""), 0},
  };
  for (const auto& test : kHigh) {
    EXPECT_NEAR(JobFraction(test.stage, Level::kHigh, test.stage_fraction), test.want, 1e-12);
  }
  EXPECT_EQ(StageWeight(Stage::kInterpolation, Level::kLow), 0);
}

TEST(JobTest, Eta) {
  // Half of the keyframes (0.15 of the job) took as long as the 15 s that the other half needs.
  std::optional<absl::Duration> eta =
      JobEta(Stage::kKeyframes, Level::kHigh, 0.5, absl::Seconds(15));
  ASSERT_TRUE(eta.has_value());
  EXPECT_NEAR(absl::ToDoubleSeconds(*eta), 85, 1e-6);
  EXPECT_EQ(JobEta(Stage::kKeyframes, Level::kHigh, 0.01, absl::Seconds(15)), std::nullopt);
  EXPECT_EQ(JobEta(Stage::kKeyframes, Level::kHigh, std::nan(""), absl::Seconds(1)), std::nullopt);
  EXPECT_EQ(JobEta(Stage::kDecoding, Level::kHigh, 1, absl::ZeroDuration()), absl::ZeroDuration());
}

TEST(JobTest, EventIds) {
  const struct {
    const char* id;
    std::optional<uint64_t> want;
  } kCases[] = {{"", 0},
                {"1", 1},
                {"120", 120},
                {"0", std::nullopt},
                {"01", std::nullopt},
                {"-1", std::nullopt},
                {"1-0", std::nullopt},
                {" 1", std::nullopt},
                {"9999999999999999999999", std::nullopt}};
  for (const auto& test : kCases) EXPECT_EQ(ParseEventId(test.id), test.want) << test.id;
  EXPECT_TRUE(EventIdLess("", "1"));
  EXPECT_TRUE(EventIdLess("9", "10"));
  EXPECT_FALSE(EventIdLess("10", "9"));
  EXPECT_FALSE(EventIdLess("10", "10"));
}

TEST(IdentityTest, JobIds) {
  std::set<std::string> ids;
  absl::Time now = absl::FromUnixSeconds(1700000000);
  for (int i = 0; i < 1000; ++i) {
    std::string id = NewJobId(now + absl::Milliseconds(i));
    EXPECT_TRUE(IsJobId(id)) << id;
    EXPECT_TRUE(ids.empty() || *ids.rbegin() < id) << "later ids are greater";
    ids.insert(id);
  }
  EXPECT_EQ(ids.size(), 1000u);
  for (const char* bad : {"", "short", "0123456789abcdefghjkmnpqr}", "0123456789ABCDEFGHJKMNPQRS",
                          "../../../../../../etc/pass"}) {
    EXPECT_FALSE(IsJobId(bad)) << bad;
  }
}

TEST(IdentityTest, DigestSeesEveryField) {
  JobSpec base;
  base.parameters.prompt = "p";
  std::vector<JobSpec> others(14, base);
  others[0].tenant = "other";
  others[1].priority = Priority::kBatch;
  others[2].timeout = absl::Minutes(1);
  others[3].parameters.prompt = "q";
  others[4].parameters.negative_prompt = "p";
  others[5].parameters.seed = 1;
  others[6].parameters.level = Level::kLow;
  others[7].parameters.width = 1;
  others[8].parameters.height = 1;
  others[9].parameters.steps = 1;
  others[10].parameters.guidance_scale = 1;
  others[11].parameters.interpolation_guidance_scale = 1;
  others[12].parameters.format = VideoFormat::kGif;
  others[13].parameters.fps = 1;
  std::set<std::string> digests{PayloadDigest(base)};
  for (const JobSpec& other : others) digests.insert(PayloadDigest(other));
  EXPECT_EQ(digests.size(), others.size() + 1);
  JobSpec same = base;
  same.request_id = "r";
  EXPECT_EQ(PayloadDigest(same), PayloadDigest(base));
  same.payload_digest = "given";
  EXPECT_EQ(PayloadDigest(same), "given");
}

TEST(IdentityTest, PageTokens) {
  JobFilter filter{{JobState::kFailed, JobState::kQueued}, "t"};
  PagePosition position{1700000000123456, NewJobId(absl::Now())};
  std::string token = EncodePageToken(filter, position);
  auto decoded = DecodePageToken(filter, token);
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  EXPECT_EQ(*decoded, position);
  JobFilter reordered{{JobState::kQueued, JobState::kFailed}, "t"};
  EXPECT_TRUE(DecodePageToken(reordered, token).ok());
  for (size_t i = 0; i < token.size(); ++i) {
    std::string changed = token;
    changed[i] = changed[i] == 'A' ? 'B' : 'A';
    EXPECT_FALSE(DecodePageToken(filter, changed).ok()) << i;
    EXPECT_FALSE(DecodePageToken(filter, token.substr(0, i)).ok()) << i;
  }
  EXPECT_FALSE(DecodePageToken({{JobState::kFailed}, "t"}, token).ok());
  EXPECT_FALSE(DecodePageToken({{JobState::kFailed, JobState::kQueued}, ""}, token).ok());
}

TEST(OptionsTest, Validate) {
  EXPECT_TRUE(Validate(QueueOptions()).ok());
  const struct {
    const char* name;
    void (*change)(QueueOptions*);
  } kCases[] = {
      {"lease_duration", [](QueueOptions* o) { o->lease_duration = absl::ZeroDuration(); }},
      {"max_attempts", [](QueueOptions* o) { o->max_attempts = 0; }},
      {"retry_max_delay", [](QueueOptions* o) { o->retry_max_delay = absl::ZeroDuration(); }},
      {"batch_share", [](QueueOptions* o) { o->batch_share = 0; }},
      {"max_unfinished_jobs", [](QueueOptions* o) { o->limits.max_unfinished_jobs = 0; }},
      {"retention", [](QueueOptions* o) { o->retention = absl::InfiniteDuration(); }},
      {"max_progress_events", [](QueueOptions* o) { o->max_progress_events = 0; }},
  };
  for (const auto& test : kCases) {
    QueueOptions options;
    test.change(&options);
    absl::Status status = Validate(options);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << test.name;
    EXPECT_NE(std::string(status.message()).find(test.name), std::string::npos) << status;
  }
}

TEST(FakeQueueTest, ClockDecidesAboutLeasesAndRetention) {
  FakeClock clock;
  QueueOptions options;
  InMemoryEngine engine(options, &clock);
  auto created = engine.Create(JobSpec());
  ASSERT_TRUE(created.ok());
  auto lease = engine.Claim(Stage::kKeyframes, "a", absl::ZeroDuration());
  ASSERT_TRUE(lease->has_value());
  clock.Advance(options.lease_duration - absl::Milliseconds(1));
  EXPECT_FALSE(engine.Claim(Stage::kKeyframes, "b", absl::ZeroDuration())->has_value());
  clock.Advance(absl::Milliseconds(1));
  auto heir = engine.Claim(Stage::kKeyframes, "b", absl::ZeroDuration());
  ASSERT_TRUE(heir->has_value());
  EXPECT_EQ((*heir)->attempt, 2);
  ASSERT_TRUE(engine.Cancel(created->job.id).ok());
  ASSERT_TRUE(engine.AcknowledgeCancel(**heir).ok());
  clock.Advance(options.retention - absl::Milliseconds(1));
  EXPECT_TRUE(engine.Get(created->job.id).ok());
  clock.Advance(absl::Milliseconds(1));
  EXPECT_FALSE(engine.Get(created->job.id).ok());
}

TEST(FakeQueueTest, BrokenFeedReportsAGap) {
  InMemoryEngine engine;
  std::mutex mutex;
  std::condition_variable changed;
  std::vector<std::string> seen;
  auto note = [&](const std::string& what) {
    std::lock_guard<std::mutex> lock(mutex);
    seen.push_back(what);
    changed.notify_all();
  };
  ASSERT_TRUE(engine.Start([&](const JobEvent& e) { note(e.id); }, [&] { note("gap"); }).ok());
  engine.BreakFeed();
  auto first = engine.Create(JobSpec());
  engine.RestoreFeed();
  ASSERT_TRUE(engine.Cancel(first->job.id).ok());
  std::unique_lock<std::mutex> lock(mutex);
  ASSERT_TRUE(changed.wait_for(lock, std::chrono::seconds(20), [&] { return seen.size() == 2; }));
  EXPECT_EQ(seen, (std::vector<std::string>{"gap", "2"}));
}

TEST(FailingQueueTest, FailsOnDemand) {
  InMemoryEngine engine;
  FailureSwitch failures;
  FailingJobStore jobs(&engine, &failures);
  FailingTaskQueue tasks(&engine, &failures);
  FailingVideoStore videos(&engine, &failures);
  failures.FailNext(1);
  EXPECT_TRUE(absl::IsUnavailable(jobs.Create(JobSpec()).status()));
  auto created = jobs.Create(JobSpec());
  ASSERT_TRUE(created.ok());
  EXPECT_EQ(engine.List({}, 10, "")->jobs.size(), 1u) << "the failed call had no effect";
  auto lease = tasks.Claim(Stage::kKeyframes, "w", absl::ZeroDuration());
  ASSERT_TRUE(lease->has_value());
  failures.LoseReplies(1);
  EXPECT_TRUE(absl::IsUnavailable(tasks.Release(**lease)));
  EXPECT_TRUE(tasks.Release(**lease).ok()) << "it was done, and doing it again is fine";
  failures.FailAll(true);
  EXPECT_TRUE(absl::IsUnavailable(jobs.Get(created->job.id).status()));
  EXPECT_TRUE(absl::IsUnavailable(tasks.Maintain()));
  EXPECT_TRUE(absl::IsUnavailable(videos.Append(created->job.id, 1, 0, "x")));
  failures.FailAll(false);
  EXPECT_TRUE(jobs.Get(created->job.id).ok());
}

}  // namespace
}  // namespace kandinsky
