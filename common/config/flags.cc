#include "common/config/flags.h"

#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>

#include "absl/flags/parse.h"
#include "absl/flags/reflection.h"
#include "absl/flags/usage.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/base/log.h"

ABSL_FLAG(std::string, metrics_listen, "127.0.0.1:0",
          "Address of the Prometheus endpoint /metrics; port 0 picks a free one. Empty: none.");
ABSL_FLAG(std::string, port_file, "",
          "File that gets the chosen addresses as JSON once the process listens. Empty: none.");
ABSL_FLAG(std::string, log_level, "info", "Least severe log level: debug, info, warning or error.");
ABSL_FLAG(bool, log_json, false, "Log as JSON lines.");
ABSL_FLAG(bool, log_prompts, false, "Allow prompts in the log.");

namespace kandinsky {
namespace {

// Environment first, so that the command line, parsed after it, wins.
void ApplyEnvironment() {
  for (const auto& [name, flag] : absl::GetAllFlags()) {
    if (absl::StrContains(flag->Filename(), "absl/")) continue;
    const std::string variable = absl::StrCat("KANDINSKY_", absl::AsciiStrToUpper(name));
    const char* value = std::getenv(variable.c_str());
    if (value == nullptr) continue;
    std::string error;
    if (!flag->ParseFrom(value, &error)) {
      std::fprintf(stderr, "error: environment variable %s: value \"%s\" is not valid: %s\n",
                   variable.c_str(), value, error.c_str());
      std::exit(2);
    }
  }
}

}  // namespace

std::vector<std::string> ParseFlags(int argc, char** argv, std::string_view usage) {
  absl::SetProgramUsageMessage(absl::string_view(usage.data(), usage.size()));
  ApplyEnvironment();
  std::vector<std::string> positional;
  for (const char* argument : absl::ParseCommandLine(argc, argv)) positional.emplace_back(argument);
  positional.erase(positional.begin());
  return positional;
}

absl::Status ConfigureLogFromFlags(const std::string& component) {
  const std::string level = absl::GetFlag(FLAGS_log_level);
  LogOptions options;
  options.component = component;
  options.json = absl::GetFlag(FLAGS_log_json);
  options.log_prompts = absl::GetFlag(FLAGS_log_prompts);
  if (level == "debug") {
    options.min_level = LogLevel::kDebug;
  } else if (level == "info") {
    options.min_level = LogLevel::kInfo;
  } else if (level == "warning") {
    options.min_level = LogLevel::kWarning;
  } else if (level == "error") {
    options.min_level = LogLevel::kError;
  } else {
    return absl::InvalidArgumentError(
        absl::StrCat("--log_level: \"", level, "\" is not one of debug, info, warning and error"));
  }
  ConfigureLog(options);
  return absl::OkStatus();
}

std::string HostPort::ToString() const {
  const bool is_v6 = absl::StrContains(host, ":");
  return is_v6 ? absl::StrCat("[", host, "]:", port) : absl::StrCat(host, ":", port);
}

absl::StatusOr<HostPort> ParseHostPort(std::string_view flag, std::string_view value) {
  const auto error = [&](std::string_view why) {
    return absl::InvalidArgumentError(
        absl::StrCat(std::string(flag), ": \"", std::string(value), "\" ", std::string(why)));
  };
  const size_t colon = value.rfind(':');
  if (colon == std::string_view::npos) return error("is not of the form host:port");
  HostPort parsed;
  parsed.host = std::string(value.substr(0, colon));
  if (absl::StartsWith(parsed.host, "[") && absl::EndsWith(parsed.host, "]")) {
    parsed.host = parsed.host.substr(1, parsed.host.size() - 2);
  } else if (absl::StrContains(parsed.host, ":")) {
    return error("has an IPv6 host without brackets");
  }
  if (parsed.host.empty()) parsed.host = "0.0.0.0";
  if (!absl::SimpleAtoi(std::string(value.substr(colon + 1)), &parsed.port) || parsed.port < 0 ||
      parsed.port > 65535) {
    return error("has a port that is not a number from 0 to 65535");
  }
  return parsed;
}

absl::Status WritePortFile(const std::string& grpc_address, const std::string& metrics_address) {
  const std::string path = absl::GetFlag(FLAGS_port_file);
  if (path.empty()) return absl::OkStatus();
  const std::string temporary = absl::StrCat(path, ".", getpid());
  {
    std::ofstream file(temporary, std::ios::trunc);
    file << "{";
    if (!grpc_address.empty()) file << "\"grpc\": \"" << grpc_address << "\", ";
    if (!metrics_address.empty()) file << "\"metrics\": \"" << metrics_address << "\", ";
    file << "\"pid\": " << getpid() << "}\n";
    file.close();
    if (!file) return absl::UnavailableError(absl::StrCat("--port_file: cannot write ", temporary));
  }
  if (std::rename(temporary.c_str(), path.c_str()) != 0) {
    std::remove(temporary.c_str());
    return absl::UnavailableError(absl::StrCat("--port_file: cannot rename to ", path));
  }
  return absl::OkStatus();
}

std::vector<std::string> SplitList(std::string_view value) {
  std::vector<std::string> parts;
  for (absl::string_view part :
       absl::StrSplit(absl::string_view(value.data(), value.size()), ',', absl::SkipWhitespace())) {
    parts.emplace_back(absl::StripAsciiWhitespace(part));
  }
  return parts;
}

}  // namespace kandinsky
