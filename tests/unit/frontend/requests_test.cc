// Requests through the wire: every kind of bad one with its code, details and no job; and what good
// ones become.
#include <gmock/gmock.h>
#include <grpcpp/generic/generic_stub.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

#include "services/frontend/text.h"
#include "services/frontend/wire.h"
#include "tests/unit/frontend/test_frontend.h"

namespace kandinsky {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::UnorderedElementsAre;
using Edit = std::function<void(pb::CreateJobRequest&)>;

pb::CreateJobRequest Good() {
  pb::CreateJobRequest request;
  request.mutable_parameters()->set_prompt("a red circle");
  return request;
}

// Sends bytes that a generated stub would refuse to send.
grpc::Status CallRaw(TestFrontend& frontend, const std::string& method, const std::string& bytes) {
  grpc::GenericStub stub(frontend.channel);
  const grpc::Slice slice(bytes);
  const grpc::ByteBuffer request(&slice, 1);
  grpc::ByteBuffer response;
  grpc::Status result;
  std::atomic<bool> done{false};
  auto context = Call();
  stub.UnaryCall(context.get(), "/kandinsky.video.v1.VideoService/" + method, {}, &request,
                 &response, [&](grpc::Status status) {
                   result = std::move(status);
                   done = true;
                   done.notify_all();
                 });
  done.wait(false);
  return result;
}

TEST(BadRequests, CreateJobNamesEveryViolationAndMakesNoJob) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const double infinity = std::numeric_limits<double>::infinity();
  struct Case {
    std::string name;
    Edit edit;
    std::vector<std::string> fields;
    std::string describes;  // part of the first description
  };
  using R = pb::CreateJobRequest;
  const auto parameters = [](R& r) { return r.mutable_parameters(); };
  const Case cases[] = {
      {"no parameters", [](R& r) { r.clear_parameters(); }, {"parameters.prompt"}, "is empty"},
      {"no prompt",
       [&](R& r) { parameters(r)->clear_prompt(); },
       {"parameters.prompt"},
       "is empty"},
      {"blank prompt",
       [&](R& r) { parameters(r)->set_prompt(" \t\n\u3000"); },
       {"parameters.prompt"},
       "only blanks"},
      {"long prompt",
       [&](R& r) { parameters(r)->set_prompt(std::string(2001, 'x')); },
       {"parameters.prompt"},
       "has 2001 characters, must be at most 2000"},
      {"control character",
       [&](R& r) { parameters(r)->set_prompt("a\x07"); },
       {"parameters.prompt"},
       "U+0007"},
      {"long negative prompt",
       [&](R& r) { parameters(r)->set_negative_prompt(std::string(2001, 'x')); },
       {"parameters.negative_prompt"},
       "2001"},
      {"control character in the negative prompt",
       [&](R& r) { parameters(r)->set_negative_prompt("a\x1b[31m"); },
       {"parameters.negative_prompt"},
       "U+001B"},
      {"width no multiple",
       [&](R& r) { parameters(r)->set_width(68); },
       {"parameters.width"},
       "is 68, must be a multiple of 8 from 32 to 256"},
      {"width too small",
       [&](R& r) { parameters(r)->set_width(24); },
       {"parameters.width"},
       "is 24"},
      {"width too large",
       [&](R& r) { parameters(r)->set_width(264); },
       {"parameters.width"},
       "is 264"},
      {"width zero", [&](R& r) { parameters(r)->set_width(0); }, {"parameters.width"}, "is 0"},
      {"height negative",
       [&](R& r) { parameters(r)->set_height(-8); },
       {"parameters.height"},
       "is -8"},
      {"too many pixels",
       [&](R& r) { parameters(r)->set_width(256), parameters(r)->set_height(256); },
       {"parameters.height"},
       "65536 pixels, must be at most 32768"},
      {"steps too few",
       [&](R& r) { parameters(r)->set_steps(1); },
       {"parameters.steps"},
       "is 1, must be from 2 to 100"},
      {"steps too many", [&](R& r) { parameters(r)->set_steps(101); }, {"parameters.steps"}, "101"},
      {"guidance negative",
       [&](R& r) { parameters(r)->set_guidance_scale(-0.5); },
       {"parameters.guidance_scale"},
       "is -0.5, must be from 0 to 20"},
      {"guidance NaN",
       [&](R& r) { parameters(r)->set_guidance_scale(nan); },
       {"parameters.guidance_scale"},
       "nan"},
      {"guidance infinite",
       [&](R& r) { parameters(r)->set_guidance_scale(infinity); },
       {"parameters.guidance_scale"},
       "inf"},
      {"interpolation guidance",
       [&](R& r) { parameters(r)->set_interpolation_guidance_scale(5.1); },
       {"parameters.interpolation_guidance_scale"},
       "is 5.1, must be from 0 to 5"},
      {"unknown level",
       [&](R& r) { parameters(r)->set_level(static_cast<pb::Level>(9)); },
       {"parameters.level"},
       "is 9"},
      {"unknown format",
       [&](R& r) { parameters(r)->set_format(static_cast<pb::VideoFormat>(-1)); },
       {"parameters.format"},
       "is -1"},
      {"fps too low", [&](R& r) { parameters(r)->set_fps(0.25); }, {"parameters.fps"}, "0.25"},
      {"fps too high", [&](R& r) { parameters(r)->set_fps(121); }, {"parameters.fps"}, "121"},
      {"fps NaN", [&](R& r) { parameters(r)->set_fps(nan); }, {"parameters.fps"}, "nan"},
      {"model with odd characters",
       [&](R& r) { parameters(r)->set_model("../etc"); },
       {"parameters.model"},
       "../etc"},
      {"request_id characters", [](R& r) { r.set_request_id("a b"); }, {"request_id"}, "a b"},
      {"request_id length",
       [](R& r) { r.set_request_id(std::string(129, 'x')); },
       {"request_id"},
       "128"},
      {"tenant characters", [](R& r) { r.set_tenant("a:b"); }, {"tenant"}, "a:b"},
      {"tenant length", [](R& r) { r.set_tenant(std::string(65, 'x')); }, {"tenant"}, "64"},
      {"unknown priority",
       [](R& r) { r.set_priority(static_cast<pb::Priority>(7)); },
       {"priority"},
       "is 7"},
      {"timeout too short",
       [](R& r) { r.mutable_timeout()->set_nanos(999999999); },
       {"timeout"},
       "must be from 1s to 24h"},
      {"timeout too long",
       [](R& r) { r.mutable_timeout()->set_seconds(86401); },
       {"timeout"},
       "86401"},
      {"timeout negative", [](R& r) { r.mutable_timeout()->set_seconds(-5); }, {"timeout"}, "-5"},
      {"timeout with bad nanos",
       [](R& r) {
         r.mutable_timeout()->set_seconds(5), r.mutable_timeout()->set_nanos(1000000000);
       },
       {"timeout"},
       "1000000000"},
      {"timeout enormous",
       [](R& r) { r.mutable_timeout()->set_seconds(std::numeric_limits<int64_t>::max()); },
       {"timeout"},
       "9223372036854775807"},
      {"all at once",
       [&](R& r) {
         parameters(r)->set_prompt("");
         parameters(r)->set_width(1);
         parameters(r)->set_height(2);
         parameters(r)->set_steps(0);
         parameters(r)->set_guidance_scale(99);
         parameters(r)->set_fps(-1);
         r.set_tenant("!");
         r.set_request_id("?");
         r.mutable_timeout()->set_seconds(0);
       },
       {"parameters.prompt", "parameters.width", "parameters.height", "parameters.steps",
        "parameters.guidance_scale", "parameters.fps", "tenant", "request_id", "timeout"},
       ""},
  };
  TestFrontend frontend;
  for (const Case& c : cases) {
    SCOPED_TRACE(c.name);
    pb::CreateJobRequest request = Good();
    c.edit(request);
    pb::Job job;
    const grpc::Status created = frontend.stub->CreateJob(Call().get(), request, &job);
    // GenerateVideo takes the same fields and refuses them alike.
    pb::GenerateVideoRequest generate;
    *generate.mutable_parameters() = request.parameters();
    if (!request.has_parameters()) generate.clear_parameters();
    generate.set_request_id(request.request_id());
    generate.set_priority(request.priority());
    generate.set_tenant(request.tenant());
    if (request.has_timeout()) *generate.mutable_timeout() = request.timeout();
    auto context = Call();
    auto stream = frontend.stub->GenerateVideo(context.get(), generate);
    pb::GenerateVideoResponse message;
    EXPECT_FALSE(stream->Read(&message));
    for (const grpc::Status& status : {created, stream->Finish()}) {
      EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
      const ErrorDetails details = DetailsOf(status);
      EXPECT_EQ(details.reason, "INVALID_REQUEST");
      EXPECT_EQ(details.domain, "kandinsky.video.v1");
      EXPECT_THAT(details.fields, ::testing::UnorderedElementsAreArray(c.fields));
      ASSERT_FALSE(details.descriptions.empty());
      EXPECT_THAT(details.descriptions[0], HasSubstr(c.describes));
      EXPECT_LT(status.error_details().size(), 6000u);
    }
  }
  EXPECT_EQ(frontend.CountJobs(), 0);
}

