// kandinsky-bench soak: many jobs through real worker processes that are killed all the time.
#ifndef KANDINSKY_TESTS_BENCH_BENCH_SOAK_H_
#define KANDINSKY_TESTS_BENCH_BENCH_SOAK_H_

#include <string>
#include <vector>

namespace kandinsky::bench {

// Flags: see the usage text. Prints the result and returns the exit status: 0 if nothing was lost,
// doubled or wrong.
int RunSoak(const std::vector<std::string>& args);

}  // namespace kandinsky::bench

#endif  // KANDINSKY_TESTS_BENCH_BENCH_SOAK_H_
