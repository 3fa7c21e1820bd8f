#include "common/queue_redis/redis_job_store.h"

#include <algorithm>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/queue/identity.h"
#include "common/queue_redis/codec.h"

namespace kandinsky {
namespace {

// Jobs that one step of List looks at, and steps of one call.
constexpr int kListBudget = 2000;
constexpr int kListSteps = 10;

absl::Status NoSuchJob() { return absl::NotFoundError("no such job"); }

const std::string& Word(const RedisValue& reply) {
  static const std::string kNone;
  return reply.elements.empty() ? kNone : reply.elements[0].text;
}

absl::Status Unexpected(const RedisScript& script, const RedisValue& reply) {
  return absl::InternalError(absl::StrCat(script.name, ": unexpected reply ", Word(reply)));
}

// What the event that accepts the job carries beside its state; "" for nothing.
std::string FirstEventDetails(const JobSpec& spec) {
  if (spec.notices.empty()) return "";
  EventDetailsValue details;
  details.notices = spec.notices;
  return EncodeDetails(details);
}

}  // namespace

absl::StatusOr<RedisValue> RedisJobStore::TryCreate(const RedisCommand& arguments) {
  absl::StatusOr<RedisSession> session = client_->Acquire();
  if (!session.ok()) return session.status();
  absl::StatusOr<RedisValue> reply = session->Eval(scripts_->create, arguments);
  if (!reply.ok() || Word(*reply) != "NEW" || min_replicas_ <= 0) return reply;
  // Waits for what this connection wrote, so it must be the same one.
  absl::StatusOr<RedisValue> replicas = session->Command(
      {"WAIT", std::to_string(min_replicas_),
       std::to_string(std::max<int64_t>(1, absl::ToInt64Milliseconds(replica_timeout_)))},
      replica_timeout_);
  if (replicas.ok() && replicas->integer >= min_replicas_) return reply;
  absl::Status status =
      replicas.ok()
          ? absl::UnavailableError(absl::StrCat("only ", replicas->integer, " of ", min_replicas_,
                                                " replicas confirmed the job"))
          : replicas.status();
  // Best effort: a job that stays runs once, and its request_id finds it.
  (void)client_->Eval(scripts_->withdraw, {arguments[0]}).ok();
  return status;
}

absl::StatusOr<CreateResult> RedisJobStore::Create(const JobSpec& spec) {
  if (spec.timeout <= absl::ZeroDuration()) {
    return absl::InvalidArgumentError("the timeout must be positive");
  }
  const std::string id = NewJobId(absl::Now());
  const absl::Duration timeout = std::min(spec.timeout, absl::Hours(24 * 3650));
  const RedisCommand arguments{id,
                               EncodeSpec(spec),
                               spec.tenant,
                               std::to_string(static_cast<int>(spec.priority)),
                               std::to_string(absl::ToInt64Microseconds(timeout)),
                               spec.request_id,
                               PayloadDigest(spec),
                               FirstEventDetails(spec)};
  // The job that holds the request id may be deleted while we look at it.
  for (int tries = 0; tries < 3; ++tries) {
    absl::StatusOr<RedisValue> reply = TryCreate(arguments);
    if (absl::IsUnavailable(reply.status()) && min_replicas_ <= 0) reply = TryCreate(arguments);
    if (!reply.ok()) return reply.status();
    const std::string& word = Word(*reply);
    CreateResult result;
    if (word == "NEW" && reply->elements.size() == 3) {
      absl::StatusOr<absl::Time> create = DecodeTime(reply->elements[1].text);
      absl::StatusOr<absl::Time> deadline = DecodeTime(reply->elements[2].text);
      if (!create.ok()) return create.status();
      if (!deadline.ok()) return deadline.status();
      result.job.id = id;
      result.job.spec = spec;
      result.job.create_time = *create;
      result.job.deadline = *deadline;
      result.job.last_event_id = "1";
      return result;
    }
    if (reply->elements.size() != 2) return Unexpected(scripts_->create, *reply);
    if (word == "FULL" || word == "TENANT_FULL") {
      int64_t us = 0;
      if (!absl::SimpleAtoi(reply->elements[1].text, &us)) {
        return Unexpected(scripts_->create, *reply);
      }
      result.outcome = word == "FULL" ? CreateResult::Outcome::kQueueFull
                                      : CreateResult::Outcome::kTenantQueueFull;
      result.retry_after = absl::Microseconds(us);
      return result;
    }
    if (word != "SAME" && word != "CONFLICT") return Unexpected(scripts_->create, *reply);
    absl::StatusOr<Job> job = Get(reply->elements[1].text);
    if (absl::IsNotFound(job.status())) continue;
    if (!job.ok()) return job.status();
    result.outcome = word == "SAME" ? CreateResult::Outcome::kExisting
                                    : CreateResult::Outcome::kRequestIdConflict;
    result.job = *std::move(job);
    return result;
  }
  return absl::UnavailableError("the job of this request_id comes and goes");
}

absl::StatusOr<Job> RedisJobStore::Get(const std::string& job_id) {
  if (!IsJobId(job_id)) return NoSuchJob();
  absl::StatusOr<RedisValue> fields = client_->Command({"HGETALL", keys_->Job(job_id)});
  if (!fields.ok()) return fields.status();
  return DecodeJob(job_id, *fields);
}

absl::StatusOr<std::vector<Job>> RedisJobStore::GetAll(const std::vector<std::string>& ids) {
  std::vector<Job> jobs;
  if (ids.empty()) return jobs;
  std::vector<RedisCommand> commands;
  commands.reserve(ids.size());
  for (const std::string& id : ids) commands.push_back({"HGETALL", keys_->Job(id)});
  absl::StatusOr<std::vector<RedisValue>> replies = client_->Pipeline(commands);
  if (!replies.ok()) return replies.status();
  for (size_t i = 0; i < ids.size(); ++i) {
    if (absl::Status status = RedisErrorStatus((*replies)[i]); !status.ok()) return status;
    absl::StatusOr<Job> job = DecodeJob(ids[i], (*replies)[i]);
    if (job.ok()) jobs.push_back(*std::move(job));
  }
  return jobs;
}

absl::StatusOr<JobPage> RedisJobStore::List(const JobFilter& filter, int page_size,
                                            const std::string& page_token) {
  if (page_size < 1) return absl::InvalidArgumentError("page_size must be positive");
  std::string max = "+inf", last;
  if (!page_token.empty()) {
    absl::StatusOr<PagePosition> position = DecodePageToken(filter, page_token);
    if (!position.ok()) return position.status();
    max = std::to_string(position->create_us);
    last = position->job_id;
  }
  std::string states;
  for (JobState state : filter.states) absl::StrAppend(&states, static_cast<int>(state));
  std::vector<std::string> ids;
  bool more = true;
  for (int step = 0; step < kListSteps && more && static_cast<int>(ids.size()) < page_size;
       ++step) {
    absl::StatusOr<RedisValue> reply =
        client_->Eval(scripts_->list, {max, last, states, filter.tenant,
                                       std::to_string(page_size - static_cast<int>(ids.size())),
                                       std::to_string(kListBudget)});
    if (!reply.ok()) return reply.status();
    if (reply->elements.size() != 4) return Unexpected(scripts_->list, *reply);
    more = reply->elements[0].integer == 1;
    max = reply->elements[1].text;
    last = reply->elements[2].text;
    const std::vector<RedisValue>& found = reply->elements[3].elements;
    for (size_t i = 0; i + 1 < found.size(); i += 2) ids.push_back(found[i].text);
  }
  absl::StatusOr<std::vector<Job>> jobs = GetAll(ids);
  if (!jobs.ok()) return jobs.status();
  JobPage page;
  page.jobs = *std::move(jobs);
  PagePosition position;
  if (more && absl::SimpleAtoi(max, &position.create_us)) {
    position.job_id = last;
    page.next_page_token = EncodePageToken(filter, position);
  }
  return page;
}

absl::StatusOr<Job> RedisJobStore::Cancel(const std::string& job_id) {
  if (!IsJobId(job_id)) return NoSuchJob();
  absl::StatusOr<RedisValue> reply = client_->Eval(scripts_->cancel, {job_id});
  if (!reply.ok()) return reply.status();
  if (Word(*reply) != "OK") return NoSuchJob();
  return Get(job_id);
}

absl::Status RedisJobStore::Erase(const std::string& job_id, const std::string& condition) {
  absl::StatusOr<RedisValue> reply = client_->Eval(scripts_->delete_job, {job_id, condition});
  if (!reply.ok()) return reply.status();
  const std::string& word = Word(*reply);
  if (word == "OK") return absl::OkStatus();
  if (word == "NONE") return NoSuchJob();
  if (word == "UNFINISHED") return absl::FailedPreconditionError("the job is not finished");
  if (word == "NOT_DEAD") return absl::FailedPreconditionError("the job is no dead letter");
  return Unexpected(scripts_->delete_job, *reply);
}

absl::Status RedisJobStore::Delete(const std::string& job_id) {
  absl::StatusOr<Job> job = Get(job_id);
  if (!job.ok()) return job.status();
  if (!IsFinished(job->state)) return absl::FailedPreconditionError("the job is not finished");
  // First the video: if we die in between, the record still leads to what is left.
  if (absl::Status status = videos_->Remove(job_id, std::nullopt); !status.ok()) return status;
  return Erase(job_id, "");
}

absl::StatusOr<std::vector<JobEvent>> RedisJobStore::ReadEvents(const std::string& job_id,
                                                                const std::string& after_event_id,
                                                                int max) {
  std::optional<uint64_t> after = ParseEventId(after_event_id);
  if (!after) return absl::InvalidArgumentError("not an event id");
  if (!IsJobId(job_id)) return NoSuchJob();
  max = std::clamp(max, 0, 100000);
  const std::string from = absl::StrCat(*after + 1);
  const std::string count = std::to_string(std::max(1, max));
  // In one transaction, so that no event can be missing between two of the other stream.
  absl::StatusOr<std::vector<RedisValue>> replies =
      client_->Pipeline({{"MULTI"},
                         {"EXISTS", keys_->Job(job_id)},
                         {"XRANGE", keys_->Events(job_id), from, "+", "COUNT", count},
                         {"XRANGE", keys_->Progress(job_id), from, "+", "COUNT", count},
                         {"EXEC"}});
  if (!replies.ok()) return replies.status();
  for (const RedisValue& reply : *replies) {
    if (absl::Status status = RedisErrorStatus(reply); !status.ok()) return status;
  }
  const std::vector<RedisValue>& results = replies->back().elements;
  if (results.size() != 3) return absl::InternalError("Redis: unexpected reply to EXEC");
  if (results[0].integer == 0) return NoSuchJob();
  std::vector<JobEvent> events;
  for (size_t i = 1; i < 3; ++i) {
    if (absl::Status status = RedisErrorStatus(results[i]); !status.ok()) return status;
    for (const RedisValue& entry : results[i].elements) {
      if (entry.elements.size() != 2 || entry.elements[1].elements.size() != 2) {
        return absl::DataLossError("unreadable event in Redis");
      }
      absl::StatusOr<JobEvent> event = DecodeEvent(entry.elements[1].elements[1].text);
      if (!event.ok()) return event.status();
      events.push_back(*std::move(event));
    }
  }
  std::sort(events.begin(), events.end(),
            [](const JobEvent& a, const JobEvent& b) { return a.sequence < b.sequence; });
  if (events.size() > static_cast<size_t>(max)) events.resize(max);
  return events;
}

absl::StatusOr<std::vector<DeadLetter>> RedisJobStore::ListDead(int max) {
  std::vector<DeadLetter> letters;
  if (max <= 0) return letters;
  absl::StatusOr<RedisValue> reply =
      client_->Command({"ZREVRANGE", keys_->Dead(), "0", std::to_string(max - 1), "WITHSCORES"});
  if (!reply.ok()) return reply.status();
  std::vector<std::string> ids;
  for (size_t i = 0; i + 1 < reply->elements.size(); i += 2) {
    ids.push_back(reply->elements[i].text);
  }
  absl::StatusOr<std::vector<Job>> jobs = GetAll(ids);
  if (!jobs.ok()) return jobs.status();
  for (Job& job : *jobs) {
    absl::Time time = job.finish_time;
    letters.push_back({std::move(job), time});
  }
  return letters;
}

absl::StatusOr<Job> RedisJobStore::RetryDead(const std::string& job_id) {
  if (!IsJobId(job_id)) return NoSuchJob();
  absl::StatusOr<RedisValue> reply = client_->Eval(scripts_->retry_dead, {job_id});
  if (!reply.ok()) return reply.status();
  const std::string& word = Word(*reply);
  if (word == "NONE") return NoSuchJob();
  if (word == "NOT_DEAD") return absl::FailedPreconditionError("the job is no dead letter");
  if (word != "OK") return Unexpected(scripts_->retry_dead, *reply);
  return Get(job_id);
}

absl::Status RedisJobStore::PurgeDead(const std::string& job_id) {
  absl::StatusOr<Job> job = Get(job_id);
  if (!job.ok()) return job.status();
  if (job->state != JobState::kFailed) {
    return absl::FailedPreconditionError("the job is no dead letter");
  }
  if (absl::Status status = videos_->Remove(job_id, std::nullopt); !status.ok()) return status;
  return Erase(job_id, "dead");
}

}  // namespace kandinsky
