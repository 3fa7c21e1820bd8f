// Checks requests at the edge and fills in every default, so that nothing behind the frontend sees
// a bad value.
//
// Every function adds ALL violations that it finds; a field that already has one (not UTF-8) is not
// judged again. Pure functions; thread-safe.
#ifndef KANDINSKY_SERVICES_FRONTEND_VALIDATION_H_
#define KANDINSKY_SERVICES_FRONTEND_VALIDATION_H_

#include <grpcpp/support/status.h>

#include <functional>
#include <optional>
#include <string>

#include "absl/time/time.h"
#include "common/queue/job.h"
#include "common/queue/job_store.h"
#include "kandinsky/video/v1/video_service.pb.h"
#include "services/frontend/error_details.h"
#include "services/frontend/model_catalog.h"

namespace kandinsky {

inline constexpr int kDefaultPageSize = 50;
inline constexpr int kMaxPageSize = 1000;
inline constexpr absl::Duration kMinTimeout = absl::Seconds(1);

struct TimeoutLimits {
  absl::Duration default_value = absl::Hours(1);
  absl::Duration max = absl::Hours(24);
};

// What CreateJobRequest and GenerateVideoRequest have in common. Pointers may be null: the field is
// absent.
struct CreateFields {
  const video::v1::GenerationParameters* parameters = nullptr;
  std::string request_id;
  int priority = 0;  // enum value as it came
  std::string tenant;
  const google::protobuf::Duration* timeout = nullptr;
};

struct CreateRules {
  const ModelCatalog& catalog;
  TimeoutLimits timeouts;
  Priority default_priority = Priority::kBatch;
  // Bounds the default timeout (never an explicit one): what is left of the call's deadline.
  std::optional<absl::Duration> call_remaining;
  std::function<uint64_t()> choose_seed;
};

// Makes the spec of the job, with a notice for words that the model does not know. The status is
// OK, INVALID_REQUEST with `violations`, or MODEL_NOT_FOUND.
grpc::Status MakeJobSpec(const CreateFields& fields, const CreateRules& rules,
                         Violations& violations, JobSpec& spec);

void CheckJobId(const std::string& job_id, Violations& violations);
void CheckAfterEventId(const std::string& event_id, Violations& violations);

struct ListQuery {
  JobFilter filter;
  int page_size = kDefaultPageSize;
  std::string page_token;
};
ListQuery CheckListJobs(const video::v1::ListJobsRequest& request, Violations& violations);

}  // namespace kandinsky

#endif  // KANDINSKY_SERVICES_FRONTEND_VALIDATION_H_