TEST(BadRequests, StringsThatAreNotUtf8AreNamedBesideOtherViolations) {
  struct Case {
    std::string name;
    std::string text;
  };
  const Case cases[] = {{"lone continuation", "\x80"},
                        {"overlong", "\xC0\xAF"},
                        {"surrogate", "\xED\xA0\x80"},
                        {"truncated", "abc\xE2\x82"}};
  TestFrontend frontend;
  for (const Case& c : cases) {
    SCOPED_TRACE(c.name);
    // Field 1 (parameters) { field 1 (prompt), field 5 (width) = 7 }, field 4 (tenant).
    const std::string parameters =
        "\x0a" + std::string(1, static_cast<char>(c.text.size())) + c.text + "\x28\x07";
    const std::string wire = "\x0a" + std::string(1, static_cast<char>(parameters.size())) +
                             parameters + "\x22" +
                             std::string(1, static_cast<char>(c.text.size())) + c.text;
    const grpc::Status status = CallRaw(frontend, "CreateJob", wire);
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
    const ErrorDetails details = DetailsOf(status);
    EXPECT_EQ(details.reason, "INVALID_REQUEST");
    EXPECT_THAT(details.fields,
                UnorderedElementsAre("parameters.prompt", "tenant", "parameters.width"));
    EXPECT_EQ(details.descriptions[0], "is not valid UTF-8");
  }
  EXPECT_EQ(frontend.CountJobs(), 0);
}

