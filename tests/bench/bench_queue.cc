#include "tests/bench/bench_queue.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cctype>
#include <cstdio>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string_view>
#include <thread>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "common/queue/identity.h"
#include "common/queue_redis/engine.h"
#include "common/redis/client.h"
#include "tests/support/redis_server.h"

namespace kandinsky::bench {
namespace {

constexpr char kUsage[] =
    R"(usage: kandinsky-bench queue [--jobs N] [--threads N] [--tenants N] [--rounds N] [--aof] [--required-ratio R]

Starts a private Redis and takes N jobs of three stages through create, claim and complete with one client process.
Then asks the same server for its own limit, twice: the commands that the scripts of one job run inside the server,
recorded with MONITOR, sent again by pipelining clients that do nothing else, N times with fresh job ids; and as many
plain SETs as the client sends scripts, of the same size. Engine and limit take turns in several rounds, so that both
meet the same other work on the machine; the ratio is the median of the rounds.
)";

struct Options {
  int jobs = 5000;
  int threads = 16;
  int tenants = 10;
  int rounds = 5;
  bool aof = false;
  double required_ratio = 1.0 / 3;
};

std::optional<Options> ParseOptions(const std::vector<std::string>& args) {
  Options options;
  for (size_t i = 0; i < args.size(); ++i) {
    if (args[i] == "--aof") {
      options.aof = true;
      continue;
    }
    std::pair<std::string, std::string> flag = absl::StrSplit(args[i], absl::MaxSplits('=', 1));
    if (!absl::StrContains(args[i], '=')) {
      if (i + 1 == args.size()) return std::nullopt;
      flag.second = args[++i];
    }
    int* number = flag.first == "--jobs"      ? &options.jobs
                  : flag.first == "--threads" ? &options.threads
                  : flag.first == "--tenants" ? &options.tenants
                  : flag.first == "--rounds"  ? &options.rounds
                                              : nullptr;
    if (number != nullptr) {
      if (!absl::SimpleAtoi(flag.second, number) || *number < 1) return std::nullopt;
    } else if (flag.first != "--required-ratio" ||
               !absl::SimpleAtod(flag.second, &options.required_ratio)) {
      return std::nullopt;
    }
  }
  return options;
}

// Durations of one kind of call.
class Latencies {
 public:
  void Add(absl::Duration duration) { all_.push_back(duration); }
  void Add(const Latencies& other) {
    all_.insert(all_.end(), other.all_.begin(), other.all_.end());
  }
  void Print(const char* name) {
    std::sort(all_.begin(), all_.end());
    auto at = [&](double part) {
      return all_.empty()
                 ? 0.0
                 : absl::ToDoubleMicroseconds(
                       all_[std::min(all_.size() - 1, static_cast<size_t>(part * all_.size()))]) /
                       1000;
    };
    std::printf("  %-9s %7zu calls   p50 %7.3f ms   p99 %7.3f ms\n", name, all_.size(), at(0.5),
                at(0.99));
  }

