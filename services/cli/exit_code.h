// How `kandinsky` tells scripts what happened. Documented in README.md and `kandinsky help`; never
// renumber.
#ifndef KANDINSKY_SERVICES_CLI_EXIT_CODE_H_
#define KANDINSKY_SERVICES_CLI_EXIT_CODE_H_

#include <grpcpp/support/status.h>

#include "kandinsky/video/v1/video_service.pb.h"

namespace kandinsky::cli {

enum ExitCode {
  kExitOk = 0,
  kExitFailed = 1,       // the job failed, or an error that is none of those below
  kExitUsage = 2,        // wrong command line, or the server refused the request as invalid
  kExitNotFound = 3,     // no such job, model or video
  kExitUnavailable = 4,  // the server cannot be reached, or time is up (the job's deadline, too)
  kExitCancelled = 5,    // the job was cancelled
  kExitFull = 6,         // the server's or the tenant's queue is full; try again later
  kExitInterrupted = 130,
};

ExitCode ExitCodeOf(grpc::StatusCode code);
// Of a finished job; kExitOk for one that is not finished.
ExitCode ExitCodeOf(video::v1::JobState state);

}  // namespace kandinsky::cli

#endif  // KANDINSKY_SERVICES_CLI_EXIT_CODE_H_
