#include "training/core/commands.h"

#include <algorithm>
#include <cstdio>
#include <exception>

#include "worker/model/error.h"

namespace kandinsky::training {
namespace {

void PrintUsage(std::FILE* to, const std::string& program, const std::vector<Command>& commands,
                const std::string& notes) {
  std::fprintf(to, "usage: %s COMMAND [options]\n\ncommands:\n", program.c_str());
  for (const Command& command : commands) {
    std::fprintf(to, "  %-16s %s\n", command.name.c_str(), command.help.c_str());
  }
  std::fprintf(to, "\n%s COMMAND --help lists the options. %s", program.c_str(), notes.c_str());
}

}  // namespace

int RunCommand(const std::string& program, const std::vector<Command>& commands,
               const std::string& notes, const std::vector<std::string>& arguments) {
  if (arguments.empty()) {
    PrintUsage(stderr, program, commands, notes);
    return 2;
  }
  if (arguments[0] == "--help" || arguments[0] == "help") {
    PrintUsage(stdout, program, commands, notes);
    return 0;
  }
  const auto command = std::find_if(commands.begin(), commands.end(),
                                    [&](const Command& one) { return one.name == arguments[0]; });
  if (command == commands.end()) {
    std::fprintf(stderr, "%s: unknown command %s\n\n", program.c_str(), arguments[0].c_str());
    PrintUsage(stderr, program, commands, notes);
    return 2;
  }
  const std::vector<std::string> rest(arguments.begin() + 1, arguments.end());
  const bool help = std::find(rest.begin(), rest.end(), "--help") != rest.end();
  const auto failed = [&](const std::exception& error, int status) {
    std::fprintf(stderr, "%s %s: %s\n", program.c_str(), command->name.c_str(), error.what());
    return status;
  };
  try {
    return command->run(rest, help);
  } catch (const model::ModelError& error) {
    return failed(error, error.kind() == model::ModelError::Kind::kInvalidArgument ? 2 : 1);
  } catch (const std::exception& error) {
    return failed(error, 1);
  }
}

}  // namespace kandinsky::training
