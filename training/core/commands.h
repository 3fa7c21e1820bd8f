// The command line of a program with commands: usage, dispatch, exit status.
#ifndef KANDINSKY_TRAINING_CORE_COMMANDS_H_
#define KANDINSKY_TRAINING_CORE_COMMANDS_H_

#include <functional>
#include <string>
#include <vector>

namespace kandinsky::training {

struct Command {
  std::string name;
  std::string help;
  // `arguments` without the command's name; `help`: --help is among them. Returns the exit status.
  std::function<int(const std::vector<std::string>& arguments, bool help)> run;
};

// Runs the command that arguments[0] names, or prints the usage, which ends with `notes`. What a
// command throws is said on standard error. Returns the exit status: the command's, 2 for wrong
// usage (ModelError::kInvalidArgument and unknown commands), 1 for every other exception.
int RunCommand(const std::string& program, const std::vector<Command>& commands,
               const std::string& notes, const std::vector<std::string>& arguments);

}  // namespace kandinsky::training

#endif  // KANDINSKY_TRAINING_CORE_COMMANDS_H_
