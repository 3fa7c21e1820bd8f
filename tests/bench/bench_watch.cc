#include "tests/bench/bench_watch.h"

#include <grpcpp/create_channel.h>
#include <grpcpp/grpcpp.h>
#include <stdlib.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>
#include <sstream>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "common/queue_redis/engine.h"
#include "kandinsky/video/v1/video_service.grpc.pb.h"
#include "tests/bench/child_process.h"

namespace kandinsky::bench {
namespace {

namespace pb = video::v1;

constexpr char kUsage[] =
    R"(usage: kandinsky-bench watch [--streams N] [--jobs N] [--connections N] [--rounds N] [--interval T]

Starts a private Redis and one frontend, opens N WatchJob streams (default 10000) over a few connections and then plays
the worker: in each round every job makes one step, and the time from just before the step is published until each
stream's client has the event is measured. Once with the streams spread over --jobs jobs (default 100), once with all of
them on one job. Client, frontend, worker and Redis share the machine.
)";

struct Options {
  int streams = 10000;
  int jobs = 100;
  int connections = 16;
  int rounds = 10;
  absl::Duration interval = absl::Seconds(1);
};

std::optional<Options> Parse(const std::vector<std::string>& args) {
  Options options;
  for (size_t i = 0; i < args.size(); ++i) {
    std::string name = args[i];
    std::string value;
    if (const size_t equals = name.find('='); equals != std::string::npos) {
      value = name.substr(equals + 1);
      name.resize(equals);
    } else if (i + 1 < args.size()) {
      value = args[++i];
    }
    const auto positive = [&](int& out) { return absl::SimpleAtoi(value, &out) && out > 0; };
    const bool good = name == "--streams"       ? positive(options.streams)
                      : name == "--jobs"        ? positive(options.jobs)
                      : name == "--connections" ? positive(options.connections)
                      : name == "--rounds"      ? positive(options.rounds)
                      : name == "--interval"    ? absl::ParseDuration(value, &options.interval)
                                                : false;
    if (!good) {
      std::fprintf(stderr, "error: %s \"%s\"\n%s", name.c_str(), value.c_str(), kUsage);
      return std::nullopt;
    }
  }
  return options;
}

// The frontend reads no more of a model than this.
constexpr char kModel[] = R"({"format_version": 1, "name": "tiny",
  "defaults": {"level": "low", "width": 64, "height": 64, "steps": 10, "guidance_scale": 5,
               "interpolation_guidance_scale": 0.25},
  "limits": {"width": {"min": 64, "max": 64}, "height": {"min": 64, "max": 64}, "steps": {"min": 1, "max": 100},
             "guidance_scale": {"min": 0, "max": 20}, "interpolation_guidance_scale": {"min": 0, "max": 20},
             "prompt_characters": {"min": 1, "max": 2000}, "negative_prompt_characters": {"min": 0, "max": 2000}},
  "levels": [{"name": "low", "passes": 0, "frames": 16, "fps": [2, 1]}]})";

bool WaitFor(const std::function<bool()>& condition, absl::Duration timeout) {
  const absl::Time end = absl::Now() + timeout;
  while (!condition()) {
    if (absl::Now() > end) return false;
    absl::SleepFor(absl::Milliseconds(5));
  }
  return true;
}

// A value of /proc/PID/status, in its unit (kB for memory); -1 when it cannot be read.
int64_t ProcessStatus(pid_t pid, const std::string& name) {
  std::ifstream file(absl::StrCat("/proc/", pid, "/status"));
  std::string line;
  while (std::getline(file, line)) {
    if (line.rfind(name + ":", 0) != 0) continue;
    std::istringstream fields(line.substr(name.size() + 1));
    int64_t value = -1;
    fields >> value;
    return value;
  }
  return -1;
}

// When each step of a job was published, and what the clients saw of it. Thread-safe.
struct Ledger {
  Ledger(int jobs, int rounds, size_t deliveries)
      : published(static_cast<size_t>(jobs) * (rounds + 1)), latency_us(deliveries) {}

