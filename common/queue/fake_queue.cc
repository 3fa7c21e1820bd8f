#include "common/queue/fake_queue.h"

#include <algorithm>
#include <chrono>

#include "absl/strings/str_cat.h"
#include "common/queue/identity.h"

namespace kandinsky {
namespace {

constexpr char kAttemptsExhausted[] = "ATTEMPTS_EXHAUSTED";
constexpr char kWorkerLost[] = "WORKER_LOST";
constexpr char kInputLost[] = "INPUT_LOST";
constexpr char kDeadlineExceeded[] = "DEADLINE_EXCEEDED";

absl::Status LeaseLost() { return absl::FailedPreconditionError("the lease is lost"); }

std::string Token(const Lease& lease) {
  return absl::StrCat(lease.entry_id, " ", lease.delivery, " ", lease.worker_id);
}

int Index(Stage stage) { return static_cast<int>(stage); }

}  // namespace

InMemoryEngine::InMemoryEngine(QueueOptions options, const Clock* clock)
    : options_(options), clock_(clock) {}

InMemoryEngine::~InMemoryEngine() { InMemoryEngine::Stop(); }

// --- state
// ----------------------------------------------------------------------------------------------------------

InMemoryEngine::Record* InMemoryEngine::Find(const std::string& job_id) {
  auto it = jobs_.find(job_id);
  if (it == jobs_.end() || it->second.job.expire_time <= clock_->Now()) return nullptr;
  return &it->second;
}

absl::StatusOr<InMemoryEngine::Record*> InMemoryEngine::Fence(const Lease& lease) {
  Record* record = Find(lease.job_id);
  if (record == nullptr || record->place != Place::kLeased || record->entry_id != lease.entry_id ||
      record->worker != lease.worker_id || record->delivery != lease.delivery) {
    return LeaseLost();
  }
  return record;
}

InMemoryEngine::Line& InMemoryEngine::LineOf(const Record& record) {
  return lines_[{record.job.stage, record.job.spec.priority}];
}

void InMemoryEngine::Enqueue(Record& record, absl::Time enqueue_time) {
  Line& line = LineOf(record);
  const std::string& tenant = record.job.spec.tenant;
  record.place = Place::kWaiting;
  record.enqueue_time = enqueue_time;
  LineKey key{enqueue_time, record.job.id};
  line.waiting.insert(key);
  line.tenants[tenant].insert(key);
  if (!line.turns.contains(tenant)) {
    double next = 0;
    if (!line.turns.empty()) {
      next = std::min_element(line.turns.begin(), line.turns.end(),
                              [](auto& a, auto& b) { return a.second < b.second; })
                 ->second +
             1;
    }
    line.turns[tenant] = next;
  }
  changed_.notify_all();
}

void InMemoryEngine::Dequeue(Record& record) {
  if (record.place == Place::kWaiting) {
    Line& line = LineOf(record);
    const std::string& tenant = record.job.spec.tenant;
    LineKey key{record.enqueue_time, record.job.id};
    line.waiting.erase(key);
    auto it = line.tenants.find(tenant);
    it->second.erase(key);
    if (it->second.empty()) {
      line.tenants.erase(it);
      line.turns.erase(tenant);
    }
  }
  if (record.place != Place::kLeased) record.place = Place::kNowhere;
}

void InMemoryEngine::EndLease(Record& record) {
  record.ended_lease = absl::StrCat(record.entry_id, " ", record.delivery, " ", record.worker);
  record.place = Place::kNowhere;
}

void InMemoryEngine::Finalize(Record& record, JobState state, std::optional<JobError> error) {
  Dequeue(record);
  if (record.place == Place::kLeased) EndLease(record);
  absl::Time now = clock_->Now();
  Job& job = record.job;
  job.state = state;
  job.finish_time = now;
  job.expire_time =
      now + (state == JobState::kFailed ? options_.dead_letter_retention : options_.retention);
  job.error = std::move(error);
  if (state == JobState::kSucceeded) job.fraction = 1;
  if (state == JobState::kFailed) dead_[job.id] = now;
  record.checkpoints = {};
  finishes_.push_back(now);
  JobEvent event = NewEvent(record, JobEvent::Type::kStateChanged);
  event.error = job.error;
  if (state == JobState::kSucceeded) event.video = job.video;
  Publish(record, std::move(event));
}

bool InMemoryEngine::FinalizeIfStopped(Record& record) {
  if (record.job.cancel_requested) {
    Finalize(record, JobState::kCancelled, std::nullopt);
    return true;
  }
  if (record.job.deadline <= clock_->Now()) {
    JobError error;
    error.reason = kDeadlineExceeded;
    error.message = "the job was not finished before its deadline";
    error.stage = record.job.stage;
    error.attempts = record.job.attempt;
    error.worker = record.worker;
    Finalize(record, JobState::kExpired, error);
    return true;
  }
  return false;
}

JobEvent InMemoryEngine::NewEvent(const Record& record, JobEvent::Type type) {
  JobEvent event;
  event.job_id = record.job.id;
  event.type = type;
  event.state = record.job.state;
  event.stage = record.job.stage;
  event.attempt = record.job.attempt;
  event.passes = std::max(
      1, record.job.stage == Stage::kInterpolation ? Passes(record.job.spec.parameters.level) : 1);
  event.fraction = record.job.fraction;
  return event;
}

void InMemoryEngine::Publish(Record& record, JobEvent event) {
  event.sequence = ++record.sequence;
  event.id = absl::StrCat(event.sequence);
  event.time = clock_->Now();
  record.job.last_event_id = event.id;
  record.events.push_back(event);
  auto is_progress = [](const JobEvent& e) { return e.type == JobEvent::Type::kProgress; };
  if (is_progress(event) && std::count_if(record.events.begin(), record.events.end(), is_progress) >
                                options_.max_progress_events) {
    record.events.erase(std::find_if(record.events.begin(), record.events.end(), is_progress));
  }
  std::lock_guard<std::mutex> lock(feed_mutex_);
  if (feed_running_ && !feed_broken_) {
    feed_.push_back(std::move(event));
    feed_changed_.notify_all();
  }
}

void InMemoryEngine::Delay(Record& record, absl::Duration delay) {
  record.place = Place::kDelayed;
  record.due = clock_->Now() + delay;
}

void InMemoryEngine::PromoteDelayed() {
  for (auto& [id, record] : jobs_) {
    if (record.place == Place::kDelayed && record.due <= clock_->Now()) Enqueue(record, record.due);
  }
}

// --- claiming
// -------------------------------------------------------------------------------------------------------

Lease InMemoryEngine::Grant(Record& record, const std::string& worker_id, bool reclaimed) {
  Job& job = record.job;
  if (!reclaimed) {
    record.entry_id = absl::StrCat(next_entry_++, "-0");
    record.delivery = 0;
  }
  record.place = Place::kLeased;
  record.worker = worker_id;
  ++record.delivery;
  record.lease_end = clock_->Now() + options_.lease_duration;
  job.attempt = record.failures[Index(job.stage)] + 1;
  if (job.stage == Stage::kDecoding) ++job.video_generation;
  if (job.state == JobState::kQueued) {
    job.state = JobState::kRunning;
    job.start_time = clock_->Now();
    Publish(record, NewEvent(record, JobEvent::Type::kStateChanged));
  }
  Publish(record, NewEvent(record, JobEvent::Type::kStageStarted));

  Lease lease;
  lease.stage = job.stage;
  lease.priority = job.spec.priority;
  lease.entry_id = record.entry_id;
  lease.worker_id = worker_id;
  lease.delivery = record.delivery;
  lease.job_id = job.id;
  lease.tenant = job.spec.tenant;
  lease.parameters = job.spec.parameters;
  lease.attempt = job.attempt;
  lease.deadline = job.deadline;
  lease.enqueue_time = record.enqueue_time;
  if (auto previous = PreviousStage(job.stage, job.spec.parameters.level)) {
    lease.input = record.outputs[Index(*previous)];
  }
  lease.avoid_workers = record.avoid_workers;
  lease.reclaimed = reclaimed;
  lease.video_generation = job.stage == Stage::kDecoding ? job.video_generation : 0;
  lease.duration = options_.lease_duration;
  return lease;
}

InMemoryEngine::Record* InMemoryEngine::Pick(Stage stage, Priority priority,
                                             const std::string& worker_id) {
  Line& line = lines_[{stage, priority}];
  std::vector<std::pair<double, std::string>> order;
  for (const auto& [tenant, turn] : line.turns) order.emplace_back(turn, tenant);
  std::sort(order.begin(), order.end());
  for (const auto& [turn, tenant] : order) {
    for (const LineKey& key : line.tenants[tenant]) {
      Record& record = jobs_.at(key.second);
      bool avoided = std::find(record.avoid_workers.begin(), record.avoid_workers.end(),
                               worker_id) != record.avoid_workers.end();
      if (avoided && clock_->Now() < record.enqueue_time + options_.avoid_duration) continue;
      line.turns[tenant] += 1;
      Dequeue(record);
      return &record;
    }
  }
  return nullptr;
}

std::optional<Lease> InMemoryEngine::TryClaim(Stage stage, const std::string& worker_id) {
  absl::Time now = clock_->Now();
  for (Priority priority : kPriorities) {
    for (auto& [id, record] : jobs_) {
      if (record.place != Place::kLeased || record.job.stage != stage ||
          record.job.spec.priority != priority || record.lease_end > now) {
        continue;
      }
      if (FinalizeIfStopped(record)) continue;
      int failures = ++record.failures[Index(stage)];
      JobError error{kWorkerLost, absl::StrCat("the lease of worker ", record.worker, " ended"),
                     stage, failures, record.worker};
      if (failures >= options_.max_attempts) {
        error.reason = kAttemptsExhausted;
        Finalize(record, JobState::kFailed, error);
        continue;
      }
      record.job.attempt = failures + 1;
      JobEvent event = NewEvent(record, JobEvent::Type::kRetry);
      event.error = error;
      Publish(record, std::move(event));
      return Grant(record, worker_id, /*reclaimed=*/true);
    }
  }
  PromoteDelayed();
  for (;;) {
    Line& interactive = lines_[{stage, Priority::kInteractive}];
    Line& batch = lines_[{stage, Priority::kBatch}];
    bool batch_first = false;
    if (!batch.waiting.empty() && !interactive.waiting.empty() &&
        now - batch.waiting.begin()->first > options_.batch_ageing) {
      batch_first = ++turns_[stage] % options_.batch_share == 0;
    }
    Record* record = nullptr;
    if (batch_first) record = Pick(stage, Priority::kBatch, worker_id);
    if (record == nullptr) record = Pick(stage, Priority::kInteractive, worker_id);
    if (record == nullptr) record = Pick(stage, Priority::kBatch, worker_id);
    if (record == nullptr) return std::nullopt;
    if (FinalizeIfStopped(*record)) continue;
    return Grant(*record, worker_id, /*reclaimed=*/false);
  }
}

absl::StatusOr<std::optional<Lease>> InMemoryEngine::Claim(Stage stage,
                                                           const std::string& worker_id,
                                                           absl::Duration max_wait) {
  if (worker_id.empty()) return absl::InvalidArgumentError("a worker needs an id");
  auto end = std::chrono::steady_clock::now() +
             std::chrono::microseconds(absl::ToInt64Microseconds(max_wait));
  std::unique_lock<std::mutex> lock(mutex_);
  for (;;) {
    if (std::optional<Lease> lease = TryClaim(stage, worker_id)) return lease;
    auto now = std::chrono::steady_clock::now();
    if (now >= end) return std::nullopt;
    // The clock has no way to say that it moved.
    changed_.wait_until(lock, std::min(end, now + std::chrono::milliseconds(5)));
  }
}

// --- leases
// ---------------------------------------------------------------------------------------------------------

absl::StatusOr<LeaseVerdict> InMemoryEngine::Renew(const Lease& lease,
                                                   const std::optional<StageProgress>& progress) {
  std::lock_guard<std::mutex> lock(mutex_);
  absl::StatusOr<Record*> fenced = Fence(lease);
  if (!fenced.ok()) return fenced.status();
  Record& record = **fenced;
  record.lease_end = clock_->Now() + options_.lease_duration;
  if (record.job.cancel_requested) return LeaseVerdict::kCancelRequested;
  if (record.job.deadline <= clock_->Now()) return LeaseVerdict::kDeadlineExceeded;
  if (progress) {
    Level level = record.job.spec.parameters.level;
    record.job.fraction = JobFraction(lease.stage, level, progress->stage_fraction);
    JobEvent event = NewEvent(record, JobEvent::Type::kProgress);
    event.pass = progress->pass;
    event.passes = progress->passes;
    event.step = progress->step;
    event.steps = progress->steps;
    if (progress->stage_eta) {
      event.eta = JobEta(lease.stage, level, progress->stage_fraction, *progress->stage_eta);
    }
    Publish(record, std::move(event));
  }
  return LeaseVerdict::kHeld;
}

absl::Status InMemoryEngine::PublishPreview(const Lease& lease, const Preview& preview) {
  std::lock_guard<std::mutex> lock(mutex_);
  absl::StatusOr<Record*> fenced = Fence(lease);
  if (!fenced.ok()) return fenced.status();
  JobEvent event = NewEvent(**fenced, JobEvent::Type::kPreview);
  event.preview = preview;
  Publish(**fenced, std::move(event));
  return absl::OkStatus();
}

absl::Status InMemoryEngine::SaveCheckpoint(const Lease& lease, const std::string& blob) {
  std::lock_guard<std::mutex> lock(mutex_);
  absl::StatusOr<Record*> fenced = Fence(lease);
  if (!fenced.ok()) return fenced.status();
  (*fenced)->checkpoints[Index(lease.stage)] = blob;
  return absl::OkStatus();
}

absl::StatusOr<std::optional<std::string>> InMemoryEngine::LoadCheckpoint(const Lease& lease) {
  std::lock_guard<std::mutex> lock(mutex_);
  absl::StatusOr<Record*> fenced = Fence(lease);
  if (!fenced.ok()) return fenced.status();
  return (*fenced)->checkpoints[Index(lease.stage)];
}

// An ending that was already carried out for this very lease is reported as done: the first reply
// may have been lost.
#define KANDINSKY_FENCE_OR_RETURN(record, lease)                                           \
  Record* record = nullptr;                                                                \
  {                                                                                        \
    absl::StatusOr<Record*> fenced = Fence(lease);                                         \
    if (!fenced.ok()) {                                                                    \
      Record* found = Find((lease).job_id);                                                \
      if (found != nullptr && found->ended_lease == Token(lease)) return absl::OkStatus(); \
      return fenced.status();                                                              \
    }                                                                                      \
    (record) = *fenced;                                                                    \
  }

absl::Status InMemoryEngine::Complete(const Lease& lease, const LatentLocation& output) {
  std::optional<Stage> next = NextStage(lease.stage, lease.parameters.level);
  if (!next) return absl::InvalidArgumentError("the last stage ends with Finish");
  std::lock_guard<std::mutex> lock(mutex_);
  KANDINSKY_FENCE_OR_RETURN(record, lease);
  if (FinalizeIfStopped(*record)) return absl::OkStatus();
  Job& job = record->job;
  record->outputs[Index(lease.stage)] = output;
  record->checkpoints[Index(lease.stage)].reset();
  EndLease(*record);
  job.fraction = JobFraction(lease.stage, job.spec.parameters.level, 1);
  Publish(*record, NewEvent(*record, JobEvent::Type::kStageFinished));
  job.stage = *next;
  job.attempt = record->failures[Index(*next)] + 1;
  record->avoid_workers.clear();
  Enqueue(*record, clock_->Now());
  return absl::OkStatus();
}

absl::Status InMemoryEngine::Finish(const Lease& lease, const VideoInfo& video) {
  if (NextStage(lease.stage, lease.parameters.level)) {
    return absl::InvalidArgumentError("only the last stage ends with Finish");
  }
  std::lock_guard<std::mutex> lock(mutex_);
  KANDINSKY_FENCE_OR_RETURN(record, lease);
  EndLease(*record);
  record->job.fraction = 1;
  record->job.video = video;
  Publish(*record, NewEvent(*record, JobEvent::Type::kStageFinished));
  Finalize(*record, JobState::kSucceeded, std::nullopt);
  for (auto it = videos_.begin(); it != videos_.end();) {
    bool old = it->first.first == lease.job_id && it->first.second != lease.video_generation;
    it = old ? videos_.erase(it) : std::next(it);
  }
  return absl::OkStatus();
}

absl::Status InMemoryEngine::Fail(const Lease& lease, const TaskFailure& failure) {
  std::lock_guard<std::mutex> lock(mutex_);
  KANDINSKY_FENCE_OR_RETURN(record, lease);
  if (FinalizeIfStopped(*record)) return absl::OkStatus();
  Job& job = record->job;
  int failures = ++record->failures[Index(lease.stage)];
  JobError error{failure.reason, failure.message, lease.stage, failures, lease.worker_id};
  bool final = failure.failure_class == TaskFailure::Class::kPermanent;
  if (failure.failure_class == TaskFailure::Class::kOutOfMemory) {
    final = ++record->out_of_memory[Index(lease.stage)] > 1;
  }
  if (!final && failures >= options_.max_attempts) {
    final = true;
    error.message = absl::StrCat(failure.reason, ": ", failure.message);
    error.reason = kAttemptsExhausted;
  }
  EndLease(*record);
  if (final) {
    Finalize(*record, JobState::kFailed, error);
    return absl::OkStatus();
  }
  job.attempt = failures + 1;
  JobEvent event = NewEvent(*record, JobEvent::Type::kRetry);
  event.error = error;
  Publish(*record, std::move(event));
  if (failure.failure_class == TaskFailure::Class::kOutOfMemory) {
    record->avoid_workers.push_back(lease.worker_id);
    Enqueue(*record, clock_->Now());
  } else {
    absl::Duration cap = options_.retry_base_delay;
    for (int i = 1; i < failures && cap < options_.retry_max_delay; ++i) cap *= 2;
    cap = std::min(cap, options_.retry_max_delay);
    Delay(*record, cap * std::uniform_real_distribution<double>(0, 1)(random_));
  }
  return absl::OkStatus();
}

absl::Status InMemoryEngine::Release(const Lease& lease) {
  std::lock_guard<std::mutex> lock(mutex_);
  KANDINSKY_FENCE_OR_RETURN(record, lease);
  if (FinalizeIfStopped(*record)) return absl::OkStatus();
  EndLease(*record);
  Enqueue(*record, record->enqueue_time);
  return absl::OkStatus();
}

absl::Status InMemoryEngine::SendBack(const Lease& lease, const std::string& why) {
  std::optional<Stage> previous = PreviousStage(lease.stage, lease.parameters.level);
  if (!previous) return absl::InvalidArgumentError("there is no stage before the first");
  std::lock_guard<std::mutex> lock(mutex_);
  KANDINSKY_FENCE_OR_RETURN(record, lease);
  if (FinalizeIfStopped(*record)) return absl::OkStatus();
  Job& job = record->job;
  JobError error{kInputLost, why, lease.stage, lease.attempt, lease.worker_id};
  EndLease(*record);
  if (++record->send_backs > options_.max_send_backs) {
    Finalize(*record, JobState::kFailed, error);
    return absl::OkStatus();
  }
  record->outputs[Index(*previous)].reset();
  job.stage = *previous;
  job.attempt = record->failures[Index(*previous)] + 1;
  job.fraction = JobFraction(*previous, job.spec.parameters.level, 0);
  record->avoid_workers.clear();
  JobEvent event = NewEvent(*record, JobEvent::Type::kRetry);
  event.error = error;
  Publish(*record, std::move(event));
  Enqueue(*record, clock_->Now());
  return absl::OkStatus();
}

absl::Status InMemoryEngine::AcknowledgeCancel(const Lease& lease) {
  std::lock_guard<std::mutex> lock(mutex_);
  KANDINSKY_FENCE_OR_RETURN(record, lease);
  if (FinalizeIfStopped(*record)) return absl::OkStatus();
  return absl::FailedPreconditionError("there is nothing to acknowledge");
}

#undef KANDINSKY_FENCE_OR_RETURN

// --- housekeeping
// ---------------------------------------------------------------------------------------------------

absl::Status InMemoryEngine::Maintain() {
  std::lock_guard<std::mutex> lock(mutex_);
  PromoteDelayed();
  for (auto& [id, record] : jobs_) {
    if (IsFinished(record.job.state)) continue;
    bool held = record.place == Place::kLeased && record.lease_end > clock_->Now();
    if (!held) FinalizeIfStopped(record);
  }
  ExpireFinished();
  return absl::OkStatus();
}

void InMemoryEngine::ExpireFinished() {
  std::vector<std::string> gone;
  for (auto& [id, record] : jobs_) {
    if (record.job.expire_time <= clock_->Now()) gone.push_back(id);
  }
  for (const std::string& id : gone) Erase(id);
}

void InMemoryEngine::Erase(const std::string& job_id) {
  auto it = jobs_.find(job_id);
  if (it == jobs_.end()) return;
  auto request = requests_.find({it->second.job.spec.tenant, it->second.job.spec.request_id});
  if (request != requests_.end() && request->second.first == job_id) requests_.erase(request);
  dead_.erase(job_id);
  std::erase_if(videos_, [&](const auto& video) { return video.first.first == job_id; });
  jobs_.erase(it);
}

absl::StatusOr<std::vector<StageQueueStats>> InMemoryEngine::Stats() {
  std::lock_guard<std::mutex> lock(mutex_);
  std::vector<StageQueueStats> all;
  for (Stage stage : kStages) {
    for (Priority priority : kPriorities) {
      StageQueueStats stats;
      stats.stage = stage;
      stats.priority = priority;
      const Line& line = lines_[{stage, priority}];
      stats.waiting = static_cast<int64_t>(line.waiting.size());
      if (!line.waiting.empty()) stats.oldest_age = clock_->Now() - line.waiting.begin()->first;
      for (const auto& [id, record] : jobs_) {
        if (record.job.stage != stage || record.job.spec.priority != priority) continue;
        stats.delayed += record.place == Place::kDelayed;
        stats.running += record.place == Place::kLeased;
      }
      all.push_back(stats);
    }
  }
  return all;
}

absl::Status InMemoryEngine::Heartbeat(const WorkerInfo& worker) {
  std::lock_guard<std::mutex> lock(mutex_);
  WorkerInfo& kept = workers_[worker.id];
  kept = worker;
  kept.heartbeat = clock_->Now();
  return absl::OkStatus();
}

absl::StatusOr<std::vector<TaskQueue::WorkerInfo>> InMemoryEngine::Workers() {
  std::lock_guard<std::mutex> lock(mutex_);
  std::vector<WorkerInfo> alive;
  absl::Time oldest = clock_->Now() - 3 * options_.heartbeat_interval;
  std::erase_if(workers_, [&](const auto& entry) { return entry.second.heartbeat < oldest; });
  for (const auto& [id, worker] : workers_) alive.push_back(worker);
  return alive;
}

// --- jobs
// -----------------------------------------------------------------------------------------------------------

absl::Duration InMemoryEngine::RetryAfter(int unfinished_share_of) {
  absl::Time now = clock_->Now();
  while (!finishes_.empty() && finishes_.front() < now - options_.rate_window) {
    finishes_.pop_front();
  }
  if (finishes_.empty()) return absl::Minutes(1);
  absl::Duration span = std::max(absl::Seconds(1), now - finishes_.front());
  absl::Duration each = span / static_cast<double>(finishes_.size()) * unfinished_share_of;
  return std::clamp(each, absl::Seconds(1), absl::Minutes(10));
}

absl::StatusOr<CreateResult> InMemoryEngine::Create(const JobSpec& spec) {
  std::lock_guard<std::mutex> lock(mutex_);
  ExpireFinished();
  absl::Time now = clock_->Now();
  CreateResult result;
  std::pair<std::string, std::string> request{spec.tenant, spec.request_id};
  if (!spec.request_id.empty()) {
    auto it = requests_.find(request);
    if (it != requests_.end()) {
      result.job = jobs_.at(it->second.first).job;
      result.outcome = it->second.second == PayloadDigest(spec)
                           ? CreateResult::Outcome::kExisting
                           : CreateResult::Outcome::kRequestIdConflict;
      return result;
    }
  }
  int total = 0;
  int of_tenant = 0;
  for (const auto& [id, record] : jobs_) {
    if (IsFinished(record.job.state)) continue;
    ++total;
    of_tenant += record.job.spec.tenant == spec.tenant;
  }
  if (total >= options_.limits.max_unfinished_jobs) {
    result.outcome = CreateResult::Outcome::kQueueFull;
    result.retry_after = RetryAfter(1);
    return result;
  }
  if (of_tenant >= options_.limits.max_unfinished_jobs_per_tenant) {
    result.outcome = CreateResult::Outcome::kTenantQueueFull;
    result.retry_after = RetryAfter(std::max(1, total / std::max(1, of_tenant)));
    return result;
  }
  std::string id = NewJobId(now);
  Record& record = jobs_[id];
  record.job.id = id;
  record.job.spec = spec;
  record.job.create_time = now;
  record.job.deadline = now + spec.timeout;
  if (!spec.request_id.empty()) requests_[request] = {id, PayloadDigest(spec)};
  JobEvent event = NewEvent(record, JobEvent::Type::kStateChanged);
  event.notices = spec.notices;
  Publish(record, std::move(event));
  Enqueue(record, now);
  result.job = record.job;
  return result;
}

absl::StatusOr<Job> InMemoryEngine::Get(const std::string& job_id) {
  std::lock_guard<std::mutex> lock(mutex_);
  Record* record = Find(job_id);
  if (record == nullptr) return absl::NotFoundError("no such job");
  return record->job;
}

absl::StatusOr<JobPage> InMemoryEngine::List(const JobFilter& filter, int page_size,
                                             const std::string& page_token) {
  if (page_size < 1) return absl::InvalidArgumentError("page_size must be positive");
  std::optional<PagePosition> after;
  if (!page_token.empty()) {
    absl::StatusOr<PagePosition> position = DecodePageToken(filter, page_token);
    if (!position.ok()) return position.status();
    after = *position;
  }
  std::lock_guard<std::mutex> lock(mutex_);
  ExpireFinished();
  std::vector<std::pair<int64_t, std::string>> order;
  for (const auto& [id, record] : jobs_) {
    order.emplace_back(absl::ToUnixMicros(record.job.create_time), id);
  }
  std::sort(order.rbegin(), order.rend());
  JobPage page;
  for (const auto& [create_us, id] : order) {
    if (after && std::pair(create_us, id) >= std::pair(after->create_us, after->job_id)) continue;
    const Job& job = jobs_.at(id).job;
    if (!filter.tenant.empty() && job.spec.tenant != filter.tenant) continue;
    if (!filter.states.empty() &&
        std::find(filter.states.begin(), filter.states.end(), job.state) == filter.states.end()) {
      continue;
    }
    if (static_cast<int>(page.jobs.size()) == page_size) {
      const Job& last = page.jobs.back();
      page.next_page_token =
          EncodePageToken(filter, {absl::ToUnixMicros(last.create_time), last.id});
      break;
    }
    page.jobs.push_back(job);
  }
  return page;
}

absl::StatusOr<Job> InMemoryEngine::Cancel(const std::string& job_id) {
  std::lock_guard<std::mutex> lock(mutex_);
  Record* record = Find(job_id);
  if (record == nullptr) return absl::NotFoundError("no such job");
  if (!IsFinished(record->job.state)) {
    record->job.cancel_requested = true;
    bool held = record->place == Place::kLeased && record->lease_end > clock_->Now();
    if (!held) FinalizeIfStopped(*record);
  }
  return record->job;
}

absl::Status InMemoryEngine::Delete(const std::string& job_id) {
  std::lock_guard<std::mutex> lock(mutex_);
  Record* record = Find(job_id);
  if (record == nullptr) return absl::NotFoundError("no such job");
  if (!IsFinished(record->job.state)) {
    return absl::FailedPreconditionError("the job is not finished");
  }
  Erase(job_id);
  return absl::OkStatus();
}

absl::StatusOr<std::vector<JobEvent>> InMemoryEngine::ReadEvents(const std::string& job_id,
                                                                 const std::string& after_event_id,
                                                                 int max) {
  std::optional<uint64_t> after = ParseEventId(after_event_id);
  if (!after) return absl::InvalidArgumentError("not an event id");
  std::lock_guard<std::mutex> lock(mutex_);
  Record* record = Find(job_id);
  if (record == nullptr) return absl::NotFoundError("no such job");
  std::vector<JobEvent> events;
  for (const JobEvent& event : record->events) {
    if (event.sequence > *after && static_cast<int>(events.size()) < max) events.push_back(event);
  }
  return events;
}

absl::StatusOr<std::vector<DeadLetter>> InMemoryEngine::ListDead(int max) {
  std::lock_guard<std::mutex> lock(mutex_);
  ExpireFinished();
  std::vector<DeadLetter> letters;
  for (const auto& [id, time] : dead_) letters.push_back({jobs_.at(id).job, time});
  std::stable_sort(letters.begin(), letters.end(),
                   [](const DeadLetter& a, const DeadLetter& b) { return a.time > b.time; });
  if (static_cast<int>(letters.size()) > max) letters.resize(std::max(0, max));
  return letters;
}

absl::StatusOr<Job> InMemoryEngine::RetryDead(const std::string& job_id) {
  std::lock_guard<std::mutex> lock(mutex_);
  Record* record = Find(job_id);
  if (record == nullptr) return absl::NotFoundError("no such job");
  if (!dead_.contains(job_id)) return absl::FailedPreconditionError("the job is no dead letter");
  dead_.erase(job_id);
  absl::Time now = clock_->Now();
  Job& job = record->job;
  job.state = JobState::kQueued;
  job.error.reset();
  job.start_time = absl::InfinitePast();
  job.finish_time = absl::InfinitePast();
  job.expire_time = absl::InfiniteFuture();
  job.deadline = now + job.spec.timeout;
  job.attempt = 1;
  record->failures = {};
  record->out_of_memory = {};
  record->avoid_workers.clear();
  record->send_backs = 0;
  Publish(*record, NewEvent(*record, JobEvent::Type::kStateChanged));
  Enqueue(*record, now);
  return job;
}

absl::Status InMemoryEngine::PurgeDead(const std::string& job_id) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (Find(job_id) == nullptr) return absl::NotFoundError("no such job");
  if (!dead_.contains(job_id)) return absl::FailedPreconditionError("the job is no dead letter");
  Erase(job_id);
  return absl::OkStatus();
}