TEST(BadRequests, BytesThatAreNoMessage) {
  TestFrontend frontend;
  for (const std::string& wire :
       {std::string("\x0a\x7f"), std::string("\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"),
        std::string("\x0a\x02\x0a\x05"), std::string("\x0b")}) {
    for (const char* method : {"CreateJob", "GetJob", "ListJobs"}) {
      const grpc::Status status = CallRaw(frontend, method, wire);
      if (std::string(method) != "CreateJob" && wire == "\x0a\x02\x0a\x05") continue;
      EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT) << method;
      EXPECT_EQ(DetailsOf(status).reason, "INVALID_REQUEST");
    }
  }
  EXPECT_EQ(frontend.CountJobs(), 0);
}

// Whatever bytes come, the answer is an error with details or a job within the limits.
TEST(BadRequests, MutatedBytesNeverYieldABadJob) {
  const auto model = ModelCatalog::Parse(kTinyModel, "test");
  ASSERT_TRUE(model.ok());
  const ModelCatalog catalog({*model});
  pb::CreateJobRequest full = Good();
  full.mutable_parameters()->set_negative_prompt("rain");
  full.mutable_parameters()->set_width(64);
  full.mutable_parameters()->set_steps(10);
  full.mutable_parameters()->set_guidance_scale(3);
  full.mutable_parameters()->set_fps(12);
  full.set_request_id("order-1");
  full.mutable_timeout()->set_seconds(60);
  const std::string valid = full.SerializeAsString();
  std::mt19937 random(11);
  int accepted = 0;
  int refused = 0;
  for (int round = 0; round < 20000; ++round) {
    std::string wire = valid;
    for (int i = static_cast<int>(random() % 3); i >= 0; --i) {
      const size_t at = random() % wire.size();
      switch (random() % 3) {
        case 0:
          wire[at] = static_cast<char>(random());
          break;
        case 1:
          wire.insert(at, 1, static_cast<char>(random()));
          break;
        default:
          if (wire.size() > 1) wire.erase(at, 1 + random() % 3);
      }
    }
    pb::CreateJobRequest request;
    Violations violations;
    const grpc::Slice slice(wire);
    grpc::Status status = Decode(grpc::ByteBuffer(&slice, 1), request, violations);
    JobSpec spec;
    if (status.ok()) {
      const CreateFields fields{
          .parameters = request.has_parameters() ? &request.parameters() : nullptr,
          .request_id = request.request_id(),
          .priority = request.priority(),
          .tenant = request.tenant(),
          .timeout = request.has_timeout() ? &request.timeout() : nullptr};
      status = MakeJobSpec(fields, {.catalog = catalog, .choose_seed = [] { return 1; }},
                           violations, spec);
    }
    if (!status.ok()) {
      ++refused;
      ASSERT_FALSE(DetailsOf(status).reason.empty());
      continue;
    }
    ++accepted;
    const GenerationParameters& p = spec.parameters;
    ASSERT_TRUE(InspectText(p.prompt) && InspectText(p.negative_prompt));
    ASSERT_TRUE(p.width % 8 == 0 && p.width >= 32 && p.width <= 256) << p.width;
    ASSERT_TRUE(p.steps >= 2 && p.steps <= 100) << p.steps;
    ASSERT_TRUE(p.guidance_scale >= 0 && p.guidance_scale <= 20) << p.guidance_scale;
    ASSERT_TRUE(p.fps >= 0.5 && p.fps <= 120) << p.fps;
    ASSERT_TRUE(spec.timeout >= absl::Seconds(1) && spec.timeout <= absl::Hours(24));
  }
  EXPECT_GT(accepted, 1000);
  EXPECT_GT(refused, 1000);
}

