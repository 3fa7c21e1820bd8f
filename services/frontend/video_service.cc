#include "services/frontend/video_service.h"

#include <google/protobuf/empty.pb.h>

#include "absl/strings/str_cat.h"
#include "common/base/log.h"
#include "common/base/version.h"
#include "services/frontend/convert.h"
#include "services/frontend/event_source.h"
#include "services/frontend/job_creation.h"
#include "services/frontend/unary_call.h"
#include "services/frontend/video_source.h"

namespace kandinsky {
namespace {

namespace pb = video::v1;
using Stream = grpc::ServerWriteReactor<grpc::ByteBuffer>;

// The answer of a call about one job; OK and `job` to `response`, or the error.
grpc::Status AnswerJob(const absl::StatusOr<Job>& job, const std::string& job_id,
                       pb::Job* response) {
  if (!job.ok()) return FromStoreError(job.status(), job_id);
  *response = ToProto(*job);
  return grpc::Status::OK;
}

grpc::Status CheckedJobId(const std::string& job_id, Violations& violations) {
  CheckJobId(job_id, violations);
  return violations.empty() ? grpc::Status::OK : InvalidRequest(violations);
}

// What is left of the call's deadline; empty when it has none.
std::optional<absl::Duration> Remaining(const grpc::CallbackServerContext& context) {
  const auto deadline = context.deadline();
  if (deadline >= std::chrono::system_clock::now() + std::chrono::hours(24 * 365)) {
    return std::nullopt;
  }
  return absl::FromChrono(deadline) - absl::Now();
}

std::string BuildText() { return absl::StrCat(BuildCommit(), ", ", __VERSION__); }

void AddStages(Frontend& frontend, pb::ServerInfo* info) {
  const auto stats = frontend.engine.queue->Stats();
  if (!stats.ok()) return;
  const auto workers = frontend.engine.queue->Workers();
  if (!workers.ok()) return;
  const std::map<Stage, int> ready = CountReady(*workers);
  for (const Stage stage : kStages) {
    pb::StageStatus* status = info->add_stages();
    status->set_stage(ToProto(stage));
    const auto found = ready.find(stage);
    status->set_ready_workers(found == ready.end() ? 0 : found->second);
    for (const StageQueueStats& entry : *stats) {
      if (entry.stage != stage) continue;
      status->set_waiting_tasks(status->waiting_tasks() + entry.waiting + entry.delayed);
      status->set_running_tasks(status->running_tasks() + entry.running);
    }
  }
}

}  // namespace

Stream* VideoServiceImpl::GenerateVideo(grpc::CallbackServerContext* context,
                                        const grpc::ByteBuffer* in) {
  auto request = std::make_shared<pb::GenerateVideoRequest>();
  Violations violations;
  const grpc::Status decoded = Decode(*in, *request, violations);
  std::shared_ptr<DisconnectWatch> watch;
  std::function<void()> on_disconnect;
  if (decoded.ok() && request->cancel_on_disconnect()) {
    watch = std::make_shared<DisconnectWatch>(&frontend_.canceller);
    on_disconnect = [watch] { watch->OnDisconnect(); };
  }
  bool open = false;
  const std::shared_ptr<StreamReactor> stream = StreamReactor::Open(
      &frontend_.streams, StreamKind::kGenerate, std::move(on_disconnect), &open);
  if (!open) return stream.get();
  if (!decoded.ok()) {
    stream->End(decoded);
    return stream.get();
  }
  const std::optional<absl::Duration> remaining =
      request->cancel_on_disconnect() ? Remaining(*context) : std::nullopt;
  const bool accepted = frontend_.pool.SubmitUnary(
      [=, this, violations = std::move(violations)](WorkPool::Verdict verdict) mutable {
        if (verdict == WorkPool::Verdict::kStopped) return stream->End(ShuttingDown());
        if (verdict == WorkPool::Verdict::kWaitedTooLong) {
          return stream->End(Overloaded("the call waited too long for its turn"));
        }
        Job job;
        const grpc::Status created = kandinsky::CreateJob(
            frontend_, FieldsOf(*request), Priority::kInteractive, remaining, violations, &job);
        if (!created.ok()) return stream->End(created);
        if (watch != nullptr) watch->OnJob(job.id);
        pb::GenerateVideoResponse first;
        *first.mutable_job() = ToProto(job);
        stream->Begin(
            Encode(first),
            {std::make_shared<EventSource>(job.id, "", EventSource::AsGenerateResponse,
                                           frontend_.engine.jobs, &frontend_.hub, &frontend_.pool),
             std::make_shared<VideoSource>(job.id, 0, VideoSource::AsGenerateResponse,
                                           frontend_.engine.jobs, frontend_.engine.videos,
                                           &frontend_.hub, &frontend_.pool)});
      });
  if (!accepted) stream->End(Overloaded("this frontend serves as many calls as it may"));
  return stream.get();
}

grpc::ServerUnaryReactor* VideoServiceImpl::CreateJob(grpc::CallbackServerContext* context,
                                                      const grpc::ByteBuffer* in,
                                                      grpc::ByteBuffer* out) {
  return RunUnary<pb::CreateJobRequest, pb::Job>(
      frontend_.pool, context, in, out,
      [this](const pb::CreateJobRequest& request, Violations& violations, pb::Job* response) {
        Job job;
        const grpc::Status status =
            kandinsky::CreateJob(frontend_, FieldsOf(request), Priority::kBatch,
                                 /*call_remaining=*/std::nullopt, violations, &job);
        if (status.ok()) *response = ToProto(job);
        return status;
      });
}

grpc::ServerUnaryReactor* VideoServiceImpl::GetJob(grpc::CallbackServerContext* context,
                                                   const grpc::ByteBuffer* in,
                                                   grpc::ByteBuffer* out) {
  return RunUnary<pb::GetJobRequest, pb::Job>(
      frontend_.pool, context, in, out,
      [this](const pb::GetJobRequest& request, Violations& violations, pb::Job* response) {
        const grpc::Status valid = CheckedJobId(request.job_id(), violations);
        if (!valid.ok()) return valid;
        return AnswerJob(frontend_.engine.jobs->Get(request.job_id()), request.job_id(), response);
      });
}

grpc::ServerUnaryReactor* VideoServiceImpl::ListJobs(grpc::CallbackServerContext* context,
                                                     const grpc::ByteBuffer* in,
                                                     grpc::ByteBuffer* out) {
  return RunUnary<pb::ListJobsRequest, pb::ListJobsResponse>(
      frontend_.pool, context, in, out,
      [this](const pb::ListJobsRequest& request, Violations& violations,
             pb::ListJobsResponse* response) {
        const ListQuery query = CheckListJobs(request, violations);
        if (!violations.empty()) return InvalidRequest(violations);
        const absl::StatusOr<JobPage> page =
            frontend_.engine.jobs->List(query.filter, query.page_size, query.page_token);
        if (absl::IsInvalidArgument(page.status())) {
          violations.Add("page_token", "is not a token of this list with these filters");
          return InvalidRequest(violations);
        }
        if (!page.ok()) return FromStoreError(page.status(), "");
        for (const Job& job : page->jobs) *response->add_jobs() = ToProto(job);
        response->set_next_page_token(page->next_page_token);
        return grpc::Status(grpc::Status::OK);
      });
}

grpc::ServerUnaryReactor* VideoServiceImpl::CancelJob(grpc::CallbackServerContext* context,
                                                      const grpc::ByteBuffer* in,
                                                      grpc::ByteBuffer* out) {
  return RunUnary<pb::CancelJobRequest, pb::Job>(
      frontend_.pool, context, in, out,
      [this](const pb::CancelJobRequest& request, Violations& violations, pb::Job* response) {
        const grpc::Status valid = CheckedJobId(request.job_id(), violations);
        if (!valid.ok()) return valid;
        const absl::StatusOr<Job> job = frontend_.engine.jobs->Cancel(request.job_id());
        if (job.ok()) {
          Log(LogLevel::kInfo, "cancel requested",
              {{"job", request.job_id()}, {"state", Name(job->state)}});
        }
        return AnswerJob(job, request.job_id(), response);
      });
}

grpc::ServerUnaryReactor* VideoServiceImpl::DeleteJob(grpc::CallbackServerContext* context,
                                                      const grpc::ByteBuffer* in,
                                                      grpc::ByteBuffer* out) {
  return RunUnary<pb::DeleteJobRequest, google::protobuf::Empty>(
      frontend_.pool, context, in, out,
      [this](const pb::DeleteJobRequest& request, Violations& violations,
             google::protobuf::Empty*) {
        const grpc::Status valid = CheckedJobId(request.job_id(), violations);
        if (!valid.ok()) return valid;
        const absl::Status deleted = frontend_.engine.jobs->Delete(request.job_id());
        if (!deleted.ok()) return FromStoreError(deleted, request.job_id());
        Log(LogLevel::kInfo, "job deleted", {{"job", request.job_id()}});
        return grpc::Status(grpc::Status::OK);
      });
}

Stream* VideoServiceImpl::WatchJob(grpc::CallbackServerContext*, const grpc::ByteBuffer* in) {
  bool open = false;
  const std::shared_ptr<StreamReactor> stream =
      StreamReactor::Open(&frontend_.streams, StreamKind::kWatch, nullptr, &open);
  if (!open) return stream.get();
  pb::WatchJobRequest request;
  Violations violations;
  const grpc::Status decoded = Decode(*in, request, violations);
  CheckJobId(request.job_id(), violations);
  CheckAfterEventId(request.after_event_id(), violations);
  if (!decoded.ok() || !violations.empty()) {
    stream->End(decoded.ok() ? InvalidRequest(violations) : decoded);
    return stream.get();
  }
  stream->Begin(std::nullopt,
                {std::make_shared<EventSource>(request.job_id(), request.after_event_id(),
                                               EventSource::AsJobEvent, frontend_.engine.jobs,
                                               &frontend_.hub, &frontend_.pool)});
  return stream.get();
}

Stream* VideoServiceImpl::DownloadVideo(grpc::CallbackServerContext*, const grpc::ByteBuffer* in) {
  bool open = false;
  const std::shared_ptr<StreamReactor> stream =
      StreamReactor::Open(&frontend_.streams, StreamKind::kDownload, nullptr, &open);
  if (!open) return stream.get();
  pb::DownloadVideoRequest request;
  Violations violations;
  const grpc::Status decoded = Decode(*in, request, violations);
  CheckJobId(request.job_id(), violations);
  if (!decoded.ok() || !violations.empty()) {
    stream->End(decoded.ok() ? InvalidRequest(violations) : decoded);
    return stream.get();
  }
  stream->Begin(std::nullopt, {std::make_shared<VideoSource>(
                                  request.job_id(), request.offset(), VideoSource::AsVideoChunk,
                                  frontend_.engine.jobs, frontend_.engine.videos, &frontend_.hub,
                                  &frontend_.pool)});
  return stream.get();
}

grpc::ServerUnaryReactor* VideoServiceImpl::ListModels(grpc::CallbackServerContext* context,
                                                       const grpc::ByteBuffer* in,
                                                       grpc::ByteBuffer* out) {
  return RunUnary<pb::ListModelsRequest, pb::ListModelsResponse>(
      frontend_.pool, context, in, out,
      [this](const pb::ListModelsRequest&, Violations&, pb::ListModelsResponse* response) {
        for (const ModelInfo& model : frontend_.catalog.models()) {
          *response->add_models() = ToProto(model, response->models_size() == 0);
        }
        return grpc::Status(grpc::Status::OK);
      });
}

grpc::ServerUnaryReactor* VideoServiceImpl::GetServerInfo(grpc::CallbackServerContext* context,
                                                          const grpc::ByteBuffer* in,
                                                          grpc::ByteBuffer* out) {
  return RunUnary<pb::GetServerInfoRequest, pb::ServerInfo>(
      frontend_.pool, context, in, out,
      [this](const pb::GetServerInfoRequest&, Violations&, pb::ServerInfo* info) {
        const FrontendSettings& settings = frontend_.settings;
        info->set_version(kVersion);
        info->set_build(BuildText());
        *info->mutable_start_time() = ToProto(frontend_.start_time);
        info->set_max_chunk_bytes(static_cast<int32_t>(kMaxChunkBytes));
        info->set_max_unfinished_jobs(settings.admission.max_unfinished_jobs);
        info->set_max_unfinished_jobs_per_tenant(settings.admission.max_unfinished_jobs_per_tenant);
        *info->mutable_default_timeout() = ToProto(settings.timeouts.default_value);
        *info->mutable_max_timeout() = ToProto(settings.timeouts.max);
        *info->mutable_result_retention() = ToProto(settings.retention);
        AddStages(frontend_, info);
        return grpc::Status(grpc::Status::OK);
      });
}

}  // namespace kandinsky
