// Ctrl-C and SIGTERM as something that a call can wait for.
#ifndef KANDINSKY_SERVICES_CLI_INTERRUPT_H_
#define KANDINSKY_SERVICES_CLI_INTERRUPT_H_

#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>

#include "absl/time/time.h"

namespace kandinsky::cli {

// Thread-safe.
class Interrupt {
 public:
  Interrupt() = default;
  ~Interrupt();
  Interrupt(const Interrupt&) = delete;
  Interrupt& operator=(const Interrupt&) = delete;

  // Turns SIGINT and SIGTERM of this process into Raise(); the second of them ends the process at
  // once with status 130. At most one object of a process may do so.
  void HandleSignals();

  void Raise();
  bool raised() const;
  // Waits; true when raised, false when the time is over.
  bool WaitFor(absl::Duration timeout);

  // Runs `action` when the interrupt is raised (at once if it already was), until destroyed.
  class Guard {
   public:
    Guard(Interrupt& interrupt, std::function<void()> action);
    ~Guard();
    Guard(const Guard&) = delete;
    Guard& operator=(const Guard&) = delete;

   private:
    Interrupt& interrupt_;
  };

 private:
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  bool raised_ = false;           // guarded by mutex_
  std::function<void()> action_;  // guarded by mutex_
  std::thread listener_;
  int wake_fd_ = -1;
};

}  // namespace kandinsky::cli

#endif  // KANDINSKY_SERVICES_CLI_INTERRUPT_H_
