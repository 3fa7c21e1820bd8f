#include "tests/bench/bench_soak.h"

#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <set>
#include <sstream>
#include <thread>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "common/base/crc32c.h"
#include "common/queue_redis/engine.h"
#include "tests/bench/child_process.h"
#include "tests/support/redis_server.h"

namespace kandinsky::bench {
namespace {

constexpr char kUsage[] =
    R"(usage: kandinsky-bench soak [--jobs N] [--workers K,I,D] [--kill-every T] [--steps N] [--step-time T]
                            [--lease T] [--checkpoint-interval T] [--timeout T] [--seed N] [--keep]

Starts a private Redis and K keyframes, I interpolation and D decoding workers with a simulated stage (real processes,
real queue, real latent transport, real codec; only the networks are replaced by a fixed computation of N steps), runs N
jobs and kills (-9) one random worker every T, which is started again at once. Then checks every job: one SUCCEEDED
event, and a video equal to that of the same request in a run without kills.
)";

struct Options {
  int jobs = 500;
  std::array<int, 3> workers = {2, 2, 2};
  absl::Duration kill_every = absl::Seconds(2);
  int steps = 10;
  absl::Duration step_time = absl::Milliseconds(5);
  absl::Duration lease = absl::Seconds(2);
  absl::Duration checkpoint_interval = absl::Milliseconds(100);
  absl::Duration timeout = absl::Minutes(30);
  uint64_t seed = 1;
  bool keep = false;
};

bool ParsePositive(const std::string& value, int& out) {
  return absl::SimpleAtoi(value, &out) && out > 0;
}

bool ParseWorkers(const std::string& value, std::array<int, 3>& out) {
  const std::vector<std::string> parts = absl::StrSplit(value, ',');
  if (parts.size() != out.size()) return false;
  for (size_t i = 0; i < out.size(); ++i) {
    if (!ParsePositive(parts[i], out[i])) return false;
  }
  return true;
}

std::optional<Options> Parse(const std::vector<std::string>& args) {
  Options options;
  for (size_t i = 0; i < args.size(); ++i) {
    std::string name = args[i];
    std::string value;
    if (const size_t equals = name.find('='); equals != std::string::npos) {
      value = name.substr(equals + 1);
      name.resize(equals);
    } else if (name != "--keep" && i + 1 < args.size()) {
      value = args[++i];
    }
    const auto duration = [&](absl::Duration& out) {
      return absl::ParseDuration(value, &out) && out > absl::ZeroDuration();
    };
    bool good = false;
    if (name == "--keep") {
      good = options.keep = true;
    } else if (name == "--jobs") {
      good = ParsePositive(value, options.jobs);
    } else if (name == "--steps") {
      good = ParsePositive(value, options.steps);
    } else if (name == "--seed") {
      good = absl::SimpleAtoi(value, &options.seed);
    } else if (name == "--kill-every") {
      good = duration(options.kill_every);
    } else if (name == "--step-time") {
      good = duration(options.step_time);
    } else if (name == "--lease") {
      good = duration(options.lease);
    } else if (name == "--checkpoint-interval") {
      good = duration(options.checkpoint_interval);
    } else if (name == "--timeout") {
      good = duration(options.timeout);
    } else if (name == "--workers") {
      good = ParseWorkers(value, options.workers);
    }
    if (!good) {
      std::fprintf(stderr, "error: %s \"%s\"\n%s", name.c_str(), value.c_str(), kUsage);
      return std::nullopt;
    }
  }
  return options;
}

// Requests differ in the seed only; so many kinds of videos are compared.
constexpr int kKinds = 4;

JobSpec Spec(const Options& options, int number) {
  JobSpec spec;
  spec.request_id = absl::StrCat("soak-", number);
  spec.priority = number % 3 == 0 ? Priority::kBatch : Priority::kInteractive;
  spec.tenant = absl::StrCat("tenant-", number % 5);
  spec.timeout = absl::Hours(24);
  spec.parameters.prompt = "soak";
  spec.parameters.seed = static_cast<uint64_t>(number % kKinds);
  spec.parameters.level = number % 2 == 0 ? Level::kMedium : Level::kLow;
  spec.parameters.width = 64;
  spec.parameters.height = 64;
  spec.parameters.steps = options.steps;
  spec.parameters.model = "simulated";
  spec.parameters.format = VideoFormat::kMp4;
  spec.parameters.fps = 8;
  return spec;
}

// What the live events of all jobs say.
class Ledger {
 public:
  void OnEvent(const JobEvent& event) {
    std::lock_guard<std::mutex> lock(mutex_);
    Entry& entry = entries_[event.job_id];
    const auto position = std::make_pair(event.pass, event.step);
    switch (event.type) {
      case JobEvent::Type::kStateChanged:
        if (IsFinished(event.state)) {
          ++entry.finished;
          ++finished_;
        }
        break;
      case JobEvent::Type::kProgress:
        if (entry.lost && entry.stage == event.stage) {
          // The first report after a retry: what lies between it and the last one before is
          // computed twice.
          const auto [pass, step] = *entry.lost;
          redone_ += std::max(0, (pass - event.pass) * event.steps + step - event.step + 1);
          entry.lost.reset();
        }
        entry.stage = event.stage;
        entry.seen = position;
        break;
      case JobEvent::Type::kRetry:
        ++retries_;
        if (entry.stage == event.stage) entry.lost = entry.seen;
        break;
      default:
        break;
    }
  }

