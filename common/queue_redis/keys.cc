#include "common/queue_redis/keys.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"

namespace kandinsky {
namespace {

constexpr char kJob[] = "job";
constexpr char kEvents[] = "events";
constexpr char kProgress[] = "progress";
constexpr char kCheckpoint[] = "checkpoint:";
constexpr char kUpload[] = "upload:";
constexpr char kVideos[] = "videos";
constexpr char kVideo[] = "video:";
constexpr char kWake[] = "wake:";
constexpr char kDead[] = "dead";
constexpr char kChannel[] = "events";

// @P@: prefix with its colon; the other names stand for the constants above.
constexpr char kLua[] = R"lua(
local STAGE = {'keyframes', 'interpolation', 'decoding'}
local PRIORITY = {'interactive', 'batch'}
local function OF(id, suffix) return '@P@{' .. id .. '}:' .. suffix end
local function JOB(id) return OF(id, '@JOB@') end
local function EVENTS(id) return OF(id, '@EVENTS@') end
local function PROGRESS(id) return OF(id, '@PROGRESS@') end
local function CHECKPOINT(id, sg) return OF(id, '@CHECKPOINT@' .. STAGE[sg]) end
local function VIDEOS(id) return OF(id, '@VIDEOS@') end
local function VIDEO(id, g) return OF(id, '@VIDEO@' .. g) end
local function SEGMENT(id, g, n) return OF(id, '@VIDEO@' .. g .. ':' .. n) end
local function LINES(name, sg, pr) return '@P@' .. name .. ':' .. STAGE[sg] .. ':' .. PRIORITY[pr] end
local function TASKS(sg, pr) return LINES('tasks', sg, pr) end
local function WAITING(sg, pr) return LINES('waiting', sg, pr) end
local function TURNS(sg, pr) return LINES('turns', sg, pr) end
local function LINE(sg, pr, tn) return LINES('line', sg, pr) .. ':' .. tn end
local function DELAYED(sg, pr) return LINES('delayed', sg, pr) end
local function WAKE(sg) return '@P@@WAKE@' .. STAGE[sg] end
local function SHARE(sg) return '@P@share:' .. STAGE[sg] end
local function SWEEP(sg) return '@P@sweep:' .. STAGE[sg] end
local function REQUEST(tn, rk) return '@P@request:' .. #tn .. ':' .. tn .. ':' .. rk end
local JOBS, DEADLINES, UNFINISHED = '@P@jobs', '@P@deadlines', '@P@unfinished'
local EXPIRY, DEAD, RATE = '@P@expiry', '@P@@DEAD@', '@P@rate'
local WORKERS, WORKER_INFO, CHANNEL = '@P@workers', '@P@workers:info', '@P@@CHANNEL@'
)lua";

}  // namespace

Keys::Keys(std::string_view prefix)
    : prefix_(absl::StrCat(absl::string_view(prefix.data(), prefix.size()), ":")),
      channel_(absl::StrCat(prefix_, kChannel)) {}

std::string Keys::OfJob(const std::string& id, std::string_view suffix) const {
  return absl::StrCat(prefix_, "{", id, "}:", absl::string_view(suffix.data(), suffix.size()));
}

std::string Keys::Job(const std::string& id) const { return OfJob(id, kJob); }
std::string Keys::Events(const std::string& id) const { return OfJob(id, kEvents); }
std::string Keys::Progress(const std::string& id) const { return OfJob(id, kProgress); }
std::string Keys::Checkpoint(const std::string& id, Stage stage) const {
  return OfJob(id, kCheckpoint).append(Name(stage));
}
std::string Keys::Upload(const std::string& id, std::string_view name) const {
  return OfJob(id, kUpload).append(name);
}
std::string Keys::Videos(const std::string& id) const { return OfJob(id, kVideos); }
std::string Keys::Video(const std::string& id, int64_t generation) const {
  return OfJob(id, kVideo).append(std::to_string(generation));
}
std::string Keys::Segment(const std::string& id, int64_t generation, int64_t segment) const {
  return Video(id, generation).append(":").append(std::to_string(segment));
}
std::string Keys::Wake(Stage stage) const {
  return prefix_ + std::string(kWake).append(Name(stage));
}

std::string Keys::Dead() const { return prefix_ + kDead; }

std::string Keys::Lua() const {
  return absl::StrReplaceAll(kLua, {{"@P@", prefix_},
                                    {"@JOB@", kJob},
                                    {"@EVENTS@", kEvents},
                                    {"@PROGRESS@", kProgress},
                                    {"@CHECKPOINT@", kCheckpoint},
                                    {"@VIDEOS@", kVideos},
                                    {"@VIDEO@", kVideo},
                                    {"@WAKE@", kWake},
                                    {"@DEAD@", kDead},
                                    {"@CHANNEL@", kChannel}});
}

}  // namespace kandinsky
