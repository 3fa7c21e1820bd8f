// The server as a whole: outages of the store, health, drain, limits, dead letters, metrics.
#include <gmock/gmock.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/generic/generic_stub.h>
#include <gtest/gtest.h>
#include <prometheus/text_serializer.h>

#include <future>

#include "services/frontend/work_pool.h"
#include "tests/unit/frontend/test_frontend.h"

namespace kandinsky {
namespace {

using ::testing::HasSubstr;

TEST(Outage, EveryCallSaysUnavailableWithRetryInfoAndRecovers) {
  TestFrontend frontend;
  const std::string id = frontend.Create().id();
  auto& stub = *frontend.stub;
  pb::CreateJobRequest create;
  create.mutable_parameters()->set_prompt("x");
  pb::GetJobRequest get;
  get.set_job_id(id);
  pb::CancelJobRequest cancel;
  cancel.set_job_id(id);
  pb::DeleteJobRequest remove;
  remove.set_job_id(id);
  pb::WatchJobRequest watch;
  watch.set_job_id(id);
  pb::DownloadVideoRequest download;
  download.set_job_id(id);
  pb::GenerateVideoRequest generate;
  generate.mutable_parameters()->set_prompt("x");
  struct Case {
    std::string name;
    std::function<grpc::Status()> call;
  };
  const Case cases[] = {
      {"CreateJob",
       [&] {
         pb::Job job;
         return stub.CreateJob(Call().get(), create, &job);
       }},
      {"GetJob",
       [&] {
         pb::Job job;
         return stub.GetJob(Call().get(), get, &job);
       }},
      {"ListJobs",
       [&] {
         pb::ListJobsResponse response;
         return stub.ListJobs(Call().get(), {}, &response);
       }},
      {"CancelJob",
       [&] {
         pb::Job job;
         return stub.CancelJob(Call().get(), cancel, &job);
       }},
      {"DeleteJob",
       [&] {
         google::protobuf::Empty empty;
         return stub.DeleteJob(Call().get(), remove, &empty);
       }},
      {"WatchJob",
       [&] {
         auto c = Call();
         return stub.WatchJob(c.get(), watch)->Finish();
       }},
      {"DownloadVideo",
       [&] {
         auto c = Call();
         return stub.DownloadVideo(c.get(), download)->Finish();
       }},
      {"GenerateVideo",
       [&] {
         auto c = Call();
         return stub.GenerateVideo(c.get(), generate)->Finish();
       }},
  };
  frontend.failures.FailAll(true);
  for (const Case& c : cases) {
    SCOPED_TRACE(c.name);
    const grpc::Status status = c.call();
    EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
    const ErrorDetails details = DetailsOf(status);
    EXPECT_EQ(details.reason, "STORE_UNAVAILABLE");
    EXPECT_TRUE(details.retry_seconds.has_value());
  }
  pb::ServerInfo info;
  EXPECT_TRUE(stub.GetServerInfo(Call().get(), {}, &info).ok());
  EXPECT_EQ(info.stages_size(), 0);
  EXPECT_EQ(frontend.CountJobs(), 1);
  frontend.failures.FailAll(false);
  pb::Job job;
  EXPECT_TRUE(stub.GetJob(Call().get(), get, &job).ok());
  EXPECT_TRUE(stub.CreateJob(Call().get(), create, &job).ok());
}

TEST(Outage, StreamsThatHaveBegunGoOnWhenTheStoreIsBack) {
  TestFrontend frontend;
  const std::string id = frontend.Create().id();
  pb::WatchJobRequest watch;
  watch.set_job_id(id);
  pb::DownloadVideoRequest download;
  download.set_job_id(id);
  auto watch_context = Call();
  auto download_context = Call();
  auto events = frontend.stub->WatchJob(watch_context.get(), watch);
  auto chunks = frontend.stub->DownloadVideo(download_context.get(), download);
  frontend.RunTo(Stage::kDecoding);
  const Lease lease = frontend.Claim(Stage::kDecoding);
  ASSERT_TRUE(frontend.engine.Append(id, lease.video_generation, 0, "first ").ok());
  frontend.Progress(lease, 0.1);
  pb::VideoChunk chunk;
  ASSERT_TRUE(chunks->Read(&chunk));
  EXPECT_EQ(chunk.data(), "first ");

  frontend.failures.FailAll(true);
  frontend.engine.BreakFeed();
  ASSERT_TRUE(frontend.engine.Append(id, lease.video_generation, 6, "second").ok());
  frontend.FinishVideo(lease, 12);
  frontend.engine.RestoreFeed();  // reports the gap while the store still fails
  frontend.failures.FailAll(false);

  int next = 1;
  pb::JobEvent event;
  while (events->Read(&event)) EXPECT_EQ(event.event_id(), std::to_string(next++));
  EXPECT_TRUE(events->Finish().ok());
  EXPECT_EQ(event.state(), pb::JOB_STATE_SUCCEEDED);
  ASSERT_TRUE(chunks->Read(&chunk));
  EXPECT_EQ(chunk.data(), "second");
  EXPECT_FALSE(chunks->Read(&chunk));
  EXPECT_TRUE(chunks->Finish().ok());
}

TEST(Outage, AReplyThatWasLostIsRepairedByTheRequestId) {
  TestFrontend frontend;
  pb::CreateJobRequest request;
  request.mutable_parameters()->set_prompt("x");
  request.set_request_id("r");
  pb::Job job;
  // Housekeeping uses the same switch, so it may take the failure: try until the call has met it.
  ASSERT_TRUE(Eventually([&] {
    frontend.failures.LoseReplies(1);
    const grpc::Status status = frontend.stub->CreateJob(Call().get(), request, &job);
    return status.error_code() == grpc::StatusCode::UNAVAILABLE;
  }));
  ASSERT_TRUE(
      Eventually([&] { return frontend.stub->CreateJob(Call().get(), request, &job).ok(); }));
  EXPECT_EQ(frontend.CountJobs(), 1);
}

// --- health

// grpc.health.v1.Health/Check by hand, because its messages are not installed: a string field and
// an enum field, both number 1.
std::string Health(TestFrontend& frontend, const std::string& service) {
  grpc::GenericStub stub(frontend.channel);
  const grpc::Slice slice("\x0a" + std::string(1, static_cast<char>(service.size())) + service);
  const grpc::ByteBuffer request(&slice, 1);
  grpc::ByteBuffer response;
  grpc::Status status;
  std::promise<void> done;
  auto context = Call();
  stub.UnaryCall(context.get(), "/grpc.health.v1.Health/Check", {}, &request, &response,
                 [&](grpc::Status result) {
                   status = std::move(result);
                   done.set_value();
                 });
  done.get_future().wait();
  if (!status.ok()) return std::to_string(status.error_code());
  grpc::Slice answer;
  if (!response.DumpToSingleSlice(&answer).ok() || answer.size() != 2) return "?";
  return answer.begin()[1] == 1 ? "SERVING" : answer.begin()[1] == 2 ? "NOT_SERVING" : "?";
}

TEST(Health, OverallAndPerStage) {
  QueueOptions options;
  options.heartbeat_interval = absl::Milliseconds(100);
  TestFrontend frontend(options);
  EXPECT_EQ(Health(frontend, ""), "SERVING");
  EXPECT_EQ(Health(frontend, "kandinsky.video.v1.VideoService"), "SERVING");
  EXPECT_EQ(Health(frontend, "no.such.Service"), "5");
  for (const char* stage : {"keyframes", "interpolation", "decoding"}) {
    EXPECT_EQ(Health(frontend, std::string("kandinsky.stage.") + stage), "NOT_SERVING");
  }
  std::atomic<bool> stop{false};
  std::thread worker([&] {
    while (!stop) {
      EXPECT_TRUE(
          frontend.engine.Heartbeat({.id = "a", .stage = Stage::kDecoding, .state = "ready"}).ok());
      EXPECT_TRUE(
          frontend.engine.Heartbeat({.id = "b", .stage = Stage::kKeyframes, .state = "loading"})
              .ok());
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
  });
  EXPECT_TRUE(
      Eventually([&] { return Health(frontend, "kandinsky.stage.decoding") == "SERVING"; }));
  EXPECT_EQ(Health(frontend, "kandinsky.stage.keyframes"), "NOT_SERVING");
  frontend.failures.FailAll(true);
  EXPECT_TRUE(Eventually([&] { return Health(frontend, "") == "NOT_SERVING"; }));
  frontend.failures.FailAll(false);
  EXPECT_TRUE(Eventually([&] { return Health(frontend, "") == "SERVING"; }));
  stop = true;
  worker.join();
  EXPECT_TRUE(
      Eventually([&] { return Health(frontend, "kandinsky.stage.decoding") == "NOT_SERVING"; }));
}

// --- drain

TEST(Drain, WatchersAreSentElsewhereAndDownloadsMayFinish) {
  TestFrontend frontend;
  const std::string id = frontend.Create().id();
  pb::WatchJobRequest watch;
  watch.set_job_id(id);
  pb::GenerateVideoRequest generate;
  generate.mutable_parameters()->set_prompt("x");
  generate.set_cancel_on_disconnect(true);
  pb::DownloadVideoRequest download;
  download.set_job_id(id);
  auto watch_context = Call();
  auto generate_context = Call();
  auto download_context = Call();
  auto events = frontend.stub->WatchJob(watch_context.get(), watch);
  pb::JobEvent event;
  ASSERT_TRUE(events->Read(&event));
  auto generation = frontend.stub->GenerateVideo(generate_context.get(), generate);
  pb::GenerateVideoResponse message;
  ASSERT_TRUE(generation->Read(&message));
  const std::string generated_id = message.job().id();
  frontend.engine.Cancel(generated_id).IgnoreError();
  auto chunks = frontend.stub->DownloadVideo(download_context.get(), download);
  frontend.RunTo(Stage::kDecoding);
  const Lease lease = frontend.Claim(Stage::kDecoding);
  ASSERT_TRUE(frontend.engine.Append(id, lease.video_generation, 0, "abc").ok());
  frontend.Progress(lease, 0.5);
  pb::VideoChunk chunk;
  ASSERT_TRUE(chunks->Read(&chunk));

  auto stopped =
      std::async(std::launch::async, [&] { frontend.server->Shutdown(absl::Seconds(30)); });
  while (events->Read(&event)) {
  }
  const grpc::Status watch_status = events->Finish();
  EXPECT_EQ(watch_status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(DetailsOf(watch_status).reason, "SHUTTING_DOWN");
  EXPECT_TRUE(DetailsOf(watch_status).retry_seconds.has_value());

  EXPECT_EQ(stopped.wait_for(std::chrono::milliseconds(0)), std::future_status::timeout);
  frontend.FinishVideo(lease, 3);
  EXPECT_FALSE(chunks->Read(&chunk));
  EXPECT_TRUE(chunks->Finish().ok());
  stopped.get();
}

TEST(Drain, ADrainIsNoDisconnect) {
  TestFrontend frontend;
  pb::GenerateVideoRequest generate;
  generate.mutable_parameters()->set_prompt("x");
  generate.set_cancel_on_disconnect(true);
  auto context = Call();
  auto generation = frontend.stub->GenerateVideo(context.get(), generate);
  pb::GenerateVideoResponse message;
  ASSERT_TRUE(generation->Read(&message));
  const std::string id = message.job().id();
  frontend.server->Shutdown(absl::ZeroDuration());
  while (generation->Read(&message)) {
  }
  EXPECT_EQ(generation->Finish().error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(frontend.engine.Get(id)->state, JobState::kQueued);
}

TEST(Drain, HurryEndsDownloadsThatWait) {
  TestFrontend frontend;
  const std::string id = frontend.Create().id();
  pb::DownloadVideoRequest download;
  download.set_job_id(id);
  auto context = Call();
  auto chunks = frontend.stub->DownloadVideo(context.get(), download);
  ASSERT_TRUE(Eventually([&] {
    const auto families = frontend.metrics.registry().Collect();
    return prometheus::TextSerializer().Serialize(families).find(
               "kandinsky_frontend_download_streams 1") != std::string::npos;
  }));
  std::atomic<bool> hurry{false};
  auto stopped =
      std::async(std::launch::async, [&] { frontend.server->Shutdown(absl::Minutes(10), &hurry); });
  EXPECT_EQ(stopped.wait_for(std::chrono::milliseconds(50)), std::future_status::timeout);
  hurry = true;
  const grpc::Status status = chunks->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(DetailsOf(status).reason, "SHUTTING_DOWN");
  stopped.get();
}

// --- dead letters

TEST(Admin, DeadLettersAreListedRetriedAndPurged) {
  TestFrontend frontend;
  std::vector<std::string> ids;
  for (int i = 0; i < 2; ++i) {
    ids.push_back(frontend.Create().id());
    const Lease lease = frontend.Claim(Stage::kKeyframes);
    ASSERT_TRUE(
        frontend.engine.Fail(lease, {TaskFailure::Class::kPermanent, "MODEL_ERROR", "bad"}).ok());
  }
  pb::ListDeadJobsResponse list;
  ASSERT_TRUE(frontend.admin->ListDeadJobs(Call().get(), {}, &list).ok());
  ASSERT_EQ(list.dead_jobs_size(), 2);

  pb::GetDeadJobRequest get;
  get.set_job_id(ids[0]);
  pb::DeadJob dead;
  ASSERT_TRUE(frontend.admin->GetDeadJob(Call().get(), get, &dead).ok());
  EXPECT_EQ(dead.job().id(), ids[0]);
  EXPECT_EQ(dead.job().error().reason(), "MODEL_ERROR");
  EXPECT_EQ(dead.last_worker(), "worker");
  EXPECT_GT(dead.dead_time().seconds(), 0);

  pb::RetryDeadJobRequest retry;
  retry.set_job_id(ids[0]);
  pb::Job job;
  ASSERT_TRUE(frontend.admin->RetryDeadJob(Call().get(), retry, &job).ok());
  EXPECT_EQ(job.state(), pb::JOB_STATE_QUEUED);
  pb::PurgeDeadJobRequest purge;
  purge.set_job_id(ids[1]);
  google::protobuf::Empty empty;
  ASSERT_TRUE(frontend.admin->PurgeDeadJob(Call().get(), purge, &empty).ok());
  ASSERT_TRUE(frontend.admin->ListDeadJobs(Call().get(), {}, &list).ok());
  EXPECT_EQ(list.dead_jobs_size(), 0);

  for (const grpc::Status& status : {frontend.admin->GetDeadJob(Call().get(), get, &dead),
                                     frontend.admin->RetryDeadJob(Call().get(), retry, &job),
                                     frontend.admin->PurgeDeadJob(Call().get(), purge, &empty)}) {
    EXPECT_EQ(status.error_code(), grpc::StatusCode::NOT_FOUND);
    EXPECT_EQ(DetailsOf(status).reason, "DEAD_JOB_NOT_FOUND");
  }
  get.set_job_id("??");
  EXPECT_EQ(frontend.admin->GetDeadJob(Call().get(), get, &dead).error_code(),
            grpc::StatusCode::INVALID_ARGUMENT);
}

// --- the rest

TEST(Server, AddressInUseAndBadTlsFilesAreErrors) {
  InMemoryEngine engine;
  const Engine parts{.jobs = &engine, .queue = &engine, .videos = &engine, .feed = &engine};
  const auto model = ModelCatalog::Parse(kTinyModel, "test");
  ASSERT_TRUE(model.ok());
  Metrics metrics("test");
  ServerOptions options;
  options.listen = "127.0.0.1:0";
  const auto first = FrontendServer::Start(options, parts, ModelCatalog({*model}), {}, metrics);
  ASSERT_TRUE(first.ok()) << first.status();
  EXPECT_THAT((*first)->address(), ::testing::MatchesRegex("127\\.0\\.0\\.1:[0-9]+"));
  auto stub = pb::VideoService::NewStub(
      grpc::CreateChannel((*first)->address(), grpc::InsecureChannelCredentials()));
  pb::ListModelsResponse models;
  EXPECT_TRUE(stub->ListModels(Call().get(), {}, &models).ok());
  // Far beyond the largest request.
  pb::CreateJobRequest large;
  large.mutable_parameters()->set_prompt(std::string(1 << 20, 'x'));
  pb::Job job;
  EXPECT_EQ(stub->CreateJob(Call().get(), large, &job).error_code(),
            grpc::StatusCode::RESOURCE_EXHAUSTED);

  Metrics other("test");
  options.listen = (*first)->address();
  EXPECT_EQ(
      FrontendServer::Start(options, parts, ModelCatalog({*model}), {}, other).status().code(),
      absl::StatusCode::kUnavailable);
  options.listen = "127.0.0.1:0";
  options.tls.certificate = "/nonexistent";
  Metrics third("test");
  EXPECT_EQ(
      FrontendServer::Start(options, parts, ModelCatalog({*model}), {}, third).status().code(),
      absl::StatusCode::kInvalidArgument);
}

TEST(Server, MetricsTellQueueJobsAndStore) {
  TestFrontend frontend;
  frontend.Create();
  pb::CreateJobRequest bad;
  pb::Job job;
  frontend.stub->CreateJob(Call().get(), bad, &job);
  frontend.RunAll("bytes");
  frontend.Create();
  const char* const wanted[] = {
      "kandinsky_jobs_created_total{outcome=\"created\"} 2",
      "kandinsky_jobs_created_total{outcome=\"invalid\"} 1",
      "kandinsky_jobs_finished_total{outcome=\"succeeded\"} 1",
      "kandinsky_queue_depth{priority=\"batch\",stage=\"keyframes\",state=\"waiting\"} 1",
      "kandinsky_queue_oldest_age_seconds{priority=\"batch\",stage=\"keyframes\"}",
      "kandinsky_workers_ready{stage=\"decoding\"} 0",
      "kandinsky_frontend_watch_streams 0",
      "kandinsky_redis_up 1",
      "grpc_method=\"CreateJob\"",
      "kandinsky_build_info",
  };
  for (const char* line : wanted) {
    EXPECT_TRUE(Eventually([&] {
      const auto families = frontend.metrics.registry().Collect();
      return prometheus::TextSerializer().Serialize(families).find(line) != std::string::npos;
    })) << line;
  }
}

TEST(WorkPool, RefusesWhatItCannotServe) {
  WorkPool pool({.threads = 2, .max_waiting = 2, .patience = absl::Milliseconds(1)});
  std::atomic<bool> release{false};
  std::atomic<int> busy{0};
  std::atomic<int> ran{0};
  std::atomic<int> late{0};
  std::atomic<int> stopped{0};
  const auto block = [&](WorkPool::Verdict) {
    ++busy;
    release.wait(false);
  };
  ASSERT_TRUE(pool.SubmitUnary(block));
  ASSERT_TRUE(pool.SubmitUnary(block));
  ASSERT_TRUE(Eventually([&] { return busy == 2; }));
  const auto count = [&](WorkPool::Verdict verdict) {
    ran += verdict == WorkPool::Verdict::kRun;
    late += verdict == WorkPool::Verdict::kWaitedTooLong;
    stopped += verdict == WorkPool::Verdict::kStopped;
  };
  EXPECT_TRUE(pool.SubmitUnary(count));
  EXPECT_TRUE(pool.SubmitUnary(count));
  EXPECT_FALSE(pool.SubmitUnary(count));
  std::this_thread::sleep_for(std::chrono::milliseconds(5));  // longer than the patience
  release = true;
  release.notify_all();
  EXPECT_TRUE(Eventually([&] { return late == 2; }));
  pool.Stop();
  EXPECT_FALSE(pool.SubmitUnary(count));
  EXPECT_EQ(ran, 0);
  EXPECT_EQ(stopped, 0);
}

TEST(WorkPool, UnaryWorkHasThreadsThatStreamsCannotTake) {
  WorkPool pool({.threads = 4});
  std::atomic<bool> release{false};
  for (int i = 0; i < 100; ++i) {
    pool.SubmitStream([&] { release.wait(false); });
  }
  std::atomic<bool> ran{false};
  ASSERT_TRUE(pool.SubmitUnary([&](WorkPool::Verdict) { ran = true; }));
  EXPECT_TRUE(Eventually([&] { return ran.load(); }));
  release = true;
  release.notify_all();
}

}  // namespace
}  // namespace kandinsky
