#include "common/queue_redis/scripts.h"

#include <algorithm>
#include <set>
#include <vector>

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

bool IsWordCharacter(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
}

// The identifiers in a piece of Lua (and the words of its comments and strings, which does no
// harm).
std::set<std::string_view> Words(std::string_view text) {
  std::set<std::string_view> words;
  for (size_t i = 0; i < text.size();) {
    if (!IsWordCharacter(text[i])) {
      ++i;
      continue;
    }
    size_t begin = i;
    while (i < text.size() && IsWordCharacter(text[i])) ++i;
    words.insert(text.substr(begin, i - begin));
  }
  return words;
}

// A definition at the left margin of the preamble: "local a, b = …" or "local function a(…) … end".
struct Piece {
  std::string_view text;
  std::set<std::string_view> names;
};

std::vector<Piece> SplitPreamble(std::string_view text) {
  std::vector<Piece> pieces;
  for (size_t i = 0; i < text.size();) {
    size_t end = std::min(text.find("\nlocal ", i), text.size());
    Piece piece{text.substr(i, end - i + (end < text.size())), {}};
    i = end + 1;
    std::string_view head = piece.text.substr(0, piece.text.find('\n'));
    if (head.substr(0, 6) != "local ") continue;
    head = head.substr(0, head.find_first_of("(="));
    piece.names = Words(head);
    piece.names.erase("local");
    piece.names.erase("function");
    pieces.push_back(piece);
  }
  return pieces;
}

// The script with those pieces of the preamble that it needs. Its first line, its flags, must stay
// the first.
RedisScript Assemble(const char* name, const std::string& preamble) {
  std::string_view body = Embedded(name);
  size_t end = std::min(body.find('\n'), body.size());
  std::set<std::string_view> wanted = Words(body);
  std::vector<Piece> pieces = SplitPreamble(preamble);
  std::vector<std::string_view> kept;
  // A piece uses only what is defined before it.
  for (auto piece = pieces.rbegin(); piece != pieces.rend(); ++piece) {
    bool used = std::any_of(piece->names.begin(), piece->names.end(),
                            [&](std::string_view word) { return wanted.contains(word); });
    if (!used) continue;
    kept.push_back(piece->text);
    wanted.merge(Words(piece->text));
  }
  std::string text(body.substr(0, end));
  text += '\n';
  for (auto piece = kept.rbegin(); piece != kept.rend(); ++piece) text += *piece;
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
