#include "services/frontend/error_details.h"

#include <google/rpc/error_details.pb.h>
#include <google/rpc/status.pb.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "common/base/log.h"
#include "services/frontend/text.h"

namespace kandinsky {
namespace {

// How soon a client should try again when the store or this frontend is away.
constexpr absl::Duration kRetryUnavailable = absl::Seconds(1);
constexpr absl::Duration kRetryStoreFull = absl::Seconds(30);

void PackInfo(const ErrorSpec& spec, google::rpc::Status& status) {
  google::rpc::ErrorInfo info;
  info.set_reason(spec.reason);
  info.set_domain(kErrorDomain);
  for (const auto& [key, value] : spec.metadata) (*info.mutable_metadata())[key] = value;
  status.add_details()->PackFrom(info);
}

google::rpc::Status ToRpcStatus(const ErrorSpec& spec) {
  google::rpc::Status status;
  status.set_code(spec.code);
  status.set_message(spec.message);
  PackInfo(spec, status);
  if (spec.retry_after) {
    const absl::Duration delay = std::max(*spec.retry_after, absl::Milliseconds(100));
    google::rpc::RetryInfo retry;
    retry.mutable_retry_delay()->set_seconds(absl::ToInt64Seconds(delay));
    retry.mutable_retry_delay()->set_nanos(static_cast<int32_t>(
        absl::ToInt64Nanoseconds(delay - absl::Seconds(absl::ToInt64Seconds(delay)))));
    status.add_details()->PackFrom(retry);
  }
  return status;
}

grpc::Status ToGrpc(const google::rpc::Status& status) {
  return {static_cast<grpc::StatusCode>(status.code()), status.message(),
          status.SerializeAsString()};
}

}  // namespace

void Violations::Add(std::string field, std::string description) {
  if (list_.size() >= kMax) {
    ++dropped_;
    return;
  }
  list_.push_back({std::move(field), std::move(description)});
}

bool Violations::Has(std::string_view field) const {
  return std::any_of(list_.begin(), list_.end(),
                     [&](const Violation& violation) { return violation.field == field; });
}

grpc::Status MakeError(const ErrorSpec& spec) { return ToGrpc(ToRpcStatus(spec)); }

grpc::Status InvalidRequest(const Violations& violations) {
  const auto& list = violations.list();
  ErrorSpec spec{.code = grpc::StatusCode::INVALID_ARGUMENT, .reason = "INVALID_REQUEST"};
  if (!list.empty()) {
    spec.message =
        absl::StrCat(list[0].field, list[0].field.empty() ? "" : " ", list[0].description);
    const size_t more = list.size() - 1 + violations.dropped();
    if (more > 0) absl::StrAppend(&spec.message, " (and ", more, " more)");
  }
  google::rpc::Status status = ToRpcStatus(spec);
  google::rpc::BadRequest bad;
  for (const auto& violation : list) {
    auto* added = bad.add_field_violations();
    added->set_field(violation.field);
    added->set_description(violation.description);
  }
  status.add_details()->PackFrom(bad);
  return ToGrpc(status);
}

grpc::Status JobNotFound(const std::string& job_id) {
  return MakeError({.code = grpc::StatusCode::NOT_FOUND,
                    .reason = "JOB_NOT_FOUND",
                    .message = absl::StrCat("no job ", job_id, ", or it has expired"),
                    .metadata = {{"job_id", job_id}}});
}

grpc::Status ModelNotFound(const std::string& model) {
  return MakeError({.code = grpc::StatusCode::NOT_FOUND,
                    .reason = "MODEL_NOT_FOUND",
                    .message = absl::StrCat("no model ", Quote(model), " on this server"),
                    .metadata = {{"model", model}}});
}

grpc::Status ShuttingDown() {
  return MakeError({.code = grpc::StatusCode::UNAVAILABLE,
                    .reason = "SHUTTING_DOWN",
                    .message = "this frontend shuts down; connect again",
                    .retry_after = kRetryUnavailable});
}

grpc::Status Overloaded(const std::string& what) {
  return MakeError({.code = grpc::StatusCode::RESOURCE_EXHAUSTED,
                    .reason = "OVERLOADED",
                    .message = what,
                    .retry_after = kRetryUnavailable});
}

grpc::Status FromStoreError(const absl::Status& status, const std::string& job_id) {
  switch (status.code()) {
    case absl::StatusCode::kNotFound:
      return JobNotFound(job_id);
    case absl::StatusCode::kFailedPrecondition:
      return MakeError(
          {.code = grpc::StatusCode::FAILED_PRECONDITION,
           .reason = "JOB_NOT_FINISHED",
           .message = absl::StrCat("job ", job_id, " is not finished: cancel it first"),
           .metadata = {{"job_id", job_id}}});
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kDeadlineExceeded:
      Log(LogLevel::kDebug, "store unavailable", {{"error", std::string(status.message())}});
      return MakeError({.code = grpc::StatusCode::UNAVAILABLE,
                        .reason = "STORE_UNAVAILABLE",
                        .message = "the job store cannot be reached",
                        .retry_after = kRetryUnavailable});
    case absl::StatusCode::kResourceExhausted:
      Log(LogLevel::kError, "store full", {{"error", std::string(status.message())}});
      return MakeError({.code = grpc::StatusCode::RESOURCE_EXHAUSTED,
                        .reason = "STORE_FULL",
                        .message = "the job store has no room",
                        .retry_after = kRetryStoreFull});
    default:
      Log(LogLevel::kError, "store error",
          {{"job", job_id}, {"error", std::string(status.ToString())}});
      return MakeError({.code = grpc::StatusCode::INTERNAL,
                        .reason = "INTERNAL",
                        .message = "the job store answered with an error; see the server's log"});
  }
}

grpc::Status FromRefusal(const CreateResult& result, const JobSpec& spec) {
  switch (result.outcome) {
    case CreateResult::Outcome::kQueueFull:
      return MakeError({.code = grpc::StatusCode::RESOURCE_EXHAUSTED,
                        .reason = "QUEUE_FULL",
                        .message = "the server holds as many unfinished jobs as it may",
                        .retry_after = result.retry_after});
    case CreateResult::Outcome::kTenantQueueFull:
      return MakeError({.code = grpc::StatusCode::RESOURCE_EXHAUSTED,
                        .reason = "TENANT_QUEUE_FULL",
                        .message = absl::StrCat("tenant ", spec.tenant,
                                                " has as many unfinished jobs as it may"),
                        .metadata = {{"tenant", spec.tenant}},
                        .retry_after = result.retry_after});
    case CreateResult::Outcome::kRequestIdConflict:
      return MakeError({.code = grpc::StatusCode::ALREADY_EXISTS,
                        .reason = "REQUEST_ID_CONFLICT",
                        .message = absl::StrCat("request_id ", Quote(spec.request_id),
                                                " was used with another payload"),
                        .metadata = {{"request_id", spec.request_id}, {"job_id", result.job.id}}});
    case CreateResult::Outcome::kCreated:
    case CreateResult::Outcome::kExisting:
      break;
  }
  return grpc::Status::OK;
}

grpc::Status FromOutcome(const std::string& job_id, JobState state,
                         const std::optional<JobError>& error) {
  switch (state) {
    case JobState::kCancelled:
      return MakeError({.code = grpc::StatusCode::CANCELLED,
                        .reason = "JOB_CANCELLED",
                        .message = absl::StrCat("job ", job_id, " was cancelled"),
                        .metadata = {{"job_id", job_id}}});
    case JobState::kExpired:
      return MakeError({.code = grpc::StatusCode::DEADLINE_EXCEEDED,
                        .reason = "JOB_EXPIRED",
                        .message = absl::StrCat("the deadline of job ", job_id, " passed"),
                        .metadata = {{"job_id", job_id}}});
    default:
      return MakeError(
          {.code = grpc::StatusCode::FAILED_PRECONDITION,
           .reason = "JOB_FAILED",
           .message = error ? absl::StrCat("job ", job_id, " failed: ", error->message)
                            : absl::StrCat("job ", job_id, " failed"),
           .metadata = {{"job_id", job_id}, {"job_reason", error ? error->reason : "UNKNOWN"}}});
  }
}

}  // namespace kandinsky
