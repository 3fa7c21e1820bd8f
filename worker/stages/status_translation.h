// The one place where exceptions of the model library and of LibTorch become statuses.
#ifndef KANDINSKY_WORKER_STAGES_STATUS_TRANSLATION_H_
#define KANDINSKY_WORKER_STAGES_STATUS_TRANSLATION_H_

#include <exception>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace kandinsky {

// Carries a status through code that knows only exceptions (a sink called by the model).
class StatusException : public std::exception {
 public:
  explicit StatusException(absl::Status status) : status_(std::move(status)) {}
  const absl::Status& status() const { return status_; }
  const char* what() const noexcept override { return "status"; }

 private:
  const absl::Status status_;
};

// Call only while an exception is being handled (in a catch block):
//   ModelError              INVALID_ARGUMENT, NOT_FOUND, DATA_LOSS or CANCELLED, by its kind
//   out of memory           RESOURCE_EXHAUSTED (std::bad_alloc, LibTorch's error on the CPU and on
//   CUDA) StatusException         its status other LibTorch errors   INTERNAL, first line of the
//   message anything else           INTERNAL
absl::Status CurrentExceptionToStatus();

// function() returns T; an exception becomes a status.
template <typename Function>
auto CatchStatus(Function&& function) -> absl::StatusOr<decltype(function())> {
  try {
    return function();
  } catch (...) {
    return CurrentExceptionToStatus();
  }
}

}  // namespace kandinsky

#endif  // KANDINSKY_WORKER_STAGES_STATUS_TRANSLATION_H_