// --- the feed
// -------------------------------------------------------------------------------------------------------

absl::Status InMemoryEngine::Start(std::function<void(const JobEvent&)> on_event,
                                   std::function<void()> on_gap) {
  std::lock_guard<std::mutex> lock(feed_mutex_);
  if (feed_running_) return absl::FailedPreconditionError("the feed runs already");
  feed_running_ = true;
  on_event_ = std::move(on_event);
  on_gap_ = std::move(on_gap);
  feed_thread_ = std::thread([this] { FeedLoop(); });
  return absl::OkStatus();
}

void InMemoryEngine::Stop() {
  {
    std::lock_guard<std::mutex> lock(feed_mutex_);
    if (!feed_running_) return;
    feed_running_ = false;
    feed_changed_.notify_all();
  }
  feed_thread_.join();
  std::lock_guard<std::mutex> lock(feed_mutex_);
  feed_.clear();
}

void InMemoryEngine::FeedLoop() {
  std::unique_lock<std::mutex> lock(feed_mutex_);
  for (;;) {
    feed_changed_.wait(lock, [this] { return !feed_running_ || !feed_.empty(); });
    if (!feed_running_) return;
    std::optional<JobEvent> event = std::move(feed_.front());
    feed_.pop_front();
    lock.unlock();
    if (event) {
      on_event_(*event);
    } else {
      on_gap_();
    }
    lock.lock();
  }
}

