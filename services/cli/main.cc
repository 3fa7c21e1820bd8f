// `kandinsky`: the command line of Kandinsky Video Service. See `kandinsky help`.
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <iostream>

#include "services/cli/commands.h"
#include "services/cli/exit_code.h"

namespace {

absl::Status RunSibling(const std::vector<std::string>& arguments) {
  std::error_code error;
  const std::filesystem::path self = std::filesystem::read_symlink("/proc/self/exe", error);
  if (error) return absl::InternalError(error.message());
  const std::string binary = (self.parent_path() / "kandinsky-local").string();
  std::vector<char*> argv = {const_cast<char*>(binary.c_str())};
  for (const std::string& argument : arguments) {
    argv.push_back(const_cast<char*>(argument.c_str()));
  }
  argv.push_back(nullptr);
  execv(binary.c_str(), argv.data());
  return absl::ErrnoToStatus(errno, binary);
}

int TerminalColumns() {
  winsize size = {};
  if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) return size.ws_col;
  return 80;
}

}  // namespace

int main(int argc, char** argv) {
  // A closed pipe is an error of a write, not the end of the process.
  std::signal(SIGPIPE, SIG_IGN);
  // gRPC's own complaints about lost connections are ours to report.
  setenv("GRPC_VERBOSITY", "NONE", /*overwrite=*/0);
  const std::vector<std::string> args(argv + 1, argv + argc);
  kandinsky::cli::Interrupt interrupt;
  const bool local = std::find(args.begin(), args.end(), "--local") != args.end();
  if (!local) interrupt.HandleSignals();
  const int code = kandinsky::cli::RunCommand(
      args, {.in = std::cin,
             .out = std::cout,
             .err = std::cerr,
             .err_is_terminal = isatty(STDERR_FILENO) == 1,
             .columns = TerminalColumns(),
             .variable = [](const char* name) -> const char* { return std::getenv(name); },
             .interrupt = interrupt,
             .run_local = RunSibling});
  if (!std::cout.flush()) return code == 0 ? kandinsky::cli::kExitFailed : code;
  return code;
}
