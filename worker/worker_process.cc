#include "worker/worker_process.h"

#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <thread>
#include <utility>

#include "absl/flags/flag.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "common/base/log.h"
#include "common/base/version.h"
#include "common/config/flags.h"
#include "common/latent/latent_store.h"
#include "common/metrics/metrics.h"
#include "common/queue_redis/engine.h"
#include "common/transport/latent_client.h"
#include "common/transport/worker_server.h"
#include "worker/runtime/claimer.h"
#include "worker/runtime/drain.h"
#include "worker/runtime/heartbeat.h"
#include "worker/runtime/readiness.h"
#include "worker/runtime/steady_clock.h"
#include "worker/runtime/task_runner.h"
#include "worker/runtime/worker_metrics.h"

ABSL_FLAG(std::string, stage, "", "Which tasks to work on: keyframes, interpolation or decoding.");
ABSL_FLAG(std::string, worker_id, "",
          "Name of this worker in the queue, unique among running workers: 1 to 100 characters of "
          "[A-Za-z0-9._-]. Empty: stage, host name and process number.");
ABSL_FLAG(std::string, listen, "127.0.0.1:0",
          "Address of the gRPC server (latents, health); port 0 picks a free one.");
ABSL_FLAG(
    std::string, advertise, "",
    "Address, host:port, at which other workers reach --listen. Empty: the listening address, "
    "with the host name when it listens on all interfaces.");
ABSL_FLAG(std::string, model_dirs, "models/tiny", "Model directories, separated by commas.");

ABSL_FLAG(std::string, redis, "redis://127.0.0.1:6379/0",
          "redis://[[user]:password@]host[:port][/db], unix:///path or "
          "sentinel://host:port,host:port/master_name.");
ABSL_FLAG(std::string, redis_user, "", "User name; wins over that of --redis.");
ABSL_FLAG(std::string, redis_password, "",
          "Password; wins over that of --redis. Better given as KANDINSKY_REDIS_PASSWORD.");
ABSL_FLAG(std::string, redis_prefix, "kv", "All keys begin with it.");
ABSL_FLAG(std::string, video_store, "redis",
          "Where videos are kept: redis, or a directory that all processes share.");
ABSL_FLAG(std::string, video_directory, "", "The directory for --video_store=directory.");
ABSL_FLAG(absl::Duration, retention, absl::Hours(24),
          "How long finished jobs and their videos are kept; the same in all processes.");
ABSL_FLAG(absl::Duration, dead_letter_retention, absl::Hours(7 * 24),
          "How long FAILED jobs are kept; the same in all processes.");

ABSL_FLAG(absl::Duration, lease, absl::Seconds(15),
          "A task whose worker is silent for so long goes to another; the same in all processes.");
ABSL_FLAG(int, max_attempts, 4, "Attempts of one stage; the same in all processes.");
ABSL_FLAG(absl::Duration, retry_backoff, absl::Seconds(2),
          "First pause after a transient failure; doubles with every attempt.");
ABSL_FLAG(absl::Duration, checkpoint_interval, absl::Seconds(5),
          "Time between checkpoints of a running stage: what a crash costs at most, with --lease.");
ABSL_FLAG(absl::Duration, fetch_patience, absl::Seconds(20),
          "How long to try to reach the producer of latents before its stage is run again.");
ABSL_FLAG(absl::Duration, drain_grace, absl::Seconds(30),
          "How long after SIGTERM the task at hand may go on.");
ABSL_FLAG(absl::Duration, drain_linger, absl::Seconds(2),
          "How long a drained worker keeps serving latents that nobody has fetched yet.");

ABSL_FLAG(std::string, spill_dir, "",
          "Folder for latents, of this worker alone; what an earlier worker left there is served. "
          "Empty: kandinsky-latents-PORT in the temporary folder when --listen has a fixed port, "
          "otherwise memory only.");
ABSL_FLAG(uint64_t, latent_memory_bytes, uint64_t{1} << 30, "Bytes of latents kept in memory.");
ABSL_FLAG(uint64_t, max_latent_bytes, uint64_t{1} << 30, "Largest tensor to take or keep.");

