// WatchJob, DownloadVideo and GenerateVideo: order, resumption, gaps, late comers, disconnection,
// many watchers.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <condition_variable>
#include <mutex>
#include <random>

#include "common/base/crc32c.h"
#include "tests/unit/frontend/test_frontend.h"

namespace kandinsky {
namespace {

using ::testing::ElementsAre;

std::string RandomBytes(size_t size) {
  std::mt19937 random(7);
  std::string bytes(size, '\0');
  for (char& byte : bytes) byte = static_cast<char>(random());
  return bytes;
}

// Event ids until the stream ends, and how it ended.
struct Watched {
  std::vector<pb::JobEvent> events;
  grpc::Status status;

  std::vector<std::string> ids() const {
    std::vector<std::string> ids;
    for (const auto& event : events) ids.push_back(event.event_id());
    return ids;
  }
};

Watched Watch(TestFrontend& frontend, const std::string& job_id, const std::string& after = "",
              const std::function<void(const pb::JobEvent&)>& on_event = nullptr) {
  pb::WatchJobRequest request;
  request.set_job_id(job_id);
  request.set_after_event_id(after);
  auto context = Call();
  auto stream = frontend.stub->WatchJob(context.get(), request);
  Watched watched;
  pb::JobEvent event;
  while (stream->Read(&event)) {
    watched.events.push_back(event);
    if (on_event) on_event(event);
  }
  watched.status = stream->Finish();
  return watched;
}

std::vector<std::string> Ids(int from, int to) {
  std::vector<std::string> ids;
  for (int i = from; i <= to; ++i) ids.push_back(std::to_string(i));
  return ids;
}

struct Downloaded {
  std::string bytes;
  std::vector<size_t> sizes;
  std::optional<uint64_t> total;  // of the last chunk
  grpc::Status status;
};

Downloaded Download(TestFrontend& frontend, const std::string& job_id, uint64_t offset,
                    const std::function<void(const pb::VideoChunk&)>& on_chunk = nullptr) {
  pb::DownloadVideoRequest request;
  request.set_job_id(job_id);
  request.set_offset(offset);
  auto context = Call();
  auto stream = frontend.stub->DownloadVideo(context.get(), request);
  Downloaded result;
  pb::VideoChunk chunk;
  while (stream->Read(&chunk)) {
    EXPECT_EQ(chunk.offset(), offset + result.bytes.size());
    EXPECT_EQ(chunk.crc32c(), Crc32c(chunk.data()));
    EXPECT_LE(chunk.data().size(), size_t{1} << 20);
    result.bytes += chunk.data();
    result.sizes.push_back(chunk.data().size());
    result.total = chunk.has_total_size() ? std::optional(chunk.total_size()) : std::nullopt;
    if (on_chunk) on_chunk(chunk);
  }
  result.status = stream->Finish();
  return result;
}

// --- WatchJob

TEST(WatchJob, LateEarlyAndResumedWatchersSeeEveryEventOnceInOrder) {
  TestFrontend frontend;
  const std::string id = frontend.Create().id();
  std::atomic<bool> seen_first{false};
  Watched early;
  std::thread watcher(
      [&] { early = Watch(frontend, id, "", [&](const pb::JobEvent&) { seen_first = true; }); });
  ASSERT_TRUE(Eventually([&] { return seen_first.load(); }));
  frontend.RunAll("bytes");
  watcher.join();

  const Watched late = Watch(frontend, id);
  const int last = std::stoi(late.events.back().event_id());
  EXPECT_GT(last, 8);
  EXPECT_THAT(early.ids(), ::testing::ElementsAreArray(Ids(1, last)));
  EXPECT_THAT(late.ids(), ::testing::ElementsAreArray(Ids(1, last)));
  EXPECT_TRUE(early.status.ok()) << early.status.error_message();
  EXPECT_TRUE(late.status.ok());
  EXPECT_EQ(late.events.front().state(), pb::JOB_STATE_QUEUED);
  EXPECT_EQ(late.events.back().type(), pb::JobEvent::TYPE_STATE_CHANGED);
  EXPECT_EQ(late.events.back().state(), pb::JOB_STATE_SUCCEEDED);
  EXPECT_EQ(late.events.back().video().size_bytes(), 5u);
  EXPECT_NEAR(late.events.back().video().duration().seconds(), 8, 1);
  for (int after = 0; after <= last; ++after) {
    const Watched resumed = Watch(frontend, id, after == 0 ? "" : std::to_string(after));
    EXPECT_TRUE(resumed.status.ok());
    EXPECT_THAT(resumed.ids(), ::testing::ElementsAreArray(Ids(after + 1, last)));
  }
}

TEST(WatchJob, AGapOfTheFeedIsFilledFromTheStore) {
  TestFrontend frontend;
  const std::string id = frontend.Create().id();
  std::atomic<int> seen{0};
  Watched watched;
  std::thread watcher(
      [&] { watched = Watch(frontend, id, "", [&](const pb::JobEvent&) { ++seen; }); });
  ASSERT_TRUE(Eventually([&] { return seen == 1; }));
  const Lease lease = frontend.Claim(Stage::kKeyframes);
  ASSERT_TRUE(Eventually([&] { return seen == 3; }));

  frontend.engine.BreakFeed();
  for (int i = 0; i < 200; ++i) frontend.Progress(lease, 0.001 * i);
  frontend.engine.RestoreFeed();
  ASSERT_TRUE(Eventually([&] { return seen == 203; })) << seen;

  // Without the word of a gap, the next event tells by its sequence that some are missing. The gap
  // is reported at the same time, so both ways lead to the store.
  frontend.engine.BreakFeed();
  frontend.Progress(lease, 0.5);
  frontend.engine.RestoreFeed();
  frontend.Progress(lease, 0.6);
  ASSERT_TRUE(Eventually([&] { return seen == 205; })) << seen;
  ASSERT_TRUE(
      frontend.engine.Fail(lease, {TaskFailure::Class::kPermanent, "MODEL_ERROR", "x"}).ok());
  watcher.join();
  EXPECT_TRUE(watched.status.ok());
  EXPECT_THAT(watched.ids(), ::testing::ElementsAreArray(Ids(1, 206)));
  EXPECT_EQ(watched.events.back().state(), pb::JOB_STATE_FAILED);
  EXPECT_EQ(watched.events.back().error().reason(), "MODEL_ERROR");
}

TEST(WatchJob, ASlowReaderLosesNothing) {
  TestFrontend frontend;
  const std::string id = frontend.Create().id();
  const Lease lease = frontend.Claim(Stage::kKeyframes);
  pb::WatchJobRequest request;
  request.set_job_id(id);
  auto context = Call();
  auto stream = frontend.stub->WatchJob(context.get(), request);
  pb::JobEvent event;
  ASSERT_TRUE(stream->Read(&event));
  // Previews that fill every buffer on the way while nobody reads, several times more than the
  // stream may hold.
  Preview preview;
  preview.png = RandomBytes(100000);
  const int count = 3 * static_cast<int>(128);
  for (int i = 0; i < count; ++i) ASSERT_TRUE(frontend.engine.PublishPreview(lease, preview).ok());
  ASSERT_TRUE(frontend.engine.Fail(lease, {TaskFailure::Class::kPermanent, "X", "x"}).ok());
  int next = 2;
  while (stream->Read(&event)) {
    ASSERT_EQ(event.event_id(), std::to_string(next++));
    if (event.has_preview()) {
      ASSERT_EQ(event.preview().png(), preview.png);
    }
  }
  EXPECT_TRUE(stream->Finish().ok());
  EXPECT_EQ(next - 1, 3 + count + 1);
}

TEST(WatchJob, AJobThatWasRetriedAfterItFailedIsFollowedToItsEnd) {
  TestFrontend frontend;
  const std::string id = frontend.Create(pb::LEVEL_LOW).id();
  const Lease lease = frontend.Claim(Stage::kKeyframes);
  ASSERT_TRUE(frontend.engine.Fail(lease, {TaskFailure::Class::kPermanent, "X", "x"}).ok());
  const Watched failed = Watch(frontend, id);
  EXPECT_EQ(failed.events.back().state(), pb::JOB_STATE_FAILED);
  ASSERT_TRUE(frontend.engine.RetryDead(id).ok());

  std::atomic<int> seen{0};
  Watched watched;
  std::thread watcher(
      [&] { watched = Watch(frontend, id, "", [&](const pb::JobEvent&) { ++seen; }); });
  const int before = static_cast<int>(failed.events.size());
  ASSERT_TRUE(Eventually([&] { return seen == before + 1; }));
  ASSERT_TRUE(frontend.engine.Cancel(id).ok());
  watcher.join();
  EXPECT_TRUE(watched.status.ok());
  EXPECT_EQ(watched.events.back().state(), pb::JOB_STATE_CANCELLED);
  EXPECT_THAT(watched.ids(), ::testing::ElementsAreArray(Ids(1, before + 2)));
}

TEST(WatchJob, ACancelledCallLeavesTheServer) {
  TestFrontend frontend;
  const std::string id = frontend.Create().id();
  pb::WatchJobRequest request;
  request.set_job_id(id);
  auto context = Call();
  auto stream = frontend.stub->WatchJob(context.get(), request);
  pb::JobEvent event;
  ASSERT_TRUE(stream->Read(&event));
  context->TryCancel();
  EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::CANCELLED);
  // The job goes on.
  frontend.RunAll("bytes");
  EXPECT_EQ(frontend.engine.Get(id)->state, JobState::kSucceeded);
}

TEST(WatchJob, StreamsBeyondTheLimitAreRefused) {
  FrontendSettings settings;
  settings.max_streams = 2;
  TestFrontend frontend({}, settings);
  const std::string id = frontend.Create().id();
  pb::WatchJobRequest request;
  request.set_job_id(id);
  std::vector<std::unique_ptr<grpc::ClientContext>> contexts;
  std::vector<std::unique_ptr<grpc::ClientReader<pb::JobEvent>>> streams;
  pb::JobEvent event;
  for (int i = 0; i < 2; ++i) {
    contexts.push_back(Call());
    streams.push_back(frontend.stub->WatchJob(contexts.back().get(), request));
    ASSERT_TRUE(streams.back()->Read(&event));
  }
  const Watched refused = Watch(frontend, id);
  EXPECT_EQ(refused.status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(DetailsOf(refused.status).reason, "OVERLOADED");
  EXPECT_TRUE(DetailsOf(refused.status).retry_seconds.has_value());
  for (auto& context : contexts) context->TryCancel();
  for (auto& stream : streams) stream->Finish();
  // The places are free again.
  ASSERT_TRUE(frontend.engine.Cancel(id).ok());
  ASSERT_TRUE(Eventually([&] { return Watch(frontend, id).status.ok(); }));
}

// One watcher of the test below; counts down when its stream has ended.
class CountingWatcher : public grpc::ClientReadReactor<pb::JobEvent> {
 public:
  CountingWatcher(pb::VideoService::Stub& stub, const std::string& job_id,
                  std::atomic<int>& started, std::atomic<int>& ended)
      : started_(started), ended_(ended) {
    request_.set_job_id(job_id);
    stub.async()->WatchJob(&context_, &request_, this);
    StartRead(&event_);
    StartCall();
  }
  void OnReadDone(bool ok) override {
    if (!ok) return;
    if (events_.empty()) ++started_;
    events_.push_back(std::stoi(event_.event_id()));
    StartRead(&event_);
  }
  void OnDone(const grpc::Status& status) override {
    status_ = status;
    ++ended_;
  }
  const std::vector<int>& events() const { return events_; }
  const grpc::Status& status() const { return status_; }

 private:
  std::atomic<int>& started_;
  std::atomic<int>& ended_;
  grpc::ClientContext context_;
  pb::WatchJobRequest request_;
  pb::JobEvent event_;
  std::vector<int> events_;
  grpc::Status status_;
};

int ThreadsOfThisProcess() {
  int count = 0;
  std::FILE* file = std::fopen("/proc/self/status", "r");
  char line[256];
  while (std::fgets(line, sizeof(line), file) != nullptr) {
    if (std::sscanf(line, "Threads: %d", &count) == 1) break;
  }
  std::fclose(file);
  return count;
}

TEST(WatchJob, TwoThousandWatchersNeedNoThreadsAndSeeTheSame) {
  TestFrontend frontend;
  const std::string ids[] = {frontend.Create().id(), frontend.Create().id()};
  constexpr int kWatchers = 2000;
  std::atomic<int> started{0};
  std::atomic<int> ended{0};
  const int threads_before = ThreadsOfThisProcess();
  std::vector<std::unique_ptr<CountingWatcher>> watchers;
  for (int i = 0; i < kWatchers; ++i) {
    watchers.push_back(
        std::make_unique<CountingWatcher>(*frontend.stub, ids[i % 2], started, ended));
  }
  ASSERT_TRUE(Eventually([&] { return started == kWatchers; })) << started;
  // gRPC's own pools may grow a little; a thread a stream would be thousands.
  EXPECT_LT(ThreadsOfThisProcess() - threads_before, 100);
  frontend.RunAll("one");
  frontend.RunAll("two");
  ASSERT_TRUE(Eventually([&] { return ended == kWatchers; })) << ended;
  for (int job = 0; job < 2; ++job) {
    const int last = std::stoi(frontend.engine.Get(ids[job])->last_event_id);
    std::vector<int> want;
    for (int i = 1; i <= last; ++i) want.push_back(i);
    for (int i = job; i < kWatchers; i += 2) {
      ASSERT_TRUE(watchers[i]->status().ok()) << watchers[i]->status().error_message();
      ASSERT_EQ(watchers[i]->events(), want) << i;
    }
  }
}

// --- DownloadVideo

TEST(DownloadVideo, ResumesAtAnyByte) {
  TestFrontend frontend;
  const std::string bytes = RandomBytes((3 << 20) + 12345);
  const std::string id = frontend.Create().id();
  frontend.RunAll(bytes);
  const Downloaded whole = Download(frontend, id, 0);
  EXPECT_TRUE(whole.status.ok());
  EXPECT_TRUE(whole.bytes == bytes);
  EXPECT_THAT(whole.sizes, ElementsAre(1 << 20, 1 << 20, 1 << 20, 12345));
  EXPECT_EQ(whole.total, bytes.size());
  for (const uint64_t offset :
       {uint64_t{1}, uint64_t{(1 << 20) - 1}, uint64_t{1 << 20}, uint64_t{(1 << 20) + 1},
        uint64_t{2'000'003}, uint64_t{bytes.size() - 1}, uint64_t{bytes.size()}}) {
    const Downloaded rest = Download(frontend, id, offset);
    EXPECT_TRUE(rest.status.ok()) << offset;
    EXPECT_TRUE(rest.bytes == bytes.substr(offset)) << offset;
  }
  const Downloaded beyond = Download(frontend, id, bytes.size() + 1);
  EXPECT_EQ(beyond.status.error_code(), grpc::StatusCode::OUT_OF_RANGE);
  EXPECT_EQ(DetailsOf(beyond.status).reason, "OFFSET_OUT_OF_RANGE");
  ASSERT_TRUE(frontend.engine.Remove(id, std::nullopt).ok());
  const Downloaded removed = Download(frontend, id, 0);
  EXPECT_EQ(removed.status.error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(DetailsOf(removed.status).reason, "VIDEO_NOT_AVAILABLE");
}

TEST(DownloadVideo, FollowsAVideoThatIsWrittenAndItsSecondAttempt) {
  QueueOptions options;
  options.retry_base_delay = absl::Milliseconds(1);
  options.retry_max_delay = absl::Milliseconds(1);
  TestFrontend frontend(options);
  const std::string bytes = RandomBytes(300000);
  const std::string id = frontend.Create(pb::LEVEL_HIGH, pb::VIDEO_FORMAT_WEBM).id();
  std::atomic<size_t> received{0};
  Downloaded result;
  std::vector<bool> with_total;
  std::thread reader([&] {
    result = Download(frontend, id, 0, [&](const pb::VideoChunk& chunk) {
      with_total.push_back(chunk.has_total_size());
      received += chunk.data().size();
    });
  });
  frontend.RunTo(Stage::kDecoding);
  const Lease first = frontend.Claim(Stage::kDecoding);
  const auto append = [&](const Lease& lease, uint64_t from, uint64_t to) {
    ASSERT_TRUE(frontend.engine
                    .Append(id, lease.video_generation, from,
                            std::string_view(bytes).substr(from, to - from))
                    .ok());
    frontend.Progress(lease, static_cast<double>(to) / static_cast<double>(bytes.size()));
  };
  append(first, 0, 100000);
  ASSERT_TRUE(Eventually([&] { return received == 100000; })) << received;
  append(first, 100000, 150000);
  ASSERT_TRUE(Eventually([&] { return received == 150000; })) << received;
  // The attempt fails; the next writes the same bytes from the start, and the reader goes on where
  // it was.
  ASSERT_TRUE(frontend.engine.Fail(first, {TaskFailure::Class::kTransient, "X", "x"}).ok());
  const Lease second = frontend.Claim(Stage::kDecoding);
  EXPECT_NE(second.video_generation, first.video_generation);
  append(second, 0, 120000);
  append(second, 120000, 200000);
  ASSERT_TRUE(Eventually([&] { return received == 200000; })) << received;
  ASSERT_TRUE(
      frontend.engine
          .Append(id, second.video_generation, 200000, std::string_view(bytes).substr(200000))
          .ok());
  frontend.FinishVideo(second, bytes.size());
  reader.join();
  EXPECT_TRUE(result.status.ok()) << result.status.error_message();
  EXPECT_TRUE(result.bytes == bytes);
  EXPECT_FALSE(with_total.front());
  // Only a chunk that is read after the job has ended has the size; the last may be read before.
  EXPECT_EQ(result.total.value_or(bytes.size()), bytes.size());
}

TEST(DownloadVideo, OutcomesWithoutAVideo) {
  struct Case {
    std::string name;
    std::function<void(TestFrontend&, const std::string&)> end;
    grpc::StatusCode code;
    std::string reason;
  };
  const Case cases[] = {
      {"failed",
       [](TestFrontend& frontend, const std::string&) {
         const Lease lease = frontend.Claim(Stage::kKeyframes);
         EXPECT_TRUE(
             frontend.engine.Fail(lease, {TaskFailure::Class::kPermanent, "MODEL_ERROR", "x"})
                 .ok());
       },
       grpc::StatusCode::FAILED_PRECONDITION, "JOB_FAILED"},
      {"cancelled",
       [](TestFrontend& frontend, const std::string& id) {
         EXPECT_TRUE(frontend.engine.Cancel(id).ok());
       },
       grpc::StatusCode::CANCELLED, "JOB_CANCELLED"},
  };
  for (const Case& c : cases) {
    for (const bool late : {true, false}) {
      SCOPED_TRACE(c.name + (late ? ", late" : ", waiting"));
      TestFrontend frontend;
      const std::string id = frontend.Create().id();
      Downloaded result;
      std::thread reader;
      if (!late) {
        reader = std::thread([&] { result = Download(frontend, id, 0); });
      }
      c.end(frontend, id);
      if (late) {
        result = Download(frontend, id, 0);
      } else {
        reader.join();
      }
      EXPECT_EQ(result.status.error_code(), c.code);
      EXPECT_EQ(DetailsOf(result.status).reason, c.reason);
    }
  }
}

// --- GenerateVideo

struct Generated {
  std::vector<std::string>
      kinds;  // "job", "event", "chunk" in the order of arrival, repetitions left out
  pb::Job job;
  std::vector<std::string> event_ids;
  std::string bytes;
  grpc::Status status;
};

class Generation {
 public:
  Generation(TestFrontend& frontend, const pb::GenerateVideoRequest& request, int seconds = 30)
      : context_(Call(seconds)), stream_(frontend.stub->GenerateVideo(context_.get(), request)) {}

  // The Job, which comes first.
  pb::Job First() {
    pb::GenerateVideoResponse message;
    EXPECT_TRUE(stream_->Read(&message));
    EXPECT_TRUE(message.has_job());
    result_.job = message.job();
    result_.kinds.push_back("job");
    return message.job();
  }

  Generated Rest() {
    pb::GenerateVideoResponse message;
    while (stream_->Read(&message)) {
      const std::string kind = message.has_event()   ? "event"
                               : message.has_chunk() ? "chunk"
                                                     : "job";
      if (result_.kinds.empty() || result_.kinds.back() != kind) result_.kinds.push_back(kind);
      if (message.has_event()) result_.event_ids.push_back(message.event().event_id());
      if (message.has_chunk()) {
        EXPECT_EQ(message.chunk().offset(), result_.bytes.size());
        EXPECT_EQ(message.chunk().crc32c(), Crc32c(message.chunk().data()));
        result_.bytes += message.chunk().data();
      }
    }
    result_.status = stream_->Finish();
    return result_;
  }

  void Cancel() { context_->TryCancel(); }

 private:
  std::unique_ptr<grpc::ClientContext> context_;
  std::unique_ptr<grpc::ClientReader<pb::GenerateVideoResponse>> stream_;
  Generated result_;
};

pb::GenerateVideoRequest GoodGenerate() {
  pb::GenerateVideoRequest request;
  request.mutable_parameters()->set_prompt("a red circle");
  return request;
}

TEST(GenerateVideo, JobThenEventsThenChunks) {
  TestFrontend frontend;
  const std::string bytes = RandomBytes((1 << 20) + 77);
  Generation generation(frontend, GoodGenerate());
  const pb::Job job = generation.First();
  EXPECT_EQ(job.state(), pb::JOB_STATE_QUEUED);
  EXPECT_EQ(job.priority(), pb::PRIORITY_INTERACTIVE);
  std::thread worker([&] { frontend.RunAll(bytes); });
  const Generated result = generation.Rest();
  worker.join();
  EXPECT_TRUE(result.status.ok()) << result.status.error_message();
  EXPECT_TRUE(result.bytes == bytes);
  EXPECT_EQ(result.kinds.front(), "job");
  EXPECT_EQ(result.kinds[1], "event");
  // The last event and the last chunk may pass each other.
  EXPECT_THAT(result.kinds, ::testing::Contains("chunk"));
  const int last = std::stoi(frontend.engine.Get(job.id())->last_event_id);
  EXPECT_THAT(result.event_ids, ::testing::ElementsAreArray(Ids(1, last)));
}

TEST(GenerateVideo, StreamableFormatsSendChunksBeforeTheEnd) {
  TestFrontend frontend;
  pb::GenerateVideoRequest request = GoodGenerate();
  request.mutable_parameters()->set_format(pb::VIDEO_FORMAT_FRAGMENTED_MP4);
  const std::string bytes = RandomBytes(5000);
  auto context = Call();
  auto stream = frontend.stub->GenerateVideo(context.get(), request);
  frontend.RunTo(Stage::kDecoding);
  const Lease lease = frontend.Claim(Stage::kDecoding);
  ASSERT_TRUE(
      frontend.engine.Append(lease.job_id, lease.video_generation, 0, bytes.substr(0, 2000)).ok());
  frontend.Progress(lease, 0.4);
  pb::GenerateVideoResponse message;
  std::string received;
  while (received.size() < 2000 && stream->Read(&message)) {
    if (message.has_chunk()) received += message.chunk().data();
  }
  EXPECT_EQ(received.size(), 2000u);
  EXPECT_EQ(frontend.engine.Get(lease.job_id)->state, JobState::kRunning);
  ASSERT_TRUE(
      frontend.engine.Append(lease.job_id, lease.video_generation, 2000, bytes.substr(2000)).ok());
  frontend.FinishVideo(lease, bytes.size());
  while (stream->Read(&message)) {
    if (message.has_chunk()) received += message.chunk().data();
  }
  EXPECT_TRUE(stream->Finish().ok());
  EXPECT_TRUE(received == bytes);
}

TEST(GenerateVideo, EndsWithTheOutcomeAfterTheLastEvent) {
  TestFrontend frontend;
  Generation generation(frontend, GoodGenerate());
  const pb::Job job = generation.First();
  const Lease lease = frontend.Claim(Stage::kKeyframes);
  ASSERT_TRUE(
      frontend.engine.Fail(lease, {TaskFailure::Class::kPermanent, "MODEL_ERROR", "bad"}).ok());
  const Generated result = generation.Rest();
  EXPECT_EQ(result.status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_EQ(DetailsOf(result.status).reason, "JOB_FAILED");
  EXPECT_EQ(result.event_ids.back(), frontend.engine.Get(job.id())->last_event_id);
}

TEST(GenerateVideo, CancelOnDisconnect) {
  for (const bool cancel_on_disconnect : {true, false}) {
    SCOPED_TRACE(cancel_on_disconnect);
    TestFrontend frontend;
    pb::GenerateVideoRequest request = GoodGenerate();
    request.set_cancel_on_disconnect(cancel_on_disconnect);
    Generation generation(frontend, request);
    const pb::Job job = generation.First();
    generation.Cancel();
    EXPECT_EQ(generation.Rest().status.error_code(), grpc::StatusCode::CANCELLED);
    if (cancel_on_disconnect) {
      EXPECT_TRUE(
          Eventually([&] { return frontend.engine.Get(job.id())->state == JobState::kCancelled; }));
    } else {
      frontend.RunAll("bytes");
      EXPECT_EQ(frontend.engine.Get(job.id())->state, JobState::kSucceeded);
      EXPECT_EQ(Download(frontend, job.id(), 0).bytes, "bytes");
    }
  }
}

TEST(GenerateVideo, CancelOnDisconnectSurvivesAnOutageOfTheStore) {
  TestFrontend frontend;
  pb::GenerateVideoRequest request = GoodGenerate();
  request.set_cancel_on_disconnect(true);
  Generation generation(frontend, request);
  const pb::Job job = generation.First();
  frontend.failures.FailAll(true);
  generation.Cancel();
  generation.Rest();
  EXPECT_EQ(frontend.engine.Get(job.id())->state, JobState::kQueued);
  frontend.failures.FailAll(false);
  EXPECT_TRUE(
      Eventually([&] { return frontend.engine.Get(job.id())->state == JobState::kCancelled; }));
}

TEST(GenerateVideo, TheDeadlineOfTheCallBoundsTheJobOnlyWithCancelOnDisconnect) {
  struct Case {
    std::string name;
    bool cancel_on_disconnect;
    std::optional<int> timeout;  // s
    int call_seconds;
    int want_least, want_most;  // of the job's timeout, s
  };
  const Case cases[] = {
      {"goes on", false, {}, 100, 3600, 3600},
      {"bounded", true, {}, 100, 90, 100},
      {"explicit", true, 500, 100, 500, 500},
      {"longer than the default", true, {}, 7200, 3600, 3600},
  };
  TestFrontend frontend;
  for (const Case& c : cases) {
    SCOPED_TRACE(c.name);
    pb::GenerateVideoRequest request = GoodGenerate();
    request.set_cancel_on_disconnect(c.cancel_on_disconnect);
    if (c.timeout) request.mutable_timeout()->set_seconds(*c.timeout);
    Generation generation(frontend, request, c.call_seconds);
    const std::string id = generation.First().id();
    const absl::Duration timeout = frontend.engine.Get(id)->spec.timeout;
    EXPECT_GE(timeout, absl::Seconds(c.want_least));
    EXPECT_LE(timeout,
              absl::Seconds(c.want_most) + absl::Milliseconds(10));  // gRPC rounds deadlines
    generation.Cancel();
    generation.Rest();
  }
}

TEST(GenerateVideo, TheSameRequestIdContinuesTheSameJob) {
  TestFrontend frontend;
  pb::GenerateVideoRequest request = GoodGenerate();
  request.set_request_id("again");
  Generation first(frontend, request);
  const std::string id = first.First().id();
  first.Cancel();
  first.Rest();
  frontend.RunAll("bytes");
  Generation second(frontend, request);
  EXPECT_EQ(second.First().id(), id);
  const Generated result = second.Rest();
  EXPECT_TRUE(result.status.ok());
  EXPECT_EQ(result.bytes, "bytes");
  EXPECT_EQ(result.event_ids.front(), "1");
  EXPECT_EQ(frontend.CountJobs(), 1);
}

}  // namespace
}  // namespace kandinsky