  int finished() const {
    std::lock_guard<std::mutex> lock(mutex_);
    return finished_;
  }
  int retries() const {
    std::lock_guard<std::mutex> lock(mutex_);
    return retries_;
  }
  int64_t redone_steps() const {
    std::lock_guard<std::mutex> lock(mutex_);
    return redone_;
  }

 private:
  struct Entry {
    int finished = 0;
    Stage stage = Stage::kKeyframes;
    std::pair<int, int> seen = {1, 0};  // pass and step of the last report
    std::optional<std::pair<int, int>> lost;
  };

  mutable std::mutex mutex_;
  std::map<std::string, Entry> entries_;
  int finished_ = 0;
  int retries_ = 0;
  int64_t redone_ = 0;
};

class Soak {
 public:
  explicit Soak(Options options) : options_(std::move(options)), random_(options_.seed) {}

  ~Soak() {
    workers_.clear();
    feed_stop();
    engine_.reset();
    redis_.reset();
    if (!directory_.empty() && !options_.keep) std::filesystem::remove_all(directory_);
    if (options_.keep) std::fprintf(stderr, "kept: %s\n", directory_.c_str());
  }

  int Run() {
    if (absl::Status status = Start(); !status.ok()) {
      std::fprintf(stderr, "error: %s\n", status.ToString().c_str());
      return 1;
    }
    // The same requests without kills, to compare with.
    std::map<std::pair<int, uint64_t>, std::string> want;
    std::vector<std::string> first;
    for (int i = 0; i < 2 * kKinds; ++i) first.push_back(Create(1'000'000 + i));
    if (!WaitFinished(static_cast<int>(first.size()), absl::InfiniteDuration())) return 1;
    for (const std::string& id : first) {
      const auto job = engine_->job_store().Get(id);
      if (!job.ok()) continue;
      want[Kind(*job)] = Video(*job);
    }

    const absl::Time begin = absl::Now();
    for (int i = 0; i < options_.jobs; ++i) jobs_.push_back(Create(i));
    const auto accepted = std::count_if(jobs_.begin(), jobs_.end(),
                                        [](const std::string& id) { return !id.empty(); });
    const bool in_time = WaitFinished(static_cast<int>(first.size()) + static_cast<int>(accepted),
                                      options_.kill_every);
    const absl::Duration took = absl::Now() - begin;

    int succeeded = 0, duplicates = 0, lost = 0, wrong = 0;
    std::set<std::string> distinct;
    for (const std::string& id : jobs_) {
      if (id.empty()) continue;
      if (!distinct.insert(id).second) ++duplicates;
      const auto job = engine_->job_store().Get(id);
      if (!job.ok() || job->state != JobState::kSucceeded) {
        ++lost;
        std::fprintf(stderr, "lost: %s: %s\n", id.c_str(),
                     !job.ok() ? job.status().ToString().c_str()
                               : absl::StrCat(std::string(Name(job->state)), " ",
                                              job->error ? job->error->message : "")
                                     .c_str());
        continue;
      }
      ++succeeded;
      duplicates += std::max(0, Successes(id) - 1);
      const std::string video = Video(*job);
      if (video != want[Kind(*job)] || Crc32c(video) != job->video->crc32c) ++wrong;
    }
    const int64_t needed = Needed();
    std::printf(
        "jobs %d  accepted %d  succeeded %d  duplicates %d  lost %d  wrong videos %d\n"
        "kills %d  retries %d  steps needed %lld  steps done again %lld (%.1f %%)\n"
        "%.1f s  %.2f jobs/s%s\n",
        options_.jobs, static_cast<int>(accepted), succeeded, duplicates, lost, wrong, kills_,
        ledger_.retries(), static_cast<long long>(needed),
        static_cast<long long>(ledger_.redone_steps()),
        100.0 * static_cast<double>(ledger_.redone_steps()) / static_cast<double>(needed),
        absl::ToDoubleSeconds(took), static_cast<double>(accepted) / absl::ToDoubleSeconds(took),
        in_time ? "" : "  TIMED OUT");
    return in_time && accepted == options_.jobs && lost == 0 && duplicates == 0 && wrong == 0 ? 0
                                                                                              : 1;
  }

