// The frontend's side of the job engine: accept jobs, read them, cancel them, follow their events.
//
// Thread rule: all methods may be called from any thread; they block for at most the store's call
// timeout. Errors: UNAVAILABLE when the store cannot be reached; NOT_FOUND for a job that never was
// or has expired.
#ifndef KANDINSKY_COMMON_QUEUE_JOB_STORE_H_
#define KANDINSKY_COMMON_QUEUE_JOB_STORE_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/queue/job.h"

namespace kandinsky {

struct AdmissionLimits {
  int max_unfinished_jobs = 10000;
  int max_unfinished_jobs_per_tenant = 2000;
};

struct CreateResult {
  // Otherwise QUEUE_FULL, TENANT_QUEUE_FULL or REQUEST_ID_CONFLICT, and `job` is empty (the job
  // that holds the request_id with REQUEST_ID_CONFLICT).
  enum class Outcome { kCreated, kExisting, kQueueFull, kTenantQueueFull, kRequestIdConflict };
  Outcome outcome = Outcome::kCreated;
  Job job;
  // With a full queue: when a place should be free, from the measured service rate.
  absl::Duration retry_after = absl::ZeroDuration();
};

struct JobFilter {
  std::vector<JobState> states;  // empty: all
  std::string tenant;            // empty: all
};

struct JobPage {
  std::vector<Job> jobs;        // newest first
  std::string next_page_token;  // empty: last page
};

struct DeadLetter {
  Job job;
  absl::Time time = absl::InfinitePast();
};

class JobStore {
 public:
  virtual ~JobStore() = default;

  // Accepts a job: once this returns kCreated, the job ends in exactly one visible result. Atomic:
  // admission, idempotency, record, queue entry and first event are one script.
  virtual absl::StatusOr<CreateResult> Create(const JobSpec& spec) = 0;

  virtual absl::StatusOr<Job> Get(const std::string& job_id) = 0;
  // INVALID_ARGUMENT for a token that this store did not give out for this filter.
  virtual absl::StatusOr<JobPage> List(const JobFilter& filter, int page_size,
                                       const std::string& page_token) = 0;
  // Queued jobs are CANCELLED at once, running ones when their worker acknowledges. Finished:
  // unchanged.
  virtual absl::StatusOr<Job> Cancel(const std::string& job_id) = 0;
  // FAILED_PRECONDITION unless finished. Removes record, events, checkpoints, dead letter and
  // video.
  virtual absl::Status Delete(const std::string& job_id) = 0;

  // Events with an id after `after_event_id` ("" : from the first), at most `max`. INVALID_ARGUMENT
  // for a bad id.
  virtual absl::StatusOr<std::vector<JobEvent>> ReadEvents(const std::string& job_id,
                                                           const std::string& after_event_id,
                                                           int max) = 0;

  // --- Dead letters: FAILED jobs kept with their reason.
  virtual absl::StatusOr<std::vector<DeadLetter>> ListDead(int max) = 0;
  // Makes the job QUEUED again in the stage where it failed, with fresh attempts and a fresh
  // deadline.
  virtual absl::StatusOr<Job> RetryDead(const std::string& job_id) = 0;
  virtual absl::Status PurgeDead(const std::string& job_id) = 0;
};

// One reader of the live event feed for a whole process, however many watchers there are.
class EventFeed {
 public:
  virtual ~EventFeed() = default;

  // `on_event` gets every event of every job as it happens, from one thread; `on_gap` says that
  // events may have been missed (the connection was lost and is back): readers then re-read from
  // the store. Events of one job come in order of their sequence.
  virtual absl::Status Start(std::function<void(const JobEvent&)> on_event,
                             std::function<void()> on_gap) = 0;
  virtual void Stop() = 0;
};

}  // namespace kandinsky

#endif  // KANDINSKY_COMMON_QUEUE_JOB_STORE_H_
