#include "services/cli/commands.h"

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <map>
#include <random>
#include <sstream>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "common/base/version.h"
#include "services/cli/args.h"
#include "services/cli/error_report.h"
#include "services/cli/exit_code.h"
#include "services/cli/reporter.h"
#include "services/cli/video_file.h"

namespace kandinsky::cli {
namespace {

namespace v1 = video::v1;

std::string EnumName(std::string_view prefix, const std::string& lower) {
  return absl::StrCat(std::string(prefix),
                      absl::StrReplaceAll(absl::AsciiStrToUpper(lower), {{"-", "_"}}));
}

void ToProto(absl::Duration duration, google::protobuf::Duration& proto) {
  proto.set_seconds(absl::ToInt64Seconds(duration));
  proto.set_nanos(static_cast<int32_t>(
      absl::ToInt64Nanoseconds(duration - absl::Seconds(absl::ToInt64Seconds(duration)))));
}

std::string TimeText(const google::protobuf::Timestamp& time) {
  return absl::FormatTime("%Y-%m-%d %H:%M:%S", absl::FromUnixSeconds(time.seconds()),
                          absl::LocalTimeZone());
}

std::string AgeText(const google::protobuf::Timestamp& time) {
  const absl::Duration age = absl::Now() - absl::FromUnixSeconds(time.seconds());
  if (age < absl::Minutes(2)) return absl::StrCat(absl::ToInt64Seconds(age), "s");
  if (age < absl::Hours(2)) return absl::StrCat(absl::ToInt64Minutes(age), "m");
  if (age < absl::Hours(48)) return absl::StrCat(absl::ToInt64Hours(age), "h");
  return absl::StrCat(absl::ToInt64Hours(age) / 24, "d");
}

// At most `width` code points, so that a table stays a table.
std::string Shorten(const std::string& text, size_t width) {
  std::string out;
  size_t characters = 0;
  for (const char c : Printable(text)) {
    if ((static_cast<unsigned char>(c) & 0xc0) != 0x80 && ++characters > width) return out + "…";
    out += c;
  }
  return out;
}

std::string DefaultFileName(const v1::Job& job) {
  const char* extension = job.parameters().format() == v1::VIDEO_FORMAT_WEBM  ? "webm"
                          : job.parameters().format() == v1::VIDEO_FORMAT_GIF ? "gif"
                                                                              : "mp4";
  return absl::StrCat(job.id().empty() ? "video" : job.id(), ".", extension);
}

class Session {
 public:
  Session(const Args& args, const Environment& environment)
      : args_(args), env_(environment), json_(args.Bool("json")) {}

  int Run() {
    const std::string& command = args_.command();
    if (command == "generate" && args_.Bool("local")) return RunLocal();
    TlsOptions tls{.ca_file = args_.String("tls-ca"),
                   .cert_file = args_.String("tls-cert"),
                   .key_file = args_.String("tls-key"),
                   .server_name = args_.String("tls-server-name")};
    tls.enabled = args_.Bool("tls") || !tls.ca_file.empty() || !tls.cert_file.empty() ||
                  !tls.key_file.empty() || !tls.server_name.empty();
    auto channel = Connect(args_.String("server"), tls);
    if (!channel.ok()) return Usage(channel.status());
    ClientOptions options{.rpc_timeout = args_.Duration("rpc-timeout"),
                          .retry_for = args_.Duration("retry-for"),
                          .retry_first = args_.Has("retry-for"),
                          .first_backoff = env_.first_backoff};
    const bool limits_the_wait = command == "watch" || command == "download" || command == "status";
    if (limits_the_wait && args_.Has("timeout")) {
      options.give_up = absl::Now() + args_.Duration("timeout");
    }
    client_ = std::make_unique<Client>(*std::move(channel), options, env_.interrupt);
    reporter_ = Reporter::Make(json_                  ? ReportStyle::kJson
                               : args_.Bool("quiet")  ? ReportStyle::kQuiet
                               : env_.err_is_terminal ? ReportStyle::kTerminal
                                                      : ReportStyle::kLines,
                               env_.out, env_.err, env_.columns);
    if (command == "generate") return Generate();
    if (command == "submit") return Submit();
    if (command == "get") return Get();
    if (command == "list") return List();
    if (command == "watch") return Watch();
    if (command == "cancel") return Cancel();
    if (command == "delete") return Delete();
    if (command == "download") return Download();
    if (command == "models") return Models();
    if (command == "status") return Status();
    if (command == "dead") return Dead();
    return Usage(absl::InvalidArgumentError(absl::StrCat("unknown command ", command)));
  }

