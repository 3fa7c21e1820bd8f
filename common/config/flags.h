// Flags of every process. A value comes from the command line, else from the environment variable
// KANDINSKY_<NAME> (the flag's name in upper case), else it is the default. --help lists all;
// --flagfile=FILE reads more from a file.
//
// Flags that every process shares are declared here; a main.cc defines its own with ABSL_FLAG.
#ifndef KANDINSKY_COMMON_CONFIG_FLAGS_H_
#define KANDINSKY_COMMON_CONFIG_FLAGS_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/flags/declare.h"
#include "absl/flags/flag.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"

ABSL_DECLARE_FLAG(std::string, metrics_listen);
ABSL_DECLARE_FLAG(std::string, port_file);
ABSL_DECLARE_FLAG(std::string, log_level);
ABSL_DECLARE_FLAG(bool, log_json);
ABSL_DECLARE_FLAG(bool, log_prompts);

namespace kandinsky {

// Parses the command line and the environment and returns the positional arguments. An unknown flag
// or a value out of its type's range prints what is wrong and exits with status 2 (environment) or
// 1 (command line). Call once, first.
std::vector<std::string> ParseFlags(int argc, char** argv, std::string_view usage);

// Applies --log_level, --log_json and --log_prompts.
absl::Status ConfigureLogFromFlags(const std::string& component);

struct HostPort {
  std::string host;
  int port = 0;
  std::string ToString() const;  // IPv6 hosts in brackets
};
// "host:port", "[v6]:port", ":port" (all interfaces). Port 0 to 65535. INVALID_ARGUMENT names the
// flag.
absl::StatusOr<HostPort> ParseHostPort(std::string_view flag, std::string_view value);

// Replaces --port_file atomically by the JSON object {"grpc": "host:port", "metrics": "host:port",
// "pid": n}; an empty address is left out. Does nothing when the flag is empty.
absl::Status WritePortFile(const std::string& grpc_address, const std::string& metrics_address);

// Splits at commas, trims blanks, drops empty parts.
std::vector<std::string> SplitList(std::string_view value);

}  // namespace kandinsky

#endif  // KANDINSKY_COMMON_CONFIG_FLAGS_H_