 private:
  std::vector<absl::Duration> all_;
};

struct Measured {
  Latencies create, claim, complete;
};

template <typename Call>
auto Timed(Latencies& latencies, Call call) {
  absl::Time start = absl::Now();
  auto result = call();
  latencies.Add(absl::Now() - start);
  return result;
}

JobSpec Spec(int tenant) {
  JobSpec spec;
  spec.tenant = absl::StrCat("tenant-", tenant);
  spec.parameters.prompt =
      "a red panda walks through deep snow at sunset, wide shot, soft light, film grain";
  spec.parameters.level = Level::kHigh;
  spec.parameters.width = spec.parameters.height = 512;
  spec.parameters.steps = 50;
  spec.parameters.model = "kandinsky-video-1.0";
  return spec;
}

// Creates `jobs` jobs and takes as many tasks of each stage to their end.
absl::Status Drive(RedisEngine& engine, int jobs, int tenants, const std::string& worker,
                   Measured& measured) {
  TaskQueue& tasks = engine.task_queue();
  const LatentLocation latents{"10.0.0.1:7000",
                               "0123456789abcdefghjkmnpqrs/keyframes",
                               "float16",
                               {241, 4, 64, 64},
                               0xdeadbeef};
  const VideoInfo video{1 << 22, 0xdeadbeef, "video/mp4", 241, 512, 512, 30};
  for (int i = 0; i < jobs; ++i) {
    auto created =
        Timed(measured.create, [&] { return engine.job_store().Create(Spec(i % tenants)); });
    if (!created.ok()) return created.status();
    if (created->outcome != CreateResult::Outcome::kCreated) {
      return absl::InternalError("a job was not accepted");
    }
    for (Stage stage : kStages) {
      auto lease =
          Timed(measured.claim, [&] { return tasks.Claim(stage, worker, absl::Seconds(30)); });
      if (!lease.ok()) return lease.status();
      if (!lease->has_value()) return absl::InternalError("a task is missing");
      absl::Status status = Timed(measured.complete, [&] {
        return stage == Stage::kDecoding ? tasks.Finish(**lease, video)
                                         : tasks.Complete(**lease, latents);
      });
      if (!status.ok()) return status;
    }
  }
  return absl::OkStatus();
}

// --- what the server does for one job

struct Recorded {
  std::vector<RedisCommand> inside;  // by the scripts
  std::vector<size_t> outside;       // bytes of the arguments of what the client sent
};

// A line of MONITOR: time [db source] "argument" …
bool ParseMonitorLine(const std::string& line, bool* from_script, RedisCommand* command) {
  size_t bracket = line.find('[');
  size_t end = line.find(']', bracket);
  if (bracket == std::string::npos || end == std::string::npos) return false;
  *from_script = absl::EndsWith(line.substr(bracket, end - bracket), " lua");
  command->clear();
  for (size_t i = end + 1; i < line.size(); ++i) {
    if (line[i] != '"') continue;
    std::string argument;
    for (++i; i < line.size() && line[i] != '"'; ++i) {
      if (line[i] != '\\' || i + 1 >= line.size()) {
        argument += line[i];
        continue;
      }
      char c = line[++i];
      if (c == 'x' && i + 2 < line.size()) {
        argument += static_cast<char>(std::stoi(line.substr(i + 1, 2), nullptr, 16));
        i += 2;
      } else {
        argument += c == 'n'   ? '\n'
                    : c == 'r' ? '\r'
                    : c == 't' ? '\t'
                    : c == 'a' ? '\a'
                    : c == 'b' ? '\b'
                               : c;
      }
    }
    command->push_back(argument);
  }
  return !command->empty();
}

absl::StatusOr<Recorded> Record(RedisEngine& engine, const RedisOptions& redis) {
  RedisConnector connector(redis);
  auto monitor = connector.Connect();
  if (!monitor.ok()) return monitor.status();
  auto ok = (*monitor)->Command({"MONITOR"});
  if (!ok.ok()) return ok.status();
  Measured ignored;
  if (absl::Status status = Drive(engine, 1, 1, "recorder", ignored); !status.ok()) return status;
  // The last thing to come.
  RedisClient client(redis);
  if (auto pong = client.Command({"ECHO", "end of the record"}); !pong.ok()) return pong.status();
  Recorded recorded;
  for (;;) {
    auto line = (*monitor)->Receive(/*readable=*/true);
    if (!line.ok()) return line.status();
    if (!*line) continue;
    bool from_script = false;
    RedisCommand command;
    if (!ParseMonitorLine((*line)->text, &from_script, &command)) continue;
    if (command[0] == "ECHO") return recorded;
    if (from_script) {
      recorded.inside.push_back(std::move(command));
    } else {
      size_t bytes = 0;
      for (const std::string& argument : command) bytes += argument.size();
      recorded.outside.push_back(bytes);
    }
  }
}

void AppendResp(const RedisCommand& command, std::string* out) {
  absl::StrAppend(out, "*", command.size(), "\r\n");
  for (const std::string& argument : command) {
    absl::StrAppend(out, "$", argument.size(), "\r\n", argument, "\r\n");
  }
}

bool IsEntryId(const std::string& text) {
  size_t dash = text.find('-');
  return dash == 13 && text.find_first_not_of("0123456789-") == std::string::npos;
}

// The recorded commands as bytes for job number `n` of one connection: with a job id, keys and
// stream entries of its own, and nothing else changed.
std::string ForJob(const Recorded& recorded, const std::string& connection, int n) {
  std::string id;
  std::map<std::string, std::string> entries;
  const std::string fresh = NewJobId(absl::Now());
  std::string bytes;
  for (size_t i = 0; i < recorded.inside.size(); ++i) {
    RedisCommand command = recorded.inside[i];
    if (id.empty()) {
      for (const std::string& argument : command) {
        size_t brace = argument.find('{');
        if (brace != std::string::npos && argument.size() > brace + 27) {
          id = argument.substr(brace + 1, 26);
        }
      }
    }
    for (size_t k = 1; k < command.size(); ++k) {
      std::string& argument = command[k];
      if (absl::StartsWith(argument, "kv:")) argument = connection + argument;
      for (size_t at = 0; !id.empty() && (at = argument.find(id, at)) != std::string::npos;) {
        argument.replace(at, id.size(), fresh);
      }
      if (IsEntryId(argument)) {
        auto [it, added] =
            entries.try_emplace(argument, absl::StrCat(1000000000000 + n, "-", entries.size() + 1));
        argument = it->second;
      }
      if (command[0] == "XADD" && argument == "*") {
        // The entry that the next commands name.
        for (size_t next = i + 1; next < recorded.inside.size(); ++next) {
          const RedisCommand& later = recorded.inside[next];
          if (later[0] != "XCLAIM") continue;
          for (const std::string& other : later) {
            if (IsEntryId(other)) {
              auto [it, added] = entries.try_emplace(
                  other, absl::StrCat(1000000000000 + n, "-", entries.size() + 1));
              argument = it->second;
              break;
            }
          }
          break;
        }
      }
    }
    AppendResp(command, &bytes);
  }
  return bytes;
}

// --- a client that is as cheap as it can be

class RawClient {
 public:
  ~RawClient() {
    if (fd_ >= 0) close(fd_);
  }
  bool Connect(const std::string& path) {
    fd_ = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (path.size() >= sizeof(address.sun_path)) return false;
    path.copy(address.sun_path, path.size());
    return fd_ >= 0 && connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0;
  }
  // Sends all bytes and reads `replies` replies. `errors` counts those that were errors.
  bool Exchange(std::string_view bytes, int replies, int* errors) {
    while (!bytes.empty()) {
      ssize_t sent = send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (sent <= 0) return false;
      bytes.remove_prefix(static_cast<size_t>(sent));
    }
    for (int i = 0; i < replies; ++i) {
      if (!SkipReply(errors)) return false;
    }
    return true;
  }