 private:
  int Usage(const absl::Status& status) {
    if (json_) {
      env_.out << ErrorJson(
          {.code = "INVALID_ARGUMENT", .message = std::string(status.message()), .reason = "USAGE"},
          kExitUsage);
    } else {
      env_.err << "error: " << status.message() << "\n";
    }
    return kExitUsage;
  }

  // Reports a failed call and says what the process exits with.
  int Fail(const grpc::Status& status) {
    if (reporter_ != nullptr) reporter_->Close();
    if (client_ != nullptr && client_->interrupted()) return kExitInterrupted;
    const ErrorReport report = Explain(status);
    int code = ExitCodeOf(status.error_code());
    if (json_) {
      env_.out << ErrorJson(report, code) << std::flush;
    } else {
      env_.err << ErrorText(report);
      if (status.error_code() == grpc::StatusCode::UNAVAILABLE && report.reason.empty()) {
        env_.err << "  is the server running at " << args_.String("server")
                 << "? --server or KANDINSKY_SERVER names another\n";
      }
    }
    return code;
  }

  std::string job_id() const { return args_.positionals()[0]; }

  absl::StatusOr<std::string> Prompt() {
    const std::string file = args_.String("prompt-file");
    if (args_.Has("prompt-file") == !args_.positionals().empty()) {
      return absl::InvalidArgumentError(
          absl::StrCat(args_.command(), " needs either a prompt or --prompt-file"));
    }
    if (!args_.positionals().empty()) return args_.positionals()[0];
    std::string text;
    if (file == "-") {
      text.assign(std::istreambuf_iterator<char>(env_.in), {});
    } else {
      std::ifstream in(file, std::ios::binary);
      if (!in) return absl::InvalidArgumentError(absl::StrCat("cannot read ", file));
      text.assign(std::istreambuf_iterator<char>(in), {});
    }
    while (!text.empty() && (text.back() == '\n' || text.back() == '\r')) text.pop_back();
    return text;
  }

  template <typename Request>
  absl::Status FillRequest(Request& request) {
    auto prompt = Prompt();
    if (!prompt.ok()) return prompt.status();
    v1::GenerationParameters& p = *request.mutable_parameters();
    p.set_prompt(*prompt);
    p.set_negative_prompt(args_.String("negative-prompt"));
    if (args_.Has("seed")) p.set_seed(args_.Uint("seed"));
    if (args_.Has("level")) {
      v1::Level level = v1::LEVEL_UNSPECIFIED;
      v1::Level_Parse(EnumName("LEVEL_", args_.String("level")), &level);
      p.set_level(level);
    }
    if (args_.Has("width")) p.set_width(static_cast<int32_t>(args_.Int("width")));
    if (args_.Has("height")) p.set_height(static_cast<int32_t>(args_.Int("height")));
    if (args_.Has("steps")) p.set_steps(static_cast<int32_t>(args_.Int("steps")));
    if (args_.Has("guidance-scale")) p.set_guidance_scale(args_.Double("guidance-scale"));
    if (args_.Has("interpolation-guidance-scale")) {
      p.set_interpolation_guidance_scale(args_.Double("interpolation-guidance-scale"));
    }
    p.set_model(args_.String("model"));
    if (args_.Has("format")) {
      v1::VideoFormat format = v1::VIDEO_FORMAT_UNSPECIFIED;
      v1::VideoFormat_Parse(EnumName("VIDEO_FORMAT_", args_.String("format")), &format);
      p.set_format(format);
    }
    if (args_.Has("fps")) p.set_fps(args_.Double("fps"));
    request.set_request_id(args_.String("request-id"));
    request.set_tenant(args_.String("tenant"));
    if (args_.Has("priority")) {
      v1::Priority priority = v1::PRIORITY_UNSPECIFIED;
      v1::Priority_Parse(EnumName("PRIORITY_", args_.String("priority")), &priority);
      request.set_priority(priority);
    }
    if (args_.Has("timeout")) ToProto(args_.Duration("timeout"), *request.mutable_timeout());
    return absl::OkStatus();
  }

