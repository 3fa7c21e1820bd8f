#include "services/cli/commands.h"

#include <gmock/gmock.h>
#include <google/rpc/error_details.pb.h>
#include <google/rpc/status.pb.h>
#include <grpcpp/health_check_service_interface.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <sstream>

#include "absl/strings/str_split.h"
#include "services/cli/exit_code.h"
#include "services/cli/reporter.h"
#include "tests/unit/cli/fake_video_service.h"

namespace kandinsky::cli {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

struct Result {
  int code = -1;
  std::string out;
  std::string err;
  std::vector<std::string> local;  // arguments of kandinsky-local, if it was run
};

class CommandsTest : public ::testing::Test {
 protected:
  CommandsTest() {
    directory_ = std::filesystem::temp_directory_path() /
                 absl::StrCat("cli_test.", getpid(), ".",
                              ::testing::UnitTest::GetInstance()->current_test_info()->name());
    std::filesystem::create_directory(directory_);
  }
  ~CommandsTest() override { std::filesystem::remove_all(directory_); }

  Result Run(std::vector<std::string> args, const std::string& input = "") {
    args.push_back("--server=" + service_.address());
    Result result;
    std::istringstream in(input);
    std::ostringstream out;
    std::ostringstream err;
    service_.Settle();
    result.code = RunCommand(args, {.in = in,
                                    .out = out,
                                    .err = err,
                                    .err_is_terminal = terminal_,
                                    .columns = 100,
                                    .variable = [](const char*) -> const char* { return nullptr; },
                                    .interrupt = interrupt_,
                                    .run_local =
                                        [&](const std::vector<std::string>& arguments) {
                                          result.local = arguments;
                                          return absl::NotFoundError("not in a test");
                                        },
                                    .first_backoff = absl::Milliseconds(1)});
    service_.Settle();
    result.out = out.str();
    result.err = err.str();
    return result;
  }

