// kandinsky-bench watch: ten thousand WatchJob streams on one frontend.
#ifndef KANDINSKY_TESTS_BENCH_BENCH_WATCH_H_
#define KANDINSKY_TESTS_BENCH_BENCH_WATCH_H_

#include <string>
#include <vector>

namespace kandinsky::bench {

// Flags: see the usage text. Prints the result and returns the exit status: 0 if every stream saw
// every event once, in order, and ended OK.
int RunWatch(const std::vector<std::string>& args);

}  // namespace kandinsky::bench

#endif  // KANDINSKY_TESTS_BENCH_BENCH_WATCH_H_
