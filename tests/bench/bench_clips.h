// kandinsky-bench contention and service: how fast clips come beside others, and through the
// service.
#ifndef KANDINSKY_TESTS_BENCH_BENCH_CLIPS_H_
#define KANDINSKY_TESTS_BENCH_BENCH_CLIPS_H_

#include <string>
#include <vector>

namespace kandinsky::bench {

// One, two and three kandinsky-local at once, in rounds. Prints the medians; returns the exit
// status: 0 if three take at most --required-ratio times as long as one.
int RunContention(const std::vector<std::string>& args);

// A clip through Redis, a frontend and a worker a stage against kandinsky-local, by turns. Prints
// the medians; returns the exit status: 0 if the service takes at most 5 % and 60 ms longer and
// both made the same file.
int RunService(const std::vector<std::string>& args);

}  // namespace kandinsky::bench

#endif  // KANDINSKY_TESTS_BENCH_BENCH_CLIPS_H_
