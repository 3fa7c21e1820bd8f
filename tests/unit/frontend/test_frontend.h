// A frontend over the in-memory engine, reached through an in-process channel; its stores fail on
// demand.
#ifndef KANDINSKY_TESTS_UNIT_FRONTEND_TEST_FRONTEND_H_
#define KANDINSKY_TESTS_UNIT_FRONTEND_TEST_FRONTEND_H_

#include <google/rpc/error_details.pb.h>
#include <google/rpc/status.pb.h>
#include <grpcpp/client_context.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "common/queue/fake_queue.h"
#include "kandinsky/video/v1/admin_service.grpc.pb.h"
#include "kandinsky/video/v1/video_service.grpc.pb.h"
#include "services/frontend/server.h"

namespace kandinsky {

namespace pb = video::v1;

// Sizes 32 to 256 in steps of 8, at most 32,768 pixels; 2 to 100 steps; guidance 0 to 20 and 0
// to 5.
inline const char kTinyModel[] = R"({
  "format_version": 1, "name": "tiny", "description": "for tests", "keyframes": 16,
  "defaults": {"level": "high", "width": 64, "height": 48, "steps": 50,
               "guidance_scale": 5.0, "interpolation_guidance_scale": 0.25},
  "limits": {
    "width": {"min": 32, "max": 256, "multiple": 8}, "height": {"min": 32, "max": 256, "multiple": 8},
    "pixels_max": 32768, "steps": {"min": 2, "max": 100},
    "guidance_scale": {"min": 0, "max": 20}, "interpolation_guidance_scale": {"min": 0, "max": 5},
    "prompt_characters": {"min": 1, "max": 2000}, "negative_prompt_characters": {"min": 0, "max": 2000}},
  "levels": [{"name": "low", "passes": 0, "frames": 16, "fps": [2, 1]},
             {"name": "medium", "passes": 1, "frames": 61, "fps": [15, 2]},
             {"name": "high", "passes": 2, "frames": 241, "fps": [30, 1]}]})";

// What an error status carries.
struct ErrorDetails {
  std::string reason;
  std::string domain;
  std::vector<std::string> fields;        // of BadRequest
  std::vector<std::string> descriptions;  // of BadRequest
  std::optional<double> retry_seconds;
};

inline ErrorDetails DetailsOf(const grpc::Status& status) {
  ErrorDetails details;
  google::rpc::Status rpc;
  EXPECT_TRUE(rpc.ParseFromString(status.error_details())) << status.error_message();
  EXPECT_EQ(rpc.code(), static_cast<int>(status.error_code()));
  EXPECT_EQ(rpc.message(), status.error_message());
  for (const auto& any : rpc.details()) {
    google::rpc::ErrorInfo info;
    google::rpc::BadRequest bad;
    google::rpc::RetryInfo retry;
    if (any.UnpackTo(&info)) {
      details.reason = info.reason();
      details.domain = info.domain();
    } else if (any.UnpackTo(&bad)) {
      for (const auto& violation : bad.field_violations()) {
        details.fields.push_back(violation.field());
        details.descriptions.push_back(violation.description());
      }
    } else if (any.UnpackTo(&retry)) {
      details.retry_seconds =
          static_cast<double>(retry.retry_delay().seconds()) + 1e-9 * retry.retry_delay().nanos();
    }
  }
  return details;
}

// A client call that no test waits for longer than this.
inline std::unique_ptr<grpc::ClientContext> Call(int seconds = 30) {
  auto context = std::make_unique<grpc::ClientContext>();
  context->set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(seconds));
  return context;
}

// Waits until `condition` holds; false after 20 s.
inline bool Eventually(const std::function<bool()>& condition) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  while (!condition()) {
    if (std::chrono::steady_clock::now() > end) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  return true;
}