namespace kandinsky {
namespace {

struct Settings {
  Stage stage = Stage::kKeyframes;
  std::string worker_id;
  HostPort listen;
  RedisEngineOptions engine;
};

std::string HostName() {
  char name[256] = {};
  return gethostname(name, sizeof(name) - 1) == 0 ? name : "localhost";
}

absl::Status CheckPositive(const char* flag, absl::Duration value) {
  if (value > absl::ZeroDuration() && value < absl::InfiniteDuration()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(flag, ": must be positive"));
}

absl::StatusOr<Settings> SettingsFromFlags() {
  Settings settings;
  const std::string stage = absl::GetFlag(FLAGS_stage);
  const std::optional<Stage> parsed = ParseStage(stage);
  if (!parsed) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--stage: \"", stage, "\" is not one of keyframes, interpolation and decoding"));
  }
  settings.stage = *parsed;
  settings.worker_id = absl::GetFlag(FLAGS_worker_id);
  if (settings.worker_id.empty()) {
    settings.worker_id = absl::StrCat(stage, "-", HostName(), "-", getpid());
  }
  if (settings.worker_id.size() > 100 ||
      !std::all_of(settings.worker_id.begin(), settings.worker_id.end(), [](unsigned char c) {
        return std::isalnum(c) != 0 || c == '.' || c == '_' || c == '-';
      })) {
    return absl::InvalidArgumentError("--worker_id: must be 1 to 100 characters of [A-Za-z0-9._-]");
  }
  const auto listen = ParseHostPort("--listen", absl::GetFlag(FLAGS_listen));
  if (!listen.ok()) return listen.status();
  settings.listen = *listen;
  for (const absl::Status& status :
       {CheckPositive("--lease", absl::GetFlag(FLAGS_lease)),
        CheckPositive("--checkpoint_interval", absl::GetFlag(FLAGS_checkpoint_interval)),
        CheckPositive("--fetch_patience", absl::GetFlag(FLAGS_fetch_patience))}) {
    if (!status.ok()) return status;
  }

  RedisEngineOptions& engine = settings.engine;
  engine.address = absl::GetFlag(FLAGS_redis);
  engine.user = absl::GetFlag(FLAGS_redis_user);
  engine.password = absl::GetFlag(FLAGS_redis_password);
  engine.key_prefix = absl::GetFlag(FLAGS_redis_prefix);
  engine.max_connections = 8;
  engine.queue.lease_duration = absl::GetFlag(FLAGS_lease);
  engine.queue.max_attempts = absl::GetFlag(FLAGS_max_attempts);
  engine.queue.retry_base_delay = absl::GetFlag(FLAGS_retry_backoff);
  engine.queue.retention = absl::GetFlag(FLAGS_retention);
  engine.queue.dead_letter_retention = absl::GetFlag(FLAGS_dead_letter_retention);
  const std::string store = absl::GetFlag(FLAGS_video_store);
  if (store == "directory") {
    engine.video_store = VideoStoreKind::kDirectory;
    engine.video_directory = absl::GetFlag(FLAGS_video_directory);
  } else if (store != "redis") {
    return absl::InvalidArgumentError(
        absl::StrCat("--video_store: \"", store, "\" is not one of redis and directory"));
  }
  return settings;
}

LatentStoreOptions LatentStoreOptionsFromFlags(const HostPort& listen) {
  LatentStoreOptions options;
  options.spill_dir = absl::GetFlag(FLAGS_spill_dir);
  if (options.spill_dir.empty() && listen.port != 0) {
    std::error_code error;
    options.spill_dir = (std::filesystem::temp_directory_path(error) /
                         absl::StrCat("kandinsky-latents-", listen.port))
                            .string();
  }
  options.memory_bytes = absl::GetFlag(FLAGS_latent_memory_bytes);
  options.max_tensor_bytes = absl::GetFlag(FLAGS_max_latent_bytes);
  options.lock_wait = absl::Seconds(10);
  return options;
}

