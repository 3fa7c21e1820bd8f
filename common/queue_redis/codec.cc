#include "common/queue_redis/codec.h"

#include <charconv>
#include <map>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "kandinsky/worker/v1/records.pb.h"

namespace kandinsky {
namespace {

namespace pb = ::kandinsky::worker::v1;

absl::Status Unreadable(std::string_view what) {
  return absl::DataLossError(
      absl::StrCat("unreadable ", absl::string_view(what.data(), what.size()), " in Redis"));
}

template <typename Message>
bool Parse(std::string_view bytes, Message* message) {
  return message->ParseFromArray(bytes.data(), static_cast<int>(bytes.size()));
}

template <typename T>
bool Number(std::string_view text, T* value) {
  return absl::SimpleAtoi(absl::string_view(text.data(), text.size()), value);
}

template <typename Enum>
bool InRange(int value, Enum first, Enum last) {
  return value >= static_cast<int>(first) && value <= static_cast<int>(last);
}

void VideoToRecord(const VideoInfo& video, pb::VideoRecord* record) {
  record->set_size_bytes(video.size_bytes);
  record->set_crc32c(video.crc32c);
  record->set_mime_type(video.mime_type);
  record->set_frames(video.frames);
  record->set_width(video.width);
  record->set_height(video.height);
  record->set_fps(video.fps);
}

VideoInfo VideoFromRecord(const pb::VideoRecord& record) {
  VideoInfo video;
  video.size_bytes = record.size_bytes();
  video.crc32c = record.crc32c();
  video.mime_type = record.mime_type();
  video.frames = record.frames();
  video.width = record.width();
  video.height = record.height();
  video.fps = record.fps();
  return video;
}

// Record: one with a repeated field `notices`.
template <typename Record>
void NoticesToRecord(const std::vector<Notice>& notices, Record* record) {
  for (const Notice& notice : notices) {
    pb::NoticeRecord* out = record->add_notices();
    out->set_reason(notice.reason);
    out->set_field(notice.field);
    out->set_message(notice.message);
    for (const std::string& word : notice.words) out->add_words(word);
  }
}

template <typename Record>
std::vector<Notice> NoticesFromRecord(const Record& record) {
  std::vector<Notice> notices;
  for (const pb::NoticeRecord& notice : record.notices()) {
    notices.push_back({notice.reason(),
                       notice.field(),
                       notice.message(),
                       {notice.words().begin(), notice.words().end()}});
  }
  return notices;
}

}  // namespace

std::string EncodeSpec(const JobSpec& spec) {
  const GenerationParameters& p = spec.parameters;
  pb::SpecRecord record;
  record.set_request_id(spec.request_id);
  record.set_payload_digest(spec.payload_digest);
  record.set_tenant(spec.tenant);
  record.set_priority(static_cast<int>(spec.priority));
  record.set_timeout_us(absl::ToInt64Microseconds(spec.timeout));
  NoticesToRecord(spec.notices, &record);
  pb::ParametersRecord* parameters = record.mutable_parameters();
  parameters->set_prompt(p.prompt);
  parameters->set_negative_prompt(p.negative_prompt);
  parameters->set_seed(p.seed);
  parameters->set_level(static_cast<int>(p.level));
  parameters->set_width(p.width);
  parameters->set_height(p.height);
  parameters->set_steps(p.steps);
  parameters->set_guidance_scale(p.guidance_scale);
  parameters->set_interpolation_guidance_scale(p.interpolation_guidance_scale);
  parameters->set_model(p.model);
  parameters->set_format(static_cast<int>(p.format));
  parameters->set_fps(p.fps);
  return record.SerializeAsString();
}

absl::StatusOr<JobSpec> DecodeSpec(std::string_view bytes) {
  pb::SpecRecord record;
  if (!Parse(bytes, &record)) return Unreadable("request");
  const pb::ParametersRecord& parameters = record.parameters();
  if (!InRange(record.priority(), Priority::kInteractive, Priority::kBatch) ||
      !InRange(parameters.level(), Level::kLow, Level::kHigh) ||
      !InRange(parameters.format(), VideoFormat::kMp4, VideoFormat::kFragmentedMp4)) {
    return Unreadable("request");
  }
  JobSpec spec;
  spec.request_id = record.request_id();
  spec.payload_digest = record.payload_digest();
  spec.tenant = record.tenant();
  spec.priority = static_cast<Priority>(record.priority());
  spec.timeout = absl::Microseconds(record.timeout_us());
  spec.notices = NoticesFromRecord(record);
  GenerationParameters& p = spec.parameters;
  p.prompt = parameters.prompt();
  p.negative_prompt = parameters.negative_prompt();
  p.seed = parameters.seed();
  p.level = static_cast<Level>(parameters.level());
  p.width = parameters.width();
  p.height = parameters.height();
  p.steps = parameters.steps();
  p.guidance_scale = parameters.guidance_scale();
  p.interpolation_guidance_scale = parameters.interpolation_guidance_scale();
  p.model = parameters.model();
  p.format = static_cast<VideoFormat>(parameters.format());
  p.fps = parameters.fps();
  return spec;
}

std::string EncodeLocation(const LatentLocation& location) {
  pb::LocationRecord record;
  record.set_address(location.address);
  record.set_key(location.key);
  record.set_dtype(location.dtype);
  for (int64_t size : location.shape) record.add_shape(size);
  record.set_crc32c(location.crc32c);
  return record.SerializeAsString();
}

absl::StatusOr<LatentLocation> DecodeLocation(std::string_view bytes) {
  pb::LocationRecord record;
  if (!Parse(bytes, &record)) return Unreadable("latent location");
  LatentLocation location;
  location.address = record.address();
  location.key = record.key();
  location.dtype = record.dtype();
  location.shape.assign(record.shape().begin(), record.shape().end());
  location.crc32c = record.crc32c();
  return location;
}

std::string EncodeVideo(const VideoInfo& video) {
  pb::VideoRecord record;
  VideoToRecord(video, &record);
  return record.SerializeAsString();
}

absl::StatusOr<VideoInfo> DecodeVideo(std::string_view bytes) {
  pb::VideoRecord record;
  if (!Parse(bytes, &record)) return Unreadable("video");
  return VideoFromRecord(record);
}

std::string EncodeWorker(const TaskQueue::WorkerInfo& worker) {
  pb::WorkerRecord record;
  record.set_id(worker.id);
  record.set_stage(static_cast<int>(worker.stage));
  record.set_state(worker.state);
  record.set_address(worker.address);
  for (const std::string& model : worker.models) record.add_models(model);
  return record.SerializeAsString();
}

absl::StatusOr<TaskQueue::WorkerInfo> DecodeWorker(std::string_view bytes) {
  pb::WorkerRecord record;
  if (!Parse(bytes, &record) || !InRange(record.stage(), Stage::kKeyframes, Stage::kDecoding)) {
    return Unreadable("worker");
  }
  TaskQueue::WorkerInfo worker;
  worker.id = record.id();
  worker.stage = static_cast<Stage>(record.stage());
  worker.state = record.state();
  worker.address = record.address();
  worker.models.assign(record.models().begin(), record.models().end());
  return worker;
}

std::string EncodeDetails(const EventDetailsValue& details) {
  pb::EventDetails record;
  record.set_pass(details.pass);
  record.set_passes(details.passes);
  record.set_step(details.step);
  record.set_steps(details.steps);
  if (details.eta) record.set_eta_us(absl::ToInt64Microseconds(*details.eta));
  if (details.preview) {
    record.mutable_preview()->set_png(details.preview->png);
    record.mutable_preview()->set_width(details.preview->width);
    record.mutable_preview()->set_height(details.preview->height);
  }
  if (details.video) VideoToRecord(*details.video, record.mutable_video());
  NoticesToRecord(details.notices, &record);
  return record.SerializeAsString();
}

absl::StatusOr<JobEvent> DecodeEvent(std::string_view text) {
  const absl::Status bad = Unreadable("event");
  size_t end = text.find('\n');
  if (end == std::string_view::npos) return bad;
  std::vector<std::string> head = absl::StrSplit(absl::string_view(text.data(), end), ' ');
  std::string_view rest = text.substr(end + 1);
  if (head.size() != 14 || head[0] != "1") return bad;
  JobEvent event;
  int64_t time_us = 0;
  int type = 0, state = 0, stage = 0, error_stage = 0, error_attempts = 0;
  size_t reason = 0, message = 0, worker = 0;
  if (!Number(head[2], &event.sequence) || !Number(head[3], &time_us) || !Number(head[4], &type) ||
      !Number(head[5], &state) || !Number(head[6], &stage) || !Number(head[7], &event.attempt) ||
      !absl::SimpleAtod(head[8], &event.fraction) || !Number(head[9], &error_stage) ||
      !Number(head[10], &error_attempts) || !Number(head[11], &reason) ||
      !Number(head[12], &message) || !Number(head[13], &worker) ||
      !InRange(type, JobEvent::Type::kStateChanged, JobEvent::Type::kRetry) ||
      !InRange(state, JobState::kQueued, JobState::kExpired) ||
      !InRange(stage, Stage::kKeyframes, Stage::kDecoding) || reason > rest.size() ||
      message > rest.size() - reason || worker > rest.size() - reason - message) {
    return bad;
  }
  event.job_id = head[1];
  event.id = absl::StrCat(event.sequence);
  event.time = absl::FromUnixMicros(time_us);
  event.type = static_cast<JobEvent::Type>(type);
  event.state = static_cast<JobState>(state);
  event.stage = static_cast<Stage>(stage);
  if (error_stage != 0) {
    if (!InRange(error_stage, Stage::kKeyframes, Stage::kDecoding)) return bad;
    JobError error;
    error.reason = rest.substr(0, reason);
    error.message = rest.substr(reason, message);
    error.worker = rest.substr(reason + message, worker);
    error.stage = static_cast<Stage>(error_stage);
    error.attempts = error_attempts;
    event.error = std::move(error);
  }
  pb::EventDetails details;
  if (!Parse(rest.substr(reason + message + worker), &details)) return bad;
  event.pass = std::max(1, details.pass());
  event.passes = std::max(1, details.passes());
  event.step = details.step();
  event.steps = details.steps();
  if (details.has_eta_us()) event.eta = absl::Microseconds(details.eta_us());
  if (details.has_preview()) {
    event.preview =
        Preview{details.preview().png(), details.preview().width(), details.preview().height()};
  }
  if (details.has_video()) event.video = VideoFromRecord(details.video());
  event.notices = NoticesFromRecord(details);
  return event;
}

absl::StatusOr<absl::Time> DecodeTime(const std::string& text) {
  int64_t us = 0;
  if (!Number(text, &us)) return Unreadable("time");
  return absl::FromUnixMicros(us);
}

std::string EncodeDouble(double value) {
  char buffer[40];
  auto [end, error] = std::to_chars(buffer, buffer + sizeof(buffer), value);
  return std::string(buffer, end);
}

absl::StatusOr<Job> DecodeJob(const std::string& id, const RedisValue& fields) {
  if (fields.type != RedisValue::Type::kArray || fields.elements.size() % 2 != 0) {
    return Unreadable("job");
  }
  if (fields.elements.empty()) return absl::NotFoundError("no such job");
  std::map<std::string_view, const std::string*> map;
  for (size_t i = 0; i < fields.elements.size(); i += 2) {
    map[fields.elements[i].text] = &fields.elements[i + 1].text;
  }
  static const std::string kEmpty;
  auto field = [&](std::string_view name) -> const std::string& {
    auto it = map.find(name);
    return it == map.end() ? kEmpty : *it->second;
  };
  Job job;
  job.id = id;
  absl::StatusOr<JobSpec> spec = DecodeSpec(field("spec"));
  if (!spec.ok()) return spec.status();
  job.spec = *spec;
  // See load() in lib.lua.
  std::vector<std::string> core = absl::StrSplit(field("c"), ' ');
  int state = 0, stage = 0;
  int64_t deadline_us = 0;
  uint64_t sequence = 0;
  if (core.size() != 18 || !Number(core[0], &state) || !Number(core[1], &stage) ||
      !Number(core[4], &job.attempt) || !absl::SimpleAtod(core[5], &job.fraction) ||
      !Number(core[6], &job.video_generation) || !Number(core[11], &sequence) ||
      !Number(core[14], &deadline_us) || !InRange(state, JobState::kQueued, JobState::kExpired) ||
      !InRange(stage, Stage::kKeyframes, Stage::kDecoding)) {
    return Unreadable("job");
  }
  job.state = static_cast<JobState>(state);
  job.stage = static_cast<Stage>(stage);
  job.last_event_id = absl::StrCat(sequence);
  job.cancel_requested = core[12] == "1";
  job.deadline = absl::FromUnixMicros(deadline_us);
  struct {
    std::string_view name;
    absl::Time* time;
  } const times[] = {{"ct", &job.create_time},
                     {"sta", &job.start_time},
                     {"ft", &job.finish_time},
                     {"xt", &job.expire_time}};
  for (const auto& [name, time] : times) {
    if (field(name).empty()) continue;
    absl::StatusOr<absl::Time> decoded = DecodeTime(field(name));
    if (!decoded.ok()) return decoded.status();
    *time = *decoded;
  }
  if (map.contains("er")) {
    JobError error;
    int error_stage = 0;
    if (!Number(field("es"), &error_stage) || !Number(field("ea"), &error.attempts) ||
        !InRange(error_stage, Stage::kKeyframes, Stage::kDecoding)) {
      return Unreadable("job");
    }
    error.reason = field("er");
    error.message = field("em");
    error.worker = field("ew");
    error.stage = static_cast<Stage>(error_stage);
    job.error = std::move(error);
  }
  if (map.contains("vd")) {
    absl::StatusOr<VideoInfo> video = DecodeVideo(field("vd"));
    if (!video.ok()) return video.status();
    job.video = *video;
  }
  return job;
}

}  // namespace kandinsky
