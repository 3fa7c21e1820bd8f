#include "common/queue/fake_queue.h"

namespace kandinsky {
namespace {

bool TakeOne(std::atomic<int>& left) {
  int value = left.load();
  while (value > 0) {
    if (left.compare_exchange_weak(value, value - 1)) return true;
  }
  return false;
}

// Calls `call` unless `failures` says that it must not happen, or that nobody may learn of it.
template <typename Call>
auto Guarded(FailureSwitch* failures, Call call) -> decltype(call()) {
  if (absl::Status status = failures->Before(); !status.ok()) return status;
  auto result = call();
  if (absl::Status status = failures->After(); !status.ok()) return status;
  return result;
}

}  // namespace

absl::Status FailureSwitch::Before() {
  if (all_ || TakeOne(next_)) return absl::UnavailableError("the store cannot be reached");
  return absl::OkStatus();
}

absl::Status FailureSwitch::After() {
  if (TakeOne(lose_)) return absl::UnavailableError("the reply was lost");
  return absl::OkStatus();
}

absl::StatusOr<std::optional<Lease>> FailingTaskQueue::Claim(Stage stage,
                                                             const std::string& worker_id,
                                                             absl::Duration max_wait) {
  return Guarded(failures_, [&] { return queue_->Claim(stage, worker_id, max_wait); });
}

absl::StatusOr<LeaseVerdict> FailingTaskQueue::Renew(const Lease& lease,
                                                     const std::optional<StageProgress>& progress) {
  return Guarded(failures_, [&] { return queue_->Renew(lease, progress); });
}

absl::Status FailingTaskQueue::PublishPreview(const Lease& lease, const Preview& preview) {
  return Guarded(failures_, [&] { return queue_->PublishPreview(lease, preview); });
}

absl::Status FailingTaskQueue::SaveCheckpoint(const Lease& lease, const std::string& blob) {
  return Guarded(failures_, [&] { return queue_->SaveCheckpoint(lease, blob); });
}

absl::StatusOr<std::optional<std::string>> FailingTaskQueue::LoadCheckpoint(const Lease& lease) {
  return Guarded(failures_, [&] { return queue_->LoadCheckpoint(lease); });
}

absl::Status FailingTaskQueue::Complete(const Lease& lease, const LatentLocation& output) {
  return Guarded(failures_, [&] { return queue_->Complete(lease, output); });
}

absl::Status FailingTaskQueue::Finish(const Lease& lease, const VideoInfo& video) {
  return Guarded(failures_, [&] { return queue_->Finish(lease, video); });
}

absl::Status FailingTaskQueue::Fail(const Lease& lease, const TaskFailure& failure) {
  return Guarded(failures_, [&] { return queue_->Fail(lease, failure); });
}

absl::Status FailingTaskQueue::Release(const Lease& lease) {
  return Guarded(failures_, [&] { return queue_->Release(lease); });
}

absl::Status FailingTaskQueue::SendBack(const Lease& lease, const std::string& why) {
  return Guarded(failures_, [&] { return queue_->SendBack(lease, why); });
}

absl::Status FailingTaskQueue::AcknowledgeCancel(const Lease& lease) {
  return Guarded(failures_, [&] { return queue_->AcknowledgeCancel(lease); });
}

absl::Status FailingTaskQueue::Maintain() {
  return Guarded(failures_, [&] { return queue_->Maintain(); });
}

absl::StatusOr<std::vector<StageQueueStats>> FailingTaskQueue::Stats() {
  return Guarded(failures_, [&] { return queue_->Stats(); });
}

absl::Status FailingTaskQueue::Heartbeat(const WorkerInfo& worker) {
  return Guarded(failures_, [&] { return queue_->Heartbeat(worker); });
}

absl::StatusOr<std::vector<TaskQueue::WorkerInfo>> FailingTaskQueue::Workers() {
  return Guarded(failures_, [&] { return queue_->Workers(); });
}

absl::StatusOr<CreateResult> FailingJobStore::Create(const JobSpec& spec) {
  return Guarded(failures_, [&] { return store_->Create(spec); });
}

absl::StatusOr<Job> FailingJobStore::Get(const std::string& job_id) {
  return Guarded(failures_, [&] { return store_->Get(job_id); });
}

absl::StatusOr<JobPage> FailingJobStore::List(const JobFilter& filter, int page_size,
                                              const std::string& page_token) {
  return Guarded(failures_, [&] { return store_->List(filter, page_size, page_token); });
}

absl::StatusOr<Job> FailingJobStore::Cancel(const std::string& job_id) {
  return Guarded(failures_, [&] { return store_->Cancel(job_id); });
}

absl::Status FailingJobStore::Delete(const std::string& job_id) {
  return Guarded(failures_, [&] { return store_->Delete(job_id); });
}

absl::StatusOr<std::vector<JobEvent>> FailingJobStore::ReadEvents(const std::string& job_id,
                                                                  const std::string& after_event_id,
                                                                  int max) {
  return Guarded(failures_, [&] { return store_->ReadEvents(job_id, after_event_id, max); });
}

absl::StatusOr<std::vector<DeadLetter>> FailingJobStore::ListDead(int max) {
  return Guarded(failures_, [&] { return store_->ListDead(max); });
}

absl::StatusOr<Job> FailingJobStore::RetryDead(const std::string& job_id) {
  return Guarded(failures_, [&] { return store_->RetryDead(job_id); });
}

absl::Status FailingJobStore::PurgeDead(const std::string& job_id) {
  return Guarded(failures_, [&] { return store_->PurgeDead(job_id); });
}

absl::Status FailingVideoStore::Append(const std::string& job_id, int64_t generation,
                                       uint64_t offset, std::string_view data) {
  return Guarded(failures_, [&] { return store_->Append(job_id, generation, offset, data); });
}

absl::Status FailingVideoStore::Seal(const std::string& job_id, int64_t generation) {
  return Guarded(failures_, [&] { return store_->Seal(job_id, generation); });
}

absl::StatusOr<std::string> FailingVideoStore::Read(const std::string& job_id, int64_t generation,
                                                    uint64_t offset, uint64_t max_bytes) {
  return Guarded(failures_, [&] { return store_->Read(job_id, generation, offset, max_bytes); });
}

absl::StatusOr<uint64_t> FailingVideoStore::Size(const std::string& job_id, int64_t generation) {
  return Guarded(failures_, [&] { return store_->Size(job_id, generation); });
}

absl::Status FailingVideoStore::Remove(const std::string& job_id, std::optional<int64_t> keep) {
  return Guarded(failures_, [&] { return store_->Remove(job_id, keep); });
}

}  // namespace kandinsky