// Tries come at 0.1, 0.2, 0.4, … 2, 2, … s, until about --fetch_patience is over.
LatentClient::Options LatentClientOptionsFromFlags() {
  LatentClient::Options options;
  options.max_bytes = absl::GetFlag(FLAGS_max_latent_bytes);
  options.backoff = absl::Milliseconds(100);
  options.max_backoff = absl::Seconds(2);
  const absl::Duration patience = absl::GetFlag(FLAGS_fetch_patience);
  absl::Duration waited = absl::ZeroDuration();
  absl::Duration backoff = options.backoff;
  options.max_attempts = 1;
  while (waited < patience && options.max_attempts < 10000) {
    waited += backoff;
    backoff = std::min(backoff * 2, options.max_backoff);
    ++options.max_attempts;
  }
  return options;
}

std::string AdvertisedAddress(const HostPort& listen, int port) {
  std::string advertise = absl::GetFlag(FLAGS_advertise);
  if (!advertise.empty()) return advertise;
  const bool any = listen.host == "0.0.0.0" || listen.host == "::";
  return HostPort{any ? HostName() : listen.host, port}.ToString();
}

sigset_t StopSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  return signals;
}

// Waits for SIGTERM and SIGINT, which must be blocked everywhere, in a thread of its own until
// destruction.
class SignalWaiter {
 public:
  // `on_signal` gets 1, 2, 3, …
  explicit SignalWaiter(std::function<void(int count)> on_signal)
      : thread_([this, on_signal = std::move(on_signal)] {
          const sigset_t signals = StopSignals();
          int count = 0;
          while (!stop_) {
            const timespec slice{0, 100'000'000};
            if (sigtimedwait(&signals, nullptr, &slice) > 0) on_signal(++count);
          }
        }) {}
  ~SignalWaiter() {
    stop_ = true;
    thread_.join();
  }