  void SavePreview(const v1::JobEvent& event) {
    if (!event.has_preview() || !args_.Has("preview")) return;
    const std::string path = args_.String("preview");
    std::ofstream file(path, std::ios::binary);
    file << event.preview().png();
    file.close();
    reporter_->OnNote(file ? absl::StrCat("preview ", path) : absl::StrCat("cannot write ", path));
  }

  int Saved(const v1::Job& job, const std::string& path, const v1::VideoInfo& info) {
    reporter_->Close();
    if (json_) {
      env_.out << "{\"video\":{\"path\":" << JsonString(path)
               << ",\"job_id\":" << JsonString(job.id()) << ",\"info\":" << ToJson(info) << "}}\n"
               << std::flush;
    } else if (path != "-") {
      env_.out << path << "\n" << std::flush;
      if (!args_.Bool("quiet")) {
        env_.err << absl::StrFormat("%d frames, %dx%d, %g fps, %s\n", info.frames(), info.width(),
                                    info.height(), info.fps(), HumanBytes(info.size_bytes()));
      }
    }
    return kExitOk;
  }

  absl::Status CheckOut() {
    if (json_ && args_.String("out") == "-") {
      return absl::InvalidArgumentError("--json and --out - both want standard output");
    }
    return absl::OkStatus();
  }

  int Generate() {
    v1::GenerateVideoRequest request;
    if (absl::Status filled = CheckOut(); !filled.ok()) return Usage(filled);
    if (absl::Status filled = FillRequest(request); !filled.ok()) return Usage(filled);
    const bool cancel = args_.Bool("cancel-on-disconnect");
    request.set_cancel_on_disconnect(cancel);
    if (request.request_id().empty()) {
      // So that asking again after a broken connection makes no second job.
      std::random_device random;
      request.set_request_id(absl::StrFormat("cli-%08x%08x", random(), random()));
    }
    std::unique_ptr<VideoFile> file;
    std::string path = args_.String("out");
    v1::VideoInfo info;
    const Client::Outcome outcome = client_->Generate(
        request, *reporter_,
        [&](const v1::JobEvent& event) {
          SavePreview(event);
          reporter_->OnEvent(event);
        },
        [&](const v1::Job& job) -> absl::StatusOr<VideoFile*> {
          if (path.empty()) path = DefaultFileName(job);
          auto opened = VideoFile::Open(path, /*resume=*/false);
          if (!opened.ok()) return opened.status();
          file = *std::move(opened);
          return file.get();
        },
        info);
    if (client_->interrupted() && !outcome.job.id().empty()) {
      reporter_->Close();
      return Interrupted(outcome.job, path, cancel);
    }
    if (!outcome.status.ok()) return Fail(outcome.status);
    return Saved(outcome.job, path, info);
  }

