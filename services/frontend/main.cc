// kandinsky-frontend: the public gRPC service on Redis. Stateless; any number of replicas. See
// --help.
//
// SIGTERM and SIGINT drain (server.h says how) for at most --drain_grace; a second signal hurries.
#include <signal.h>

#include <atomic>
#include <cstdio>
#include <thread>

#include "absl/flags/flag.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "common/base/log.h"
#include "common/config/flags.h"
#include "common/metrics/metrics.h"
#include "common/queue_redis/engine.h"
#include "services/frontend/server.h"

ABSL_FLAG(std::string, listen, "127.0.0.1:50051",
          "Address of the gRPC server; port 0 picks a free one, which is logged and written to "
          "--port_file.");
ABSL_FLAG(std::string, model_dirs, "models/tiny",
          "Model directories, separated by commas; the first is the default model. Only model.json "
          "is read.");
ABSL_FLAG(
    bool, admin, false,
    "Serve AdminService (dead letters) on the same port. Whoever reaches the port may use it.");
ABSL_FLAG(absl::Duration, default_timeout, absl::Hours(1), "Timeout of jobs that name none.");
ABSL_FLAG(absl::Duration, max_timeout, absl::Hours(24),
          "Longest timeout that a job may name; at most 24h.");
ABSL_FLAG(absl::Duration, drain_grace, absl::Seconds(20),
          "How long downloads may go on after SIGTERM.");
ABSL_FLAG(int, store_threads, 16, "Threads for calls of the store; 2 to 256.");
ABSL_FLAG(int, max_streams, 50000, "Open streams of this process.");

ABSL_FLAG(std::string, tls_cert_file, "", "PEM certificate chain of the server. Empty: no TLS.");
ABSL_FLAG(std::string, tls_key_file, "", "PEM private key of the server.");
ABSL_FLAG(std::string, tls_client_ca_file, "",
          "PEM certificates; clients must present a certificate that one of them signed. Empty: "
          "any client.");

ABSL_FLAG(std::string, redis, "redis://127.0.0.1:6379/0",
          "redis://[[user]:password@]host[:port][/db], unix:///path or "
          "sentinel://host:port,host:port/master_name.");
ABSL_FLAG(std::string, redis_user, "", "User name; wins over that of --redis.");
ABSL_FLAG(std::string, redis_password, "",
          "Password; wins over that of --redis. Better given as KANDINSKY_REDIS_PASSWORD.");
ABSL_FLAG(std::string, redis_prefix, "kv", "All keys begin with it.");
ABSL_FLAG(int, redis_min_replicas, 0, "Replicas that must have a job before it is accepted.");
ABSL_FLAG(std::string, video_store, "redis",
          "Where videos are kept: redis, or a directory that all processes share.");
ABSL_FLAG(std::string, video_directory, "", "The directory for --video_store=directory.");
ABSL_FLAG(int, max_unfinished_jobs, 10000, "Unfinished jobs that the deployment accepts.");
ABSL_FLAG(int, max_unfinished_jobs_per_tenant, 2000, "The same for one tenant.");
ABSL_FLAG(absl::Duration, retention, absl::Hours(24),
          "How long finished jobs and their videos are kept; the same in all processes.");
ABSL_FLAG(absl::Duration, dead_letter_retention, absl::Hours(7 * 24),
          "How long FAILED jobs are kept; the same in all processes.");
ABSL_FLAG(absl::Duration, lease, absl::Seconds(15),
          "A task whose worker is silent for so long goes to another; the same in all processes.");