 private:
  bool Fill() {
    if (begin_ > 0) {
      buffer_.erase(0, begin_);
      begin_ = 0;
    }
    size_t old = buffer_.size();
    buffer_.resize(old + 65536);
    ssize_t got = recv(fd_, buffer_.data() + old, 65536, 0);
    buffer_.resize(old + std::max<ssize_t>(got, 0));
    return got > 0;
  }
  bool SkipReply(int* errors) {
    size_t end;
    while ((end = buffer_.find("\r\n", begin_)) == std::string::npos) {
      if (!Fill()) return false;
    }
    char type = buffer_[begin_];
    int64_t number = 0;
    if (type == '$' || type == '*') {
      number = std::strtoll(buffer_.data() + begin_ + 1, nullptr, 10);
    }
    begin_ = end + 2;
    *errors += type == '-';
    if (type == '$' && number >= 0) {
      size_t size = static_cast<size_t>(number) + 2;
      while (buffer_.size() - begin_ < size) {
        if (!Fill()) return false;
      }
      begin_ += size;
    }
    if (type == '*') {
      for (int64_t i = 0; i < number; ++i) {
        if (!SkipReply(errors)) return false;
      }
    }
    return true;
  }

  int fd_ = -1;
  std::string buffer_;
  size_t begin_ = 0;
};

// Sends batches[c][i] on connection c, all connections at once; the seconds that took, or nothing
// after an error.
std::optional<double> Replay(const std::string& path,
                             const std::vector<std::vector<std::string>>& batches,
                             int replies_per_batch, std::atomic<int>* errors) {
  std::atomic<bool> failed{false};
  std::vector<std::unique_ptr<RawClient>> clients;
  for (size_t c = 0; c < batches.size(); ++c) {
    clients.push_back(std::make_unique<RawClient>());
    if (!clients.back()->Connect(path)) return std::nullopt;
  }
  std::vector<std::thread> threads;
  absl::Time start = absl::Now();
  for (size_t c = 0; c < batches.size(); ++c) {
    threads.emplace_back([&, c] {
      int wrong = 0;
      for (const std::string& batch : batches[c]) {
        if (!clients[c]->Exchange(batch, replies_per_batch, &wrong)) failed = true;
      }
      *errors += wrong;
    });
  }
  for (std::thread& thread : threads) thread.join();
  double seconds = absl::ToDoubleSeconds(absl::Now() - start);
  if (failed) return std::nullopt;
  return seconds;
}

class QueueBench {
 public:
  explicit QueueBench(const Options& options) : options_(options) {}

