// Error statuses of the public API: grpc::Status with a google.rpc.Status in its details
// (grpc-status-details-bin) that always carries ErrorInfo, and BadRequest or RetryInfo where the
// contract (video_service.proto) says so.
//
// Pure functions; thread-safe.
#ifndef KANDINSKY_SERVICES_FRONTEND_ERROR_DETAILS_H_
#define KANDINSKY_SERVICES_FRONTEND_ERROR_DETAILS_H_

#include <grpcpp/support/status.h>

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "common/queue/job.h"
#include "common/queue/job_store.h"

namespace kandinsky {

inline constexpr char kErrorDomain[] = "kandinsky.video.v1";

// What is wrong with a request, field by field. Fields are paths as in "parameters.width".
class Violations {
 public:
  // Descriptions name the value and the limit. Only the first kMax are kept, so that the details
  // fit the 8 KiB of metadata that clients accept; the rest is counted.
  static constexpr size_t kMax = 32;
  void Add(std::string field, std::string description);

  bool empty() const { return list_.empty(); }
  bool Has(std::string_view field) const;

  struct Violation {
    std::string field;
    std::string description;
  };
  const std::vector<Violation>& list() const { return list_; }
  size_t dropped() const { return dropped_; }

 private:
  std::vector<Violation> list_;
  size_t dropped_ = 0;
};

struct ErrorSpec {
  grpc::StatusCode code = grpc::StatusCode::UNKNOWN;
  std::string reason;  // UPPER_SNAKE, stable
  std::string message;
  std::map<std::string, std::string> metadata;  // of ErrorInfo
  std::optional<absl::Duration> retry_after;
};
grpc::Status MakeError(const ErrorSpec& spec);

// INVALID_ARGUMENT, INVALID_REQUEST with all violations.
grpc::Status InvalidRequest(const Violations& violations);

grpc::Status JobNotFound(const std::string& job_id);
grpc::Status ModelNotFound(const std::string& model);
grpc::Status ShuttingDown();
grpc::Status Overloaded(const std::string& what);

// What a store's failure means to a client; NOT_FOUND is about `job_id`. Details of the store go to
// the log, not to the client.
grpc::Status FromStoreError(const absl::Status& status, const std::string& job_id);

// For outcomes of Create that made no job.
grpc::Status FromRefusal(const CreateResult& result, const JobSpec& spec);

// Why a finished job has no video: FAILED, CANCELLED or EXPIRED.
grpc::Status FromOutcome(const std::string& job_id, JobState state,
                         const std::optional<JobError>& error);

}  // namespace kandinsky

#endif  // KANDINSKY_SERVICES_FRONTEND_ERROR_DETAILS_H_
