#include "common/queue_redis/keys.h"

#include <functional>

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
local function JOB(id) return '@P@{' .. id .. '}:@JOB@' end
local function EVENTS(id) return '@P@{' .. id .. '}:@EVENTS@' end
local function PROGRESS(id) return '@P@{' .. id .. '}:@PROGRESS@' end
local function CHECKPOINT(id, sg) return '@P@{' .. id .. '}:@CHECKPOINT@' .. STAGE[sg] end
local function VIDEOS(id) return '@P@{' .. id .. '}:@VIDEOS@' end
local function VIDEO(id, g) return '@P@{' .. id .. '}:@VIDEO@' .. g end
local function SEGMENT(id, g, n) return '@P@{' .. id .. '}:@VIDEO@' .. g .. ':' .. n end
local function LINE(sg, pr, tn) return LINES[sg][pr] .. tn end
local function REQUEST(tn, rk) return '@P@request:' .. #tn .. ':' .. tn .. ':' .. rk end
local JOBS, DEADLINES, UNFINISHED = '@P@jobs', '@P@deadlines', '@P@unfinished'
local EXPIRY, DEAD, RATE = '@P@expiry', '@P@@DEAD@', '@P@rate'
local WORKERS, WORKER_INFO, CHANNEL = '@P@workers', '@P@workers:info', '@P@@CHANNEL@'
)lua";

// A Lua table from a stage, or a stage and a priority, to a text that is spelled out for each:
// scripts would spend more time on putting names together than on commands.
std::string LuaByStage(const std::string& name, bool by_priority,
                       const std::function<std::string(Stage, Priority)>& text) {
  std::string lua = absl::StrCat("local ", name, " = {\n");
  for (Stage stage : kStages) {
    absl::StrAppend(&lua, "  ['", static_cast<int>(stage), "'] = ");
    if (by_priority) {
      absl::StrAppend(&lua, "{['1'] = '", text(stage, Priority::kInteractive), "', ['2'] = '",
                      text(stage, Priority::kBatch), "'},\n");
    } else {
      absl::StrAppend(&lua, "'", text(stage, Priority::kBatch), "',\n");
    }
  }
  return lua + "}\n";
}

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

std::string Keys::Schema() const { return prefix_ + "schema"; }
std::string Keys::Dead() const { return prefix_ + kDead; }

std::string Keys::Lua() const {
  std::string lua =
      LuaByStage("STAGE", false, [](Stage stage, Priority) { return std::string(Name(stage)); });
  struct {
    const char* table;
    const char* name;
    bool by_priority;
    const char* end;
  } constexpr kByStage[] = {
      {"TASKS", "tasks:", true,
       ""},  // stream of leases with group 'w': a task is an entry while it is leased
      {"WAITING", "waiting:", true, ""},  // sorted set: claimable tasks by enqueue time
      {"TURNS", "turns:", true, ""},      // sorted set: tenants with claimable tasks by turn
      {"LINES", "line:", true,
       ":"},  // with the tenant: sorted set of its claimable tasks by enqueue time
      {"DELAYED", "delayed:", true, ""},  // sorted set: tasks that back off, by when that ends
      {"WAKE", kWake, false, ""},
      {"SHARE", "share:", false, ""},  // counter: turns in which an aged batch task waited
      {"SWEEP", "sweep:", false, ""},  // when leases and backoffs are to be looked at again
  };
  for (const auto& row : kByStage) {
    lua += LuaByStage(row.table, row.by_priority, [&](Stage stage, Priority priority) {
      std::string text = absl::StrCat(prefix_, row.name).append(Name(stage));
      if (row.by_priority) text.append(":").append(Name(priority));
      return text + row.end;
    });
  }
  return lua + absl::StrReplaceAll(kLua, {{"@P@", prefix_},
                                          {"@JOB@", kJob},
                                          {"@EVENTS@", kEvents},
                                          {"@PROGRESS@", kProgress},
                                          {"@CHECKPOINT@", kCheckpoint},
                                          {"@VIDEOS@", kVideos},
                                          {"@VIDEO@", kVideo},
                                          {"@DEAD@", kDead},
                                          {"@CHANNEL@", kChannel}});
}

}  // namespace kandinsky
