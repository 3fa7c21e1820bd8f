#include "services/frontend/event_source.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "services/frontend/error_details.h"
#include "services/frontend/wire.h"

namespace kandinsky {
namespace {

// A stream without news looks at the store now and then, in case a message of the feed was lost
// without a gap.
constexpr absl::Duration kRecheck = absl::Seconds(60);
// A stream outlives an outage of the store that is not longer.
constexpr absl::Duration kMaxOutage = absl::Seconds(60);

}  // namespace

grpc::ByteBuffer EventSource::AsJobEvent(const EncodedEvent& event) {
  return grpc::ByteBuffer(&event.bytes, 1);
}

grpc::ByteBuffer EventSource::AsGenerateResponse(const EncodedEvent& event) {
  return WrapAsField(video::v1::GenerateVideoResponse::kEventFieldNumber, event.bytes);
}

EventSource::EventSource(std::string job_id, const std::string& after_event_id, Wrap wrap,
                         JobStore* store, EventHub* hub, WorkPool* pool)
    : job_id_(std::move(job_id)),
      wrap_(wrap),
      store_(store),
      hub_(hub),
      pool_(pool),
      last_sequence_(ParseEventId(after_event_id).value_or(0)),
      last_change_(absl::Now()) {}

void EventSource::Start(std::function<void()> wake) {
  // First subscribe, then read: an event is in one of the two, and doubles are known by their
  // sequence.
  hub_->Subscribe(job_id_, weak_from_this());
  MutexLock lock(&mutex_);
  wake_ = std::move(wake);
  Request();
}

void EventSource::Stop() {
  hub_->Unsubscribe(job_id_, this);
  MutexLock lock(&mutex_);
  wake_ = nullptr;
  ended_ = true;
  pending_.clear();
}

StreamSource::Pull EventSource::Next(grpc::ByteBuffer* message, grpc::Status* status) {
  MutexLock lock(&mutex_);
  if (!pending_.empty()) {
    *message = wrap_(*pending_.front());
    pending_.pop_front();
    MaybeRead();
    return Pull::kMessage;
  }
  if (!ended_) return Pull::kWait;
  *status = end_status_;
  return Pull::kEnd;
}

void EventSource::OnEvent(const EventPtr& event) {
  {
    MutexLock lock(&mutex_);
    if (ended_ || event->sequence <= last_sequence_) return;
    if (!live_ || event->sequence != last_sequence_ + 1 || pending_.size() >= kMaxPending) {
      newest_seen_ = std::max(newest_seen_, event->sequence);
      Request();
      return;
    }
    Append(event);
    if (event->IsFinal()) End(grpc::Status::OK);
  }
  Wake();
}

void EventSource::OnGap() {
  MutexLock lock(&mutex_);
  if (ended_) return;
  read_again_ = reading_;  // the read under way may be older than what was missed
  Request();
}

void EventSource::OnTick() {
  bool ended = false;
  {
    MutexLock lock(&mutex_);
    if (ended_) return;
    const absl::Time now = absl::Now();
    if (now - outage_since_ > kMaxOutage) {
      End(FromStoreError(absl::UnavailableError("outage"), job_id_));
      ended = true;
    } else if (!live_) {
      MaybeRead();
    } else if (now - last_change_ > kRecheck) {
      last_change_ = now;
      Request();
    }
  }
  if (ended) Wake();
}

void EventSource::Request() {
  live_ = false;
  MaybeRead();
}

void EventSource::MaybeRead() {
  // A slow client drains what it has before more is read.
  if (live_ || reading_ || ended_ || !pending_.empty()) return;
  reading_ = true;
  const std::string after = last_sequence_ == 0 ? "" : absl::StrCat(last_sequence_);
  pool_->SubmitStream([self = shared_from_this(), after] { self->Read(after); });
}

EventSource::Reading EventSource::ReadStore(const std::string& after_id) const {
  Reading reading;
  absl::StatusOr<std::vector<JobEvent>> events = store_->ReadEvents(job_id_, after_id, kBatch);
  if (events.ok() && events->empty()) {
    // Nothing new: is that because the job is finished?
    const absl::StatusOr<Job> job = store_->Get(job_id_);
    if (!job.ok()) {
      reading.status = job.status();
      return reading;
    }
    reading.newest = ParseEventId(job->last_event_id).value_or(0);
    if (IsFinished(job->state)) {
      events = store_->ReadEvents(job_id_, after_id, kBatch);
      reading.finished = events.ok() && events->empty();
    }
  }
  if (!events.ok()) {
    reading.status = events.status();
    return reading;
  }
  reading.more = events->size() >= kBatch;
  reading.events.reserve(events->size());
  for (const JobEvent& event : *events) {
    reading.events.push_back(std::make_shared<const EncodedEvent>(event));
  }
  return reading;
}

void EventSource::Read(const std::string& after_id) {
  const Reading reading = ReadStore(after_id);
  {
    MutexLock lock(&mutex_);
    reading_ = false;
    if (ended_) return;
    if (reading.status.ok()) {
      Take(reading);
    } else {
      TakeFailure(reading);
    }
  }
  Wake();
}

void EventSource::Take(const Reading& reading) {
  if (!has_read_ && reading.newest != 0 && last_sequence_ > reading.newest) {
    Violations violations;
    violations.Add("after_event_id",
                   absl::StrCat("is ", last_sequence_, ", the newest event is ", reading.newest));
    return End(InvalidRequest(violations));
  }
  has_read_ = true;
  outage_since_ = absl::InfiniteFuture();
  for (const EventPtr& event : reading.events) {
    if (event->sequence > last_sequence_) Append(event);
  }
  if (reading.finished) return End(grpc::Status::OK);
  if (reading.more) return;  // Next reads on when the client has taken these
  // A job that was retried after it failed has events behind a final one; only the newest counts.
  if (!reading.events.empty() && reading.events.back()->IsFinal() &&
      newest_seen_ <= last_sequence_) {
    return End(grpc::Status::OK);
  }
  if (newest_seen_ > last_sequence_) {
    // The feed was ahead of this read. If the store does not know the event either, it was trimmed.
    if (reading.events.empty()) last_sequence_ = newest_seen_;
    return MaybeRead();
  }
  if (read_again_) {
    read_again_ = false;
    return MaybeRead();
  }
  live_ = true;
}

void EventSource::TakeFailure(const Reading& reading) {
  const bool outage = reading.status.code() == absl::StatusCode::kUnavailable ||
                      reading.status.code() == absl::StatusCode::kDeadlineExceeded;
  if (has_read_ && outage) {
    // OnTick and OnGap try again.
    outage_since_ = std::min(outage_since_, absl::Now());
    return;
  }
  End(FromStoreError(reading.status, job_id_));
}

void EventSource::Append(const EventPtr& event) {
  pending_.push_back(event);
  last_sequence_ = event->sequence;
  last_change_ = absl::Now();
}

void EventSource::End(grpc::Status status) {
  ended_ = true;
  end_status_ = std::move(status);
}

void EventSource::Wake() {
  std::function<void()> wake;
  {
    MutexLock lock(&mutex_);
    wake = wake_;
  }
  if (wake) wake();
}

}  // namespace kandinsky