  absl::Status Run(double* ratio) {
    RedisServer::Options settings;
    if (options_.aof) settings.settings = {"--appendonly", "yes", "--appendfsync", "everysec"};
    absl::StatusOr<std::unique_ptr<RedisServer>> server = RedisServer::Start(settings);
    if (!server.ok()) return server.status();
    server_ = *std::move(server);
    RedisEngineOptions engine_options;
    engine_options.address = server_->address();
    engine_options.max_connections = options_.threads + 4;
    engine_options.queue.limits = {1 << 30, 1 << 30};
    engine_options.queue.lease_duration = absl::Seconds(60);
    absl::StatusOr<std::unique_ptr<RedisEngine>> engine = OpenRedisEngine(engine_options);
    if (!engine.ok()) return engine.status();
    engine_ = *std::move(engine);
    absl::StatusOr<RedisOptions> redis = RedisOptions::Parse(server_->address());
    if (!redis.ok()) return redis.status();

    // Scripts are loaded and connections open.
    Measured ignored;
    if (absl::Status s = Drive(*engine_, 20, options_.tenants, "warm", ignored); !s.ok()) return s;
    absl::StatusOr<Recorded> recorded = Record(*engine_, *redis);
    if (!recorded.ok()) return recorded.status();

    std::vector<double> ratios, cpu_ratios;
    for (int round = 0; round < options_.rounds; ++round) {
      Part engine_part, raw_part;
      if (absl::Status s = MeasureEngine(&engine_part); !s.ok()) return s;
      if (absl::Status s = MeasureRaw(*recorded, &raw_part); !s.ok()) return s;
      ratios.push_back(engine_part.TasksPerSecond() / raw_part.TasksPerSecond());
      cpu_ratios.push_back(raw_part.ServerPerTask() / engine_part.ServerPerTask());
      engine_total_.Add(engine_part);
      raw_total_.Add(raw_part);
    }
    double plain_rate = 0;
    if (absl::Status s = MeasurePlain(*recorded, &plain_rate); !s.ok()) return s;
    *ratio = Median(ratios);
    PrintResults(*recorded, *ratio, Median(cpu_ratios), plain_rate);
    return absl::OkStatus();
  }

 private:
  // What one measurement, or several together, took.
  struct Part {
    double tasks = 0;
    double seconds = 0;         // by the clock
    double server_seconds = 0;  // of the server's processor
    double TasksPerSecond() const { return tasks / seconds; }
    double ServerPerTask() const { return server_seconds / tasks; }
    void Add(const Part& other) {
      tasks += other.tasks;
      seconds += other.seconds;
      server_seconds += other.server_seconds;
    }
  };