TEST(BadRequests, UnknownModelIsNotFound) {
  TestFrontend frontend;
  pb::CreateJobRequest request = Good();
  request.mutable_parameters()->set_model("large");
  pb::Job job;
  const grpc::Status status = frontend.stub->CreateJob(Call().get(), request, &job);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(DetailsOf(status).reason, "MODEL_NOT_FOUND");
  EXPECT_EQ(frontend.CountJobs(), 0);
}

TEST(BadRequests, ManyViolationsStayWithinTheMetadataLimit) {
  TestFrontend frontend;
  pb::ListJobsRequest request;
  for (int i = 0; i < 5000; ++i) request.add_states(static_cast<pb::JobState>(77));
  pb::ListJobsResponse response;
  const grpc::Status status = frontend.stub->ListJobs(Call().get(), request, &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(DetailsOf(status).fields.size(), Violations::kMax);
  EXPECT_THAT(status.error_message(), HasSubstr("4999 more"));
}

TEST(BadRequests, OtherCalls) {
  TestFrontend frontend;
  const std::string id = frontend.Create().id();
  struct Case {
    std::string name;
    std::function<grpc::Status()> call;
    grpc::StatusCode code;
    std::string reason;
    std::vector<std::string> fields;
  };
  auto& stub = *frontend.stub;
  const auto get = [&](const std::string& job_id) {
    pb::GetJobRequest request;
    request.set_job_id(job_id);
    pb::Job job;
    return stub.GetJob(Call().get(), request, &job);
  };
  const auto list = [&](const std::function<void(pb::ListJobsRequest&)>& edit) {
    pb::ListJobsRequest request;
    edit(request);
    pb::ListJobsResponse response;
    return stub.ListJobs(Call().get(), request, &response);
  };
  const auto watch = [&](const std::string& job_id, const std::string& after) {
    pb::WatchJobRequest request;
    request.set_job_id(job_id);
    request.set_after_event_id(after);
    auto context = Call();
    auto stream = stub.WatchJob(context.get(), request);
    pb::JobEvent event;
    EXPECT_FALSE(stream->Read(&event));
    return stream->Finish();
  };
  const auto download = [&](const std::string& job_id) {
    pb::DownloadVideoRequest request;
    request.set_job_id(job_id);
    auto context = Call();
    auto stream = stub.DownloadVideo(context.get(), request);
    pb::VideoChunk chunk;
    EXPECT_FALSE(stream->Read(&chunk));
    return stream->Finish();
  };
  const auto cancel = [&](const std::string& job_id) {
    pb::CancelJobRequest request;
    request.set_job_id(job_id);
    pb::Job job;
    return stub.CancelJob(Call().get(), request, &job);
  };
  const auto remove = [&](const std::string& job_id) {
    pb::DeleteJobRequest request;
    request.set_job_id(job_id);
    google::protobuf::Empty empty;
    return stub.DeleteJob(Call().get(), request, &empty);
  };
  const std::string none(26, '0');  // well-formed, but no job
  const auto invalid = grpc::StatusCode::INVALID_ARGUMENT;
  const auto missing = grpc::StatusCode::NOT_FOUND;
  const Case cases[] = {
      {"get, no id", [&] { return get(""); }, invalid, "INVALID_REQUEST", {"job_id"}},
      {"get, odd id",
       [&] { return get("../../etc/passwd"); },
       invalid,
       "INVALID_REQUEST",
       {"job_id"}},
      {"get, unknown", [&] { return get(none); }, missing, "JOB_NOT_FOUND", {}},
      {"cancel, odd id", [&] { return cancel("x y"); }, invalid, "INVALID_REQUEST", {"job_id"}},
      {"cancel, unknown", [&] { return cancel(none); }, missing, "JOB_NOT_FOUND", {}},
      {"delete, odd id", [&] { return remove("{}"); }, invalid, "INVALID_REQUEST", {"job_id"}},
      {"delete, unknown", [&] { return remove(none); }, missing, "JOB_NOT_FOUND", {}},
      {"delete, not finished",
       [&] { return remove(id); },
       grpc::StatusCode::FAILED_PRECONDITION,
       "JOB_NOT_FINISHED",
       {}},
      {"watch, odd ids",
       [&] { return watch("*", "abc"); },
       invalid,
       "INVALID_REQUEST",
       {"job_id", "after_event_id"}},
      {"watch, unknown", [&] { return watch(none, ""); }, missing, "JOB_NOT_FOUND", {}},
      {"watch, event of the future",
       [&] { return watch(id, "999"); },
       invalid,
       "INVALID_REQUEST",
       {"after_event_id"}},
      {"download, odd id",
       [&] { return download("a\nb"); },
       invalid,
       "INVALID_REQUEST",
       {"job_id"}},
      {"download, unknown", [&] { return download(none); }, missing, "JOB_NOT_FOUND", {}},
      {"list, page size",
       [&] { return list([](auto& r) { r.set_page_size(1001); }); },
       invalid,
       "INVALID_REQUEST",
       {"page_size"}},
      {"list, negative page size",
       [&] { return list([](auto& r) { r.set_page_size(-1); }); },
       invalid,
       "INVALID_REQUEST",
       {"page_size"}},
      {"list, made-up token",
       [&] { return list([](auto& r) { r.set_page_token("abc"); }); },
       invalid,
       "INVALID_REQUEST",
       {"page_token"}},
      {"list, long token",
       [&] { return list([](auto& r) { r.set_page_token(std::string(2000, 'a')); }); },
       invalid,
       "INVALID_REQUEST",
       {"page_token"}},
      {"list, several",
       [&] {
         return list([](auto& r) {
           r.set_page_size(-1);
           r.add_states(pb::JOB_STATE_QUEUED);
           r.add_states(pb::JOB_STATE_UNSPECIFIED);
           r.set_tenant("a b");
         });
       },
       invalid,
       "INVALID_REQUEST",
       {"page_size", "states[1]", "tenant"}},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.name);
    const grpc::Status status = c.call();
    EXPECT_EQ(status.error_code(), c.code) << status.error_message();
    const ErrorDetails details = DetailsOf(status);
    EXPECT_EQ(details.reason, c.reason);
    EXPECT_EQ(details.domain, "kandinsky.video.v1");
    EXPECT_THAT(details.fields, ::testing::ElementsAreArray(c.fields));
  }
  EXPECT_EQ(frontend.CountJobs(), 1);
}

