#include "common/queue_redis/scripts.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

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

// The first line of a script, its flags, must stay the first.
RedisScript Assemble(const char* name, const std::string& preamble) {
  std::string_view body = Embedded(name);
  size_t end = std::min(body.find('\n'), body.size());
  std::string text(body.substr(0, end));
  text += preamble;
  text += body.substr(end);
  return RedisScript(name, text);
}

}  // namespace

Scripts::Scripts(const Keys& keys, const QueueOptions& options)
    : Scripts(absl::StrCat("\n", keys.Lua(), OptionsLua(options),
                           absl::string_view(Embedded("lib").data(), Embedded("lib").size()))) {}

Scripts::Scripts(const std::string& preamble)
    : acknowledge(Assemble("acknowledge", preamble)),
      cancel(Assemble("cancel", preamble)),
      checkpoint(Assemble("checkpoint", preamble)),
      claim(Assemble("claim", preamble)),
      complete(Assemble("complete", preamble)),
      create(Assemble("create", preamble)),
      delete_job(Assemble("delete", preamble)),
      fail(Assemble("fail", preamble)),
      fence(Assemble("fence", preamble)),
      finish(Assemble("finish", preamble)),
      heartbeat(Assemble("heartbeat", preamble)),
      list(Assemble("list", preamble)),
      maintain(Assemble("maintain", preamble)),
      preview(Assemble("preview", preamble)),
      release(Assemble("release", preamble)),
      renew(Assemble("renew", preamble)),
      retry_dead(Assemble("retry_dead", preamble)),
      send_back(Assemble("send_back", preamble)),
      stats(Assemble("stats", preamble)),
      video_append(Assemble("video_append", preamble)),
      video_remove(Assemble("video_remove", preamble)),
      video_seal(Assemble("video_seal", preamble)),
      withdraw(Assemble("withdraw", preamble)),
      workers(Assemble("workers", preamble)) {}

}  // namespace kandinsky
