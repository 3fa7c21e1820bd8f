// Patience with a store that cannot be reached.
#ifndef KANDINSKY_WORKER_RUNTIME_STORE_RETRY_H_
#define KANDINSKY_WORKER_RUNTIME_STORE_RETRY_H_

#include <functional>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace kandinsky {

// Whether the same call may succeed later: anything but OK, FAILED_PRECONDITION, NOT_FOUND,
// INVALID_ARGUMENT, OUT_OF_RANGE, CANCELLED and UNIMPLEMENTED.
bool MayPass(const absl::Status& status);

// Calls `call` until its status may not pass, with pauses of 20 ms doubling to 1 s. When `give_up`
// comes true, tries one last time (the call may have taken effect although its reply was lost) and
// returns what that gave.
absl::Status RetryUntil(const std::function<absl::Status()>& call,
                        const std::function<bool()>& give_up);

}  // namespace kandinsky

#endif  // KANDINSKY_WORKER_RUNTIME_STORE_RETRY_H_