TEST(Requests, EveryDefaultIsFilledInAndReturned) {
  TestFrontend frontend;
  pb::Job job;
  ASSERT_TRUE(frontend.stub->CreateJob(Call().get(), Good(), &job).ok());
  EXPECT_EQ(job.state(), pb::JOB_STATE_QUEUED);
  EXPECT_EQ(job.tenant(), "default");
  EXPECT_EQ(job.priority(), pb::PRIORITY_BATCH);
  EXPECT_EQ(job.stage(), pb::STAGE_KEYFRAMES);
  EXPECT_EQ(job.parameters().model(), "tiny");
  EXPECT_EQ(job.parameters().seed(), 1000u);
  EXPECT_EQ(job.parameters().level(), pb::LEVEL_HIGH);
  EXPECT_EQ(job.parameters().width(), 64);
  EXPECT_EQ(job.parameters().height(), 48);
  EXPECT_EQ(job.parameters().steps(), 50);
  EXPECT_EQ(job.parameters().guidance_scale(), 5.0);
  EXPECT_EQ(job.parameters().interpolation_guidance_scale(), 0.25);
  EXPECT_EQ(job.parameters().format(), pb::VIDEO_FORMAT_MP4);
  EXPECT_EQ(job.parameters().fps(), 30);
  EXPECT_EQ(job.deadline().seconds() - job.create_time().seconds(), 3600);
}

