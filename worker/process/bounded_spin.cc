#include "worker/process/bounded_spin.h"

#include <alloca.h>
#include <sys/auxv.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstring>

// Runs before the constructors of all libraries, the C library's included: no allocation, no
// environ, no C++ library, no sanitizer (CMakeLists.txt switches them off here).
namespace kandinsky {
namespace {

constexpr char kSelf[] = "/proc/self/exe";

bool IsSetting(const char* entry, const char* name) {
  const size_t length = std::strlen(name);
  return std::strncmp(entry, name, length) == 0 && entry[length] == '=';
}

// The path that the program was started by keeps the name that ps shows. It is not the program's
// own where a file descriptor or an interpreter line was executed.
const char* OwnPath() {
  const auto* path = reinterpret_cast<const char*>(getauxval(AT_EXECFN));
  struct stat self, named;
  if (stat(kSelf, &self) != 0) return path;
  const bool own = path != nullptr && stat(path, &named) == 0 && named.st_dev == self.st_dev &&
                   named.st_ino == self.st_ino;
  return own ? path : kSelf;
}

void BoundSpin(int, char** argv, char** environment) {
  if (getauxval(AT_SECURE) != 0 || getauxval(AT_BASE) == 0) return;
  size_t count = 0;
  for (; environment[count] != nullptr; ++count) {
    if (IsSetting(environment[count], "GOMP_SPINCOUNT") ||
        IsSetting(environment[count], "OMP_WAIT_POLICY")) {
      return;
    }
  }
  constexpr size_t kMost = 64 << 10;  // entries that fit on any stack
  const char* path = OwnPath();
  if (count > kMost || path == nullptr) return;
  auto** extended = static_cast<char**>(alloca((count + 2) * sizeof(char*)));
  std::memcpy(extended, environment, count * sizeof(char*));
  extended[count] = const_cast<char*>(kSpinSetting);
  extended[count + 1] = nullptr;
  syscall(SYS_execve, path, argv, extended);
}

[[gnu::section(".preinit_array"), gnu::used]] void (*const run_first)(int, char**,
                                                                      char**) = BoundSpin;

}  // namespace
}  // namespace kandinsky

// What the linker is told to need, so that it takes this file from its library.
extern "C" {
extern const char kandinsky_bounded_spin;
const char kandinsky_bounded_spin = 1;
}