void InMemoryEngine::BreakFeed() {
  std::lock_guard<std::mutex> lock(feed_mutex_);
  feed_broken_ = true;
}

void InMemoryEngine::RestoreFeed() {
  std::lock_guard<std::mutex> lock(feed_mutex_);
  if (!feed_broken_) return;
  feed_broken_ = false;
  feed_.push_back(std::nullopt);
  feed_changed_.notify_all();
}

// --- videos
// ---------------------------------------------------------------------------------------------------------

absl::Status InMemoryEngine::Append(const std::string& job_id, int64_t generation, uint64_t offset,
                                    std::string_view data) {
  std::lock_guard<std::mutex> lock(mutex_);
  auto it = videos_.find({job_id, generation});
  uint64_t size = it == videos_.end() ? 0 : it->second.size();
  if (offset != size) return absl::FailedPreconditionError("the offset is not the size");
  videos_[{job_id, generation}].append(data);
  return absl::OkStatus();
}

absl::Status InMemoryEngine::Seal(const std::string& job_id, int64_t generation) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (!videos_.contains({job_id, generation})) return absl::NotFoundError("no such video");
  return absl::OkStatus();
}

absl::StatusOr<std::string> InMemoryEngine::Read(const std::string& job_id, int64_t generation,
                                                 uint64_t offset, uint64_t max_bytes) {
  std::lock_guard<std::mutex> lock(mutex_);
  auto it = videos_.find({job_id, generation});
  if (it == videos_.end()) return absl::NotFoundError("no such video");
  if (offset >= it->second.size()) return std::string();
  return it->second.substr(offset, max_bytes);
}

absl::StatusOr<uint64_t> InMemoryEngine::Size(const std::string& job_id, int64_t generation) {
  std::lock_guard<std::mutex> lock(mutex_);
  auto it = videos_.find({job_id, generation});
  return it == videos_.end() ? 0 : it->second.size();
}

absl::Status InMemoryEngine::Remove(const std::string& job_id, std::optional<int64_t> keep) {
  std::lock_guard<std::mutex> lock(mutex_);
  std::erase_if(videos_, [&](const auto& video) {
    return video.first.first == job_id && video.first.second != keep;
  });
  return absl::OkStatus();
}

}  // namespace kandinsky
