// The commands of `kandinsky`, with everything outside the process passed in.
#ifndef KANDINSKY_SERVICES_CLI_COMMANDS_H_
#define KANDINSKY_SERVICES_CLI_COMMANDS_H_

#include <functional>
#include <istream>
#include <ostream>
#include <string>
#include <vector>

#include "services/cli/client.h"
#include "services/cli/interrupt.h"

namespace kandinsky::cli {

struct Environment {
  std::istream& in;
  std::ostream& out;
  std::ostream& err;
  bool err_is_terminal = false;
  int columns = 80;  // of that terminal
  std::function<const char*(const char*)> variable;
  Interrupt& interrupt;
  // Replaces this process by the sibling binary `kandinsky-local`; returns only on failure.
  std::function<absl::Status(const std::vector<std::string>& arguments)> run_local;
  // Tests shorten it.
  absl::Duration first_backoff = absl::Milliseconds(200);
};

// Runs one command line (without the program's name) and returns the exit code; see exit_code.h.
int RunCommand(const std::vector<std::string>& args, const Environment& environment);

}  // namespace kandinsky::cli

#endif  // KANDINSKY_SERVICES_CLI_COMMANDS_H_
