#include "services/frontend/admin_service.h"

#include <google/protobuf/empty.pb.h>

#include "absl/strings/str_cat.h"
#include "common/base/log.h"
#include "services/frontend/convert.h"
#include "services/frontend/unary_call.h"

namespace kandinsky {
namespace {

namespace pb = video::v1;

constexpr int kDefaultResults = 100;
constexpr int kMaxResults = 1000;
// Dead letters that GetDeadJob looks through, newest first.
constexpr int kMaxSearched = 100000;

grpc::Status DeadJobNotFound(const std::string& job_id) {
  return MakeError({.code = grpc::StatusCode::NOT_FOUND,
                    .reason = "DEAD_JOB_NOT_FOUND",
                    .message = absl::StrCat("no dead letter of job ", job_id),
                    .metadata = {{"job_id", job_id}}});
}

grpc::Status FromDeadError(const absl::Status& status, const std::string& job_id) {
  if (absl::IsNotFound(status) || absl::IsFailedPrecondition(status)) {
    return DeadJobNotFound(job_id);
  }
  return FromStoreError(status, job_id);
}

}  // namespace

grpc::ServerUnaryReactor* AdminServiceImpl::ListDeadJobs(grpc::CallbackServerContext* context,
                                                         const grpc::ByteBuffer* in,
                                                         grpc::ByteBuffer* out) {
  return RunUnary<pb::ListDeadJobsRequest, pb::ListDeadJobsResponse>(
      frontend_.pool, context, in, out,
      [this](const pb::ListDeadJobsRequest& request, Violations& violations,
             pb::ListDeadJobsResponse* response) {
        const int wanted = request.max_results() == 0 ? kDefaultResults : request.max_results();
        if (wanted < 1 || wanted > kMaxResults) {
          violations.Add("max_results",
                         absl::StrCat("is ", wanted, ", must be from 1 to ", kMaxResults));
          return InvalidRequest(violations);
        }
        const auto letters = frontend_.engine.jobs->ListDead(wanted);
        if (!letters.ok()) return FromStoreError(letters.status(), "");
        for (const DeadLetter& letter : *letters) *response->add_dead_jobs() = ToProto(letter);
        return grpc::Status(grpc::Status::OK);
      });
}

grpc::ServerUnaryReactor* AdminServiceImpl::GetDeadJob(grpc::CallbackServerContext* context,
                                                       const grpc::ByteBuffer* in,
                                                       grpc::ByteBuffer* out) {
  return RunUnary<pb::GetDeadJobRequest, pb::DeadJob>(
      frontend_.pool, context, in, out,
      [this](const pb::GetDeadJobRequest& request, Violations& violations, pb::DeadJob* response) {
        CheckJobId(request.job_id(), violations);
        if (!violations.empty()) return InvalidRequest(violations);
        const auto letters = frontend_.engine.jobs->ListDead(kMaxSearched);
        if (!letters.ok()) return FromStoreError(letters.status(), request.job_id());
        for (const DeadLetter& letter : *letters) {
          if (letter.job.id != request.job_id()) continue;
          *response = ToProto(letter);
          return grpc::Status(grpc::Status::OK);
        }
        return DeadJobNotFound(request.job_id());
      });
}

grpc::ServerUnaryReactor* AdminServiceImpl::RetryDeadJob(grpc::CallbackServerContext* context,
                                                         const grpc::ByteBuffer* in,
                                                         grpc::ByteBuffer* out) {
  return RunUnary<pb::RetryDeadJobRequest, pb::Job>(
      frontend_.pool, context, in, out,
      [this](const pb::RetryDeadJobRequest& request, Violations& violations, pb::Job* response) {
        CheckJobId(request.job_id(), violations);
        if (!violations.empty()) return InvalidRequest(violations);
        const absl::StatusOr<Job> job = frontend_.engine.jobs->RetryDead(request.job_id());
        if (!job.ok()) return FromDeadError(job.status(), request.job_id());
        Log(LogLevel::kInfo, "dead job queued again", {{"job", request.job_id()}});
        *response = ToProto(*job);
        return grpc::Status(grpc::Status::OK);
      });
}

grpc::ServerUnaryReactor* AdminServiceImpl::PurgeDeadJob(grpc::CallbackServerContext* context,
                                                         const grpc::ByteBuffer* in,
                                                         grpc::ByteBuffer* out) {
  return RunUnary<pb::PurgeDeadJobRequest, google::protobuf::Empty>(
      frontend_.pool, context, in, out,
      [this](const pb::PurgeDeadJobRequest& request, Violations& violations,
             google::protobuf::Empty*) {
        CheckJobId(request.job_id(), violations);
        if (!violations.empty()) return InvalidRequest(violations);
        const absl::Status purged = frontend_.engine.jobs->PurgeDead(request.job_id());
        if (!purged.ok()) return FromDeadError(purged, request.job_id());
        Log(LogLevel::kInfo, "dead job purged", {{"job", request.job_id()}});
        return grpc::Status(grpc::Status::OK);
      });
}

}  // namespace kandinsky
