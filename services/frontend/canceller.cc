#include "services/frontend/canceller.h"

#include "absl/time/clock.h"
#include "common/base/log.h"

namespace kandinsky {
namespace {

constexpr absl::Duration kGiveUpAfter = absl::Minutes(5);

}  // namespace

void Canceller::Cancel(const std::string& job_id) { Submit({job_id, absl::Now()}); }

void Canceller::Tick() {
  std::vector<Request> again;
  {
    MutexLock lock(&mutex_);
    again.swap(failed_);
  }
  for (Request& request : again) Submit(std::move(request));
}

void Canceller::Submit(Request request) {
  pool_->SubmitStream([this, request = std::move(request)] {
    const absl::Status status = store_->Cancel(request.job_id).status();
    if (status.ok()) {
      Log(LogLevel::kInfo, "job cancelled: its client went away", {{"job", request.job_id}});
      return;
    }
    if (absl::IsNotFound(status)) return;
    if (absl::Now() - request.since > kGiveUpAfter) {
      Log(LogLevel::kWarning, "job not cancelled after its client went away",
          {{"job", request.job_id}, {"error", std::string(status.message())}});
      return;
    }
    MutexLock lock(&mutex_);
    failed_.push_back(request);
  });
}

void DisconnectWatch::OnJob(const std::string& job_id) {
  bool cancel = false;
  {
    MutexLock lock(&mutex_);
    job_id_ = job_id;
    cancel = disconnected_;
  }
  if (cancel) canceller_->Cancel(job_id);
}

void DisconnectWatch::OnDisconnect() {
  std::string job_id;
  {
    MutexLock lock(&mutex_);
    disconnected_ = true;
    job_id = job_id_;
  }
  if (!job_id.empty()) canceller_->Cancel(job_id);
}

}  // namespace kandinsky
