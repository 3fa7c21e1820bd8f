#include "services/cli/error_report.h"

#include <google/rpc/error_details.pb.h>
#include <google/rpc/status.pb.h>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace kandinsky::cli {

std::string_view CodeName(grpc::StatusCode code) {
  switch (code) {
    case grpc::StatusCode::OK:
      return "OK";
    case grpc::StatusCode::CANCELLED:
      return "CANCELLED";
    case grpc::StatusCode::INVALID_ARGUMENT:
      return "INVALID_ARGUMENT";
    case grpc::StatusCode::DEADLINE_EXCEEDED:
      return "DEADLINE_EXCEEDED";
    case grpc::StatusCode::NOT_FOUND:
      return "NOT_FOUND";
    case grpc::StatusCode::ALREADY_EXISTS:
      return "ALREADY_EXISTS";
    case grpc::StatusCode::PERMISSION_DENIED:
      return "PERMISSION_DENIED";
    case grpc::StatusCode::UNAUTHENTICATED:
      return "UNAUTHENTICATED";
    case grpc::StatusCode::RESOURCE_EXHAUSTED:
      return "RESOURCE_EXHAUSTED";
    case grpc::StatusCode::FAILED_PRECONDITION:
      return "FAILED_PRECONDITION";
    case grpc::StatusCode::ABORTED:
      return "ABORTED";
    case grpc::StatusCode::OUT_OF_RANGE:
      return "OUT_OF_RANGE";
    case grpc::StatusCode::UNIMPLEMENTED:
      return "UNIMPLEMENTED";
    case grpc::StatusCode::INTERNAL:
      return "INTERNAL";
    case grpc::StatusCode::UNAVAILABLE:
      return "UNAVAILABLE";
    case grpc::StatusCode::DATA_LOSS:
      return "DATA_LOSS";
    default:
      return "UNKNOWN";
  }
}

ErrorReport Explain(const grpc::Status& status) {
  ErrorReport report;
  report.code = std::string(CodeName(status.error_code()));
  report.message = status.error_message();
  google::rpc::Status details;
  if (status.error_details().empty() || !details.ParseFromString(status.error_details())) {
    return report;
  }
  for (const google::protobuf::Any& any : details.details()) {
    google::rpc::ErrorInfo info;
    google::rpc::BadRequest bad;
    google::rpc::RetryInfo retry;
    if (any.UnpackTo(&info)) {
      report.reason = info.reason();
      report.metadata.insert(info.metadata().begin(), info.metadata().end());
    } else if (any.UnpackTo(&bad)) {
      for (const auto& violation : bad.field_violations()) {
        report.violations.emplace_back(violation.field(), violation.description());
      }
    } else if (any.UnpackTo(&retry)) {
      report.retry_after = absl::Seconds(retry.retry_delay().seconds()) +
                           absl::Nanoseconds(retry.retry_delay().nanos());
    }
  }
  return report;
}

std::string ErrorText(const ErrorReport& report) {
  std::string text = absl::StrCat("error: ", report.message.empty() ? report.code : report.message,
                                  " (", report.reason.empty() ? report.code : report.reason, ")\n");
  for (const auto& [field, description] : report.violations) {
    absl::StrAppend(&text, "  ", field, ": ", description, "\n");
  }
  if (report.retry_after) {
    absl::StrAppend(&text, "  try again in ",
                    absl::FormatDuration(absl::Ceil(*report.retry_after, absl::Seconds(1))), "\n");
  }
  return text;
}

std::string JsonString(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    switch (c) {
      case '"':
        out += "\\\"";
        break;
      case '\\':
        out += "\\\\";
        break;
      case '\n':
        out += "\\n";
        break;
      default:
        if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) {
          out += absl::StrFormat("\\u%04x", static_cast<unsigned char>(c));
        } else {
          out += c;
        }
    }
  }
  return out + "\"";
}

std::string ErrorJson(const ErrorReport& report, int exit_code) {
  std::string json = absl::StrCat("{\"error\":{\"code\":", JsonString(report.code),
                                  ",\"reason\":", JsonString(report.reason),
                                  ",\"message\":", JsonString(report.message));
  if (!report.metadata.empty()) {
    absl::StrAppend(&json, ",\"metadata\":{");
    const char* separator = "";
    for (const auto& [key, value] : report.metadata) {
      absl::StrAppend(&json, separator, JsonString(key), ":", JsonString(value));
      separator = ",";
    }
    absl::StrAppend(&json, "}");
  }
  if (!report.violations.empty()) {
    absl::StrAppend(&json, ",\"field_violations\":[");
    const char* separator = "";
    for (const auto& [field, description] : report.violations) {
      absl::StrAppend(&json, separator, "{\"field\":", JsonString(field),
                      ",\"description\":", JsonString(description), "}");
      separator = ",";
    }
    absl::StrAppend(&json, "]");
  }
  if (report.retry_after) {
    absl::StrAppend(&json, ",\"retry_after_seconds\":", absl::ToDoubleSeconds(*report.retry_after));
  }
  absl::StrAppend(&json, ",\"exit_code\":", exit_code, "}}\n");
  return json;
}

bool IsTransient(const grpc::Status& status) {
  switch (status.error_code()) {
    case grpc::StatusCode::UNAVAILABLE:
      return true;
    case grpc::StatusCode::INTERNAL:
    case grpc::StatusCode::UNKNOWN:
    case grpc::StatusCode::CANCELLED:
      return Explain(status).reason.empty();
    default:
      return false;
  }
}

}  // namespace kandinsky::cli
