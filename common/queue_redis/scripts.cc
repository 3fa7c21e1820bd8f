#include "common/queue_redis/scripts.h"

#include <algorithm>
#include <memory>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"

namespace kandinsky {
namespace {

constexpr int kRateBuckets = 30;

std::string_view Embedded(std::string_view name) {
  for (const internal::EmbeddedScript* row = internal::kEmbeddedScripts; row->name != nullptr;
       ++row) {
    if (name == row->name) return row->body;
  }
  return {};
}

int64_t Micros(absl::Duration duration) { return absl::ToInt64Microseconds(duration); }

std::string OptionsLua(const QueueOptions& options) {
  absl::Duration sweep = std::min(options.lease_duration / 8, absl::Milliseconds(100));
  return absl::StrCat(
      "local LEASE_MS = ", std::max<int64_t>(1, absl::ToInt64Milliseconds(options.lease_duration)),
      "\nlocal MAX_ATTEMPTS = ", options.max_attempts,
      "\nlocal RETRY_BASE = ", Micros(options.retry_base_delay),
      "\nlocal RETRY_MAX = ", Micros(options.retry_max_delay),
      "\nlocal AVOID = ", Micros(options.avoid_duration),
      "\nlocal MAX_SEND_BACKS = ", options.max_send_backs,
      "\nlocal BATCH_AGEING = ", Micros(options.batch_ageing),
      "\nlocal BATCH_SHARE = ", options.batch_share,
      "\nlocal MAX_UNFINISHED = ", options.limits.max_unfinished_jobs,
      "\nlocal MAX_UNFINISHED_PER_TENANT = ", options.limits.max_unfinished_jobs_per_tenant,
      "\nlocal RATE_BUCKET = ", std::max<int64_t>(1, Micros(options.rate_window) / kRateBuckets),
      "\nlocal RATE_BUCKETS = ", kRateBuckets, "\nlocal RETENTION = ", Micros(options.retention),
      "\nlocal DEAD_RETENTION = ", Micros(options.dead_letter_retention),
      "\nlocal MAX_PROGRESS = ", options.max_progress_events,
      "\nlocal WORKER_TTL = ", Micros(3 * options.heartbeat_interval),
      "\nlocal SWEEP_EVERY = ", Micros(sweep), "\n");
}

// The words behind "flags=" in the first line of a script.
std::vector<std::string> Flags(std::string_view body) {
  absl::string_view line(body.data(), std::min(body.find('\n'), body.size()));
  size_t at = line.find("flags=");
  if (at == absl::string_view::npos) return {};
  return absl::StrSplit(line.substr(at + 6), ',');
}

// The script as an expression: the function that its file returns.
std::string AsFunction(std::string_view body) {
  std::string_view rest = body.substr(std::min(body.find('\n'), body.size()));
  return absl::StrCat("(function()", absl::string_view(rest.data(), rest.size()), "end)()");
}

// All scripts as one function library; `digest` becomes part of the names of its functions.
std::string LibraryCode(const std::string& preamble, const std::string& digest) {
  std::string code = preamble;
  for (const internal::EmbeddedScript* row = internal::kEmbeddedScripts; row->name != nullptr;
       ++row) {
    if (std::string_view(row->name) == "lib") continue;
    std::string flags;
    for (const std::string& flag : Flags(row->body)) absl::StrAppend(&flags, "'", flag, "', ");
    absl::StrAppend(&code, "\ndo\nlocal run = ", AsFunction(row->body),
                    "\nredis.register_function{function_name = '", row->name, "_", digest,
                    "', flags = {", flags,
                    "}, callback = function(_, ARGV)\n  begin()\n  return run(ARGV)\nend}\nend\n");
  }
  return code;
}

RedisScript MakeScript(const char* name, const std::string& preamble,
                       const std::shared_ptr<const RedisLibrary>& library) {
  std::string_view body = Embedded(name);
  std::string flags = absl::StrJoin(Flags(body), ",");
  // The flags must stay the first line.
  return RedisScript(name,
                     absl::StrCat("#!lua", flags.empty() ? "" : " flags=", flags, "\n", preamble,
                                  "\nbegin()\nreturn ", AsFunction(body), "(ARGV)\n"),
                     library, absl::StrCat(name, "_", library->digest));
}

std::shared_ptr<const RedisLibrary> MakeLibrary(const std::string& preamble) {
  // What the functions do and how they are called is all in the text without their names' digest.
  const std::string digest = Sha1Hex(LibraryCode(preamble, "")).substr(0, 16);
  return std::make_shared<RedisLibrary>(
      RedisLibrary{"kandinsky", digest, LibraryCode(preamble, digest)});
}

}  // namespace

Scripts::Scripts(const Keys& keys, const QueueOptions& options)
    : Scripts(absl::StrCat("\n", keys.Lua(), OptionsLua(options),
                           absl::string_view(Embedded("lib").data(), Embedded("lib").size()))) {}

Scripts::Scripts(const std::string& preamble) : Scripts(preamble, MakeLibrary(preamble)) {}

Scripts::Scripts(const std::string& preamble, const std::shared_ptr<const RedisLibrary>& library)
    : acknowledge(MakeScript("acknowledge", preamble, library)),
      cancel(MakeScript("cancel", preamble, library)),
      checkpoint(MakeScript("checkpoint", preamble, library)),
      claim(MakeScript("claim", preamble, library)),
      complete(MakeScript("complete", preamble, library)),
      create(MakeScript("create", preamble, library)),
      delete_job(MakeScript("delete", preamble, library)),
      fail(MakeScript("fail", preamble, library)),
      fence(MakeScript("fence", preamble, library)),
      finish(MakeScript("finish", preamble, library)),
      heartbeat(MakeScript("heartbeat", preamble, library)),
      list(MakeScript("list", preamble, library)),
      maintain(MakeScript("maintain", preamble, library)),
      preview(MakeScript("preview", preamble, library)),
      release(MakeScript("release", preamble, library)),
      renew(MakeScript("renew", preamble, library)),
      retry_dead(MakeScript("retry_dead", preamble, library)),
      send_back(MakeScript("send_back", preamble, library)),
      stats(MakeScript("stats", preamble, library)),
      video_append(MakeScript("video_append", preamble, library)),
      video_remove(MakeScript("video_remove", preamble, library)),
      video_seal(MakeScript("video_seal", preamble, library)),
      withdraw(MakeScript("withdraw", preamble, library)),
      workers(MakeScript("workers", preamble, library)) {}

}  // namespace kandinsky
