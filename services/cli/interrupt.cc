#include "services/cli/interrupt.h"

#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <utility>

namespace kandinsky::cli {
namespace {

// Write end of the pipe that wakes the listener; set before the handlers are.
std::atomic<int> signal_fd{-1};
std::atomic<int> signal_count{0};

void OnSignal(int) {
  if (signal_count.fetch_add(1) > 0) _exit(130);
  const int saved = errno;
  const char byte = 1;
  (void)!write(signal_fd.load(), &byte, 1);
  errno = saved;
}

}  // namespace

void Interrupt::HandleSignals() {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return;
  wake_fd_ = ends[1];
  signal_fd.store(ends[1]);
  struct sigaction action = {};
  action.sa_handler = OnSignal;
  action.sa_flags = SA_RESTART;
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
  listener_ = std::thread([this, fd = ends[0]] {
    char byte = 0;
    ssize_t n;
    do {
      n = read(fd, &byte, 1);
    } while (n < 0 && errno == EINTR);
    if (n == 1 && byte == 1) Raise();
    close(fd);
  });
}

Interrupt::~Interrupt() {
  if (!listener_.joinable()) return;
  signal(SIGINT, SIG_DFL);
  signal(SIGTERM, SIG_DFL);
  const char byte = 0;
  (void)!write(wake_fd_, &byte, 1);
  listener_.join();
  signal_fd.store(-1);
  close(wake_fd_);
}

void Interrupt::Raise() {
  std::lock_guard lock(mutex_);
  raised_ = true;
  if (action_) action_();
  changed_.notify_all();
}

bool Interrupt::raised() const {
  std::lock_guard lock(mutex_);
  return raised_;
}

bool Interrupt::WaitFor(absl::Duration timeout) {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, absl::ToChronoNanoseconds(timeout), [this] { return raised_; });
}

Interrupt::Guard::Guard(Interrupt& interrupt, std::function<void()> action)
    : interrupt_(interrupt) {
  std::lock_guard lock(interrupt_.mutex_);
  interrupt_.action_ = std::move(action);
  if (interrupt_.raised_) interrupt_.action_();
}

Interrupt::Guard::~Guard() {
  std::lock_guard lock(interrupt_.mutex_);
  interrupt_.action_ = nullptr;
}

}  // namespace kandinsky::cli
