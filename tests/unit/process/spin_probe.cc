// Prints as JSON what a program that links LibTorch finds after its start.
//
//   spin_probe [ARGUMENT…]         arguments, name, process number, signals, open files, spin
//   setting spin_probe --idle SECONDS      processor seconds that a team of two threads uses while
//   idle
#include <ATen/Parallel.h>
#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <fstream>
#include <string>
#include <thread>

namespace {

double CpuSeconds() {
  timespec now{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 3 && argv[1] == std::string("--idle")) {
    at::set_num_threads(2);
    at::parallel_for(0, 2, 1, [](int64_t, int64_t) {});
    const double before = CpuSeconds();
    std::this_thread::sleep_for(std::chrono::duration<double>(std::atof(argv[2])));
    std::printf("%.6f\n", CpuSeconds() - before);
    return 0;
  }
  sigset_t blocked;
  sigprocmask(SIG_BLOCK, nullptr, &blocked);
  struct sigaction user {};
  sigaction(SIGUSR2, nullptr, &user);
  std::string name;
  std::ifstream("/proc/self/comm") >> name;
  const char* spin = std::getenv("GOMP_SPINCOUNT");
  std::printf(
      "{\"pid\": %d, \"name\": \"%s\", \"usr1_blocked\": %d, \"usr2_ignored\": %d, \"spin\": "
      "\"%s\", \"fd9\": %d, \"argv\": [",
      static_cast<int>(getpid()), name.c_str(), sigismember(&blocked, SIGUSR1),
      user.sa_handler == SIG_IGN ? 1 : 0, spin == nullptr ? "" : spin,
      lseek(9, 0, SEEK_CUR) >= 0 ? 1 : 0);
  for (int i = 0; i < argc; ++i) std::printf("%s\"%s\"", i > 0 ? ", " : "", argv[i]);
  std::printf("]}\n");
  return 0;
}