  std::string Path(const std::string& name) const { return (directory_ / name).string(); }
  std::string Read(const std::string& name) const {
    std::ifstream in(Path(name), std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  bool Exists(const std::string& name) const { return std::filesystem::exists(Path(name)); }

  FakeVideoService service_;
  Interrupt interrupt_;
  std::filesystem::path directory_;
  bool terminal_ = false;
};

std::vector<std::string> Lines(const std::string& text) {
  std::vector<std::string> lines = absl::StrSplit(text, '\n');
  if (!lines.empty() && lines.back().empty()) lines.pop_back();
  return lines;
}

TEST_F(CommandsTest, GenerateSavesTheVideo) {
  const Result result = Run({"generate",
                             "a cube",
                             "--seed=7",
                             "--level=medium",
                             "--format=webm",
                             "--width=64",
                             "--height=48",
                             "--steps=3",
                             "--guidance-scale=2.5",
                             "--interpolation-guidance-scale=0.5",
                             "--negative-prompt=fog",
                             "--model=tiny",
                             "--fps=12.5",
                             "--request-id=r1",
                             "--priority=batch",
                             "--tenant=lab",
                             "--timeout=2m",
                             "--out",
                             Path("v.webm"),
                             "--preview",
                             Path("p.png")});
  EXPECT_EQ(result.code, kExitOk) << result.err;
  EXPECT_EQ(result.out, Path("v.webm") + "\n");
  EXPECT_EQ(Read("v.webm"), service_.video());
  EXPECT_EQ(Read("p.png"), "a picture");
  EXPECT_FALSE(Exists("v.webm.part"));
  const auto& request = service_.generate;
  const auto& p = request.parameters();
  EXPECT_EQ(p.prompt(), "a cube");
  EXPECT_EQ(p.negative_prompt(), "fog");
  EXPECT_EQ(p.seed(), 7u);
  EXPECT_EQ(p.level(), video::v1::LEVEL_MEDIUM);
  EXPECT_EQ(p.format(), video::v1::VIDEO_FORMAT_WEBM);
  EXPECT_EQ(p.width(), 64);
  EXPECT_EQ(p.height(), 48);
  EXPECT_EQ(p.steps(), 3);
  EXPECT_EQ(p.guidance_scale(), 2.5);
  EXPECT_EQ(p.interpolation_guidance_scale(), 0.5);
  EXPECT_EQ(p.model(), "tiny");
  EXPECT_EQ(p.fps(), 12.5);
  EXPECT_EQ(request.request_id(), "r1");
  EXPECT_EQ(request.priority(), video::v1::PRIORITY_BATCH);
  EXPECT_EQ(request.tenant(), "lab");
  EXPECT_EQ(request.timeout().seconds(), 120);
  EXPECT_FALSE(request.cancel_on_disconnect());
}

TEST_F(CommandsTest, GenerateLeavesDefaultsToTheServer) {
  EXPECT_EQ(Run({"generate", "--prompt-file=-", "--out", Path("v")}, "from a pipe\n").code,
            kExitOk);
  const auto& p = service_.generate.parameters();
  EXPECT_EQ(p.prompt(), "from a pipe");
  EXPECT_FALSE(p.has_seed());
  EXPECT_FALSE(p.has_width());
  EXPECT_FALSE(p.has_guidance_scale());
  EXPECT_FALSE(p.has_fps());
  EXPECT_EQ(p.level(), video::v1::LEVEL_UNSPECIFIED);
  EXPECT_THAT(service_.generate.request_id(), HasSubstr("cli-"));
}

// The stream breaks after every possible number of messages: job, events, chunks.
TEST_F(CommandsTest, GenerateSurvivesABreakAnywhere) {
  const int messages = 1 + static_cast<int>(service_.events().size()) + 4;
  for (int broken_after = 1; broken_after <= messages; ++broken_after) {
    service_.breaks = {broken_after};
    service_.log.clear();
    std::filesystem::remove(Path("v"));
    const Result result = Run({"generate", "x", "--json", "--out", Path("v")});
    EXPECT_EQ(result.code, kExitOk) << broken_after << result.out;
    EXPECT_EQ(Read("v"), service_.video()) << broken_after;
    // Every event once, whatever call it came by.
    int events = 0;
    for (const std::string& line : Lines(result.out)) events += line.rfind("{\"event\"", 0) == 0;
    EXPECT_EQ(events, static_cast<int>(service_.events().size())) << broken_after;
    int generates = 0;
    for (const std::string& line : service_.log) generates += line == "generate x";
    EXPECT_EQ(generates, 1) << "the job is made once";
  }
}

TEST_F(CommandsTest, GenerateBreaksOverAndOver) {
  service_.breaks = {3, 1, 1, 2, 0, 1, 100, 1, 1, 0};
  const Result result = Run({"generate", "x", "--out", Path("v")});
  EXPECT_EQ(result.code, kExitOk) << result.err;
  EXPECT_EQ(Read("v"), service_.video());
}

TEST_F(CommandsTest, WatchResumesAfterTheLastEvent) {
  service_.breaks = {2, 3};
  const Result result = Run({"watch", "job-1", "--json"});
  EXPECT_EQ(result.code, kExitOk) << result.out;
  EXPECT_THAT(service_.log, ElementsAre("watch after ", "watch after 2", "watch after 5"));
  EXPECT_EQ(Lines(result.out).size(), service_.events().size());
}

TEST_F(CommandsTest, WatchExitsLikeTheJob) {
  const struct {
    video::v1::JobState state;
    int code;
  } cases[] = {{video::v1::JOB_STATE_SUCCEEDED, kExitOk},
               {video::v1::JOB_STATE_FAILED, kExitFailed},
               {video::v1::JOB_STATE_CANCELLED, kExitCancelled},
               {video::v1::JOB_STATE_EXPIRED, kExitUnavailable}};
  for (const auto& c : cases) {
    service_.events().back().set_state(c.state);
    EXPECT_EQ(Run({"watch", "job-1", "--quiet"}).code, c.code) << c.state;
  }
}

TEST_F(CommandsTest, DownloadResumesAtTheLastByte) {
  service_.breaks = {1, 2};
  const Result result = Run({"download", "job-1", "--out", Path("v")});
  EXPECT_EQ(result.code, kExitOk) << result.err;
  EXPECT_EQ(Read("v"), service_.video());
  EXPECT_THAT(service_.log,
              ElementsAre("download from 0", "download from 30000", "download from 90000"));
}

TEST_F(CommandsTest, DownloadContinuesAPartFile) {
  std::ofstream(Path("v.part"), std::ios::binary) << service_.video().substr(0, 12345);
  const Result result = Run({"download", "job-1", "--out", Path("v")});
  EXPECT_EQ(result.code, kExitOk) << result.err;
  EXPECT_EQ(Read("v"), service_.video());
  EXPECT_THAT(service_.log, ElementsAre("download from 12345"));
}

TEST_F(CommandsTest, DownloadStartsAgainWhenThePartFileIsAnotherVideos) {
  for (const size_t size : {size_t{10}, service_.video().size(), service_.video().size() + 10}) {
    service_.log.clear();
    std::ofstream(Path("v.part"), std::ios::binary) << std::string(size, 'x');
    const Result result = Run({"download", "job-1", "--out", Path("v")});
    EXPECT_EQ(result.code, kExitOk) << result.err;
    EXPECT_EQ(Read("v"), service_.video());
    EXPECT_THAT(service_.log, ElementsAre(absl::StrCat("download from ", size), "download from 0"));
  }
}

TEST_F(CommandsTest, DownloadFetchesADamagedChunkAgain) {
  service_.damage = 2;
  const Result result = Run({"download", "job-1", "--out", Path("v")});
  EXPECT_EQ(result.code, kExitOk) << result.err;
  EXPECT_EQ(Read("v"), service_.video());
  EXPECT_THAT(service_.log, ElementsAre("download from 0", "download from 0", "download from 0"));
}

TEST_F(CommandsTest, DownloadGivesUpOnLastingDamage) {
  service_.damage = 1000;
  const Result result = Run({"download", "job-1", "--out", Path("v")});
  EXPECT_EQ(result.code, kExitFailed);
  EXPECT_THAT(result.err, HasSubstr("the chunk at byte 0 is damaged (DATA_LOSS)"));
  EXPECT_FALSE(Exists("v"));
  EXPECT_FALSE(Exists("v.part")) << "nothing worth keeping arrived";
}

TEST_F(CommandsTest, DownloadRefusesAFileWithAnotherChecksum) {
  service_.job().mutable_video()->set_crc32c(1);
  const Result result = Run({"download", "job-1", "--out", Path("v")});
  EXPECT_EQ(result.code, kExitFailed);
  EXPECT_THAT(result.err, HasSubstr("checksum of the whole video is wrong"));
  EXPECT_FALSE(Exists("v"));
}

TEST_F(CommandsTest, DownloadNeedsAFileItCanWrite) {
  const Result result = Run({"download", "job-1", "--out", Path("no/such/folder/v")});
  EXPECT_EQ(result.code, kExitNotFound);
  EXPECT_THAT(result.err, HasSubstr("no/such/folder/v.part"));
}

TEST_F(CommandsTest, RetriesEndAfterRetryFor) {
  service_.breaks = std::deque<int>(100, 0);
  service_.breaks[0] = 1;
  const Result result = Run({"watch", "job-1", "--retry-for=300ms"});
  EXPECT_EQ(result.code, kExitUnavailable);
  EXPECT_GT(service_.log.size(), 1u);
  EXPECT_LT(service_.log.size(), 20u);
}

grpc::Status DetailedError(grpc::StatusCode code, const std::string& message,
                           const std::vector<const google::protobuf::Message*>& details) {
  google::rpc::Status status;
  status.set_code(code);
  status.set_message(message);
  for (const auto* detail : details) status.add_details()->PackFrom(*detail);
  return {code, message, status.SerializeAsString()};
}

TEST_F(CommandsTest, ErrorsShowReasonViolationsAndWhenToRetry) {
  google::rpc::ErrorInfo info;
  info.set_reason("INVALID_REQUEST");
  google::rpc::BadRequest bad;
  for (const char* field : {"parameters.width", "parameters.steps"}) {
    auto* violation = bad.add_field_violations();
    violation->set_field(field);
    violation->set_description("is out of range");
  }
  service_.refusal =
      DetailedError(grpc::StatusCode::INVALID_ARGUMENT, "two things are wrong", {&info, &bad});
  Result result = Run({"generate", "x", "--out", Path("v")});
  EXPECT_EQ(result.code, kExitUsage);
  EXPECT_EQ(result.err,
            "error: two things are wrong (INVALID_REQUEST)\n"
            "  parameters.width: is out of range\n  parameters.steps: is out of range\n");
  result = Run({"submit", "x", "--json"});
  EXPECT_EQ(result.code, kExitUsage);
  EXPECT_EQ(result.out,
            "{\"error\":{\"code\":\"INVALID_ARGUMENT\",\"reason\":\"INVALID_REQUEST\","
            "\"message\":\"two things are wrong\",\"field_violations\":["
            "{\"field\":\"parameters.width\",\"description\":\"is out of range\"},"
            "{\"field\":\"parameters.steps\",\"description\":\"is out of range\"}],"
            "\"exit_code\":2}}\n");

  info.set_reason("QUEUE_FULL");
  google::rpc::RetryInfo retry;
  retry.mutable_retry_delay()->set_seconds(12);
  retry.mutable_retry_delay()->set_nanos(500000000);
  service_.refusal = DetailedError(grpc::StatusCode::RESOURCE_EXHAUSTED, "full", {&info, &retry});
  result = Run({"submit", "x"});
  EXPECT_EQ(result.code, kExitFull);
  EXPECT_EQ(result.err, "error: full (QUEUE_FULL)\n  try again in 13s\n");
}

TEST_F(CommandsTest, ExitCodesOfErrors) {
  const struct {
    grpc::StatusCode status;
    int code;
  } cases[] = {
      {grpc::StatusCode::INVALID_ARGUMENT, kExitUsage},
      {grpc::StatusCode::ALREADY_EXISTS, kExitUsage},
      {grpc::StatusCode::NOT_FOUND, kExitNotFound},
      {grpc::StatusCode::UNAVAILABLE, kExitUnavailable},
      {grpc::StatusCode::DEADLINE_EXCEEDED, kExitUnavailable},
      {grpc::StatusCode::CANCELLED, kExitCancelled},
      {grpc::StatusCode::RESOURCE_EXHAUSTED, kExitFull},
      {grpc::StatusCode::FAILED_PRECONDITION, kExitFailed},
      {grpc::StatusCode::INTERNAL, kExitFailed},
  };
  for (const auto& c : cases) {
    google::rpc::ErrorInfo info;
    info.set_reason("SOME_REASON");
    service_.refusal = DetailedError(c.status, "no", {&info});
    for (const std::vector<std::string>& args : {std::vector<std::string>{"submit", "x"},
                                                 {"generate", "x"},
                                                 {"get", "job-1"},
                                                 {"list"},
                                                 {"cancel", "job-1"},
                                                 {"watch", "job-1"}}) {
      const Result result = Run(args);
      EXPECT_EQ(result.code, c.code) << args[0];
      EXPECT_THAT(result.err, HasSubstr("(SOME_REASON)"));
    }
  }
}

TEST_F(CommandsTest, NoServer) {
  std::ostringstream out;
  std::ostringstream err;
  std::istringstream in;
  const int code = RunCommand({"get", "job-1", "--server=127.0.0.1:1"},
                              {.in = in,
                               .out = out,
                               .err = err,
                               .variable = [](const char*) -> const char* { return nullptr; },
                               .interrupt = interrupt_});
  EXPECT_EQ(code, kExitUnavailable);
  EXPECT_THAT(err.str(), HasSubstr("is the server running at 127.0.0.1:1?"));
}

TEST_F(CommandsTest, UsageErrorsExitWith2) {
  for (const std::vector<std::string>& args :
       {std::vector<std::string>{"generate"},
        {"generate", "x", "--prompt-file=f"},
        {"frobnicate"},
        {"generate", "x", "--level=ultra"},
        {"generate", "x", "--json", "--out=-"},
        {"dead", "dance"},
        {"dead", "retry"},
        {"list", "--state=sleeping"},
        {"list", "--limit=-1"},
        {"generate", "x", "--local"},
        {"generate", "x", "--local", "--model=m", "--timeout=5s"},
        {"generate", "x", "--local", "--model=m", "--out=-"},
        {"get", "job-1", "--tls-cert=/nonexistent"}}) {
    const Result result = Run(args);
    EXPECT_EQ(result.code, kExitUsage) << args[0];
    EXPECT_TRUE(service_.log.empty());
  }
}

TEST_F(CommandsTest, InterruptedGenerateLeavesTheJob) {
  service_.breaks = {3};
  service_.hang = true;
  std::thread ctrl_c([&] {
    while (service_.generate.request_id().empty()) std::this_thread::yield();
    interrupt_.Raise();
  });
  const Result result = Run({"generate", "x", "--out", Path("v"), "--request-id=r"});
  ctrl_c.join();
  EXPECT_EQ(result.code, kExitInterrupted);
  for (const std::string& line : service_.log) EXPECT_THAT(line, Not(HasSubstr("cancel")));
}

TEST_F(CommandsTest, InterruptedGenerateCancelsIfAsked) {
  service_.hang = true;
  // Raised when the first event is reported, so that the job is known by then.
  class RaisingBuffer : public std::stringbuf {
   public:
    explicit RaisingBuffer(Interrupt& interrupt) : interrupt_(interrupt) {}
    int sync() override {
      if (str().find("queued") != std::string::npos && !raised_) {
        raised_ = true;
        interrupt_.Raise();
      }
      return 0;
    }

   private:
    Interrupt& interrupt_;
    bool raised_ = false;
  };
  service_.breaks = {3};
  RaisingBuffer buffer(interrupt_);
  std::ostream err(&buffer);
  std::ostringstream out;
  std::istringstream in;
  const int code = RunCommand({"generate", "x", "--cancel-on-disconnect", "--out", Path("v"),
                               "--server=" + service_.address()},
                              {.in = in,
                               .out = out,
                               .err = err,
                               .variable = [](const char*) -> const char* { return nullptr; },
                               .interrupt = interrupt_});
  EXPECT_EQ(code, kExitInterrupted);
  service_.Settle();
  EXPECT_TRUE(service_.generate.cancel_on_disconnect());
  EXPECT_THAT(service_.log, ElementsAre("generate x", "cancel job-1"));
  EXPECT_THAT(buffer.str(), HasSubstr("cancelled job job-1"));
}

TEST_F(CommandsTest, ListFollowsPages) {
  EXPECT_EQ(Lines(Run({"list", "--limit=0", "--json"}).out).size(), 120u);
  EXPECT_EQ(Lines(Run({"list", "--limit=70", "--json"}).out).size(), 70u);
  EXPECT_EQ(Lines(Run({"list"}).out).size(), 51u) << "fifty and a header";
  service_.log.clear();
  EXPECT_EQ(Run({"list", "--state=queued,running", "--limit=1"}).code, kExitOk);
  EXPECT_THAT(service_.log, ElementsAre("list 2 states from 0"));
}

TEST_F(CommandsTest, StatusWaitsForEveryStage) {
  service_.ready_after = 3;
  EXPECT_EQ(Run({"status"}).code, kExitUnavailable);
  const Result result = Run({"status", "--wait", "--json"});
  EXPECT_EQ(result.code, kExitOk) << result.out;
  EXPECT_THAT(result.out, HasSubstr("\"ready\":true"));
  service_.ready_after = 1 << 30;
  EXPECT_EQ(Run({"status", "--wait", "--timeout=300ms"}).code, kExitUnavailable);
}

TEST_F(CommandsTest, DeadLetters) {
  Result result = Run({"dead", "list"});
  EXPECT_EQ(result.code, kExitOk) << result.err;
  const std::vector<std::string> lines = Lines(result.out);
  ASSERT_EQ(lines.size(), 2u);
  EXPECT_THAT(lines[0], HasSubstr("dead-0"));
  EXPECT_THAT(lines[0], HasSubstr("OUT_OF_MEMORY"));
  EXPECT_EQ(Lines(Run({"dead", "list", "--limit=1", "--json"}).out).size(), 1u);
  result = Run({"dead", "show", "dead-1"});
  EXPECT_EQ(result.code, kExitOk) << result.err;
  EXPECT_THAT(result.out, HasSubstr("last worker  worker-9"));
  EXPECT_EQ(Run({"dead", "show", "alive"}).code, kExitNotFound);

  EXPECT_EQ(Run({"dead", "retry", "dead-1"}).out, "dead-1 queued\n");
  EXPECT_EQ(Run({"dead", "retry", "alive"}).code, kExitNotFound);
  EXPECT_EQ(Run({"dead", "purge", "--all"}).out, "dead-0 purged\ndead-1 purged\n");
  EXPECT_THAT(service_.admin().log,
              ElementsAre("retry dead-1", "retry alive", "purge dead-0", "purge dead-1"));
}

TEST_F(CommandsTest, HealthAsksNothingElse) {
  // The fake has no health service.
  const Result result = Run({"status", "--health"});
  EXPECT_EQ(result.code, kExitFailed);
  EXPECT_THAT(result.err, HasSubstr("UNIMPLEMENTED"));
}

TEST_F(CommandsTest, HealthOfARealHealthService) {
  grpc::EnableDefaultHealthCheckService(true);
  FakeAdminService admin;  // a server needs some service
  grpc::ServerBuilder builder;
  builder.RegisterService(&admin);
  int port = 0;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
  const std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  grpc::EnableDefaultHealthCheckService(false);
  Client client(*Connect(absl::StrCat("127.0.0.1:", port), {}), {}, interrupt_);
  const std::string long_name(150, 'x');
  server->GetHealthCheckService()->SetServingStatus("a stage", false);
  server->GetHealthCheckService()->SetServingStatus(long_name, true);
  const struct {
    std::string service;
    grpc::StatusCode code;
    bool serving;
  } cases[] = {{"", grpc::StatusCode::OK, true},
               {"a stage", grpc::StatusCode::OK, false},
               {long_name, grpc::StatusCode::OK, true},
               {"unknown", grpc::StatusCode::NOT_FOUND, false}};
  for (const auto& c : cases) {
    bool serving = false;
    EXPECT_EQ(client.CheckHealth(c.service, serving).error_code(), c.code) << c.service;
    EXPECT_EQ(serving, c.serving) << c.service;
  }
  server->Shutdown();
}

TEST_F(CommandsTest, LocalTranslatesFlags) {
  const Result result = Run({"generate", "a cube", "--local", "--model=dir", "--guidance-scale=3",
                             "--level=low", "--out=f.mp4"});
  EXPECT_EQ(result.code, kExitFailed);
  EXPECT_THAT(result.err, HasSubstr("cannot run kandinsky-local: not in a test"));
  EXPECT_THAT(result.local, ElementsAre("--prompt=a cube", "--model=dir", "--level=low",
                                        "--guidance-scale=3", "--out=f.mp4"));
  EXPECT_THAT(Run({"generate", "x", "--local", "--model=dir", "--format=gif"}).local,
              ElementsAre("--prompt=x", "--model=dir", "--format=gif", "--out=video.gif"));
  EXPECT_TRUE(service_.log.empty());
}

TEST_F(CommandsTest, TerminalGetsAProgressBar) {
  terminal_ = true;
  const Result result = Run({"generate", "x", "--out", Path("v")});
  EXPECT_EQ(result.code, kExitOk);
  EXPECT_THAT(result.err, HasSubstr("\r\x1b[K["));
  EXPECT_THAT(result.err, HasSubstr("download 97.7 KiB of 97.7 KiB"));
  EXPECT_EQ(result.out, Path("v") + "\n") << "standard output stays clean";
}

TEST(ReporterTest, NoticesAreSaidOnceToPeople) {
  video::v1::Job job;
  video::v1::Notice* notice = job.add_notices();
  notice->set_message("what is a \x1b[31mdragonfly?");
  video::v1::JobEvent event;
  *event.add_notices() = *notice;
  for (const ReportStyle style : {ReportStyle::kTerminal, ReportStyle::kLines}) {
    std::ostringstream out, err;
    const auto reporter = Reporter::Make(style, out, err, 80);
    reporter->OnJob(job);
    reporter->OnEvent(event);
    reporter->Close();
    const std::string text = err.str();
    const size_t at = text.find("note: what is a  [31mdragonfly?\n");
    EXPECT_NE(at, std::string::npos) << text;
    EXPECT_EQ(text.find("note:", at + 1), std::string::npos) << text;
    EXPECT_EQ(out.str(), "");
  }
  // A watcher sees no job, only events.
  std::ostringstream out, err;
  Reporter::Make(ReportStyle::kLines, out, err, 80)->OnEvent(event);
  EXPECT_THAT(err.str(), HasSubstr("note: what"));
}

TEST(ReporterTest, TextHelpers) {
  EXPECT_EQ(Bar(0, 4), "[    ]");
  EXPECT_EQ(Bar(0.5, 4), "[=>  ]");
  EXPECT_EQ(Bar(1, 4), "[====]");
  EXPECT_EQ(Bar(7, 4), "[====]");
  EXPECT_EQ(HumanBytes(1023), "1023 B");
  EXPECT_EQ(HumanBytes(1536), "1.5 KiB");
  EXPECT_EQ(HumanBytes(uint64_t{5} << 30), "5.0 GiB");
  EXPECT_EQ(Printable("a\x1b[31mb\nc\xc2\x9b"
                      "d é"),
            "a [31mb c d é");
  EXPECT_EQ(LowerName(video::v1::VIDEO_FORMAT_FRAGMENTED_MP4), "fragmented-mp4");
  EXPECT_EQ(LowerName(video::v1::STAGE_UNSPECIFIED), "");
}

}  // namespace
}  // namespace kandinsky::cli
