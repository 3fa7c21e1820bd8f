// An error of a call, for people and for scripts: its reason, what is wrong field by field, when to
// try again.
#ifndef KANDINSKY_SERVICES_CLI_ERROR_REPORT_H_
#define KANDINSKY_SERVICES_CLI_ERROR_REPORT_H_

#include <grpcpp/support/status.h>

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"

namespace kandinsky::cli {

struct ErrorReport {
  std::string code;  // "NOT_FOUND"
  std::string message;
  std::string reason;                                           // of ErrorInfo; empty: none
  std::map<std::string, std::string> metadata;                  // of ErrorInfo
  std::vector<std::pair<std::string, std::string>> violations;  // field, description
  std::optional<absl::Duration> retry_after;
};

// Reads the google.rpc.Status in the details, as far as there is one.
ErrorReport Explain(const grpc::Status& status);

// Some lines, each ended by a line feed.
std::string ErrorText(const ErrorReport& report);
// One JSON object {"error": {…}} and a line feed.
std::string ErrorJson(const ErrorReport& report, int exit_code);

// True when the same call may succeed on a new connection: UNAVAILABLE, and failures that a broken
// connection causes, which the server itself does not explain.
bool IsTransient(const grpc::Status& status);

std::string_view CodeName(grpc::StatusCode code);

// `text` as a JSON string, quotes included.
std::string JsonString(std::string_view text);

}  // namespace kandinsky::cli

#endif  // KANDINSKY_SERVICES_CLI_ERROR_REPORT_H_