  static double Median(std::vector<double> values) {
    std::sort(values.begin(), values.end());
    return values[values.size() / 2];
  }

  void PrintResults(const Recorded& recorded, double ratio, double cpu_ratio, double plain_rate) {
    std::printf(
        "engine    %.0f jobs, %d threads, %d tenants%s, %d rounds: %.0f tasks/s (%.0f jobs/s) in "
        "%.2f s\n",
        engine_total_.tasks / 3, options_.threads, options_.tenants, options_.aof ? ", AOF" : "",
        options_.rounds, engine_total_.TasksPerSecond(), engine_total_.TasksPerSecond() / 3,
        engine_total_.seconds);
    measured_.create.Print("create");
    measured_.claim.Print("claim");
    measured_.complete.Print("complete");
    const double per_job = static_cast<double>(recorded.inside.size());
    std::printf(
        "raw limit %.0f commands and %zu bytes a job, pipelined, the best of 1, 2 and 4 "
        "connections: %.0f commands/s = %.0f tasks/s (%d error replies)\n ",
        per_job, raw_bytes_, raw_total_.TasksPerSecond() / 3 * per_job, raw_total_.TasksPerSecond(),
        raw_errors_.load());
    std::map<std::string, int> names;
    for (const RedisCommand& command : recorded.inside) ++names[absl::AsciiStrToUpper(command[0])];
    for (const auto& [name, count] : names) std::printf(" %d %s", count, name.c_str());
    std::printf("\nplain     %zu SETs a job of the size of the calls, pipelined: %.0f tasks/s\n",
                recorded.outside.size(), plain_rate);
    std::printf(
        "server    %.0f us of its processor a task with the engine, %.0f us with the same "
        "commands; ratio of the processor time: %.2f\n",
        engine_total_.ServerPerTask() * 1e6, raw_total_.ServerPerTask() * 1e6, cpu_ratio);
    std::printf(
        "ratio     %.2f of the limit of the same commands (required: %.2f); %.2f of plain SETs\n",
        ratio, options_.required_ratio, engine_total_.TasksPerSecond() / plain_rate);
  }

  // Processor seconds of the server so far: what counts when other processes want the processors,
  // too.
  double ServerSeconds() {
    RedisClient client(*RedisOptions::Parse(server_->address()));
    absl::StatusOr<RedisValue> info = client.Command({"INFO", "cpu"});
    double seconds = 0;
    if (!info.ok()) return 0;
    for (absl::string_view line : absl::StrSplit(info->text, absl::ByAnyChar("\r\n"))) {
      double value = 0;
      if ((absl::ConsumePrefix(&line, "used_cpu_sys:") ||
           absl::ConsumePrefix(&line, "used_cpu_user:")) &&
          absl::SimpleAtod(line, &value)) {
        seconds += value;
      }
    }
    return seconds;
  }

  // Jobs of one round for each of so many threads or connections.
  int JobsOf(int parts) const { return std::max(1, options_.jobs / options_.rounds / parts); }

  std::string SocketPath() const { return server_->address().substr(sizeof("unix://") - 1); }

  absl::Status MeasureEngine(Part* part) {
    std::vector<Measured> measured(options_.threads);
    std::vector<absl::Status> statuses(options_.threads);
    std::vector<std::thread> threads;
    const int each = JobsOf(options_.threads);
    const double server_start = ServerSeconds();
    absl::Time start = absl::Now();
    for (int i = 0; i < options_.threads; ++i) {
      threads.emplace_back([&, i] {
        statuses[i] =
            Drive(*engine_, each, options_.tenants, absl::StrCat("worker-", i), measured[i]);
      });
    }
    for (std::thread& thread : threads) thread.join();
    part->seconds = absl::ToDoubleSeconds(absl::Now() - start);
    part->server_seconds = ServerSeconds() - server_start;
    part->tasks = 3.0 * each * options_.threads;
    for (const absl::Status& status : statuses) {
      if (!status.ok()) return status;
    }
    for (const Measured& one : measured) {
      measured_.create.Add(one.create);
      measured_.claim.Add(one.claim);
      measured_.complete.Add(one.complete);
    }
    // Every job has ended, and once: nothing waits, nothing runs, and the counters agree.
    absl::StatusOr<std::vector<StageQueueStats>> stats = engine_->task_queue().Stats();
    if (!stats.ok()) return stats.status();
    for (const StageQueueStats& row : *stats) {
      if (row.waiting + row.delayed + row.running != 0) {
        return absl::InternalError("tasks are left over");
      }
    }
    return absl::OkStatus();
  }