  std::vector<std::atomic<int64_t>> published;  // ns since the epoch, by job and round
  std::vector<int64_t> latency_us;              // the first `delivered` are set
  std::atomic<size_t> delivered{0};
  std::atomic<int> started{0};       // streams that have seen their job start
  std::atomic<int> ended{0};         // streams
  std::atomic<int> ended_ok{0};      // of these
  std::atomic<int> out_of_order{0};  // events that were lost, doubled or early
};

class Watcher : public grpc::ClientReadReactor<pb::JobEvent> {
 public:
  Watcher(pb::VideoService::Stub& stub, const std::string& job_id, int job, int rounds,
          Ledger& ledger)
      : job_(job), rounds_(rounds), ledger_(ledger) {
    request_.set_job_id(job_id);
    stub.async()->WatchJob(&context_, &request_, this);
    StartRead(&event_);
    StartCall();
  }

  void OnReadDone(bool ok) override {
    if (!ok) return;
    uint64_t id = 0;
    if (!absl::SimpleAtoi(event_.event_id(), &id) || id != last_id_ + 1) ++ledger_.out_of_order;
    last_id_ = id;
    if (event_.type() == pb::JobEvent::TYPE_STAGE_STARTED) ++ledger_.started;
    if (event_.type() == pb::JobEvent::TYPE_PROGRESS) {
      const int64_t published = ledger_.published[job_ * (rounds_ + 1) + event_.step()];
      const size_t index = ledger_.delivered++;
      if (index < ledger_.latency_us.size()) {
        ledger_.latency_us[index] = (absl::GetCurrentTimeNanos() - published) / 1000;
      }
    }
    StartRead(&event_);
  }

  void OnDone(const grpc::Status& status) override {
    ledger_.ended_ok += status.ok();
    ++ledger_.ended;
  }

 private:
  const size_t job_;
  const size_t rounds_;
  Ledger& ledger_;
  grpc::ClientContext context_;
  pb::WatchJobRequest request_;
  pb::JobEvent event_;
  uint64_t last_id_ = 0;
};

class WatchBench {
 public:
  explicit WatchBench(const Options& options) : options_(options) {}
  ~WatchBench() {
    engine_.reset();
    frontend_.reset();
    redis_.reset();
    std::error_code ignored;
    if (!directory_.empty()) std::filesystem::remove_all(directory_, ignored);
  }

  absl::Status Start() {
    directory_ = (std::filesystem::temp_directory_path() / "kandinsky-watch.XXXXXX").string();
    if (mkdtemp(directory_.data()) == nullptr) return absl::UnavailableError("no directory");
    const std::string socket = directory_ + "/redis.sock";
    redis_ = std::make_unique<ChildProcess>(
        std::vector<std::string>{"redis-server", "--port", "0", "--unixsocket", socket, "--dir",
                                 directory_, "--appendonly", "yes", "--save", ""},
        directory_ + "/redis.log");
    if (absl::Status status = redis_->Start(); !status.ok()) return status;
    RedisEngineOptions engine_options;
    engine_options.address = absl::StrCat("unix://", socket);
    engine_options.queue.lease_duration = absl::Minutes(30);
    auto engine = OpenRedisEngine(engine_options);
    if (!engine.ok()) return engine.status();
    engine_ = *std::move(engine);
    if (!WaitFor([&] { return engine_->Ping().ok(); }, absl::Seconds(30))) {
      return absl::UnavailableError("redis-server does not answer");
    }
    return StartFrontend(socket);
  }