TEST(Requests, WordsThatTheModelDoesNotKnowAreSaid) {
  std::string model = kTinyModel;
  const std::string field = "\"keyframes\": 16";
  model.replace(model.find(field), field.size(),
                field + ", \"vocabulary\": [\"a\", \"red circle\", \"ёлка\"]");
  TestFrontend frontend({}, {}, {}, model);
  pb::ListModelsResponse models;
  ASSERT_TRUE(frontend.stub->ListModels(Call().get(), {}, &models).ok());
  EXPECT_THAT(models.models(0).vocabulary(), ElementsAre("a", "red circle", "ёлка"));

  pb::Job job;
  ASSERT_TRUE(frontend.stub->CreateJob(Call().get(), Good(), &job).ok());
  EXPECT_EQ(job.notices_size(), 0);

  pb::CreateJobRequest request = Good();
  request.set_request_id("r");
  request.mutable_parameters()->set_prompt("A red DRAGONFLY, a dragonfly");
  request.mutable_parameters()->set_negative_prompt("елка рыба");
  ASSERT_TRUE(frontend.stub->CreateJob(Call().get(), request, &job).ok());
  ASSERT_EQ(job.notices_size(), 2);
  EXPECT_EQ(job.notices(0).reason(), "UNKNOWN_WORDS");
  EXPECT_EQ(job.notices(0).field(), "parameters.prompt");
  EXPECT_THAT(job.notices(0).words(), ElementsAre("DRAGONFLY"));
  EXPECT_THAT(job.notices(0).message(), HasSubstr("\"DRAGONFLY\""));
  EXPECT_EQ(job.notices(1).field(), "parameters.negative_prompt");
  EXPECT_THAT(job.notices(1).words(), ElementsAre("рыба"));
  EXPECT_EQ(job.parameters().prompt(), "A red DRAGONFLY, a dragonfly") << "it goes on unchanged";

  // Whoever comes later sees them, too: by the job, by its first event, by the same request again.
  pb::GetJobRequest get;
  get.set_job_id(job.id());
  pb::Job again;
  ASSERT_TRUE(frontend.stub->GetJob(Call().get(), get, &again).ok());
  EXPECT_EQ(again.notices_size(), 2);
  ASSERT_TRUE(frontend.stub->CreateJob(Call().get(), request, &again).ok());
  EXPECT_EQ(again.id(), job.id());
  EXPECT_EQ(again.notices_size(), 2);
  auto context = Call();
  pb::WatchJobRequest watch;
  watch.set_job_id(job.id());
  const auto reader = frontend.stub->WatchJob(context.get(), watch);
  pb::JobEvent event;
  ASSERT_TRUE(reader->Read(&event));
  ASSERT_EQ(event.notices_size(), 2);
  EXPECT_THAT(event.notices(0).words(), ElementsAre("DRAGONFLY"));
  context->TryCancel();
  reader->Finish();
}

