#include "common/queue/job.h"

#include <algorithm>
#include <charconv>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/queue/options.h"

namespace kandinsky {
namespace {

template <typename T>
struct Named {
  T value;
  std::string_view name;
};

constexpr Named<Stage> kStageNames[] = {{Stage::kKeyframes, "keyframes"},
                                        {Stage::kInterpolation, "interpolation"},
                                        {Stage::kDecoding, "decoding"}};
constexpr Named<JobState> kStateNames[] = {
    {JobState::kQueued, "queued"},       {JobState::kRunning, "running"},
    {JobState::kSucceeded, "succeeded"}, {JobState::kFailed, "failed"},
    {JobState::kCancelled, "cancelled"}, {JobState::kExpired, "expired"}};
constexpr Named<Priority> kPriorityNames[] = {{Priority::kInteractive, "interactive"},
                                              {Priority::kBatch, "batch"}};
constexpr Named<Level> kLevelNames[] = {
    {Level::kLow, "low"}, {Level::kMedium, "medium"}, {Level::kHigh, "high"}};
constexpr Named<VideoFormat> kFormatNames[] = {{VideoFormat::kMp4, "mp4"},
                                               {VideoFormat::kWebm, "webm"},
                                               {VideoFormat::kGif, "gif"},
                                               {VideoFormat::kFragmentedMp4, "fragmented-mp4"}};

template <typename T, size_t n>
std::string_view NameIn(const Named<T> (&table)[n], T value) {
  for (const Named<T>& row : table) {
    if (row.value == value) return row.name;
  }
  return "unknown";
}

template <typename T, size_t n>
std::optional<T> ParseIn(const Named<T> (&table)[n], std::string_view name) {
  for (const Named<T>& row : table) {
    if (row.name == name) return row.value;
  }
  return std::nullopt;
}

// Work of a stage at a level, in parts of the whole at level HIGH.
double Work(Stage stage, Level level) {
  constexpr double kKeyframesWork = 0.30;
  constexpr double kInterpolationWork = 0.55;
  constexpr double kDecodingWork = 0.15;
  switch (stage) {
    case Stage::kKeyframes:
      return kKeyframesWork;
    case Stage::kInterpolation:
      // The second pass interpolates four times as many intervals as the first.
      return kInterpolationWork * (level == Level::kHigh     ? 1.0
                                   : level == Level::kMedium ? 0.2
                                                             : 0.0);
    case Stage::kDecoding:
      return kDecodingWork * (level == Level::kHigh     ? 1.0
                              : level == Level::kMedium ? 61.0 / 241
                                                        : 16.0 / 241);
  }
  return 0;
}

}  // namespace

bool IsFinished(JobState state) {
  return state != JobState::kQueued && state != JobState::kRunning;
}

std::string_view Name(Stage stage) { return NameIn(kStageNames, stage); }
std::string_view Name(JobState state) { return NameIn(kStateNames, state); }
std::string_view Name(Priority priority) { return NameIn(kPriorityNames, priority); }
std::string_view Name(Level level) { return NameIn(kLevelNames, level); }
std::string_view Name(VideoFormat format) { return NameIn(kFormatNames, format); }
std::optional<Stage> ParseStage(std::string_view name) { return ParseIn(kStageNames, name); }
std::optional<JobState> ParseJobState(std::string_view name) { return ParseIn(kStateNames, name); }
std::optional<Level> ParseLevel(std::string_view name) { return ParseIn(kLevelNames, name); }
std::optional<VideoFormat> ParseVideoFormat(std::string_view name) {
  return ParseIn(kFormatNames, name);
}

int Passes(Level level) { return static_cast<int>(level) - 1; }

std::optional<Stage> NextStage(Stage stage, Level level) {
  switch (stage) {
    case Stage::kKeyframes:
      return Passes(level) > 0 ? Stage::kInterpolation : Stage::kDecoding;
    case Stage::kInterpolation:
      return Stage::kDecoding;
    case Stage::kDecoding:
      break;
  }
  return std::nullopt;
}

std::optional<Stage> PreviousStage(Stage stage, Level level) {
  switch (stage) {
    case Stage::kKeyframes:
      break;
    case Stage::kInterpolation:
      return Stage::kKeyframes;
    case Stage::kDecoding:
      return Passes(level) > 0 ? Stage::kInterpolation : Stage::kKeyframes;
  }
  return std::nullopt;
}

double StageWeight(Stage stage, Level level) {
  double sum = 0;
  for (Stage each : kStages) sum += Work(each, level);
  return Work(stage, level) / sum;
}

double JobFraction(Stage stage, Level level, double stage_fraction) {
  double done = 0;
  for (Stage each : kStages) {
    if (each < stage) done += StageWeight(each, level);
  }
  // Also maps NaN to 0.
  double within = stage_fraction > 0 ? std::min(stage_fraction, 1.0) : 0.0;
  return std::min(1.0, done + StageWeight(stage, level) * within);
}

std::optional<absl::Duration> JobEta(Stage stage, Level level, double stage_fraction,
                                     absl::Duration stage_eta) {
  if (!(stage_fraction >= 0.02) || stage_eta < absl::ZeroDuration()) return std::nullopt;
  double later = 0;
  for (Stage each : kStages) {
    if (each > stage) later += StageWeight(each, level);
  }
  double rest = StageWeight(stage, level) * (1 - std::min(stage_fraction, 1.0));
  if (rest <= 0) return later <= 0 ? std::optional(stage_eta) : std::nullopt;
  return stage_eta * ((rest + later) / rest);
}

std::optional<uint64_t> ParseEventId(std::string_view id) {
  if (id.empty()) return 0;
  if (id[0] == '0' || id.size() > 18) return std::nullopt;
  uint64_t sequence = 0;
  auto [end, error] = std::from_chars(id.data(), id.data() + id.size(), sequence);
  if (error != std::errc() || end != id.data() + id.size()) return std::nullopt;
  return sequence;
}

bool EventIdLess(std::string_view a, std::string_view b) {
  return a.size() != b.size() ? a.size() < b.size() : a < b;
}

absl::Status Validate(const QueueOptions& options) {
  struct {
    const char* name;
    bool ok;
  } const checks[] = {
      {"lease_duration", options.lease_duration >= absl::Milliseconds(10) &&
                             options.lease_duration <= absl::Hours(24)},
      {"max_attempts", options.max_attempts >= 1 && options.max_attempts <= 1000},
      {"retry_base_delay", options.retry_base_delay >= absl::ZeroDuration() &&
                               options.retry_base_delay <= absl::Hours(24)},
      {"retry_max_delay", options.retry_max_delay >= options.retry_base_delay &&
                              options.retry_max_delay <= absl::Hours(24)},
      {"avoid_duration",
       options.avoid_duration >= absl::ZeroDuration() && options.avoid_duration <= absl::Hours(24)},
      {"max_send_backs", options.max_send_backs >= 0 && options.max_send_backs <= 1000000},
      {"batch_ageing", options.batch_ageing >= absl::ZeroDuration() &&
                           options.batch_ageing <= absl::Hours(24 * 365)},
      {"batch_share", options.batch_share >= 1 && options.batch_share <= 1000000},
      {"limits.max_unfinished_jobs", options.limits.max_unfinished_jobs >= 1},
      {"limits.max_unfinished_jobs_per_tenant", options.limits.max_unfinished_jobs_per_tenant >= 1},
      {"rate_window",
       options.rate_window >= absl::Seconds(1) && options.rate_window <= absl::Hours(24)},
      {"retention",
       options.retention >= absl::Milliseconds(1) && options.retention <= absl::Hours(24 * 3650)},
      {"dead_letter_retention", options.dead_letter_retention >= absl::Milliseconds(1) &&
                                    options.dead_letter_retention <= absl::Hours(24 * 3650)},
      {"max_progress_events", options.max_progress_events >= 1},
      {"heartbeat_interval", options.heartbeat_interval >= absl::Milliseconds(1) &&
                                 options.heartbeat_interval <= absl::Hours(1)},
  };
  for (const auto& check : checks) {
    if (!check.ok) {
      return absl::InvalidArgumentError(absl::StrCat("queue option out of range: ", check.name));
    }
  }
  return absl::OkStatus();
}

}  // namespace kandinsky
