#include "common/queue_redis/redis_task_queue.h"

#include <algorithm>
#include <chrono>
#include <random>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "common/queue_redis/codec.h"

namespace kandinsky {
namespace {

absl::Status LeaseLost() { return absl::FailedPreconditionError("the lease is lost"); }

std::string Number(Stage stage) { return std::to_string(static_cast<int>(stage)); }

// What fence() in lib.lua expects, and what follows.
RedisCommand WithLease(const Lease& lease, std::vector<std::string> more) {
  RedisCommand arguments{
      lease.job_id,   Number(lease.stage), std::to_string(static_cast<int>(lease.priority)),
      lease.entry_id, lease.worker_id,     std::to_string(lease.delivery)};
  std::move(more.begin(), more.end(), std::back_inserter(arguments));
  return arguments;
}

const std::string& Word(const RedisValue& reply) {
  static const std::string kNone;
  return reply.elements.empty() ? kNone : reply.elements[0].text;
}

absl::Status Unexpected(const RedisScript& script, const RedisValue& reply) {
  return absl::InternalError(absl::StrCat(script.name, ": unexpected reply ", Word(reply)));
}

double Random01() {
  thread_local std::mt19937_64 random{std::random_device()()};
  return std::uniform_real_distribution<double>(0, 1)(random);
}

bool ToInteger(const RedisValue& value, int64_t* integer) {
  if (value.type == RedisValue::Type::kInteger) {
    *integer = value.integer;
    return true;
  }
  return absl::SimpleAtoi(value.text, integer);
}

}  // namespace

absl::StatusOr<std::optional<Lease>> RedisTaskQueue::DecodeLease(Stage stage,
                                                                 const std::string& worker_id,
                                                                 const RedisValue& reply) {
  const std::vector<RedisValue>& v = reply.elements;
  int64_t priority = 0, attempt = 0, deadline_us = 0, enqueue_us = 0;
  Lease lease;
  if (v.size() != 15 || !ToInteger(v[2], &priority) || !ToInteger(v[3], &lease.delivery) ||
      !ToInteger(v[7], &attempt) || !ToInteger(v[8], &deadline_us) ||
      !ToInteger(v[9], &enqueue_us) || !ToInteger(v[14], &lease.video_generation)) {
    return absl::DataLossError("unreadable lease in Redis");
  }
  lease.stage = stage;
  lease.priority = static_cast<Priority>(priority);
  lease.entry_id = v[1].text;
  lease.worker_id = worker_id;
  lease.job_id = v[4].text;
  lease.tenant = v[5].text;
  lease.attempt = static_cast<int>(attempt);
  lease.deadline = absl::FromUnixMicros(deadline_us);
  lease.enqueue_time = absl::FromUnixMicros(enqueue_us);
  lease.reclaimed = v[13].integer == 1;
  lease.duration = options_.lease_duration;
  if (v[12].text != "-") lease.avoid_workers = absl::StrSplit(v[12].text, '\x1f');
  absl::StatusOr<JobSpec> spec = DecodeSpec(v[6].text);
  absl::Status bad = spec.status();
  if (spec.ok()) {
    lease.parameters = spec->parameters;
    std::optional<Stage> previous = PreviousStage(stage, lease.parameters.level);
    if (previous) {
      const RedisValue& output = v[*previous == Stage::kKeyframes ? 10 : 11];
      if (!output.text.empty()) {
        absl::StatusOr<LatentLocation> location = DecodeLocation(output.text);
        bad = location.status();
        if (location.ok()) lease.input = *location;
      }
    }
  }
  if (!bad.ok()) {
    // Nobody can run this task.
    absl::Status failed = Fail(
        lease, {TaskFailure::Class::kPermanent, "RECORD_UNREADABLE", std::string(bad.message())});
    if (!failed.ok()) return failed;
    return std::nullopt;
  }
  return lease;
}

absl::StatusOr<std::optional<Lease>> RedisTaskQueue::Claim(Stage stage,
                                                           const std::string& worker_id,
                                                           absl::Duration max_wait) {
  // It becomes a word of the record.
  if (worker_id.empty() || worker_id == "-" ||
      std::any_of(worker_id.begin(), worker_id.end(), [](unsigned char c) { return c <= ' '; })) {
    return absl::InvalidArgumentError("a worker needs an id without blanks");
  }
  using std::chrono::steady_clock;
  const auto end =
      steady_clock::now() + absl::ToChronoMicroseconds(std::min(max_wait, absl::Hours(24)));
  // Leases end without anybody telling us.
  const absl::Duration look_again = std::min(absl::Seconds(1), options_.lease_duration / 4);
  bool woken = false;
  for (;;) {
    absl::StatusOr<RedisValue> reply =
        client_->Eval(scripts_->claim, {Number(stage), worker_id, woken ? "1" : "0"});
    if (!reply.ok()) return reply.status();
    if (reply->elements.empty()) return Unexpected(scripts_->claim, *reply);
    if (reply->elements[0].integer == 1) {
      absl::StatusOr<std::optional<Lease>> lease = DecodeLease(stage, worker_id, *reply);
      if (!lease.ok() || lease->has_value()) return lease;
      continue;
    }
    absl::Duration wait = std::min(look_again, absl::FromChrono(end - steady_clock::now()));
    int64_t hint_us = -1;
    if (reply->elements.size() > 1 && ToInteger(reply->elements[1], &hint_us) && hint_us >= 0) {
      // Not less than a millisecond: the server counts time in those.
      wait = std::min(wait, std::max(absl::Microseconds(hint_us), absl::Milliseconds(1)));
    }
    if (wait <= absl::ZeroDuration()) {
      if (steady_clock::now() >= end) return std::nullopt;
      continue;
    }
    absl::StatusOr<RedisValue> token = client_->Command(
        {"BLPOP", keys_->Wake(stage), absl::StrFormat("%.6f", absl::ToDoubleSeconds(wait))}, wait);
    if (!token.ok()) return token.status();
    woken = !token->nil();
    if (steady_clock::now() >= end && token->nil()) return std::nullopt;
  }
}

absl::StatusOr<LeaseVerdict> RedisTaskQueue::Renew(const Lease& lease,
                                                   const std::optional<StageProgress>& progress) {
  std::string fraction, details;
  if (progress) {
    const Level level = lease.parameters.level;
    fraction = EncodeDouble(JobFraction(lease.stage, level, progress->stage_fraction));
    EventDetailsValue value;
    value.pass = progress->pass;
    value.passes = progress->passes;
    value.step = progress->step;
    value.steps = progress->steps;
    if (progress->stage_eta) {
      value.eta = JobEta(lease.stage, level, progress->stage_fraction, *progress->stage_eta);
    }
    details = EncodeDetails(value);
  }
  absl::StatusOr<RedisValue> reply =
      client_->Eval(scripts_->renew, WithLease(lease, {fraction, details}));
  if (!reply.ok()) return reply.status();
  const std::string& word = Word(*reply);
  if (word == "HELD") return LeaseVerdict::kHeld;
  if (word == "CANCEL") return LeaseVerdict::kCancelRequested;
  if (word == "DEADLINE") return LeaseVerdict::kDeadlineExceeded;
  if (word == "LOST" || word == "DONE") return LeaseLost();
  return Unexpected(scripts_->renew, *reply);
}

absl::Status RedisTaskQueue::PublishPreview(const Lease& lease, const Preview& preview) {
  EventDetailsValue details;
  details.preview = preview;
  absl::StatusOr<RedisValue> reply =
      client_->Eval(scripts_->preview, WithLease(lease, {EncodeDetails(details)}));
  if (!reply.ok()) return reply.status();
  if (Word(*reply) == "OK") return absl::OkStatus();
  return LeaseLost();
}

absl::Status RedisTaskQueue::SaveCheckpoint(const Lease& lease, const std::string& blob) {
  absl::StatusOr<RedisSession> session = client_->Acquire();
  if (!session.ok()) return session.status();
  // The upload vanishes by itself if we die before it is in place.
  const std::string upload =
      keys_->Upload(lease.job_id, absl::StrCat(lease.entry_id, "-", lease.delivery));
  absl::StatusOr<RedisValue> set = session->Command({"SET", upload, blob, "PX", "60000"});
  if (!set.ok()) return set.status();
  absl::StatusOr<RedisValue> reply =
      session->Eval(scripts_->checkpoint, WithLease(lease, {upload}));
  if (!reply.ok()) return reply.status();
  const std::string& word = Word(*reply);
  if (word == "OK") return absl::OkStatus();
  if (word == "MISSING") return absl::UnavailableError("the checkpoint was lost on its way");
  return LeaseLost();
}

absl::StatusOr<std::optional<std::string>> RedisTaskQueue::LoadCheckpoint(const Lease& lease) {
  absl::StatusOr<RedisSession> session = client_->Acquire();
  if (!session.ok()) return session.status();
  absl::StatusOr<RedisValue> reply = session->Eval(scripts_->fence, WithLease(lease, {}));
  if (!reply.ok()) return reply.status();
  if (Word(*reply) != "OK") return LeaseLost();
  absl::StatusOr<RedisValue> blob =
      session->Command({"GET", keys_->Checkpoint(lease.job_id, lease.stage)});
  if (!blob.ok()) return blob.status();
  if (blob->nil()) return std::nullopt;
  return std::move(blob->text);
}

absl::Status RedisTaskQueue::End(const RedisScript& script, const Lease& lease,
                                 std::vector<std::string> arguments) {
  absl::StatusOr<RedisValue> reply = client_->Eval(script, WithLease(lease, std::move(arguments)));
  if (!reply.ok()) return reply.status();
  const std::string& word = Word(*reply);
  // DONE: we did it before, and the reply was lost.
  if (word == "OK" || word == "DONE") return absl::OkStatus();
  if (word == "LOST") return LeaseLost();
  if (word == "NOTHING") return absl::FailedPreconditionError("there is nothing to acknowledge");
  return Unexpected(script, *reply);
}

absl::Status RedisTaskQueue::Complete(const Lease& lease, const LatentLocation& output) {
  std::optional<Stage> next = NextStage(lease.stage, lease.parameters.level);
  if (!next) return absl::InvalidArgumentError("the last stage ends with Finish");
  return End(scripts_->complete, lease,
             {Number(*next), EncodeDouble(JobFraction(lease.stage, lease.parameters.level, 1)),
              EncodeLocation(output)});
}

absl::Status RedisTaskQueue::Finish(const Lease& lease, const VideoInfo& video) {
  if (NextStage(lease.stage, lease.parameters.level)) {
    return absl::InvalidArgumentError("only the last stage ends with Finish");
  }
  EventDetailsValue details;
  details.video = video;
  return End(scripts_->finish, lease, {EncodeVideo(video), EncodeDetails(details)});
}

absl::Status RedisTaskQueue::Fail(const Lease& lease, const TaskFailure& failure) {
  const char* failure_class = failure.failure_class == TaskFailure::Class::kPermanent ? "permanent"
                              : failure.failure_class == TaskFailure::Class::kOutOfMemory
                                  ? "memory"
                                  : "transient";
  return End(scripts_->fail, lease,
             {failure_class, failure.reason, failure.message, EncodeDouble(Random01())});
}

absl::Status RedisTaskQueue::Release(const Lease& lease) {
  return End(scripts_->release, lease, {});
}

absl::Status RedisTaskQueue::SendBack(const Lease& lease, const std::string& why) {
  std::optional<Stage> previous = PreviousStage(lease.stage, lease.parameters.level);
  if (!previous) return absl::InvalidArgumentError("there is no stage before the first");
  return End(
      scripts_->send_back, lease,
      {Number(*previous), EncodeDouble(JobFraction(*previous, lease.parameters.level, 0)), why});
}

absl::Status RedisTaskQueue::AcknowledgeCancel(const Lease& lease) {
  return End(scripts_->acknowledge, lease, {});
}

absl::Status RedisTaskQueue::Maintain() {
  absl::StatusOr<RedisValue> reply = client_->Eval(scripts_->maintain, {});
  if (!reply.ok()) return reply.status();
  for (const RedisValue& id : reply->elements) {
    // First the video: if we die in between, the index still knows the job.
    if (absl::Status status = videos_->Remove(id.text, std::nullopt); !status.ok()) return status;
    absl::StatusOr<RedisValue> deleted = client_->Eval(scripts_->delete_job, {id.text, "expired"});
    if (!deleted.ok()) return deleted.status();
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<StageQueueStats>> RedisTaskQueue::Stats() {
  absl::StatusOr<RedisValue> reply = client_->Eval(scripts_->stats, {});
  if (!reply.ok()) return reply.status();
  std::vector<StageQueueStats> all;
  for (const RedisValue& row : reply->elements) {
    int64_t oldest_us = 0;
    if (row.elements.size() != 6 || !ToInteger(row.elements[5], &oldest_us)) {
      return Unexpected(scripts_->stats, *reply);
    }
    StageQueueStats stats;
    stats.stage = static_cast<Stage>(row.elements[0].integer);
    stats.priority = static_cast<Priority>(row.elements[1].integer);
    stats.waiting = row.elements[2].integer;
    stats.delayed = row.elements[3].integer;
    stats.running = row.elements[4].integer;
    stats.oldest_age = absl::Microseconds(oldest_us);
    all.push_back(stats);
  }
  return all;
}

absl::Status RedisTaskQueue::Heartbeat(const WorkerInfo& worker) {
  if (worker.id.empty()) return absl::InvalidArgumentError("a worker needs an id");
  return client_->Eval(scripts_->heartbeat, {worker.id, EncodeWorker(worker)}).status();
}

absl::StatusOr<std::vector<TaskQueue::WorkerInfo>> RedisTaskQueue::Workers() {
  absl::StatusOr<RedisValue> reply = client_->Eval(scripts_->workers, {});
  if (!reply.ok()) return reply.status();
  std::vector<WorkerInfo> workers;
  for (size_t i = 0; i + 1 < reply->elements.size(); i += 2) {
    absl::StatusOr<WorkerInfo> worker = DecodeWorker(reply->elements[i].text);
    absl::StatusOr<absl::Time> time = DecodeTime(reply->elements[i + 1].text);
    // A record of another release does not hide the others.
    if (!worker.ok() || !time.ok()) continue;
    worker->heartbeat = *time;
    workers.push_back(*std::move(worker));
  }
  return workers;
}

}  // namespace kandinsky
