// A child process of a benchmark: it dies with its parent.
#ifndef KANDINSKY_TESTS_BENCH_CHILD_PROCESS_H_
#define KANDINSKY_TESTS_BENCH_CHILD_PROCESS_H_

#include <sys/types.h>

#include <string>
#include <vector>

#include "absl/status/status.h"

namespace kandinsky::bench {

// Not thread-safe.
class ChildProcess {
 public:
  // `output` gets standard output and error, appended.
  ChildProcess(std::vector<std::string> argv, std::string output);
  ~ChildProcess();
  ChildProcess(ChildProcess&& other) noexcept;
  ChildProcess(const ChildProcess&) = delete;
  ChildProcess& operator=(const ChildProcess&) = delete;

  // May be called again after Kill or an exit.
  absl::Status Start();
  bool Running();
  // Waits until it has ended; its exit status, -1 if a signal ended it or none was running.
  int Wait();
  // kill -9, and waits until it is gone.
  void Kill();
  void Signal(int number);
  // SIGTERM, and waits.
  void Terminate();

  pid_t pid() const { return pid_; }

 private:
  const std::vector<std::string> argv_;
  const std::string output_;
  pid_t pid_ = -1;
};

}  // namespace kandinsky::bench

#endif  // KANDINSKY_TESTS_BENCH_CHILD_PROCESS_H_
