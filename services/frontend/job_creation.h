// What CreateJob and GenerateVideo have in common: from a request to an accepted job.
#ifndef KANDINSKY_SERVICES_FRONTEND_JOB_CREATION_H_
#define KANDINSKY_SERVICES_FRONTEND_JOB_CREATION_H_

#include <grpcpp/support/status.h>

#include <optional>

#include "absl/time/time.h"
#include "services/frontend/frontend.h"

namespace kandinsky {

template <typename Request>
CreateFields FieldsOf(const Request& request) {
  return {.parameters = request.has_parameters() ? &request.parameters() : nullptr,
          .request_id = request.request_id(),
          .priority = request.priority(),
          .tenant = request.tenant(),
          .timeout = request.has_timeout() ? &request.timeout() : nullptr};
}

// Checks, accepts and counts; blocks on the store. Nothing is created unless the status is OK.
grpc::Status CreateJob(Frontend& frontend, const CreateFields& fields, Priority default_priority,
                       std::optional<absl::Duration> call_remaining, Violations& violations,
                       Job* job);

}  // namespace kandinsky

#endif  // KANDINSKY_SERVICES_FRONTEND_JOB_CREATION_H_
