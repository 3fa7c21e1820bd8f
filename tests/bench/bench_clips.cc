#include "tests/bench/bench_clips.h"

#include <stdlib.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <optional>
#include <sstream>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "tests/bench/child_process.h"

namespace kandinsky::bench {
namespace {

constexpr char kUsage[] =
    R"(usage: kandinsky-bench contention [--model DIR] [--level NAME] [--rounds N] [--threads N] [--required-ratio R]
       kandinsky-bench service    [--model DIR] [--level NAME] [--rounds N] [--threads N]

contention: starts one, two and three kandinsky-local at once (real processes, default flags), in --rounds rounds, and
prints the median seconds until the last one is done, and their ratio to one alone. Fails above --required-ratio (3.3)
for three.
service: starts a private Redis, a frontend and one worker a stage, makes a clip with `kandinsky generate` and with
kandinsky-local by turns, --rounds times, and prints the medians. Fails if the service takes more than 5 % and 60 ms
longer, or if the files differ. The workers have loaded their models before the first round.
--threads: of each process; 0, the default: as they choose. The programs are those beside kandinsky-bench.
)";

struct Options {
  std::string model = "models/tiny";
  std::string level = "low";
  int rounds = 5;
  int threads = 0;
  double required_ratio = 3.3;
};

std::optional<Options> Parse(const std::vector<std::string>& args) {
  Options options;
  for (size_t i = 0; i < args.size(); ++i) {
    std::string name = args[i], value;
    if (const size_t equals = name.find('='); equals != std::string::npos) {
      value = name.substr(equals + 1);
      name.resize(equals);
    } else if (i + 1 < args.size()) {
      value = args[++i];
    }
    bool good = false;
    if (name == "--model") {
      options.model = value;
      good = std::filesystem::is_directory(value);
    } else if (name == "--level") {
      options.level = value;
      good = value == "low" || value == "medium" || value == "high";
    } else if (name == "--rounds") {
      good = absl::SimpleAtoi(value, &options.rounds) && options.rounds > 0;
    } else if (name == "--threads") {
      good = absl::SimpleAtoi(value, &options.threads) && options.threads >= 0;
    } else if (name == "--required-ratio") {
      good = absl::SimpleAtod(value, &options.required_ratio) && options.required_ratio > 0;
    }
    if (!good) {
      std::fprintf(stderr, "error: %s \"%s\"\n%s", name.c_str(), value.c_str(), kUsage);
      return std::nullopt;
    }
  }
  return options;
}

std::string ReadFile(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path, std::ios::binary).rdbuf();
  return text.str();
}

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const size_t middle = values.size() / 2;
  return values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
}

std::string List(const std::vector<double>& values) {
  std::string text;
  for (const double value : values) absl::StrAppend(&text, absl::StrFormat(" %.2f", value));
  return text;
}

std::string Program(const std::string& name) {
  std::error_code error;
  return (std::filesystem::read_symlink("/proc/self/exe", error).parent_path() / name).string();
}

class Folder {
 public:
  Folder() {
    path_ = (std::filesystem::temp_directory_path() / "kandinsky-clips-XXXXXX").string();
    if (mkdtemp(path_.data()) == nullptr) path_.clear();
  }
  ~Folder() {
    std::error_code ignored;
    if (!path_.empty()) std::filesystem::remove_all(path_, ignored);
  }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

// Starts all commands at once; the seconds until the last one has ended, all of them well.
// `log` gets their output.
absl::StatusOr<double> Seconds(const std::vector<std::vector<std::string>>& commands,
                               const std::string& log) {
  const absl::Time begin = absl::Now();
  std::vector<ChildProcess> processes;
  for (const std::vector<std::string>& command : commands) {
    processes.emplace_back(command, log);
    if (absl::Status status = processes.back().Start(); !status.ok()) return status;
  }
  bool good = true;
  for (ChildProcess& process : processes) good = process.Wait() == 0 && good;
  if (!good) return absl::InternalError(absl::StrCat("a program failed:\n", ReadFile(log)));
  return absl::ToDoubleSeconds(absl::Now() - begin);
}

int Fail(const absl::Status& status) {
  std::fprintf(stderr, "error: %s\n", std::string(status.message()).c_str());
  return 1;
}

constexpr char kPrompt[] = "a red circle moves to the right";

std::vector<std::string> LocalCommand(const Options& options, const std::string& out) {
  std::vector<std::string> command = {Program("kandinsky-local"),
                                      "--model",
                                      options.model,
                                      "--prompt",
                                      kPrompt,
                                      "--seed",
                                      "1",
                                      "--level",
                                      options.level,
                                      "--out",
                                      out};
  if (options.threads > 0) command.push_back(absl::StrCat("--threads=", options.threads));
  return command;
}

class Contention {
 public:
  explicit Contention(const Options& options) : options_(options) {}

  int Run() {
    std::array<std::vector<double>, 3> seconds;  // by number of clips - 1
    // One that does not count reads the programs from the disk.
    if (auto warm = AtOnce(1); !warm.ok()) return Fail(warm.status());
    for (int round = 0; round < options_.rounds; ++round) {
      for (int clips = 1; clips <= 3; ++clips) {
        const auto took = AtOnce(clips);
        if (!took.ok()) return Fail(took.status());
        seconds[clips - 1].push_back(*took);
      }
    }
    const double one = Median(seconds[0]);
    for (int clips = 1; clips <= 3; ++clips) {
      const std::vector<double>& values = seconds[clips - 1];
      std::printf("%d at once  %6.2f s  %.2f times one alone  (%s )\n", clips, Median(values),
                  Median(values) / one, List(values).c_str());
    }
    const double ratio = Median(seconds[2]) / one;
    const bool good = ratio <= options_.required_ratio;
    std::printf("three at once: %.2f times one alone, %s %.2f\n", ratio,
                good ? "at most" : "MORE THAN", options_.required_ratio);
    return good ? 0 : 1;
  }