 private:
  static std::pair<int, uint64_t> Kind(const Job& job) {
    return {Passes(job.spec.parameters.level), job.spec.parameters.seed};
  }

  absl::Status Start() {
    std::string pattern = std::filesystem::temp_directory_path() / "kandinsky-soak-XXXXXX";
    if (mkdtemp(pattern.data()) == nullptr) return absl::InternalError("mkdtemp failed");
    directory_ = pattern;
    const std::string socket = directory_ + "/redis.sock";
    redis_ = std::make_unique<ChildProcess>(
        std::vector<std::string>{"redis-server", "--port", "0", "--unixsocket", socket, "--dir",
                                 directory_, "--appendonly", "yes", "--appendfsync", "everysec",
                                 "--save", "", "--maxmemory-policy", "noeviction"},
        directory_ + "/redis.log");
    if (absl::Status status = redis_->Start(); !status.ok()) return status;

    RedisEngineOptions engine_options;
    engine_options.address = absl::StrCat("unix://", socket);
    engine_options.queue.lease_duration = options_.lease;
    // Kills are the point here; a task may meet many.
    engine_options.queue.max_attempts = kMaxAttempts;
    auto engine = OpenRedisEngine(engine_options);
    if (!engine.ok()) return engine.status();
    engine_ = *std::move(engine);
    const absl::Time deadline = absl::Now() + absl::Seconds(20);
    while (!engine_->Ping().ok()) {
      if (absl::Now() > deadline) return absl::UnavailableError("redis-server does not answer");
      absl::SleepFor(absl::Milliseconds(20));
    }
    if (absl::Status status = engine_->event_feed().Start(
            [this](const JobEvent& event) { ledger_.OnEvent(event); }, [] {});
        !status.ok()) {
      return status;
    }
    feed_stop = [this] { engine_->event_feed().Stop(); };

    const std::string binary =
        std::filesystem::read_symlink("/proc/self/exe").parent_path() / "kandinsky-sim-worker";
    for (const Stage stage : kStages) {
      const int count = options_.workers[static_cast<size_t>(stage) - 1];
      for (int i = 0; i < count; ++i) {
        const std::string id = absl::StrCat(std::string(Name(stage)), "-", i);
        workers_.emplace_back(
            std::vector<std::string>{
                binary, absl::StrCat("--stage=", std::string(Name(stage))),
                absl::StrCat("--redis=unix://", socket), absl::StrCat("--worker_id=", id),
                // Kept when the worker is started again: consumers look for a producer there.
                absl::StrCat("--listen=127.0.0.1:", FreePort()), "--metrics_listen=127.0.0.1:0",
                absl::StrCat("--spill_dir=", directory_, "/", id),
                absl::StrCat("--lease=", absl::FormatDuration(options_.lease)),
                absl::StrCat("--checkpoint_interval=",
                             absl::FormatDuration(options_.checkpoint_interval)),
                absl::StrCat("--max_attempts=", kMaxAttempts),
                absl::StrCat("--step_time=", absl::FormatDuration(options_.step_time))},
            absl::StrCat(directory_, "/", id, ".log"));
        if (absl::Status status = workers_.back().Start(); !status.ok()) return status;
      }
    }
    return absl::OkStatus();
  }