TEST(Requests, LevelsBringTheirFpsAndGivenValuesStay) {
  struct Case {
    pb::Level level;
    std::optional<double> fps;
    double want;
  };
  const Case cases[] = {{pb::LEVEL_LOW, {}, 2},    {pb::LEVEL_MEDIUM, {}, 7.5},
                        {pb::LEVEL_HIGH, {}, 30},  {pb::LEVEL_UNSPECIFIED, {}, 30},
                        {pb::LEVEL_LOW, 0.5, 0.5}, {pb::LEVEL_HIGH, 120.0, 120}};
  TestFrontend frontend;
  for (const Case& c : cases) {
    pb::CreateJobRequest request = Good();
    request.mutable_parameters()->set_level(c.level);
    request.mutable_parameters()->set_seed(std::numeric_limits<uint64_t>::max());
    request.mutable_parameters()->set_prompt(std::string(1999, 'x') + "\xF0\x9F\x98\x80");
    request.mutable_parameters()->set_guidance_scale(0);
    if (c.fps) request.mutable_parameters()->set_fps(*c.fps);
    pb::Job job;
    ASSERT_TRUE(frontend.stub->CreateJob(Call().get(), request, &job).ok());
    EXPECT_EQ(job.parameters().fps(), c.want);
    EXPECT_EQ(job.parameters().seed(), std::numeric_limits<uint64_t>::max());
    EXPECT_EQ(job.parameters().guidance_scale(), 0);
  }
}

TEST(Requests, RequestIdIsIdempotentAlsoWithoutASeed) {
  TestFrontend frontend;
  pb::CreateJobRequest request = Good();
  request.set_request_id("order-1");
  pb::Job first;
  pb::Job second;
  ASSERT_TRUE(frontend.stub->CreateJob(Call().get(), request, &first).ok());
  ASSERT_TRUE(frontend.stub->CreateJob(Call().get(), request, &second).ok());
  EXPECT_EQ(first.id(), second.id());
  EXPECT_EQ(first.parameters().seed(), second.parameters().seed());
  EXPECT_EQ(frontend.CountJobs(), 1);

  pb::CreateJobRequest other = request;
  other.mutable_parameters()->set_prompt("a blue square");
  const grpc::Status status = frontend.stub->CreateJob(Call().get(), other, &second);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::ALREADY_EXISTS);
  EXPECT_EQ(DetailsOf(status).reason, "REQUEST_ID_CONFLICT");
  EXPECT_EQ(frontend.CountJobs(), 1);

  other.set_tenant("somebody-else");
  EXPECT_TRUE(frontend.stub->CreateJob(Call().get(), other, &second).ok());
  EXPECT_EQ(frontend.CountJobs(), 2);
}

TEST(Requests, FullQueuesSayWhenToTryAgain) {
  QueueOptions options;
  options.limits = {.max_unfinished_jobs = 3, .max_unfinished_jobs_per_tenant = 2};
  TestFrontend frontend(options);
  const auto create = [&](const std::string& tenant) {
    pb::CreateJobRequest request = Good();
    request.set_tenant(tenant);
    pb::Job job;
    return frontend.stub->CreateJob(Call().get(), request, &job);
  };
  EXPECT_TRUE(create("a").ok());
  EXPECT_TRUE(create("a").ok());
  const grpc::Status tenant_full = create("a");
  EXPECT_TRUE(create("b").ok());
  const grpc::Status full = create("c");
  for (const auto& [status, reason] :
       {std::pair(tenant_full, "TENANT_QUEUE_FULL"), std::pair(full, "QUEUE_FULL")}) {
    EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
    EXPECT_EQ(DetailsOf(status).reason, reason);
    ASSERT_TRUE(DetailsOf(status).retry_seconds.has_value());
    EXPECT_GT(*DetailsOf(status).retry_seconds, 0);
  }
}