namespace kandinsky {
namespace {

int Fail(const absl::Status& status) {
  Log(LogLevel::kError, "cannot start", {{"error", std::string(status.message())}});
  return 1;
}

absl::StatusOr<RedisEngineOptions> EngineOptionsFromFlags() {
  RedisEngineOptions options;
  options.address = absl::GetFlag(FLAGS_redis);
  options.user = absl::GetFlag(FLAGS_redis_user);
  options.password = absl::GetFlag(FLAGS_redis_password);
  options.key_prefix = absl::GetFlag(FLAGS_redis_prefix);
  options.min_replicas = absl::GetFlag(FLAGS_redis_min_replicas);
  // A unary call waits for one command; a client should hear of an outage soon.
  options.command_timeout = absl::Seconds(3);
  options.max_connections = absl::GetFlag(FLAGS_store_threads) + 4;
  options.queue.limits.max_unfinished_jobs = absl::GetFlag(FLAGS_max_unfinished_jobs);
  options.queue.limits.max_unfinished_jobs_per_tenant =
      absl::GetFlag(FLAGS_max_unfinished_jobs_per_tenant);
  options.queue.retention = absl::GetFlag(FLAGS_retention);
  options.queue.dead_letter_retention = absl::GetFlag(FLAGS_dead_letter_retention);
  options.queue.lease_duration = absl::GetFlag(FLAGS_lease);
  const std::string store = absl::GetFlag(FLAGS_video_store);
  if (store == "directory") {
    options.video_store = VideoStoreKind::kDirectory;
    options.video_directory = absl::GetFlag(FLAGS_video_directory);
  } else if (store != "redis") {
    return absl::InvalidArgumentError(
        absl::StrCat("--video_store: \"", store, "\" is not one of redis and directory"));
  }
  return options;
}

absl::StatusOr<FrontendSettings> SettingsFromFlags(const RedisEngineOptions& engine) {
  FrontendSettings settings;
  settings.timeouts = {.default_value = absl::GetFlag(FLAGS_default_timeout),
                       .max = absl::GetFlag(FLAGS_max_timeout)};
  if (settings.timeouts.max < kMinTimeout || settings.timeouts.max > absl::Hours(24)) {
    return absl::InvalidArgumentError("--max_timeout: must be from 1s to 24h");
  }
  if (settings.timeouts.default_value < kMinTimeout ||
      settings.timeouts.default_value > settings.timeouts.max) {
    return absl::InvalidArgumentError("--default_timeout: must be from 1s to --max_timeout");
  }
  settings.pool.threads = absl::GetFlag(FLAGS_store_threads);
  if (settings.pool.threads < 2 || settings.pool.threads > 256) {
    return absl::InvalidArgumentError("--store_threads: must be from 2 to 256");
  }
  if (absl::GetFlag(FLAGS_max_streams) < 1) {
    return absl::InvalidArgumentError("--max_streams: must be at least 1");
  }
  settings.max_streams = static_cast<size_t>(absl::GetFlag(FLAGS_max_streams));
  settings.admission = engine.queue.limits;
  settings.retention = engine.queue.retention;
  return settings;
}

absl::StatusOr<ServerOptions> ServerOptionsFromFlags(RedisEngine* engine) {
  const auto listen = ParseHostPort("--listen", absl::GetFlag(FLAGS_listen));
  if (!listen.ok()) return listen.status();
  ServerOptions options;
  options.listen = listen->ToString();
  options.tls = {.certificate = absl::GetFlag(FLAGS_tls_cert_file),
                 .key = absl::GetFlag(FLAGS_tls_key_file),
                 .client_ca = absl::GetFlag(FLAGS_tls_client_ca_file)};
  options.admin = absl::GetFlag(FLAGS_admin);
  options.check_store =
      [engine, warned = std::string()]() mutable -> absl::StatusOr<std::map<std::string, bool>> {
    const absl::StatusOr<RedisServerCheck> check = engine->CheckServer();
    if (!check.ok()) return check.status();
    std::string warnings;
    for (const std::string& warning : check->warnings) absl::StrAppend(&warnings, warning, " ");
    if (warnings != warned && !warnings.empty()) {
      Log(LogLevel::kWarning, "Redis settings endanger jobs", {{"warnings", warnings}});
    }
    warned = warnings;
    return std::map<std::string, bool>{{"eviction", check->eviction_enabled},
                                       {"aof", check->aof_disabled},
                                       {"version", check->too_old}};
  };
  return options;
}

int Run() {
  // Blocked here and so in every thread that is made later; the waiting thread below takes them.
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  signal(SIGPIPE, SIG_IGN);

  const absl::Status logging = ConfigureLogFromFlags("frontend");
  if (!logging.ok()) return Fail(logging);
  auto catalog = ModelCatalog::Load(SplitList(absl::GetFlag(FLAGS_model_dirs)));
  if (!catalog.ok()) return Fail(catalog.status());
  const auto engine_options = EngineOptionsFromFlags();
  if (!engine_options.ok()) return Fail(engine_options.status());
  const auto settings = SettingsFromFlags(*engine_options);
  if (!settings.ok()) return Fail(settings.status());
  auto engine = OpenRedisEngine(*engine_options);
  if (!engine.ok()) return Fail(engine.status());

  Metrics metrics("frontend");
  std::string metrics_address;
  if (!absl::GetFlag(FLAGS_metrics_listen).empty()) {
    const auto served = metrics.Serve(absl::GetFlag(FLAGS_metrics_listen));
    if (!served.ok()) return Fail(served.status());
    metrics_address = *served;
  }
  const auto server_options = ServerOptionsFromFlags(engine->get());
  if (!server_options.ok()) return Fail(server_options.status());
  auto server = FrontendServer::Start(*server_options,
                                      {.jobs = &(*engine)->job_store(),
                                       .queue = &(*engine)->task_queue(),
                                       .videos = &(*engine)->video_store(),
                                       .feed = &(*engine)->event_feed()},
                                      *std::move(catalog), *settings, metrics);
  if (!server.ok()) return Fail(server.status());
  Log(LogLevel::kInfo, "listening", {{"grpc", (*server)->address()}, {"metrics", metrics_address}});
  const absl::Status written = WritePortFile((*server)->address(), metrics_address);
  if (!written.ok()) return Fail(written);

  int signal_number = 0;
  sigwait(&signals, &signal_number);
  Log(LogLevel::kInfo, "draining", {{"signal", signal_number}});
  // Detached, because it may wait for a second signal that never comes; the flag is never
  // destroyed.
  auto* hurry = new std::atomic<bool>(false);
  std::thread([signals, hurry] {
    int again = 0;
    sigwait(&signals, &again);
    *hurry = true;
  }).detach();
  (*server)->Shutdown(absl::GetFlag(FLAGS_drain_grace), hurry);
  Log(LogLevel::kInfo, "stopped");
  return 0;
}

}  // namespace
}  // namespace kandinsky

int main(int argc, char** argv) {
  const std::vector<std::string> rest = kandinsky::ParseFlags(
      argc, argv,
      "The public gRPC service of Kandinsky Video Service.\n\n"
      "  kandinsky-frontend --redis=redis://127.0.0.1:6379/0 --model_dirs=models/tiny\n");
  if (!rest.empty()) {
    std::fprintf(stderr, "error: unexpected argument \"%s\"\n", rest.front().c_str());
    return 2;
  }
  return kandinsky::Run();
}