  int Interrupted(const v1::Job& job, const std::string& path, bool cancel) {
    if (!cancel) {
      const std::string out = path.empty() || path == "-" ? "" : absl::StrCat(" --out ", path);
      env_.err << "job " << job.id() << " goes on; fetch it with: kandinsky download " << job.id()
               << out << "\n";
      return kExitInterrupted;
    }
    // The server cancels when it sees the disconnection; this makes sure of it. The interrupt stays
    // raised, so the call needs a context of its own.
    grpc::ClientContext context;
    context.set_deadline(absl::ToChronoTime(absl::Now() + absl::Seconds(5)));
    v1::CancelJobRequest request;
    request.set_job_id(job.id());
    v1::Job cancelled;
    const grpc::Status status = client_->stub().CancelJob(&context, request, &cancelled);
    env_.err << (status.ok() ? "cancelled job " : "could not cancel job ") << job.id() << "\n";
    return kExitInterrupted;
  }

  int RunLocal() {
    if (absl::Status checked = CheckOut(); !checked.ok()) return Usage(checked);
    auto prompt = Prompt();
    if (!prompt.ok()) return Usage(prompt.status());
    if (!args_.Has("model")) {
      return Usage(absl::InvalidArgumentError("--local needs --model DIR"));
    }
    // Flags that only mean something to a server.
    for (const char* flag : {"request-id", "priority", "timeout", "cancel-on-disconnect"}) {
      if (args_.Has(flag)) {
        return Usage(
            absl::InvalidArgumentError(absl::StrCat("--", flag, " means nothing with --local")));
      }
    }
    if (args_.String("out") == "-") {
      return Usage(absl::InvalidArgumentError("--local writes to a file: --out - is not possible"));
    }
    std::vector<std::string> arguments = {absl::StrCat("--prompt=", *prompt)};
    for (const char* flag :
         {"model", "negative-prompt", "level", "seed", "width", "height", "steps", "guidance-scale",
          "interpolation-guidance-scale", "format", "fps", "device", "dtype", "threads", "out"}) {
      if (args_.Has(flag)) {
        arguments.push_back(absl::StrCat("--", flag, "=", args_.String(flag)));
      }
    }
    if (!args_.Has("out")) {
      const std::string format = args_.String("format");
      arguments.push_back(
          absl::StrCat("--out=video.", format == "webm" || format == "gif" ? format : "mp4"));
    }
    if (json_) arguments.push_back("--json");
    const absl::Status status = env_.run_local(arguments);
    env_.err << "error: cannot run kandinsky-local: " << status.message() << "\n";
    return kExitFailed;
  }

  int Submit() {
    v1::CreateJobRequest request;
    if (absl::Status filled = FillRequest(request); !filled.ok()) return Usage(filled);
    v1::Job job;
    const grpc::Status status = client_->Call(
        [&](grpc::ClientContext& c) { return client_->stub().CreateJob(&c, request, &job); });
    if (!status.ok()) return Fail(status);
    if (json_) {
      env_.out << "{\"job\":" << ToJson(job) << "}\n";
    } else {
      env_.out << job.id() << "\n";
      for (const v1::Notice& notice : job.notices()) {
        env_.err << "note: " << Printable(notice.message()) << "\n";
      }
    }
    return kExitOk;
  }

  grpc::Status FetchJob(const std::string& id, v1::Job& job) {
    v1::GetJobRequest request;
    request.set_job_id(id);
    return client_->Call(
        [&](grpc::ClientContext& c) { return client_->stub().GetJob(&c, request, &job); });
  }