  std::string Create(int number) {
    const auto created = engine_->job_store().Create(Spec(options_, number));
    if (created.ok() && created->outcome == CreateResult::Outcome::kCreated) return created->job.id;
    std::fprintf(stderr, "not accepted: %s\n", created.status().ToString().c_str());
    return "";
  }

  // Until `count` jobs in all have finished, killing a worker every `kill_every`.
  bool WaitFinished(int count, absl::Duration kill_every) {
    const absl::Time deadline = absl::Now() + options_.timeout;
    absl::Time next_kill = absl::Now() + kill_every;
    const bool terminal = isatty(STDERR_FILENO) != 0;
    while (ledger_.finished() < count) {
      if (absl::Now() > deadline) return false;
      if (absl::Now() >= next_kill) {
        next_kill += kill_every;
        ChildProcess& victim = workers_[random_() % workers_.size()];
        victim.Kill();
        ++kills_;
        if (!victim.Start().ok()) return false;
      }
      if (absl::Status status = engine_->task_queue().Maintain(); !status.ok()) {
        std::fprintf(stderr, "maintain: %s\n", status.ToString().c_str());
      }
      if (terminal)
        std::fprintf(stderr, "\r%d of %d finished, %d kills", ledger_.finished(), count, kills_);
      absl::SleepFor(absl::Milliseconds(50));
    }
    if (terminal) std::fprintf(stderr, "\n");
    return true;
  }

  std::string Video(const Job& job) {
    std::string video;
    while (true) {
      const auto part =
          engine_->video_store().Read(job.id, job.video_generation, video.size(), 1 << 20);
      if (!part.ok() || part->empty()) return video;
      video += *part;
    }
  }

  int Successes(const std::string& id) {
    int successes = 0;
    std::string after;
    while (true) {
      const auto events = engine_->job_store().ReadEvents(id, after, 1000);
      if (!events.ok() || events->empty()) return successes;
      for (const JobEvent& event : *events) {
        successes += event.type == JobEvent::Type::kStateChanged && IsFinished(event.state) ? 1 : 0;
      }
      after = events->back().id;
    }
  }

  // Denoising steps of all jobs if nothing had to be done twice.
  int64_t Needed() const {
    int64_t needed = 0;
    for (int i = 0; i < options_.jobs; ++i) {
      needed += int64_t{options_.steps} * (1 + Passes(Spec(options_, i).parameters.level));
    }
    return needed;
  }

  static constexpr int kMaxAttempts = 100;

  const Options options_;
  std::string directory_;
  std::unique_ptr<ChildProcess> redis_;
  std::unique_ptr<RedisEngine> engine_;
  std::function<void()> feed_stop = [] {};
  std::vector<ChildProcess> workers_;
  std::vector<std::string> jobs_;
  Ledger ledger_;
  std::mt19937_64 random_;
  int kills_ = 0;
};

}  // namespace

int RunSoak(const std::vector<std::string>& args) {
  const std::optional<Options> options = Parse(args);
  if (!options) return 2;
  return Soak(*options).Run();
}

}  // namespace kandinsky::bench
