// The one exception type that worker/model throws for reasons of its own. LibTorch's c10::Error may
// also escape from any function that computes; both are translated to absl::Status in one place, at
// the stage boundary (worker/stages).
#ifndef KANDINSKY_WORKER_MODEL_ERROR_H_
#define KANDINSKY_WORKER_MODEL_ERROR_H_

#include <stdexcept>
#include <string>

namespace kandinsky::model {

class ModelError : public std::runtime_error {
 public:
  enum class Kind {
    kInvalidArgument,  // a value that the caller passed is out of range; the message names field,
                       // value and limit
    kNotFound,         // a file or a tensor is missing
    kDataLoss,         // a file is damaged or is not what its name says
    kCancelled,        // the cancel check of a loop returned true
  };

  ModelError(Kind kind, const std::string& message) : std::runtime_error(message), kind_(kind) {}

  Kind kind() const { return kind_; }

 private:
  Kind kind_;
};

}  // namespace kandinsky::model

#endif  // KANDINSKY_WORKER_MODEL_ERROR_H_