  void ShowJob(const v1::Job& job) {
    if (json_) {
      env_.out << "{\"job\":" << ToJson(job) << "}\n";
      return;
    }
    const auto line = [&](absl::string_view name, const std::string& value) {
      if (!value.empty()) env_.out << absl::StrFormat("%-12s %s\n", name, value);
    };
    const v1::GenerationParameters& p = job.parameters();
    line("job", job.id());
    line("request", job.request_id());
    line("tenant", job.tenant());
    line("priority", LowerName(job.priority()));
    line("state", LowerName(job.state()));
    if (!IsFinished(job.state())) {
      line("stage", absl::StrCat(LowerName(job.stage()), ", attempt ", job.attempt()));
      line("progress", absl::StrFormat("%.0f%%", job.fraction() * 100));
    }
    line("prompt", Printable(p.prompt()));
    line("negative", Printable(p.negative_prompt()));
    for (const v1::Notice& notice : job.notices()) line("note", Printable(notice.message()));
    line("video",
         absl::StrFormat("%s, %dx%d, %g fps, %s, model %s", LowerName(p.level()), p.width(),
                         p.height(), p.fps(), LowerName(p.format()), p.model()));
    line("sampling",
         absl::StrFormat("seed %d, %d steps, guidance %g, interpolation guidance %g", p.seed(),
                         p.steps(), p.guidance_scale(), p.interpolation_guidance_scale()));
    line("created", TimeText(job.create_time()));
    if (job.has_start_time()) line("started", TimeText(job.start_time()));
    if (job.has_finish_time()) line("finished", TimeText(job.finish_time()));
    if (!IsFinished(job.state())) line("deadline", TimeText(job.deadline()));
    if (job.has_expire_time()) line("kept until", TimeText(job.expire_time()));
    if (job.has_error()) {
      line("error", absl::StrCat(job.error().reason(), ": ", Printable(job.error().message()), " (",
                                 LowerName(job.error().stage()), ", ", job.error().attempts(),
                                 " attempts)"));
    }
    if (job.has_video()) {
      line("result", absl::StrFormat("%s, %d frames, %s, crc32c %08x", job.video().mime_type(),
                                     job.video().frames(), HumanBytes(job.video().size_bytes()),
                                     job.video().crc32c()));
    }
  }

  int Get() {
    v1::Job job;
    const grpc::Status status = FetchJob(job_id(), job);
    if (!status.ok()) return Fail(status);
    ShowJob(job);
    return kExitOk;
  }

  int List() {
    v1::ListJobsRequest request;
    request.set_tenant(args_.String("tenant"));
    if (args_.Has("state")) {
      for (absl::string_view name : absl::StrSplit(args_.String("state"), ',')) {
        v1::JobState state = v1::JOB_STATE_UNSPECIFIED;
        if (!v1::JobState_Parse(EnumName("JOB_STATE_", std::string(name)), &state) ||
            state == v1::JOB_STATE_UNSPECIFIED) {
          return Usage(absl::InvalidArgumentError(absl::StrCat(
              "--state knows queued, running, succeeded, failed, cancelled and expired, not \"",
              name, "\"")));
        }
        request.add_states(state);
      }
    }
    if (args_.Int("limit") < 0) {
      return Usage(absl::InvalidArgumentError("--limit must not be negative"));
    }
    const bool all = args_.Int("limit") == 0;
    int64_t left = args_.Int("limit");
    bool header = false;
    while (all || left > 0) {
      request.set_page_size(static_cast<int32_t>(all ? 1000 : std::min<int64_t>(left, 1000)));
      v1::ListJobsResponse response;
      const grpc::Status status = client_->Call(
          [&](grpc::ClientContext& c) { return client_->stub().ListJobs(&c, request, &response); });
      if (!status.ok()) return Fail(status);
      for (const v1::Job& job : response.jobs()) {
        if (json_) {
          env_.out << "{\"job\":" << ToJson(job) << "}\n";
          continue;
        }
        if (!std::exchange(header, true)) {
          env_.out << absl::StrFormat("%-28s %-10s %-14s %5s %5s  %s\n", "JOB", "STATE", "STAGE",
                                      "DONE", "AGE", "PROMPT");
        }
        env_.out << absl::StrFormat("%-28s %-10s %-14s %4.0f%% %5s  %s\n", job.id(),
                                    LowerName(job.state()), LowerName(job.stage()),
                                    job.fraction() * 100, AgeText(job.create_time()),
                                    Shorten(job.parameters().prompt(), 40));
      }
      left -= response.jobs_size();
      if (response.next_page_token().empty() || response.jobs().empty()) break;
      request.set_page_token(response.next_page_token());
    }
    return kExitOk;
  }