 private:
  absl::StatusOr<double> AtOnce(int clips) {
    std::vector<std::vector<std::string>> commands;
    for (int i = 0; i < clips; ++i) {
      commands.push_back(LocalCommand(options_, absl::StrCat(folder_.path(), "/", i, ".mp4")));
    }
    return Seconds(commands, folder_.path() + "/log");
  }

  const Options options_;
  Folder folder_;
};

class Service {
 public:
  explicit Service(const Options& options) : options_(options) {}

  int Run() {
    if (absl::Status status = Start(); !status.ok()) return Fail(status);
    const std::string local_file = folder_.path() + "/local.mp4";
    const std::string service_file = folder_.path() + "/service.mp4";
    const std::vector<std::string> local = LocalCommand(options_, local_file);
    const std::vector<std::string> service = {
        Program("kandinsky"), "generate", kPrompt, "--server",  server_, "--seed", "1", "--level",
        options_.level,       "--quiet",  "--out", service_file};
    std::vector<double> local_seconds, service_seconds;
    for (int round = -1; round < options_.rounds; ++round) {
      const auto by_service = Seconds({service}, folder_.path() + "/log");
      if (!by_service.ok()) return Fail(by_service.status());
      const auto by_local = Seconds({local}, folder_.path() + "/log");
      if (!by_local.ok()) return Fail(by_local.status());
      if (round < 0) continue;  // programs are read from the disk, connections made
      service_seconds.push_back(*by_service);
      local_seconds.push_back(*by_local);
    }
    const double through = Median(service_seconds), alone = Median(local_seconds);
    const bool same = ReadFile(local_file) == ReadFile(service_file);
    const double limit = alone * 1.05 + 0.06;
    std::printf("local    %6.2f s  (%s )\nservice  %6.2f s  (%s )\n", alone,
                List(local_seconds).c_str(), through, List(service_seconds).c_str());
    std::printf("service: %.2f times local, %s 1.05 times and 60 ms (%.2f s); files %s\n",
                through / alone, through <= limit ? "at most" : "MORE THAN", limit,
                same ? "equal" : "DIFFER");
    return through <= limit && same ? 0 : 1;
  }

 private:
  absl::Status Start() {
    const std::string socket = folder_.path() + "/redis.sock";
    const std::string redis = absl::StrCat("unix://", socket);
    if (absl::Status status =
            StartProcess("redis", {"redis-server", "--port", "0", "--unixsocket", socket, "--dir",
                                   folder_.path(), "--appendonly", "yes", "--save", "",
                                   "--maxmemory-policy", "noeviction"});
        !status.ok()) {
      return status;
    }
    const std::string port_file = folder_.path() + "/frontend.json";
    if (absl::Status status =
            StartProcess("frontend", {Program("kandinsky-frontend"), "--listen=127.0.0.1:0",
                                      "--metrics_listen=", absl::StrCat("--redis=", redis),
                                      absl::StrCat("--model_dirs=", options_.model),
                                      absl::StrCat("--port_file=", port_file)});
        !status.ok()) {
      return status;
    }
    for (const char* stage : {"keyframes", "interpolation", "decoding"}) {
      std::vector<std::string> worker = {Program("kandinsky-worker"),
                                         absl::StrCat("--stage=", stage),
                                         "--metrics_listen=", absl::StrCat("--redis=", redis),
                                         absl::StrCat("--model_dirs=", options_.model)};
      if (options_.threads > 0) worker.push_back(absl::StrCat("--threads=", options_.threads));
      if (absl::Status status = StartProcess(stage, std::move(worker)); !status.ok()) return status;
    }
    const absl::Time deadline = absl::Now() + absl::Seconds(60);
    while (server_.empty()) {
      const std::string ports = ReadFile(port_file);  // {"grpc": "127.0.0.1:40001", …}
      const size_t name = ports.find("\"grpc\"");
      const size_t begin = name == std::string::npos ? name : ports.find('"', name + 7);
      const size_t end = begin == std::string::npos ? begin : ports.find('"', begin + 1);
      if (end != std::string::npos) server_ = ports.substr(begin + 1, end - begin - 1);
      if (absl::Now() > deadline) return absl::UnavailableError("the frontend does not start");
      absl::SleepFor(absl::Milliseconds(20));
    }
    const auto ready = Seconds(
        {{Program("kandinsky"), "status", "--wait", "--timeout", "120s", "--server", server_}},
        folder_.path() + "/log");
    return ready.status();
  }

  absl::Status StartProcess(const std::string& name, std::vector<std::string> argv) {
    processes_.emplace_back(std::move(argv), absl::StrCat(folder_.path(), "/", name, ".log"));
    return processes_.back().Start();
  }

  const Options options_;
  Folder folder_;
  std::vector<ChildProcess> processes_;  // killed before the folder goes
  std::string server_;
};

}  // namespace

int RunContention(const std::vector<std::string>& args) {
  const std::optional<Options> options = Parse(args);
  return options ? Contention(*options).Run() : 2;
}

int RunService(const std::vector<std::string>& args) {
  const std::optional<Options> options = Parse(args);
  return options ? Service(*options).Run() : 2;
}

}  // namespace kandinsky::bench
