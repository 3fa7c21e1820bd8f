#include "common/queue_redis/codec.h"

#include <gtest/gtest.h>

#include <limits>

#include "absl/strings/str_cat.h"

namespace kandinsky {
namespace {

using std::string_literals::operator""s;

TEST(CodecTest, SpecReadsBack) {
  JobSpec spec;
  spec.request_id = "r\0\n"s;
  spec.payload_digest = "d";
  spec.tenant = "tenant";
  spec.priority = Priority::kBatch;
  spec.timeout = absl::Minutes(17);
  spec.parameters = {"ein Panda, größer",
                     "blurry",
                     std::numeric_limits<uint64_t>::max(),
                     Level::kMedium,
                     512,
                     256,
                     50,
                     5.0,
                     0.1 + 0.2,
                     "tiny",
                     VideoFormat::kGif,
                     29.97};
  spec.notices = {{"UNKNOWN_WORDS", "parameters.prompt", "größer?", {"größer", "Panda"}}, {}};
  auto got = DecodeSpec(EncodeSpec(spec));
  ASSERT_TRUE(got.ok()) << got.status();
  EXPECT_EQ(got->notices, spec.notices);
  EXPECT_EQ(got->request_id, spec.request_id);
  EXPECT_EQ(got->payload_digest, spec.payload_digest);
  EXPECT_EQ(got->tenant, spec.tenant);
  EXPECT_EQ(got->priority, spec.priority);
  EXPECT_EQ(got->timeout, spec.timeout);
  EXPECT_EQ(got->parameters, spec.parameters);
}

TEST(CodecTest, LocationVideoAndWorkerReadBack) {
  LatentLocation location{"[::1]:7000", "k/1", "bfloat16", {241, 4, 64, 64}, 0xffffffff};
  EXPECT_EQ(*DecodeLocation(EncodeLocation(location)), location);
  EXPECT_EQ(*DecodeLocation(EncodeLocation({})), LatentLocation());
  VideoInfo video{1ull << 40, 7, "video/webm", 61, 512, 512, 7.5};
  EXPECT_EQ(*DecodeVideo(EncodeVideo(video)), video);
  TaskQueue::WorkerInfo worker{"w", Stage::kInterpolation, "draining", "a:1", {"x", "y"}, {}};
  auto got = DecodeWorker(EncodeWorker(worker));
  ASSERT_TRUE(got.ok());
  EXPECT_EQ(got->id, "w");
  EXPECT_EQ(got->models, worker.models);
}

TEST(CodecTest, BadBytesAreRefused) {
  for (const std::string& bytes : {"\xff\xff\xff"s, "\x0a\x7f"s}) {
    EXPECT_EQ(DecodeSpec(bytes).status().code(), absl::StatusCode::kDataLoss);
    EXPECT_EQ(DecodeLocation(bytes).status().code(), absl::StatusCode::kDataLoss);
    EXPECT_EQ(DecodeVideo(bytes).status().code(), absl::StatusCode::kDataLoss);
    EXPECT_EQ(DecodeWorker(bytes).status().code(), absl::StatusCode::kDataLoss);
  }
  EXPECT_EQ(DecodeSpec("").status().code(), absl::StatusCode::kDataLoss) << "no level, no priority";
}

TEST(CodecTest, Events) {
  EventDetailsValue details;
  details.pass = 2;
  details.passes = 2;
  details.step = 3;
  details.steps = 10;
  details.eta = absl::Seconds(4);
  details.preview = Preview{"\0x"s, 1, 2};
  details.video = VideoInfo{9, 8, "m", 7, 6, 5, 4};
  const std::string text = "1 jobid 12 1700000000123456 6 2 3 4 0.75 2 3 6 7 2\nREASONmessagew1" +
                           EncodeDetails(details);
  auto event = DecodeEvent(text);
  ASSERT_TRUE(event.ok()) << event.status();
  EXPECT_EQ(event->job_id, "jobid");
  EXPECT_EQ(event->id, "12");
  EXPECT_EQ(event->sequence, 12u);
  EXPECT_EQ(absl::ToUnixMicros(event->time), 1700000000123456);
  EXPECT_EQ(event->type, JobEvent::Type::kRetry);
  EXPECT_EQ(event->state, JobState::kRunning);
  EXPECT_EQ(event->stage, Stage::kDecoding);
  EXPECT_EQ(event->attempt, 4);
  EXPECT_EQ(event->fraction, 0.75);
  EXPECT_EQ(event->error, (JobError{"REASON", "message", Stage::kInterpolation, 3, "w1"}));
  EXPECT_EQ(event->pass, 2);
  EXPECT_EQ(event->eta, absl::Seconds(4));
  EXPECT_EQ(event->preview, details.preview);
  EXPECT_EQ(event->video, details.video);
  // No prefix of it crashes or reads beyond.
  for (size_t i = 0; i < text.size(); ++i) (void)DecodeEvent(text.substr(0, i)).ok();
  const struct {
    const char* name;
    std::string text;
  } kBad[] = {
      {"empty", ""},
      {"no head", "x"},
      {"version", "2 j 1 1 1 1 1 1 0 0 0 0 0 0\n"},
      {"type", "1 j 1 1 9 1 1 1 0 0 0 0 0 0\n"},
      {"state", "1 j 1 1 1 7 1 1 0 0 0 0 0 0\n"},
      {"stage", "1 j 1 1 1 1 0 1 0 0 0 0 0 0\n"},
      {"length", "1 j 1 1 1 1 1 1 0 1 1 99 0 0\nx"},
      {"huge length", "1 j 1 1 1 1 1 1 0 1 1 18446744073709551615 1 0\nx"},
      {"negative length", "1 j 1 1 1 1 1 1 0 1 1 -1 0 0\nx"},
      {"details", "1 j 1 1 1 1 1 1 0 0 0 0 0 0\n\xff"},
  };
  for (const auto& bad : kBad) {
    EXPECT_EQ(DecodeEvent(bad.text).status().code(), absl::StatusCode::kDataLoss) << bad.name;
  }
}

RedisValue Fields(const std::vector<std::string>& texts) {
  RedisValue value;
  value.type = RedisValue::Type::kArray;
  for (const std::string& text : texts) {
    value.elements.push_back({RedisValue::Type::kString, text, 0, {}});
  }
  return value;
}

TEST(CodecTest, Jobs) {
  JobSpec spec;
  spec.parameters.prompt = "p";
  const std::string core = "4 2 1 - 3 0.5 0 3 0 0 0 17 1 1700000000000001 1700000000000002 1-1 w -";
  const std::vector<std::string> good{"spec", EncodeSpec(spec),
                                      "c",    core,
                                      "ct",   "1700000000000001",
                                      "es",   "2",
                                      "ea",   "3",
                                      "er",   "R",
                                      "em",   "m",
                                      "ew",   "w"};
  auto job = DecodeJob("id", Fields(good));
  ASSERT_TRUE(job.ok()) << job.status();
  EXPECT_EQ(job->id, "id");
  EXPECT_EQ(job->state, JobState::kFailed);
  EXPECT_EQ(job->stage, Stage::kInterpolation);
  EXPECT_EQ(job->attempt, 3);
  EXPECT_EQ(job->last_event_id, "17");
  EXPECT_EQ(job->fraction, 0.5);
  EXPECT_TRUE(job->cancel_requested);
  EXPECT_EQ(job->start_time, absl::InfinitePast());
  EXPECT_EQ(job->expire_time, absl::InfiniteFuture());
  EXPECT_EQ(absl::ToUnixMicros(job->deadline), 1700000000000002);
  EXPECT_EQ(job->error, (JobError{"R", "m", Stage::kInterpolation, 3, "w"}));
  EXPECT_TRUE(absl::IsNotFound(DecodeJob("id", Fields({})).status()));
  for (size_t i = 1; i < 10; i += 2) {
    std::vector<std::string> bad = good;
    bad[i] = "\xff";
    EXPECT_EQ(DecodeJob("id", Fields(bad)).status().code(), absl::StatusCode::kDataLoss)
        << good[i - 1];
  }
  for (const char* bad_core :
       {"", "4 2 1 - 3 0.5 0 3 0 0 0 17 1 1 2 1-1 w", "7 2 1 - 3 0.5 0 3 0 0 0 17 1 1 2 1-1 w -",
        "4 0 1 - 3 0.5 0 3 0 0 0 17 1 1 2 1-1 w -", "4 2 1 - x 0.5 0 3 0 0 0 17 1 1 2 1-1 w -",
        "4 2 1 - 3 x 0 3 0 0 0 17 1 1 2 1-1 w -", "4 2 1 - 3 0.5 0 3 0 0 0 -1 1 1 2 1-1 w -",
        "4 2 1 - 3 0.5 0 3 0 0 0 17 1 1 x 1-1 w -"}) {
    std::vector<std::string> bad = good;
    bad[3] = bad_core;
    EXPECT_EQ(DecodeJob("id", Fields(bad)).status().code(), absl::StatusCode::kDataLoss)
        << bad_core;
  }
}

TEST(CodecTest, DoublesReadBack) {
  for (double value : {0.0, 1.0, 0.1, 1.0 / 3, 1e-300, 0.30000000000000004}) {
    EXPECT_EQ(std::stod(EncodeDouble(value)), value);
  }
}

}  // namespace
}  // namespace kandinsky