  int Watch() {
    std::string after;
    v1::JobState state = v1::JOB_STATE_UNSPECIFIED;
    const grpc::Status status = client_->Watch(job_id(), after, [&](const v1::JobEvent& event) {
      if (event.state() != v1::JOB_STATE_UNSPECIFIED) state = event.state();
      SavePreview(event);
      reporter_->OnEvent(event);
    });
    if (!status.ok()) return Fail(status);
    reporter_->Close();
    return ExitCodeOf(state);
  }

  int Cancel() {
    v1::CancelJobRequest request;
    request.set_job_id(job_id());
    v1::Job job;
    const grpc::Status status = client_->Call(
        [&](grpc::ClientContext& c) { return client_->stub().CancelJob(&c, request, &job); });
    if (!status.ok()) return Fail(status);
    if (json_) {
      env_.out << "{\"job\":" << ToJson(job) << "}\n";
    } else {
      env_.out << job.id() << " "
               << (IsFinished(job.state()) ? LowerName(job.state()) : "will be cancelled") << "\n";
    }
    return kExitOk;
  }

  int Delete() {
    v1::DeleteJobRequest request;
    request.set_job_id(job_id());
    google::protobuf::Empty empty;
    const grpc::Status status = client_->Call(
        [&](grpc::ClientContext& c) { return client_->stub().DeleteJob(&c, request, &empty); });
    return status.ok() ? kExitOk : Fail(status);
  }

  int Download() {
    if (absl::Status checked = CheckOut(); !checked.ok()) return Usage(checked);
    v1::Job job;
    std::string path = args_.String("out");
    if (path.empty() || !args_.Has("retry-for")) {
      // Fails early for a job that does not exist, before a file is made.
      const grpc::Status status = FetchJob(job_id(), job);
      if (!status.ok()) return Fail(status);
    }
    if (path.empty()) path = DefaultFileName(job);
    auto file = VideoFile::Open(path, /*resume=*/true);
    if (!file.ok()) return Fail(ToGrpcStatus(file.status()));
    v1::VideoInfo info;
    const grpc::Status status = client_->Download(job_id(), **file, *reporter_, info);
    if (!status.ok()) return Fail(status);
    job.set_id(job_id());
    return Saved(job, path, info);
  }

  int Models() {
    v1::ListModelsRequest request;
    v1::ListModelsResponse response;
    const grpc::Status status = client_->Call(
        [&](grpc::ClientContext& c) { return client_->stub().ListModels(&c, request, &response); });
    if (!status.ok()) return Fail(status);
    for (const v1::Model& model : response.models()) {
      if (json_) {
        env_.out << "{\"model\":" << ToJson(model) << "}\n";
        continue;
      }
      env_.out << model.name() << (model.is_default() ? " (default)" : "") << "\n";
      if (!model.description().empty()) env_.out << "  " << Printable(model.description()) << "\n";
      const auto ints = [&](const char* name, const v1::IntRange& r, const std::string& more) {
        env_.out << absl::StrFormat("  %-30s %d to %d, default %d%s\n", name, r.min(), r.max(),
                                    r.default_value(), more);
      };
      const auto doubles = [&](const char* name, const v1::DoubleRange& r) {
        env_.out << absl::StrFormat("  %-30s %g to %g, default %g\n", name, r.min(), r.max(),
                                    r.default_value());
      };
      const std::string multiple = absl::StrCat(", multiples of ", model.size_multiple());
      ints("width", model.width(), multiple);
      ints("height", model.height(), multiple);
      ints("steps", model.steps(), "");
      doubles("guidance-scale", model.guidance_scale());
      doubles("interpolation-guidance-scale", model.interpolation_guidance_scale());
      for (const v1::LevelInfo& level : model.levels()) {
        env_.out << absl::StrFormat("  level %-24s %d frames at %g fps\n", LowerName(level.level()),
                                    level.frames(), level.fps());
      }
    }
    return kExitOk;
  }