TEST(Requests, ListsArePagedAndFiltered) {
  TestFrontend frontend;
  std::vector<std::string> created;
  for (int i = 0; i < 7; ++i) created.push_back(frontend.Create().id());
  pb::CancelJobRequest cancel;
  cancel.set_job_id(created[2]);
  pb::Job job;
  ASSERT_TRUE(frontend.stub->CancelJob(Call().get(), cancel, &job).ok());
  EXPECT_EQ(job.state(), pb::JOB_STATE_CANCELLED);

  std::vector<std::string> listed;
  pb::ListJobsRequest request;
  request.set_page_size(3);
  request.add_states(pb::JOB_STATE_QUEUED);
  std::vector<int> sizes;
  do {
    pb::ListJobsResponse response;
    ASSERT_TRUE(frontend.stub->ListJobs(Call().get(), request, &response).ok());
    sizes.push_back(response.jobs_size());
    for (const pb::Job& entry : response.jobs()) listed.push_back(entry.id());
    request.set_page_token(response.next_page_token());
  } while (!request.page_token().empty());
  EXPECT_THAT(sizes, ElementsAre(3, 3));
  created.erase(created.begin() + 2);
  EXPECT_THAT(listed, ::testing::UnorderedElementsAreArray(created));

  // A token belongs to its filters.
  request.set_page_size(2);
  request.clear_page_token();
  pb::ListJobsResponse response;
  ASSERT_TRUE(frontend.stub->ListJobs(Call().get(), request, &response).ok());
  request.set_page_token(response.next_page_token());
  request.clear_states();
  const grpc::Status status = frontend.stub->ListJobs(Call().get(), request, &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(DetailsOf(status).fields, ElementsAre("page_token"));
}

TEST(Requests, FinishedJobsCanBeDeleted) {
  TestFrontend frontend;
  const std::string id = frontend.Create().id();
  frontend.RunAll("bytes");
  pb::DeleteJobRequest request;
  request.set_job_id(id);
  google::protobuf::Empty empty;
  EXPECT_TRUE(frontend.stub->DeleteJob(Call().get(), request, &empty).ok());
  EXPECT_EQ(frontend.CountJobs(), 0);
  EXPECT_EQ(frontend.stub->DeleteJob(Call().get(), request, &empty).error_code(),
            grpc::StatusCode::NOT_FOUND);
}

TEST(Requests, ModelsAndServerInfoTellTheLimits) {
  TestFrontend frontend;
  pb::ListModelsResponse models;
  ASSERT_TRUE(frontend.stub->ListModels(Call().get(), {}, &models).ok());
  ASSERT_EQ(models.models_size(), 1);
  const pb::Model& model = models.models(0);
  EXPECT_EQ(model.name(), "tiny");
  EXPECT_TRUE(model.is_default());
  EXPECT_EQ(model.width().max(), 256);
  EXPECT_EQ(model.size_multiple(), 8);
  EXPECT_EQ(model.levels_size(), 3);
  EXPECT_EQ(model.levels(2).frames(), 241);
  EXPECT_EQ(model.max_prompt_characters(), 2000);
  EXPECT_EQ(model.default_level(), pb::LEVEL_HIGH);
  EXPECT_EQ(model.max_pixels(), 32768);

  ASSERT_TRUE(
      frontend.engine.Heartbeat({.id = "w", .stage = Stage::kDecoding, .state = "ready"}).ok());
  ASSERT_TRUE(
      frontend.engine.Heartbeat({.id = "l", .stage = Stage::kDecoding, .state = "loading"}).ok());
  frontend.Create();
  pb::ServerInfo info;
  ASSERT_TRUE(frontend.stub->GetServerInfo(Call().get(), {}, &info).ok());
  EXPECT_FALSE(info.version().empty());
  EXPECT_EQ(info.max_chunk_bytes(), 1 << 20);
  EXPECT_EQ(info.default_timeout().seconds(), 3600);
  EXPECT_EQ(info.max_timeout().seconds(), 86400);
  ASSERT_EQ(info.stages_size(), 3);
  EXPECT_EQ(info.stages(0).waiting_tasks(), 1);
  EXPECT_EQ(info.stages(2).stage(), pb::STAGE_DECODING);
  EXPECT_EQ(info.stages(2).ready_workers(), 1);
}

}  // namespace
}  // namespace kandinsky
