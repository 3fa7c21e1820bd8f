// What went wrong in a stage, in the queue's words.
#ifndef KANDINSKY_WORKER_RUNTIME_FAILURE_H_
#define KANDINSKY_WORKER_RUNTIME_FAILURE_H_

#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "common/queue/task_queue.h"

namespace kandinsky {

// Attaches a stable UPPER_SNAKE reason to an error, in place of the one that its code would give.
absl::Status WithReason(absl::Status status, std::string_view reason);

// The rule of stage.h:
//   INVALID_ARGUMENT, FAILED_PRECONDITION, DATA_LOSS, NOT_FOUND   permanent      MODEL_ERROR
//   RESOURCE_EXHAUSTED                                            out of memory  OUT_OF_MEMORY
//   anything else                                                 transient      STAGE_ERROR
// The reason is that of WithReason when there is one.
TaskFailure ClassifyStageError(const absl::Status& status);

// Errors of the runtime itself (stores, disks): always transient; the reason as above or `reason`.
TaskFailure TransientFailure(const absl::Status& status, std::string_view reason);

}  // namespace kandinsky

#endif  // KANDINSKY_WORKER_RUNTIME_FAILURE_H_