 private:
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

int CannotStart(const absl::Status& status) {
  Log(LogLevel::kError, "cannot start", {{"error", std::string(status.message())}});
  return 1;
}

// Serves what the next stages have not fetched yet, as long as anybody may wait for it.
void Linger(const LatentStore& latents, Drain& drain) {
  const absl::Time end = SteadyClock().Now() + absl::GetFlag(FLAGS_drain_linger);
  while (latents.GetStats().entries > 0 && SteadyClock().Now() < end && !drain.over()) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
}

int Run(const StageFactory& factory) {
  const absl::StatusOr<Settings> settings = SettingsFromFlags();
  if (!settings.ok()) return CannotStart(settings.status());
  const Stage stage = settings->stage;
  absl::StatusOr<std::unique_ptr<StageRunner>> runner =
      factory(stage, SplitList(absl::GetFlag(FLAGS_model_dirs)));
  if (!runner.ok()) return CannotStart(runner.status());

  const SteadyClock clock;
  Metrics metrics(absl::StrCat("worker-", std::string(Name(stage))));
  WorkerMetrics worker_metrics(metrics, stage);
  absl::StatusOr<std::unique_ptr<RedisEngine>> engine = OpenRedisEngine(settings->engine);
  if (!engine.ok()) return CannotStart(engine.status());
  TaskQueue& queue = (*engine)->task_queue();
  absl::StatusOr<std::unique_ptr<LatentStore>> latents =
      LatentStore::Open(LatentStoreOptionsFromFlags(settings->listen), &clock);
  if (!latents.ok()) return CannotStart(latents.status());

  std::string metrics_address;
  if (!absl::GetFlag(FLAGS_metrics_listen).empty()) {
    const absl::StatusOr<std::string> served = metrics.Serve(absl::GetFlag(FLAGS_metrics_listen));
    if (!served.ok()) return CannotStart(served.status());
    metrics_address = *served;
  }
  const absl::StatusOr<std::unique_ptr<WorkerServer>> server = WorkerServer::Start(
      {settings->listen.ToString(), std::string(Name(stage)),
       [&](uint64_t bytes, double seconds) { worker_metrics.LatentsSent(bytes, seconds); }},
      latents->get(), &metrics);
  if (!server.ok()) return CannotStart(server.status());
  const std::string address = AdvertisedAddress(settings->listen, (*server)->port());
  LatentClient::Options client_options = LatentClientOptionsFromFlags();
  client_options.on_received = [&](uint64_t bytes, double seconds) {
    worker_metrics.LatentsReceived(bytes, seconds);
  };
  LatentClient client(client_options);

  TaskQueue::WorkerInfo info;
  info.id = settings->worker_id;
  info.stage = stage;
  info.address = address;
  Heartbeat heartbeat(&queue, latents->get(), Clock::Real(), info,
                      {.interval = settings->engine.queue.heartbeat_interval});
  Readiness readiness;
  Drain drain(&clock);
  readiness.Subscribe([&](WorkerState state, const std::string&) {
    const bool ready = state == WorkerState::kReady;
    worker_metrics.SetState(Name(state));
    (*server)->SetServing(ready);
    heartbeat.SetState(std::string(Name(state)), ready || state == WorkerState::kDraining
                                                     ? (*runner)->models()
                                                     : std::vector<std::string>());
  });
  heartbeat.Start();
  Log(LogLevel::kInfo, "worker started",
      {{"worker", settings->worker_id},
       {"stage", Name(stage)},
       {"grpc", address},
       {"metrics", metrics_address},
       {"latents_found", (*latents)->GetStats().entries},
       {"version", kVersion}});
  const absl::Status written =
      WritePortFile(HostPort{settings->listen.host, (*server)->port()}.ToString(), metrics_address);
  if (!written.ok()) return CannotStart(written);

  std::atomic<bool> loading{true};
  const SignalWaiter signals([&](int count) {
    Log(LogLevel::kInfo, "told to stop", {{"times", count}});
    // Nothing is claimed while models load, and loading cannot be interrupted.
    if (count >= 3 || loading) std::_Exit(count >= 3 ? 1 : 0);
    readiness.Set(WorkerState::kDraining);
    if (count == 1) {
      drain.Begin(absl::GetFlag(FLAGS_drain_grace));
    } else {
      drain.Hurry();
    }
  });

  TaskRunner tasks(
      {.queue = &queue,
       .videos = &(*engine)->video_store(),
       .latents = latents->get(),
       .source = &client,
       .stage = runner->get(),
       .metrics = &worker_metrics,
       .drain = &drain,
       .clock = &clock,
       .wall = Clock::Real()},
      {.address = address, .checkpoint_interval = absl::GetFlag(FLAGS_checkpoint_interval)});
  absl::Status loaded;  // written by the claimer's thread, read after Join
  const auto load = [&] {
    const absl::Time load_start = clock.Now();
    loaded = (*runner)->Load();
    loading = false;
    if (!loaded.ok()) {
      readiness.Set(WorkerState::kFailed, std::string(loaded.message()));
      return false;
    }
    worker_metrics.ModelLoaded(clock.Now() - load_start);
    readiness.Set(WorkerState::kReady);
    return true;
  };
  Claimer claimer(&queue, &tasks, &drain,
                  {.worker_id = settings->worker_id, .stage = stage, .prepare = load});
  claimer.Start();
  claimer.Join();
  if (!loaded.ok()) {
    while (!drain.WaitFor(absl::Hours(1))) {
    }
    heartbeat.Stop();
    return 1;
  }

  Linger(**latents, drain);
  (*server)->Shutdown(std::clamp(drain.TimeLeft(), absl::ZeroDuration(), absl::Seconds(5)));
  heartbeat.Stop();
  Log(LogLevel::kInfo, "worker stopped", {{"worker", settings->worker_id}});
  return 0;
}

}  // namespace

int RunWorkerProcess(int argc, char** argv, std::string_view usage, const StageFactory& factory) {
  ParseFlags(argc, argv, usage);
  // Before any thread is made, so that every thread has them blocked.
  const sigset_t signals = StopSignals();
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  signal(SIGPIPE, SIG_IGN);
  const absl::Status logging =
      ConfigureLogFromFlags(absl::StrCat("worker-", absl::GetFlag(FLAGS_stage)));
  if (!logging.ok()) return CannotStart(logging);
  return Run(factory);
}

}  // namespace kandinsky