  // OK with `info` when the server answers; `ready` when it and every stage can work.
  grpc::Status ReadStatus(v1::ServerInfo& info, bool& serving, bool& ready) {
    grpc::Status status = client_->CheckHealth("", serving);
    // A server behind a gateway that hides its health service is judged by its workers.
    if (status.error_code() == grpc::StatusCode::UNIMPLEMENTED) serving = true;
    if (!status.ok() && status.error_code() != grpc::StatusCode::UNIMPLEMENTED) return status;
    v1::GetServerInfoRequest request;
    info.Clear();
    status = client_->Call(
        [&](grpc::ClientContext& c) { return client_->stub().GetServerInfo(&c, request, &info); });
    if (!status.ok()) return status;
    std::map<v1::Stage, int> workers;
    for (const v1::StageStatus& stage : info.stages())
      workers[stage.stage()] = stage.ready_workers();
    ready = serving;
    for (const v1::Stage stage :
         {v1::STAGE_KEYFRAMES, v1::STAGE_INTERPOLATION, v1::STAGE_DECODING}) {
      if (workers[stage] < 1) ready = false;
    }
    return status;
  }

  int Health() {
    bool serving = false;
    const grpc::Status status = client_->CheckHealth("", serving);
    if (!status.ok()) return Fail(status);
    env_.out << (json_     ? absl::StrCat("{\"serving\":", serving ? "true" : "false", "}\n")
                 : serving ? "serving\n"
                           : "not serving\n");
    return serving ? kExitOk : kExitUnavailable;
  }

  int Status() {
    if (args_.Bool("health")) return Health();
    const bool wait = args_.Bool("wait");
    const absl::Time end =
        absl::Now() + (args_.Has("timeout") ? args_.Duration("timeout") : absl::Minutes(2));
    v1::ServerInfo info;
    bool serving = false;
    bool ready = false;
    grpc::Status status;
    while (true) {
      status = ReadStatus(info, serving, ready);
      const bool again = status.ok() ? !ready : IsTransient(status);
      if (!wait || !again || absl::Now() >= end) break;
      if (env_.interrupt.WaitFor(absl::Milliseconds(200))) return kExitInterrupted;
    }
    if (!status.ok()) return Fail(status);
    if (json_) {
      env_.out << "{\"serving\":" << (serving ? "true" : "false")
               << ",\"ready\":" << (ready ? "true" : "false") << ",\"server\":" << ToJson(info)
               << "}\n";
    } else {
      env_.out << absl::StrFormat("server     %s, version %s, build %s, up %s\n",
                                  serving ? "serving" : "not serving", info.version(), info.build(),
                                  AgeText(info.start_time()));
      for (const v1::StageStatus& stage : info.stages()) {
        env_.out << absl::StrFormat("%-14s %d ready workers, %d waiting, %d running\n",
                                    LowerName(stage.stage()), stage.ready_workers(),
                                    stage.waiting_tasks(), stage.running_tasks());
      }
    }
    return ready ? kExitOk : kExitUnavailable;
  }

  void ShowDead(const v1::DeadJob& dead) {
    if (json_) {
      env_.out << "{\"dead_job\":" << ToJson(dead) << "}\n";
      return;
    }
    const v1::JobError& error = dead.job().error();
    env_.out << absl::StrFormat("%-28s %5s  %-14s %-20s %s\n", dead.job().id(),
                                AgeText(dead.dead_time()), LowerName(error.stage()), error.reason(),
                                Shorten(error.message(), 60));
  }

  grpc::Status ListDead(int32_t max, v1::ListDeadJobsResponse& response) {
    v1::ListDeadJobsRequest request;
    request.set_max_results(max);
    return client_->Call([&](grpc::ClientContext& c) {
      return client_->admin().ListDeadJobs(&c, request, &response);
    });
  }