class TestFrontend {
 public:
  explicit TestFrontend(QueueOptions queue = {}, FrontendSettings settings = {},
                        ServerOptions options = {}, const std::string& model_json = kTinyModel)
      : engine(std::move(queue)),
        jobs(&engine, &failures),
        tasks(&engine, &failures),
        videos(&engine, &failures) {
    options.listen = "";
    options.admin = true;
    options.tick_period = absl::Milliseconds(20);
    options.housekeeping_period = absl::Milliseconds(20);
    settings.choose_seed = [this] { return next_seed.fetch_add(1); };
    const auto model = ModelCatalog::Parse(model_json, "test");
    EXPECT_TRUE(model.ok()) << model.status();
    auto started = FrontendServer::Start(
        options, {.jobs = &jobs, .queue = &tasks, .videos = &videos, .feed = &engine},
        ModelCatalog({*model}), settings, metrics);
    EXPECT_TRUE(started.ok()) << started.status();
    server = *std::move(started);
    channel = server->InProcessChannel();
    stub = pb::VideoService::NewStub(channel);
    admin = pb::AdminService::NewStub(channel);
  }

  pb::Job Create(pb::Level level = pb::LEVEL_HIGH, pb::VideoFormat format = pb::VIDEO_FORMAT_MP4) {
    pb::CreateJobRequest request;
    request.mutable_parameters()->set_prompt("a red circle");
    request.mutable_parameters()->set_level(level);
    request.mutable_parameters()->set_format(format);
    pb::Job job;
    const grpc::Status status = stub->CreateJob(Call().get(), request, &job);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return job;
  }

  int CountJobs() {
    const auto page = engine.List({}, 1000, "");
    return page.ok() ? static_cast<int>(page->jobs.size()) : -1;
  }

  // --- what workers do
  Lease Claim(Stage stage) {
    auto lease = engine.Claim(stage, "worker", absl::Seconds(10));
    EXPECT_TRUE(lease.ok() && lease->has_value());
    return lease.ok() && lease->has_value() ? **lease : Lease{};
  }
  void Progress(const Lease& lease, double fraction) {
    StageProgress progress;
    progress.step = static_cast<int>(fraction * 10);
    progress.steps = 10;
    progress.stage_fraction = fraction;
    EXPECT_TRUE(engine.Renew(lease, progress).ok());
  }
  void RunTo(Stage end) {
    for (const Stage stage : kStages) {
      if (stage == end) return;
      const Lease lease = Claim(stage);
      Progress(lease, 0.5);
      EXPECT_TRUE(engine.Complete(lease, LatentLocation{}).ok());
    }
  }
  void FinishVideo(const Lease& lease, uint64_t size) {
    EXPECT_TRUE(engine.Seal(lease.job_id, lease.video_generation).ok());
    VideoInfo video;
    video.size_bytes = size;
    video.frames = 241;
    video.fps = 30;
    video.mime_type = "video/mp4";
    EXPECT_TRUE(engine.Finish(lease, video).ok());
  }
  // Runs the whole job that waits, with these bytes as its video.
  void RunAll(const std::string& bytes) {
    RunTo(Stage::kDecoding);
    const Lease lease = Claim(Stage::kDecoding);
    EXPECT_TRUE(engine.Append(lease.job_id, lease.video_generation, 0, bytes).ok());
    FinishVideo(lease, bytes.size());
  }

  std::atomic<uint64_t> next_seed{1000};
  Metrics metrics{"test"};
  InMemoryEngine engine;
  FailureSwitch failures;
  FailingJobStore jobs;
  FailingTaskQueue tasks;
  FailingVideoStore videos;
  std::unique_ptr<FrontendServer> server;
  std::shared_ptr<grpc::Channel> channel;
  std::unique_ptr<pb::VideoService::Stub> stub;
  std::unique_ptr<pb::AdminService::Stub> admin;
};

}  // namespace kandinsky

#endif  // KANDINSKY_TESTS_UNIT_FRONTEND_TEST_FRONTEND_H_
