// kandinsky-bench: measurements and endurance runs against real servers. Each command is a file of
// its own.
#include <cstdio>
#include <string>
#include <vector>

#include "tests/bench/bench_clips.h"
#include "tests/bench/bench_queue.h"
#include "tests/bench/bench_soak.h"
#include "tests/bench/bench_watch.h"

namespace {

struct Command {
  const char* name;
  const char* what;
  int (*run)(const std::vector<std::string>& args);
};

constexpr Command kCommands[] = {
    {"contention", "one, two and three clips at once on this machine",
     kandinsky::bench::RunContention},
    {"service", "a clip through the whole service, beside kandinsky-local",
     kandinsky::bench::RunService},
    {"queue", "tasks a second through the job engine, beside the limit of Redis",
     kandinsky::bench::RunQueue},
    {"soak", "many jobs through workers that are killed all the time", kandinsky::bench::RunSoak},
    {"watch", "ten thousand event streams on one frontend", kandinsky::bench::RunWatch},
};

}  // namespace

int main(int argc, char** argv) {
  const std::string name = argc > 1 ? argv[1] : "";
  for (const Command& command : kCommands) {
    if (name == command.name) return command.run(std::vector<std::string>(argv + 2, argv + argc));
  }
  std::fputs("usage: kandinsky-bench COMMAND [FLAGS]\n\n", stderr);
  for (const Command& command : kCommands) {
    std::fprintf(stderr, "  %-10s %s\n", command.name, command.what);
  }
  return 2;
}
