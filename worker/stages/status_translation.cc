#include "worker/stages/status_translation.h"

#include <c10/util/Exception.h>

#include <new>
#include <string>

#include "worker/model/error.h"
#include "worker/model/memory_plan.h"

namespace kandinsky {
namespace {

using model::ModelError;

absl::Status Translate(const ModelError& error) {
  switch (error.kind()) {
    case ModelError::Kind::kInvalidArgument:
      return absl::InvalidArgumentError(error.what());
    case ModelError::Kind::kNotFound:
      return absl::NotFoundError(error.what());
    case ModelError::Kind::kDataLoss:
      return absl::DataLossError(error.what());
    case ModelError::Kind::kCancelled:
      return absl::CancelledError(error.what());
  }
  return absl::InternalError(error.what());
}

absl::Status Translate(const c10::Error& error) {
  // The text without the stack that what() carries.
  const std::string text = error.what_without_backtrace();
  const std::string line = text.substr(0, text.find('\n'));
  if (model::IsOutOfMemory(error)) return absl::ResourceExhaustedError(line);
  return absl::InternalError(line);
}

}  // namespace

absl::Status CurrentExceptionToStatus() {
  try {
    throw;
  } catch (const StatusException& error) {
    return error.status();
  } catch (const ModelError& error) {
    return Translate(error);
  } catch (const c10::Error& error) {
    return Translate(error);
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError("out of host memory");
  } catch (const std::exception& error) {
    return absl::InternalError(error.what());
  } catch (...) {
    return absl::InternalError("unknown exception");
  }
}

}  // namespace kandinsky
