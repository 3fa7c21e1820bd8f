#include "services/frontend/convert.h"

namespace kandinsky {
namespace {

namespace pb = video::v1;

// The enums of common/queue/job.h carry the numbers of the API.
static_assert(static_cast<int>(Level::kHigh) == pb::LEVEL_HIGH);
static_assert(static_cast<int>(VideoFormat::kFragmentedMp4) == pb::VIDEO_FORMAT_FRAGMENTED_MP4);
static_assert(static_cast<int>(JobState::kExpired) == pb::JOB_STATE_EXPIRED);
static_assert(static_cast<int>(Stage::kDecoding) == pb::STAGE_DECODING);
static_assert(static_cast<int>(Priority::kBatch) == pb::PRIORITY_BATCH);
static_assert(static_cast<int>(JobEvent::Type::kRetry) == pb::JobEvent::TYPE_RETRY);

pb::JobError ErrorToProto(const JobError& error) {
  pb::JobError out;
  out.set_reason(error.reason);
  out.set_message(error.message);
  out.set_stage(ToProto(error.stage));
  out.set_attempts(error.attempts);
  return out;
}

pb::VideoInfo VideoToProto(const VideoInfo& video) {
  pb::VideoInfo out;
  out.set_size_bytes(video.size_bytes);
  out.set_crc32c(video.crc32c);
  out.set_mime_type(video.mime_type);
  out.set_frames(video.frames);
  out.set_width(video.width);
  out.set_height(video.height);
  out.set_fps(video.fps);
  if (video.fps > 0) *out.mutable_duration() = ToProto(absl::Seconds(video.frames / video.fps));
  return out;
}

// Message: one with a repeated field `notices`.
template <typename Message>
void NoticesToProto(const std::vector<Notice>& notices, Message& out) {
  for (const Notice& notice : notices) {
    pb::Notice* added = out.add_notices();
    added->set_reason(notice.reason);
    added->set_field(notice.field);
    added->set_message(notice.message);
    for (const std::string& word : notice.words) added->add_words(word);
  }
}

pb::GenerationParameters ParametersToProto(const GenerationParameters& parameters) {
  pb::GenerationParameters out;
  out.set_prompt(parameters.prompt);
  out.set_negative_prompt(parameters.negative_prompt);
  out.set_seed(parameters.seed);
  out.set_level(static_cast<pb::Level>(parameters.level));
  out.set_width(parameters.width);
  out.set_height(parameters.height);
  out.set_steps(parameters.steps);
  out.set_guidance_scale(parameters.guidance_scale);
  out.set_interpolation_guidance_scale(parameters.interpolation_guidance_scale);
  out.set_model(parameters.model);
  out.set_format(static_cast<pb::VideoFormat>(parameters.format));
  out.set_fps(parameters.fps);
  return out;
}

pb::IntRange RangeToProto(const IntLimits& limits) {
  pb::IntRange out;
  out.set_min(static_cast<int32_t>(limits.min));
  out.set_max(static_cast<int32_t>(limits.max));
  out.set_default_value(static_cast<int32_t>(limits.default_value));
  return out;
}

pb::DoubleRange RangeToProto(const DoubleLimits& limits) {
  pb::DoubleRange out;
  out.set_min(limits.min);
  out.set_max(limits.max);
  out.set_default_value(limits.default_value);
  return out;
}

bool IsSet(absl::Time time) {
  return time != absl::InfinitePast() && time != absl::InfiniteFuture();
}

}  // namespace

Level FromProto(pb::Level level) {
  return level == pb::LEVEL_UNSPECIFIED ? Level::kHigh : static_cast<Level>(level);
}

VideoFormat FromProto(pb::VideoFormat format) {
  return format == pb::VIDEO_FORMAT_UNSPECIFIED ? VideoFormat::kMp4
                                                : static_cast<VideoFormat>(format);
}

JobState FromProto(pb::JobState state) { return static_cast<JobState>(state); }

google::protobuf::Timestamp ToProto(absl::Time time) {
  google::protobuf::Timestamp out;
  const int64_t seconds = absl::ToUnixSeconds(time);
  out.set_seconds(seconds);
  out.set_nanos(
      static_cast<int32_t>(absl::ToInt64Nanoseconds(time - absl::FromUnixSeconds(seconds))));
  return out;
}

google::protobuf::Duration ToProto(absl::Duration duration) {
  google::protobuf::Duration out;
  absl::Duration rest;
  out.set_seconds(absl::IDivDuration(duration, absl::Seconds(1), &rest));
  out.set_nanos(static_cast<int32_t>(absl::ToInt64Nanoseconds(rest)));
  return out;
}

pb::Stage ToProto(Stage stage) { return static_cast<pb::Stage>(stage); }

pb::Job ToProto(const Job& job) {
  pb::Job out;
  out.set_id(job.id);
  out.set_request_id(job.spec.request_id);
  out.set_tenant(job.spec.tenant);
  out.set_priority(static_cast<pb::Priority>(job.spec.priority));
  out.set_state(static_cast<pb::JobState>(job.state));
  *out.mutable_parameters() = ParametersToProto(job.spec.parameters);
  if (IsSet(job.create_time)) *out.mutable_create_time() = ToProto(job.create_time);
  if (IsSet(job.start_time)) *out.mutable_start_time() = ToProto(job.start_time);
  if (IsSet(job.finish_time)) *out.mutable_finish_time() = ToProto(job.finish_time);
  if (IsSet(job.deadline)) *out.mutable_deadline() = ToProto(job.deadline);
  if (IsSet(job.expire_time)) *out.mutable_expire_time() = ToProto(job.expire_time);
  if (!IsFinished(job.state)) out.set_stage(ToProto(job.stage));
  out.set_fraction(job.fraction);
  out.set_attempt(job.attempt);
  if (job.error) *out.mutable_error() = ErrorToProto(*job.error);
  if (job.video) *out.mutable_video() = VideoToProto(*job.video);
  out.set_last_event_id(job.last_event_id);
  NoticesToProto(job.spec.notices, out);
  return out;
}

pb::JobEvent ToProto(const JobEvent& event) {
  pb::JobEvent out;
  out.set_event_id(event.id);
  out.set_job_id(event.job_id);
  if (IsSet(event.time)) *out.mutable_time() = ToProto(event.time);
  out.set_type(static_cast<pb::JobEvent::Type>(event.type));
  out.set_state(static_cast<pb::JobState>(event.state));
  out.set_stage(ToProto(event.stage));
  out.set_attempt(event.attempt);
  out.set_pass(event.pass);
  out.set_passes(event.passes);
  out.set_step(event.step);
  out.set_steps(event.steps);
  out.set_fraction(event.fraction);
  if (event.eta) *out.mutable_eta() = ToProto(*event.eta);
  if (event.preview) {
    out.mutable_preview()->set_png(event.preview->png);
    out.mutable_preview()->set_width(event.preview->width);
    out.mutable_preview()->set_height(event.preview->height);
  }
  if (event.error) *out.mutable_error() = ErrorToProto(*event.error);
  if (event.video) *out.mutable_video() = VideoToProto(*event.video);
  NoticesToProto(event.notices, out);
  return out;
}

pb::Model ToProto(const ModelInfo& model, bool is_default) {
  pb::Model out;
  out.set_name(model.name);
  out.set_description(model.description);
  out.set_is_default(is_default);
  *out.mutable_width() = RangeToProto(model.width);
  *out.mutable_height() = RangeToProto(model.height);
  out.set_size_multiple(static_cast<int32_t>(model.size_multiple));
  *out.mutable_steps() = RangeToProto(model.steps);
  *out.mutable_guidance_scale() = RangeToProto(model.guidance_scale);
  *out.mutable_interpolation_guidance_scale() = RangeToProto(model.interpolation_guidance_scale);
  for (const LevelLimits& level : model.levels) {
    pb::LevelInfo* info = out.add_levels();
    info->set_level(static_cast<pb::Level>(level.level));
    info->set_frames(static_cast<int32_t>(level.frames));
    info->set_fps(level.fps);
  }
  out.set_max_prompt_characters(static_cast<int32_t>(model.prompt_characters_max));
  out.set_default_level(static_cast<pb::Level>(model.default_level));
  out.set_max_pixels(model.pixels_max);
  for (const std::string& entry : model.vocabulary_entries) out.add_vocabulary(entry);
  return out;
}

pb::DeadJob ToProto(const DeadLetter& letter) {
  pb::DeadJob out;
  *out.mutable_job() = ToProto(letter.job);
  if (IsSet(letter.time)) *out.mutable_dead_time() = ToProto(letter.time);
  if (letter.job.error) out.set_last_worker(letter.job.error->worker);
  return out;
}

}  // namespace kandinsky
