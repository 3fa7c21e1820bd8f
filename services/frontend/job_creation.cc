#include "services/frontend/job_creation.h"

#include "common/base/log.h"
#include "services/frontend/error_details.h"

namespace kandinsky {
namespace {

const char* NameOf(CreateResult::Outcome outcome) {
  switch (outcome) {
    case CreateResult::Outcome::kCreated:
      return "created";
    case CreateResult::Outcome::kExisting:
      return "existing";
    case CreateResult::Outcome::kQueueFull:
      return "queue_full";
    case CreateResult::Outcome::kTenantQueueFull:
      return "tenant_queue_full";
    case CreateResult::Outcome::kRequestIdConflict:
      return "request_id_conflict";
  }
  return "unknown";
}

void LogCreated(const CreateResult& result) {
  const Job& job = result.job;
  const GenerationParameters& parameters = job.spec.parameters;
  Log(LogLevel::kInfo, "job accepted",
      {{"job", job.id},
       {"outcome", NameOf(result.outcome)},
       {"tenant", job.spec.tenant},
       {"priority", Name(job.spec.priority)},
       {"model", parameters.model},
       {"level", Name(parameters.level)},
       {"width", parameters.width},
       {"height", parameters.height},
       {"steps", parameters.steps},
       {"prompt", LogPrompts() ? std::string_view(parameters.prompt) : "(not logged)"}});
}

}  // namespace

grpc::Status CreateJob(Frontend& frontend, const CreateFields& fields, Priority default_priority,
                       std::optional<absl::Duration> call_remaining, Violations& violations,
                       Job* job) {
  const CreateRules rules{.catalog = frontend.catalog,
                          .timeouts = frontend.settings.timeouts,
                          .default_priority = default_priority,
                          .call_remaining = call_remaining,
                          .choose_seed = frontend.settings.choose_seed};
  JobSpec spec;
  const grpc::Status valid = MakeJobSpec(fields, rules, violations, spec);
  if (!valid.ok()) {
    frontend.metrics.JobCreated("invalid");
    return valid;
  }
  const absl::StatusOr<CreateResult> result = frontend.engine.jobs->Create(spec);
  if (!result.ok()) {
    frontend.metrics.JobCreated("store_error");
    return FromStoreError(result.status(), "");
  }
  frontend.metrics.JobCreated(NameOf(result->outcome));
  const grpc::Status refusal = FromRefusal(*result, spec);
  if (!refusal.ok()) return refusal;
  *job = result->job;
  LogCreated(*result);
  return grpc::Status::OK;
}

}  // namespace kandinsky
