#include "services/cli/exit_code.h"

namespace kandinsky::cli {

ExitCode ExitCodeOf(grpc::StatusCode code) {
  switch (code) {
    case grpc::StatusCode::OK:
      return kExitOk;
    case grpc::StatusCode::INVALID_ARGUMENT:
    case grpc::StatusCode::OUT_OF_RANGE:
    case grpc::StatusCode::ALREADY_EXISTS:
      return kExitUsage;
    case grpc::StatusCode::NOT_FOUND:
      return kExitNotFound;
    case grpc::StatusCode::UNAVAILABLE:
    case grpc::StatusCode::DEADLINE_EXCEEDED:
      return kExitUnavailable;
    case grpc::StatusCode::CANCELLED:
      return kExitCancelled;
    case grpc::StatusCode::RESOURCE_EXHAUSTED:
      return kExitFull;
    default:
      return kExitFailed;
  }
}

ExitCode ExitCodeOf(video::v1::JobState state) {
  switch (state) {
    case video::v1::JOB_STATE_FAILED:
      return kExitFailed;
    case video::v1::JOB_STATE_CANCELLED:
      return kExitCancelled;
    case video::v1::JOB_STATE_EXPIRED:
      return kExitUnavailable;
    default:
      return kExitOk;
  }
}

}  // namespace kandinsky::cli