  // The same commands without scripts, by 1, 2 and 4 connections; the fastest counts.
  absl::Status MeasureRaw(const Recorded& recorded, Part* best) {
    const int per_job = static_cast<int>(recorded.inside.size());
    for (int connections : {1, 2, 4}) {
      std::vector<std::vector<std::string>> batches(connections);
      const int each = JobsOf(connections);
      for (int c = 0; c < connections; ++c) {
        const std::string prefix = absl::StrCat("raw", ++raw_runs_, ":");
        // The group that the recorded commands expect is there.
        RedisClient client(*RedisOptions::Parse(server_->address()));
        for (Stage stage : kStages) {
          for (Priority priority : kPriorities) {
            const std::string tasks = absl::StrCat(prefix, "kv:tasks:", std::string(Name(stage)),
                                                   ":", std::string(Name(priority)));
            (void)client.Command({"XGROUP", "CREATE", tasks, "w", "0", "MKSTREAM"}).ok();
          }
        }
        for (int i = 0; i < each; ++i) batches[c].push_back(ForJob(recorded, prefix, i));
      }
      raw_bytes_ = batches[0][0].size();
      const double server_start = ServerSeconds();
      std::optional<double> seconds = Replay(SocketPath(), batches, per_job, &raw_errors_);
      if (!seconds) return absl::UnavailableError("the raw clients lost their server");
      Part part{3.0 * each * connections, *seconds, ServerSeconds() - server_start};
      if (best->tasks == 0 || part.TasksPerSecond() > best->TasksPerSecond()) *best = part;
    }
    return absl::OkStatus();
  }

  absl::Status MeasurePlain(const Recorded& recorded, double* tasks_per_second) {
    std::string batch;
    int n = 0;
    for (size_t size : recorded.outside) {
      AppendResp({"SET", absl::StrCat("plain:", n++), std::string(size, 'x')}, &batch);
    }
    std::atomic<int> errors{0};
    for (int connections : {1, 2, 4}) {
      const int each = JobsOf(connections);
      std::vector<std::vector<std::string>> batches(connections,
                                                    std::vector<std::string>(each, batch));
      std::optional<double> seconds = Replay(SocketPath(), batches, n, &errors);
      if (!seconds) return absl::UnavailableError("the raw clients lost their server");
      *tasks_per_second = std::max(*tasks_per_second, 3.0 * each * connections / *seconds);
    }
    return absl::OkStatus();
  }

  const Options options_;
  Measured measured_;
  Part engine_total_, raw_total_;
  size_t raw_bytes_ = 0;  // of a job
  std::atomic<int> raw_errors_{0};
  int raw_runs_ = 0;
  std::unique_ptr<RedisServer> server_;
  std::unique_ptr<RedisEngine> engine_;
};

}  // namespace

int RunQueue(const std::vector<std::string>& args) {
  std::optional<Options> options = ParseOptions(args);
  if (!options) {
    std::fputs(kUsage, stderr);
    return 2;
  }
  double ratio = 0;
  absl::Status status = QueueBench(*options).Run(&ratio);
  if (!status.ok()) {
    std::fprintf(stderr, "kandinsky-bench queue: %s\n", status.ToString().c_str());
    return 1;
  }
  return ratio >= options->required_ratio ? 0 : 1;
}

}  // namespace kandinsky::bench
