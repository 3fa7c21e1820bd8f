#include "common/redis/client.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"

namespace kandinsky {
namespace {

// Of one family on a server; enough for all versions and options in use at a time.
constexpr size_t kMaxLibraries = 64;

// Evals that travel together; larger ones go alone.
constexpr int kMaxSenders = 2;
constexpr size_t kMaxSharedCalls = 32;
constexpr size_t kMaxSharedBytes = 16 << 10;

bool FunctionMissing(const RedisValue& reply) {
  return reply.error() && absl::StartsWith(reply.text, "ERR Function not found");
}

}  // namespace

// --- session
// --------------------------------------------------------------------------------------------------------

RedisSession::~RedisSession() {
  if (connection_ == nullptr) return;
  bool drop = drop_ || connection_->broken();
  client_->Return(std::move(connection_), epoch_, drop);
}

void RedisSession::Look(const RedisValue& value) {
  if (value.error() &&
      (absl::StartsWith(value.text, "READONLY ") || absl::StartsWith(value.text, "UNBLOCKED ") ||
       absl::StartsWith(value.text, "NOAUTH "))) {
    drop_ = true;
  }
}

absl::StatusOr<RedisValue> RedisSession::Command(const RedisCommand& command, absl::Duration wait) {
  absl::StatusOr<RedisValue> reply = connection_->Command(command, wait);
  if (!reply.ok()) return reply;
  Look(*reply);
  if (absl::Status status = RedisErrorStatus(*reply); !status.ok()) return status;
  return reply;
}

absl::StatusOr<std::vector<RedisValue>> RedisSession::Pipeline(
    const std::vector<RedisCommand>& commands, absl::Duration wait) {
  absl::StatusOr<std::vector<RedisValue>> replies = connection_->Pipeline(commands, wait);
  if (replies.ok()) {
    for (const RedisValue& reply : *replies) Look(reply);
  }
  return replies;
}

absl::StatusOr<RedisValue> RedisSession::Run(const RedisScript& script, RedisCommand& command) {
  if (script.library != nullptr) {
    absl::StatusOr<RedisValue> reply = connection_->Command(command);
    if (!reply.ok() || !FunctionMissing(*reply)) return reply;
    absl::StatusOr<RedisValue> loaded = LoadLibrary(*script.library);
    if (!loaded.ok()) return loaded;
    if (!loaded->error()) {
      reply = connection_->Command(command);
      // Otherwise somebody deletes libraries as fast as we load them.
      if (!reply.ok() || !FunctionMissing(*reply)) return reply;
    } else if (!absl::StartsWith(loaded->text, "OOM ")) {
      return loaded;
    }
  }
  command[0] = "EVALSHA";
  command[1] = script.sha;
  absl::StatusOr<RedisValue> reply = connection_->Command(command);
  if (reply.ok() && reply->error() && absl::StartsWith(reply->text, "NOSCRIPT")) {
    command[0] = "EVAL";
    command[1] = script.body;
    reply = connection_->Command(command);
  }
  return reply;
}

absl::StatusOr<RedisValue> RedisSession::LoadLibrary(const RedisLibrary& library) {
  // The time of loading in the name tells which libraries are old. A wrong clock only makes the
  // wrong library be loaded again by those who use it.
  const std::string prefix = library.family + "_";
  const std::string name = absl::StrCat(
      prefix, absl::Dec(absl::ToUnixSeconds(absl::Now()), absl::kZeroPad12), "_", library.digest);
  absl::StatusOr<RedisValue> loaded = connection_->Command(
      {"FUNCTION", "LOAD", absl::StrCat("#!lua name=", name, "\n", library.code)});
  if (!loaded.ok()) return loaded;
  if (loaded->error()) {
    // By another connection.
    if (absl::StrContains(loaded->text, "already exists")) return RedisValue();
    return loaded;
  }
  absl::StatusOr<RedisValue> list =
      connection_->Command({"FUNCTION", "LIST", "LIBRARYNAME", prefix + "*"});
  if (!list.ok()) return list;
  std::vector<std::string> names;
  for (const RedisValue& row : list->elements) {
    for (size_t i = 0; i + 1 < row.elements.size(); i += 2) {
      if (row.elements[i].text == "library_name") names.push_back(row.elements[i + 1].text);
    }
  }
  std::sort(names.begin(), names.end());
  for (size_t i = 0; i + kMaxLibraries < names.size(); ++i) {
    if (names[i] == name) continue;
    absl::StatusOr<RedisValue> deleted =
        connection_->Command({"FUNCTION", "DELETE", names[i]});  // another one may be quicker
    if (!deleted.ok()) return deleted;
  }
  return loaded;
}

RedisCommand RedisSession::FirstTry(const RedisScript& script, const RedisCommand& arguments) {
  RedisCommand command;
  command.reserve(arguments.size() + 3);
  if (script.library != nullptr) {
    command = {"FCALL", script.function, "0"};
  } else {
    command = {"EVALSHA", script.sha, "0"};
  }
  command.insert(command.end(), arguments.begin(), arguments.end());
  return command;
}

bool RedisSession::Unknown(const RedisValue& reply) {
  return FunctionMissing(reply) || (reply.error() && absl::StartsWith(reply.text, "NOSCRIPT"));
}

absl::StatusOr<RedisValue> RedisSession::Result(const RedisScript& script, RedisValue reply) {
  if (absl::Status status = RedisErrorStatus(reply); !status.ok()) {
    return absl::Status(status.code(), absl::StrCat(script.name, ": ", status.message()));
  }
  return reply;
}

absl::StatusOr<RedisValue> RedisSession::Eval(const RedisScript& script,
                                              const RedisCommand& arguments) {
  RedisCommand command = FirstTry(script, arguments);
  absl::StatusOr<RedisValue> reply = Run(script, command);
  if (!reply.ok()) return reply;
  Look(*reply);
  return Result(script, *std::move(reply));
}

// --- client
// ---------------------------------------------------------------------------------------------------------

RedisClient::RedisClient(RedisOptions options, Admit admit)
    : connector_(std::move(options)), admit_(std::move(admit)), random_(std::random_device()()) {}

absl::StatusOr<RedisSession> RedisClient::Acquire() {
  std::unique_lock<std::mutex> lock(mutex_);
  const auto give_up = std::chrono::steady_clock::now() +
                       absl::ToChronoMicroseconds(connector_.options().command_timeout);
  for (;;) {
    while (!idle_.empty()) {
      std::unique_ptr<RedisConnection> connection = std::move(idle_.back());
      idle_.pop_back();
      if (!connection->Stale()) return RedisSession(this, std::move(connection), epoch_);
      --open_;
    }
    if (open_ < connector_.options().max_connections) break;
    if (returned_.wait_until(lock, give_up) == std::cv_status::timeout && idle_.empty() &&
        open_ >= connector_.options().max_connections) {
      return absl::UnavailableError("all connections to Redis are in use");
    }
  }
  if (absl::Now() < next_try_) return last_error_;
  ++open_;
  uint64_t epoch = epoch_;
  lock.unlock();
  absl::StatusOr<std::unique_ptr<RedisConnection>> connection = connector_.Connect();
  if (connection.ok() && admit_) {
    if (absl::Status status = admit_(**connection); !status.ok()) connection = status;
  }
  lock.lock();
  if (connection.ok()) {
    failures_ = 0;
    next_try_ = absl::InfinitePast();
    return RedisSession(this, std::move(*connection), epoch);
  }
  --open_;
  returned_.notify_one();
  const RedisOptions& options = connector_.options();
  absl::Duration delay = options.backoff_base;
  for (int i = 0; i < failures_ && delay < options.backoff_max; ++i) delay *= 2;
  delay = std::min(delay, options.backoff_max);
  next_try_ = absl::Now() + delay * std::uniform_real_distribution<double>(0.5, 1)(random_);
  ++failures_;
  last_error_ = connection.status();
  return last_error_;
}

void RedisClient::Return(std::unique_ptr<RedisConnection> connection, uint64_t epoch, bool drop) {
  std::vector<std::unique_ptr<RedisConnection>> closed;
  std::lock_guard<std::mutex> lock(mutex_);
  if (drop && epoch == epoch_) {
    // Its siblings see the same server.
    ++epoch_;
    open_ -= static_cast<int>(idle_.size());
    closed.swap(idle_);
  }
  if (drop || epoch != epoch_) {
    --open_;
    closed.push_back(std::move(connection));
  } else {
    idle_.push_back(std::move(connection));
  }
  returned_.notify_one();
}

absl::StatusOr<RedisValue> RedisClient::Command(const RedisCommand& command, absl::Duration wait) {
  absl::StatusOr<RedisSession> session = Acquire();
  if (!session.ok()) return session.status();
  return session->Command(command, wait);
}

absl::StatusOr<std::vector<RedisValue>> RedisClient::Pipeline(
    const std::vector<RedisCommand>& commands) {
  absl::StatusOr<RedisSession> session = Acquire();
  if (!session.ok()) return session.status();
  return session->Pipeline(commands);
}

// One Eval; lives on the stack of its thread. All but script and arguments is guarded by
// calls_mutex_, the reply by whoever sends.
struct RedisClient::Call {
  const RedisScript* script;
  const RedisCommand* arguments;
  absl::StatusOr<RedisValue> reply = absl::UnknownError("not sent");
  bool taken = false;  // by a sender
  bool done = false;
  std::condition_variable wake;  // done, or there may be a place for a sender
};

absl::StatusOr<RedisValue> RedisClient::Eval(const RedisScript& script,
                                             const RedisCommand& arguments) {
  size_t bytes = 0;
  for (const std::string& argument : arguments) bytes += argument.size();
  if (bytes > kMaxSharedBytes) {
    absl::StatusOr<RedisSession> session = Acquire();
    if (!session.ok()) return session.status();
    return session->Eval(script, arguments);
  }
  Call call{.script = &script, .arguments = &arguments};
  std::unique_lock<std::mutex> lock(calls_mutex_);
  waiting_.push_back(&call);
  while (!call.done) {
    if (call.taken || senders_ == kMaxSenders) {
      call.wake.wait(lock);
      continue;
    }
    ++senders_;
    std::vector<Call*> batch;
    const auto end = waiting_.begin() + std::min(waiting_.size(), kMaxSharedCalls);
    batch.assign(waiting_.begin(), end);
    waiting_.erase(waiting_.begin(), end);
    for (Call* one : batch) one->taken = true;
    lock.unlock();
    Send(batch);
    lock.lock();
    --senders_;
    for (Call* one : batch) {
      one->done = true;
      if (one != &call) one->wake.notify_one();
    }
    if (absl::IsUnavailable(batch[0]->reply.status())) {
      // They have waited long enough: each call ends within the time of one.
      for (Call* one : waiting_) {
        one->reply = batch[0]->reply.status();
        one->taken = one->done = true;
        if (one != &call) one->wake.notify_one();
      }
      waiting_.clear();
    }
    if (!waiting_.empty()) waiting_.front()->wake.notify_one();
  }
  return std::move(call.reply);
}

void RedisClient::Send(const std::vector<Call*>& calls) {
  absl::StatusOr<RedisSession> session = Acquire();
  if (!session.ok()) {
    for (Call* call : calls) call->reply = session.status();
    return;
  }
  if (calls.size() == 1) {
    calls[0]->reply = session->Eval(*calls[0]->script, *calls[0]->arguments);
    return;
  }
  std::vector<RedisCommand> commands;
  commands.reserve(calls.size());
  for (const Call* call : calls) {
    commands.push_back(RedisSession::FirstTry(*call->script, *call->arguments));
  }
  absl::StatusOr<std::vector<RedisValue>> replies = session->Pipeline(commands);
  for (size_t i = 0; i < calls.size(); ++i) {
    if (!replies.ok()) {
      calls[i]->reply = replies.status();
    } else if (RedisSession::Unknown((*replies)[i])) {
      calls[i]->reply = session->Eval(*calls[i]->script, *calls[i]->arguments);
    } else {
      calls[i]->reply = RedisSession::Result(*calls[i]->script, std::move((*replies)[i]));
    }
  }
}

}  // namespace kandinsky