  // One scenario; the exit status.
  int Run(int jobs) {
    const int64_t idle_kb = ProcessStatus(frontend_->pid(), "VmRSS");
    if (absl::Status status = MakeJobs(jobs); !status.ok()) return Fail(status);
    Ledger ledger(jobs, options_.rounds, static_cast<size_t>(options_.streams) * options_.rounds);
    const absl::Time begin = absl::Now();
    OpenStreams(jobs, ledger);
    if (!WaitFor([&] { return ledger.started == options_.streams; }, absl::Minutes(3))) {
      return Fail(absl::DeadlineExceededError(
          absl::StrCat(ledger.started.load(), " of ", options_.streams, " streams opened")));
    }
    const absl::Duration opened = absl::Now() - begin;
    const int64_t open_kb = ProcessStatus(frontend_->pid(), "VmRSS");
    if (absl::Status status = PublishRounds(ledger); !status.ok()) return Fail(status);
    if (absl::Status status = EndJobs(); !status.ok()) return Fail(status);
    WaitFor([&] { return ledger.ended == options_.streams; }, absl::Minutes(2));
    const int64_t threads = ProcessStatus(frontend_->pid(), "Threads");
    Print(jobs, ledger, opened, idle_kb, open_kb, threads);
    const bool good = ledger.ended_ok == options_.streams && ledger.out_of_order == 0 &&
                      ledger.delivered == ledger.latency_us.size();
    watchers_.clear();
    channels_.clear();
    return good ? 0 : 1;
  }

 private:
  absl::Status StartFrontend(const std::string& socket) {
    std::filesystem::create_directory(directory_ + "/model");
    std::ofstream(directory_ + "/model/model.json") << kModel;
    const std::string port_file = directory_ + "/frontend.json";
    const std::string binary =
        std::filesystem::read_symlink("/proc/self/exe").parent_path() / "kandinsky-frontend";
    frontend_ = std::make_unique<ChildProcess>(
        std::vector<std::string>{binary, "--listen=127.0.0.1:0",
                                 "--metrics_listen=", absl::StrCat("--redis=unix://", socket),
                                 absl::StrCat("--model_dirs=", directory_, "/model"),
                                 absl::StrCat("--port_file=", port_file)},
        directory_ + "/frontend.log");
    if (absl::Status status = frontend_->Start(); !status.ok()) return status;
    if (!WaitFor([&] { return std::filesystem::exists(port_file); }, absl::Seconds(30))) {
      return absl::UnavailableError("the frontend does not start");
    }
    std::ifstream file(port_file);
    const std::string text((std::istreambuf_iterator<char>(file)),
                           std::istreambuf_iterator<char>());
    const size_t at = text.find("127.0.0.1:");
    if (at == std::string::npos) return absl::UnavailableError("no address in the port file");
    address_ = text.substr(at, text.find('"', at) - at);
    return absl::OkStatus();
  }

  // Jobs whose keyframes task we hold.
  absl::Status MakeJobs(int jobs) {
    leases_.clear();
    for (int i = 0; i < jobs; ++i) {
      JobSpec spec;
      spec.parameters = {.prompt = "x",
                         .level = Level::kLow,
                         .width = 64,
                         .height = 64,
                         .steps = options_.rounds,
                         .model = "tiny",
                         .fps = 2};
      const auto created = engine_->job_store().Create(spec);
      if (!created.ok()) return created.status();
      auto lease = engine_->task_queue().Claim(Stage::kKeyframes, "bench", absl::Seconds(10));
      if (!lease.ok()) return lease.status();
      if (!lease->has_value()) return absl::UnavailableError("no task to claim");
      leases_.push_back(**lease);
    }
    return absl::OkStatus();
  }

  void OpenStreams(int jobs, Ledger& ledger) {
    for (int i = 0; i < options_.connections; ++i) {
      grpc::ChannelArguments arguments;
      arguments.SetInt("kandinsky.connection",
                       i);  // channels of equal arguments share a connection
      arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
      channels_.push_back(
          grpc::CreateCustomChannel(address_, grpc::InsecureChannelCredentials(), arguments));
      stubs_.push_back(pb::VideoService::NewStub(channels_.back()));
    }
    for (int i = 0; i < options_.streams; ++i) {
      const int job = i % jobs;
      watchers_.push_back(
          std::make_unique<Watcher>(*stubs_[stubs_.size() - 1 - i % options_.connections],
                                    leases_[job].job_id, job, options_.rounds, ledger));
    }
  }

