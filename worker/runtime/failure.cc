#include "worker/runtime/failure.h"

#include "absl/strings/cord.h"

namespace kandinsky {
namespace {

constexpr char kReasonUrl[] = "kandinsky/reason";
constexpr size_t kMaxMessage = 2000;

std::string ReasonOr(const absl::Status& status, std::string_view otherwise) {
  const auto payload = status.GetPayload(kReasonUrl);
  return payload.has_value() ? std::string(*payload) : std::string(otherwise);
}

}  // namespace

absl::Status WithReason(absl::Status status, std::string_view reason) {
  status.SetPayload(kReasonUrl, absl::Cord(absl::string_view(reason.data(), reason.size())));
  return status;
}

TaskFailure ClassifyStageError(const absl::Status& status) {
  TaskFailure failure;
  failure.message = std::string(status.message().substr(0, kMaxMessage));
  switch (status.code()) {
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kDataLoss:
    case absl::StatusCode::kNotFound:
      failure.failure_class = TaskFailure::Class::kPermanent;
      failure.reason = ReasonOr(status, "MODEL_ERROR");
      break;
    case absl::StatusCode::kResourceExhausted:
      failure.failure_class = TaskFailure::Class::kOutOfMemory;
      failure.reason = ReasonOr(status, "OUT_OF_MEMORY");
      break;
    default:
      failure.failure_class = TaskFailure::Class::kTransient;
      failure.reason = ReasonOr(status, "STAGE_ERROR");
  }
  return failure;
}

TaskFailure TransientFailure(const absl::Status& status, std::string_view reason) {
  return {TaskFailure::Class::kTransient, ReasonOr(status, reason),
          std::string(status.message().substr(0, kMaxMessage))};
}

}  // namespace kandinsky
