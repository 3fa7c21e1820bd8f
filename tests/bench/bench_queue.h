// kandinsky-bench queue: how many tasks a second one client process gets through the job engine.
#ifndef KANDINSKY_TESTS_BENCH_BENCH_QUEUE_H_
#define KANDINSKY_TESTS_BENCH_BENCH_QUEUE_H_

#include <string>
#include <vector>

namespace kandinsky::bench {

// Flags: see the usage text. Prints the result and returns the exit status: 0 if every job ended
// once and the engine reached a third of what Redis itself can do.
int RunQueue(const std::vector<std::string>& args);

}  // namespace kandinsky::bench

#endif  // KANDINSKY_TESTS_BENCH_BENCH_QUEUE_H_
