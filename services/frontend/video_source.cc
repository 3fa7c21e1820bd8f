#include "services/frontend/video_source.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/base/crc32c.h"
#include "services/frontend/error_details.h"
#include "services/frontend/wire.h"

namespace kandinsky {
namespace {

namespace pb = video::v1;

// A waiting stream looks at the store now and then, in case a message of the feed was lost without
// a gap.
constexpr absl::Duration kRecheck = absl::Seconds(60);
// A stream outlives an outage of the store that is not longer.
constexpr absl::Duration kMaxOutage = absl::Seconds(60);

grpc::Status OffsetOutOfRange(const std::string& job_id, uint64_t offset, uint64_t size) {
  return MakeError({.code = grpc::StatusCode::OUT_OF_RANGE,
                    .reason = "OFFSET_OUT_OF_RANGE",
                    .message = absl::StrCat("offset is ", offset, ", the video of job ", job_id,
                                            " has ", size, " bytes"),
                    .metadata = {{"job_id", job_id}, {"size_bytes", absl::StrCat(size)}}});
}

grpc::Status VideoNotAvailable(const std::string& job_id) {
  return MakeError(
      {.code = grpc::StatusCode::NOT_FOUND,
       .reason = "VIDEO_NOT_AVAILABLE",
       .message = absl::StrCat("the video of job ", job_id, " was deleted or has expired"),
       .metadata = {{"job_id", job_id}}});
}

}  // namespace

grpc::ByteBuffer VideoSource::AsVideoChunk(const pb::VideoChunk& chunk) { return Encode(chunk); }

grpc::ByteBuffer VideoSource::AsGenerateResponse(const pb::VideoChunk& chunk) {
  return WrapAsField(pb::GenerateVideoResponse::kChunkFieldNumber,
                     grpc::Slice(chunk.SerializeAsString()));
}

VideoSource::VideoSource(std::string job_id, uint64_t offset, Wrap wrap, JobStore* jobs,
                         VideoStore* videos, EventHub* hub, WorkPool* pool)
    : job_id_(std::move(job_id)),
      wrap_(wrap),
      jobs_(jobs),
      videos_(videos),
      hub_(hub),
      pool_(pool),
      offset_(offset),
      last_look_(absl::Now()) {}

void VideoSource::Start(std::function<void()> wake) {
  hub_->Subscribe(job_id_, weak_from_this());
  MutexLock lock(&mutex_);
  wake_ = std::move(wake);
  MaybeWork();
}

void VideoSource::Stop() {
  hub_->Unsubscribe(job_id_, this);
  MutexLock lock(&mutex_);
  wake_ = nullptr;
  ended_ = true;
  ready_.reset();
}

StreamSource::Pull VideoSource::Next(grpc::ByteBuffer* message, grpc::Status* status) {
  MutexLock lock(&mutex_);
  if (ready_) {
    *message = *std::move(ready_);
    ready_.reset();
    MaybeWork();
    return Pull::kMessage;
  }
  if (!ended_) return Pull::kWait;
  *status = end_status_;
  return Pull::kEnd;
}

void VideoSource::OnEvent(const EventPtr& event) {
  if (event->stage == Stage::kDecoding || event->IsFinal()) LookAgain();
}

void VideoSource::OnGap() { LookAgain(); }

void VideoSource::LookAgain() {
  MutexLock lock(&mutex_);
  if (ended_) return;
  if (view_ && view_->total) return;  // nothing can change any more
  view_.reset();
  waiting_ = false;
  event_while_working_ = working_;
  MaybeWork();
}

void VideoSource::OnTick() {
  bool ended = false;
  {
    MutexLock lock(&mutex_);
    if (ended_) return;
    const absl::Time now = absl::Now();
    if (now - outage_since_ > kMaxOutage) {
      ended_ = ended = true;
      end_status_ = FromStoreError(absl::UnavailableError("outage"), job_id_);
    } else if (outage_since_ != absl::InfiniteFuture() ||
               (waiting_ && now - last_look_ > kRecheck)) {
      view_.reset();
      waiting_ = false;
      MaybeWork();
    }
  }
  if (ended) Wake();
}

void VideoSource::MaybeWork() {
  if (ended_ || working_ || waiting_ || ready_) return;
  working_ = true;
  pool_->SubmitStream(
      [self = shared_from_this(), view = view_, offset = offset_] { self->Work(view, offset); });
}

void VideoSource::Work(std::optional<View> view, uint64_t offset) {
  Outcome outcome = Advance(view, offset);
  {
    MutexLock lock(&mutex_);
    working_ = false;
    if (ended_) return;
    last_look_ = absl::Now();
    const bool look_again = event_while_working_;
    event_while_working_ = false;
    const bool outage = outcome.kind == Outcome::Kind::kOutage;
    if (outage && !has_looked_) outcome.kind = Outcome::Kind::kEnd;
    has_looked_ = has_looked_ || !outage;
    outage_since_ = outage ? std::min(outage_since_, last_look_) : absl::InfiniteFuture();
    view_ = look_again ? std::nullopt : view;
    switch (outcome.kind) {
      case Outcome::Kind::kChunk:
        offset_ += outcome.bytes;
        ready_ = std::move(outcome.message);
        break;
      case Outcome::Kind::kEnd:
        ended_ = true;
        end_status_ = std::move(outcome.status);
        break;
      case Outcome::Kind::kOutage:
        waiting_ = true;  // OnTick and OnGap try again
        break;
      case Outcome::Kind::kWait:
        waiting_ = !look_again;
        MaybeWork();
        break;
    }
  }
  Wake();
}

VideoSource::Outcome VideoSource::FromError(const absl::Status& status) const {
  const bool outage = status.code() == absl::StatusCode::kUnavailable ||
                      status.code() == absl::StatusCode::kDeadlineExceeded;
  return {.kind = outage ? Outcome::Kind::kOutage : Outcome::Kind::kEnd,
          .status = FromStoreError(status, job_id_)};
}

std::optional<VideoSource::Outcome> VideoSource::LookUp(std::optional<View>& view,
                                                        uint64_t offset) const {
  const absl::StatusOr<Job> job = jobs_->Get(job_id_);
  if (!job.ok()) return FromError(job.status());
  View fresh{.generation = job->video_generation};
  if (IsFinished(job->state)) {
    if (job->state != JobState::kSucceeded) {
      return Outcome{.kind = Outcome::Kind::kEnd,
                     .status = FromOutcome(job_id_, job->state, job->error)};
    }
    const uint64_t size = job->video ? job->video->size_bytes : 0;
    fresh.total = size;
    if (offset > size) {
      return Outcome{.kind = Outcome::Kind::kEnd,
                     .status = OffsetOutOfRange(job_id_, offset, size)};
    }
  }
  view = fresh;
  return std::nullopt;
}

VideoSource::Outcome VideoSource::Advance(std::optional<View>& view, uint64_t offset) const {
  bool fresh = false;
  while (true) {
    if (!view) {
      if (std::optional<Outcome> outcome = LookUp(view, offset)) return *std::move(outcome);
      fresh = true;
    }
    if (view->total && offset >= *view->total) return {.kind = Outcome::Kind::kEnd};
    if (view->generation != 0) {
      absl::StatusOr<std::string> data =
          videos_->Read(job_id_, view->generation, offset, kMaxChunkBytes);
      if (!data.ok() && data.status().code() != absl::StatusCode::kNotFound) {
        return FromError(data.status());
      }
      if (data.ok() && !data->empty()) {
        pb::VideoChunk chunk;
        chunk.set_offset(offset);
        chunk.set_crc32c(Crc32c(*data));
        if (view->total) chunk.set_total_size(*view->total);
        const uint64_t bytes = data->size();
        chunk.set_data(*std::move(data));
        return {.kind = Outcome::Kind::kChunk, .message = wrap_(chunk), .bytes = bytes};
      }
      if (view->total) {
        return {.kind = Outcome::Kind::kEnd, .status = VideoNotAvailable(job_id_)};
      }
    }
    if (fresh) return {.kind = Outcome::Kind::kWait};
    // The bytes end here for what we know of the job; it may have a new generation or be done.
    view.reset();
  }
}

void VideoSource::Wake() {
  std::function<void()> wake;
  {
    MutexLock lock(&mutex_);
    wake = wake_;
  }
  if (wake) wake();
}

}  // namespace kandinsky
