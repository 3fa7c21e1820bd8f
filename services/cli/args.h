// The command line of `kandinsky`: one table of flags, one of commands; parsing checks types, so
// that getters cannot fail. Flags may stand before or after the command and are written
// --name=value or --name value.
//
// Own parser: subcommands with flags of their own, exit code 2 for every usage error, and no flags
// of linked libraries.
#ifndef KANDINSKY_SERVICES_CLI_ARGS_H_
#define KANDINSKY_SERVICES_CLI_ARGS_H_

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace kandinsky::cli {

class Args {
 public:
  // args: without the program's name. INVALID_ARGUMENT says in one sentence what is wrong.
  // `environment` answers variables (null: not set); only flags with a documented variable read it.
  static absl::StatusOr<Args> Parse(const std::vector<std::string>& args,
                                    const std::function<const char*(const char*)>& environment);

  // "generate", …; "help" for --help and no command at all, "version" for --version.
  const std::string& command() const { return command_; }
  const std::vector<std::string>& positionals() const { return positionals_; }

  bool Has(std::string_view flag) const { return values_.contains(std::string(flag)); }
  // The value given, else the table's default. The flag must be of that type.
  std::string String(std::string_view flag) const;
  bool Bool(std::string_view flag) const;
  int64_t Int(std::string_view flag) const;
  uint64_t Uint(std::string_view flag) const;
  double Double(std::string_view flag) const;
  absl::Duration Duration(std::string_view flag) const;

 private:
  std::string command_;
  std::vector<std::string> positionals_;
  std::map<std::string, std::string> values_;
};

// What `kandinsky help [COMMAND]` prints. Empty for an unknown command.
std::string HelpText(std::string_view command);

}  // namespace kandinsky::cli

#endif  // KANDINSKY_SERVICES_CLI_ARGS_H_
