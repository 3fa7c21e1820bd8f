#include "common/base/fault_point.h"

#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <string>

namespace kandinsky {
namespace {

struct Fault {
  bool armed = false;
  std::string name;
  int signal = SIGKILL;
  std::atomic<int> left{1};

  Fault() {
    const char* value = std::getenv("KANDINSKY_FAULT_POINT");
    if (value == nullptr || *value == '\0') return;
    std::string_view text = value;
    const auto take = [&text] {
      const size_t colon = text.find(':');
      const std::string_view part = text.substr(0, colon);
      text.remove_prefix(colon == std::string_view::npos ? text.size() : colon + 1);
      return part;
    };
    name = std::string(take());
    const std::string_view count = take();
    const std::string_view action = take();
    int number = 1;
    if (!count.empty()) {
      const auto [end, error] = std::from_chars(count.data(), count.data() + count.size(), number);
      if (error != std::errc() || end != count.data() + count.size()) number = 0;
    }
    if (name.empty() || number < 1 || !text.empty() ||
        (!action.empty() && action != "kill" && action != "stop")) {
      std::fprintf(stderr, "error: KANDINSKY_FAULT_POINT=%s is not name[:count[:kill|stop]]\n",
                   value);
      std::_Exit(2);
    }
    left = number;
    signal = action == "stop" ? SIGSTOP : SIGKILL;
    armed = true;
  }
};

}  // namespace

void FaultPoint(std::string_view name) {
  static Fault fault;
  if (!fault.armed || name != fault.name || --fault.left != 0) return;
  kill(getpid(), fault.signal);
}

}  // namespace kandinsky