  int Dead() {
    const std::string& action = args_.positionals()[0];
    const bool has_job = args_.positionals().size() > 1;
    const bool all = args_.Bool("all");
    if (action == "list" && !has_job) {
      v1::ListDeadJobsResponse response;
      const int64_t limit = args_.Int("limit");
      const grpc::Status status = ListDead(
          static_cast<int32_t>(limit <= 0 ? 1000 : std::min<int64_t>(limit, 1000)), response);
      if (!status.ok()) return Fail(status);
      for (const v1::DeadJob& dead : response.dead_jobs()) ShowDead(dead);
      return kExitOk;
    }
    if (action == "show" && has_job) return DeadShow(args_.positionals()[1]);
    if ((action == "retry" || action == "purge") && has_job != all) {
      std::vector<std::string> ids;
      if (has_job) {
        ids.push_back(args_.positionals()[1]);
      } else {
        v1::ListDeadJobsResponse response;
        const grpc::Status status = ListDead(1000, response);
        if (!status.ok()) return Fail(status);
        for (const v1::DeadJob& dead : response.dead_jobs()) ids.push_back(dead.job().id());
      }
      int exit_code = kExitOk;
      for (const std::string& id : ids) {
        const int code = action == "retry" ? DeadRetry(id) : DeadPurge(id);
        if (code != kExitOk) exit_code = code;
      }
      return exit_code;
    }
    return Usage(absl::InvalidArgumentError(
        "dead takes: list, show JOB, retry JOB|--all or purge JOB|--all"));
  }

  int DeadShow(const std::string& id) {
    v1::GetDeadJobRequest request;
    request.set_job_id(id);
    v1::DeadJob dead;
    const grpc::Status status = client_->Call(
        [&](grpc::ClientContext& c) { return client_->admin().GetDeadJob(&c, request, &dead); });
    if (!status.ok()) return Fail(status);
    if (json_) {
      ShowDead(dead);
      return kExitOk;
    }
    ShowJob(dead.job());
    env_.out << absl::StrFormat("%-12s %s\n%-12s %s\n", "died", TimeText(dead.dead_time()),
                                "last worker", dead.last_worker());
    return kExitOk;
  }

  int DeadRetry(const std::string& id) {
    v1::RetryDeadJobRequest request;
    request.set_job_id(id);
    v1::Job job;
    const grpc::Status status = client_->Call(
        [&](grpc::ClientContext& c) { return client_->admin().RetryDeadJob(&c, request, &job); });
    if (!status.ok()) return Fail(status);
    if (json_) {
      env_.out << "{\"job\":" << ToJson(job) << "}\n";
    } else {
      env_.out << job.id() << " " << LowerName(job.state()) << "\n";
    }
    return kExitOk;
  }

  int DeadPurge(const std::string& id) {
    v1::PurgeDeadJobRequest request;
    request.set_job_id(id);
    google::protobuf::Empty empty;
    const grpc::Status status = client_->Call(
        [&](grpc::ClientContext& c) { return client_->admin().PurgeDeadJob(&c, request, &empty); });
    if (!status.ok()) return Fail(status);
    if (!json_) env_.out << id << " purged\n";
    return kExitOk;
  }

  const Args& args_;
  const Environment& env_;
  const bool json_;
  std::unique_ptr<Client> client_;
  std::unique_ptr<Reporter> reporter_;
};

}  // namespace

int RunCommand(const std::vector<std::string>& args, const Environment& environment) {
  const auto parsed = Args::Parse(args, environment.variable);
  if (!parsed.ok()) {
    environment.err << "error: " << parsed.status().message()
                    << "\n  `kandinsky help` lists commands and flags\n";
    return kExitUsage;
  }
  if (parsed->command() == "help") {
    const std::string command = parsed->positionals().empty() ? "" : parsed->positionals()[0];
    const std::string text = HelpText(command);
    if (text.empty()) {
      environment.err << "error: unknown command " << command << "\n";
      return kExitUsage;
    }
    environment.out << text;
    return kExitOk;
  }
  if (parsed->command() == "version") {
    environment.out << "kandinsky " << kVersion << " (" << BuildCommit() << ")\n";
    return kExitOk;
  }
  return Session(*parsed, environment).Run();
}

}  // namespace kandinsky::cli