  absl::Status PublishRounds(Ledger& ledger) {
    for (int round = 1; round <= options_.rounds; ++round) {
      const absl::Time next = absl::Now() + options_.interval;
      for (size_t job = 0; job < leases_.size(); ++job) {
        StageProgress progress;
        progress.step = round;
        progress.steps = options_.rounds;
        progress.stage_fraction = static_cast<double>(round) / options_.rounds;
        ledger.published[job * (options_.rounds + 1) + round] = absl::GetCurrentTimeNanos();
        const auto renewed = engine_->task_queue().Renew(leases_[job], progress);
        if (!renewed.ok()) return renewed.status();
      }
      const size_t due = static_cast<size_t>(options_.streams) * round;
      WaitFor([&] { return ledger.delivered >= due; }, absl::Seconds(30));
      absl::SleepFor(next - absl::Now());
    }
    return absl::OkStatus();
  }

  absl::Status EndJobs() {
    for (const Lease& lease : leases_) {
      const auto cancelled = engine_->job_store().Cancel(lease.job_id);
      if (!cancelled.ok()) return cancelled.status();
      const absl::Status status = engine_->task_queue().AcknowledgeCancel(lease);
      if (!status.ok()) return status;
    }
    return absl::OkStatus();
  }

  void Print(int jobs, Ledger& ledger, absl::Duration opened, int64_t idle_kb, int64_t open_kb,
             int64_t threads) {
    std::vector<int64_t> sorted(
        ledger.latency_us.begin(),
        ledger.latency_us.begin() + std::min(ledger.delivered.load(), ledger.latency_us.size()));
    std::sort(sorted.begin(), sorted.end());
    const auto at = [&](double part) {
      return sorted.empty()
                 ? 0.0
                 : static_cast<double>(
                       sorted[static_cast<size_t>(part * static_cast<double>(sorted.size() - 1))]) /
                       1000;
    };
    std::printf(
        "watch: %d streams on %d job%s, %d connections\n"
        "  opened in            %.2f s\n"
        "  frontend memory      %.1f MiB idle, %.1f MiB with all streams: %.1f KiB a stream\n"
        "  frontend threads     %ld\n"
        "  events delivered     %zu of %zu, out of order or lost %d\n"
        "  delivery latency     p50 %.1f ms, p99 %.1f ms, max %.1f ms\n"
        "  streams ended OK     %d of %d\n",
        options_.streams, jobs, jobs == 1 ? "" : "s", options_.connections,
        absl::ToDoubleSeconds(opened), static_cast<double>(idle_kb) / 1024,
        static_cast<double>(open_kb) / 1024,
        static_cast<double>(open_kb - idle_kb) / options_.streams, static_cast<long>(threads),
        ledger.delivered.load(), ledger.latency_us.size(), ledger.out_of_order.load(), at(0.5),
        at(0.99), at(1), ledger.ended_ok.load(), options_.streams);
    std::fflush(stdout);
  }

  int Fail(const absl::Status& status) {
    std::fprintf(stderr, "error: %s\n", std::string(status.message()).c_str());
    // Callbacks of streams that are still open must not outlive what they write to.
    frontend_->Kill();
    std::_Exit(1);
  }

  const Options options_;
  std::string directory_;
  std::unique_ptr<ChildProcess> redis_;
  std::unique_ptr<ChildProcess> frontend_;
  std::unique_ptr<RedisEngine> engine_;
  std::string address_;
  std::vector<Lease> leases_;
  std::vector<std::shared_ptr<grpc::Channel>> channels_;
  std::vector<std::unique_ptr<pb::VideoService::Stub>> stubs_;
  std::vector<std::unique_ptr<Watcher>> watchers_;
};

}  // namespace

int RunWatch(const std::vector<std::string>& args) {
  const std::optional<Options> options = Parse(args);
  if (!options) return 2;
  int result = 0;
  for (const int jobs : {options->jobs, 1}) {
    // A fresh frontend for each, so that the memory of one does not hide in the other.
    WatchBench bench(*options);
    if (const absl::Status status = bench.Start(); !status.ok()) {
      std::fprintf(stderr, "error: %s\n", std::string(status.message()).c_str());
      return 1;
    }
    result = std::max(result, bench.Run(jobs));
  }
  return result;
}

}  // namespace kandinsky::bench
