// What a job, a task and an event are: plain values shared by the frontend, the queue and the
// workers. No I/O.
//
// job: one user request. task: its part in one stage. The frontend fills in every default before a
// job is made, so that nothing below it knows defaults. Ranges are those of
// proto/kandinsky/video/v1/video_service.proto.
#ifndef KANDINSKY_COMMON_QUEUE_JOB_H_
#define KANDINSKY_COMMON_QUEUE_JOB_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/time/time.h"

namespace kandinsky {

enum class Stage { kKeyframes = 1, kInterpolation = 2, kDecoding = 3 };
inline constexpr Stage kStages[] = {Stage::kKeyframes, Stage::kInterpolation, Stage::kDecoding};

enum class JobState {
  kQueued = 1,
  kRunning = 2,
  kSucceeded = 3,
  kFailed = 4,
  kCancelled = 5,
  kExpired = 6,
};
bool IsFinished(JobState state);

enum class Priority { kInteractive = 1, kBatch = 2 };
inline constexpr Priority kPriorities[] = {Priority::kInteractive, Priority::kBatch};

enum class Level { kLow = 1, kMedium = 2, kHigh = 3 };

enum class VideoFormat { kMp4 = 1, kWebm = 2, kGif = 3, kFragmentedMp4 = 4 };

// Lower-case names for labels, keys and flags: "keyframes", "queued", "interactive", "high", "mp4",
// "fragmented-mp4", …
std::string_view Name(Stage stage);
std::string_view Name(JobState state);
std::string_view Name(Priority priority);
std::string_view Name(Level level);
std::string_view Name(VideoFormat format);
std::optional<Stage> ParseStage(std::string_view name);
std::optional<JobState> ParseJobState(std::string_view name);
std::optional<Level> ParseLevel(std::string_view name);
std::optional<VideoFormat> ParseVideoFormat(std::string_view name);

// Interpolation passes of a level: 0, 1, 2.
int Passes(Level level);

// The stage after `stage` for a video of this level: at level LOW there is nothing to interpolate.
// Empty after decoding.
std::optional<Stage> NextStage(Stage stage, Level level);
std::optional<Stage> PreviousStage(Stage stage, Level level);

// --- How far a job is. The one place that says what the stages weigh.
//
// At level HIGH: keyframes 0.30, interpolation 0.55 (of which the first pass makes a fifth),
// decoding 0.15 for 241 frames. Lower levels drop the passes that do not run and decode fewer
// frames; the rest is scaled to sum 1.

// Part of the whole job that `stage` makes up, 0 to 1; 0 for a stage that the level skips.
double StageWeight(Stage stage, Level level);
// Part of the whole job that is done when `stage_fraction` (clamped to 0..1) of `stage` is.
double JobFraction(Stage stage, Level level, double stage_fraction);
// Time until the whole job is done, when this stage needs `stage_eta` from `stage_fraction` on: the
// later stages are taken to run at the same speed per weight, and not to wait. Empty before 2 % of
// the stage are done.
std::optional<absl::Duration> JobEta(Stage stage, Level level, double stage_fraction,
                                     absl::Duration stage_eta);

struct GenerationParameters {
  std::string prompt;
  std::string negative_prompt;
  uint64_t seed = 0;
  Level level = Level::kHigh;
  int width = 0;
  int height = 0;
  int steps = 0;
  double guidance_scale = 0;
  double interpolation_guidance_scale = 0;
  std::string model;
  VideoFormat format = VideoFormat::kMp4;
  double fps = 0;

  bool operator==(const GenerationParameters&) const = default;
};

struct JobError {
  std::string reason;  // UPPER_SNAKE, stable
  std::string message;
  Stage stage = Stage::kKeyframes;
  int attempts = 0;
  std::string worker;  // the last worker that tried; not shown to clients

  bool operator==(const JobError&) const = default;
};

struct VideoInfo {
  uint64_t size_bytes = 0;
  uint32_t crc32c = 0;
  std::string mime_type;
  int frames = 0;
  int width = 0;
  int height = 0;
  double fps = 0;

  bool operator==(const VideoInfo&) const = default;
};

// What a client should know about its request although it is served.
struct Notice {
  std::string reason;  // UPPER_SNAKE, stable: UNKNOWN_WORDS
  std::string field;   // of the request: "parameters.prompt"
  std::string message;
  std::vector<std::string> words;  // that the notice is about

  bool operator==(const Notice&) const = default;
};

// What the frontend hands to JobStore::Create.
struct JobSpec {
  std::string request_id;  // idempotency key, per tenant; empty: none
  // What a repeated request_id is compared by: a digest of what the client sent, before defaults
  // and a random seed were filled in. Empty: everything below.
  std::string payload_digest;
  std::string tenant = "default";
  Priority priority = Priority::kInteractive;
  GenerationParameters parameters;
  absl::Duration timeout = absl::Hours(1);  // deadline = acceptance + timeout
  std::vector<Notice> notices;              // the first event carries them, too
};

struct Job {
  std::string id;
  JobSpec spec;
  JobState state = JobState::kQueued;
  absl::Time create_time = absl::InfinitePast();
  absl::Time start_time = absl::InfinitePast();   // InfinitePast: not yet
  absl::Time finish_time = absl::InfinitePast();  // InfinitePast: not yet
  absl::Time deadline = absl::InfiniteFuture();
  absl::Time expire_time = absl::InfiniteFuture();  // InfiniteFuture: not finished yet
  Stage stage = Stage::kKeyframes;
  int attempt = 1;
  double fraction = 0;
  std::optional<JobError> error;
  std::optional<VideoInfo> video;
  std::string last_event_id;
  // Which attempt's bytes in the video store are the job's; 0 before decoding began. See
  // video_store.h.
  int64_t video_generation = 0;
  bool cancel_requested = false;
};

struct Preview {
  std::string png;
  int width = 0;
  int height = 0;

  bool operator==(const Preview&) const = default;
};

struct JobEvent {
  enum class Type {
    kStateChanged = 1,
    kStageStarted = 2,
    kProgress = 3,
    kPreview = 4,
    kStageFinished = 5,
    kRetry = 6,
  };
  std::string id;         // set by the store; ids of one job compare in order by EventIdLess
  uint64_t sequence = 0;  // 1, 2, 3, … within the job without gaps; set by the store
  std::string job_id;
  absl::Time time = absl::InfinitePast();  // set by the store
  Type type = Type::kStateChanged;
  JobState state = JobState::kQueued;
  Stage stage = Stage::kKeyframes;
  int attempt = 1;
  int pass = 1;
  int passes = 1;
  int step = 0;
  int steps = 0;
  double fraction = 0;
  std::optional<absl::Duration> eta;
  std::optional<Preview> preview;
  std::optional<JobError> error;
  std::optional<VideoInfo> video;
  std::vector<Notice> notices;
};

// Ids of events of one job are decimal numbers, the sequence. True if `a` comes before `b`; ""
// comes before all.
bool EventIdLess(std::string_view a, std::string_view b);
// The sequence of a well-formed id; 0 for "", empty for anything else.
std::optional<uint64_t> ParseEventId(std::string_view id);

// Where the latents of a finished stage lie.
struct LatentLocation {
  std::string address;  // of the producer's LatentService, host:port
  std::string key;
  std::string dtype;  // "float32", "float16", "bfloat16"
  std::vector<int64_t> shape;
  uint32_t crc32c = 0;

  bool operator==(const LatentLocation&) const = default;
};

}  // namespace kandinsky

#endif  // KANDINSKY_COMMON_QUEUE_JOB_H_
