#include "common/redis/connection.h"

#include <hiredis/hiredis.h>
#include <poll.h>
#include <signal.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <mutex>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace kandinsky {
namespace {

void IgnoreSigpipe() {
  static std::once_flag once;
  std::call_once(once, [] {
    struct sigaction action;
    if (sigaction(SIGPIPE, nullptr, &action) == 0 && action.sa_handler == SIG_DFL) {
      signal(SIGPIPE, SIG_IGN);
    }
  });
}

timeval HiredisTimeout(absl::Duration duration) {
  // Zero would mean to wait without end.
  return absl::ToTimeval(std::max(duration, absl::Milliseconds(1)));
}

RedisValue ToValue(redisReply* reply) {
  RedisValue value;
  switch (reply->type) {
    case REDIS_REPLY_STRING:
    case REDIS_REPLY_STATUS:
      value.type = RedisValue::Type::kString;
      value.text.assign(reply->str, reply->len);
      break;
    case REDIS_REPLY_ERROR:
      value.type = RedisValue::Type::kError;
      value.text.assign(reply->str, reply->len);
      break;
    case REDIS_REPLY_INTEGER:
      value.type = RedisValue::Type::kInteger;
      value.integer = reply->integer;
      break;
    case REDIS_REPLY_ARRAY:
      value.type = RedisValue::Type::kArray;
      value.elements.reserve(reply->elements);
      for (size_t i = 0; i < reply->elements; ++i) {
        value.elements.push_back(ToValue(reply->element[i]));
      }
      break;
    default:
      break;
  }
  return value;
}

RedisValue TakeReply(void* reply) {
  RedisValue value = ToValue(static_cast<redisReply*>(reply));
  freeReplyObject(reply);
  return value;
}

}  // namespace

absl::Status RedisErrorStatus(const RedisValue& value) {
  if (!value.error()) return absl::OkStatus();
  struct {
    const char* prefix;
    absl::StatusCode code;
  } constexpr kCodes[] = {
      {"LOADING ", absl::StatusCode::kUnavailable},
      {"READONLY ", absl::StatusCode::kUnavailable},
      {"MASTERDOWN ", absl::StatusCode::kUnavailable},
      {"CLUSTERDOWN ", absl::StatusCode::kUnavailable},
      {"TRYAGAIN ", absl::StatusCode::kUnavailable},
      {"NOREPLICAS ", absl::StatusCode::kUnavailable},
      {"BUSY ", absl::StatusCode::kUnavailable},
      {"UNBLOCKED ", absl::StatusCode::kUnavailable},
      {"MISCONF ", absl::StatusCode::kUnavailable},
      {"OOM ", absl::StatusCode::kResourceExhausted},
      {"NOAUTH ", absl::StatusCode::kUnauthenticated},
      {"WRONGPASS ", absl::StatusCode::kUnauthenticated},
      {"NOPERM ", absl::StatusCode::kPermissionDenied},
  };
  for (const auto& row : kCodes) {
    if (absl::StartsWith(value.text, row.prefix)) {
      return absl::Status(row.code, absl::StrCat("Redis: ", value.text));
    }
  }
  return absl::InternalError(absl::StrCat("Redis: ", value.text));
}

absl::StatusOr<std::unique_ptr<RedisConnection>> RedisConnection::Connect(
    const RedisEndpoint& endpoint, const RedisCredentials& credentials,
    absl::Duration connect_timeout, absl::Duration command_timeout) {
  IgnoreSigpipe();
  std::unique_ptr<RedisConnection> connection(new RedisConnection);
  connection->endpoint_ = endpoint;
  connection->command_timeout_ = command_timeout;
  timeval timeout = HiredisTimeout(connect_timeout);
  connection->context_ =
      endpoint.host.empty()
          ? redisConnectUnixWithTimeout(endpoint.unix_path.c_str(), timeout)
          : redisConnectWithTimeout(endpoint.host.c_str(), endpoint.port, timeout);
  if (connection->context_ == nullptr) return absl::ResourceExhaustedError("out of memory");
  if (connection->context_->err != 0) return connection->Broken("connect");
  if (!endpoint.host.empty()) redisEnableKeepAlive(connection->context_);

  std::vector<RedisCommand> greeting;
  if (!credentials.password.empty()) {
    greeting.push_back(credentials.user.empty()
                           ? RedisCommand{"AUTH", credentials.password}
                           : RedisCommand{"AUTH", credentials.user, credentials.password});
  }
  if (credentials.database != 0) {
    greeting.push_back({"SELECT", absl::StrCat(credentials.database)});
  }
  for (const RedisCommand& command : greeting) {
    absl::StatusOr<RedisValue> reply = connection->Command(command);
    if (!reply.ok()) return reply.status();
    if (absl::Status status = RedisErrorStatus(*reply); !status.ok()) return status;
  }
  return connection;
}

RedisConnection::~RedisConnection() {
  if (context_ != nullptr) redisFree(context_);
}

absl::Status RedisConnection::Broken(std::string_view doing) {
  broken_ = true;
  std::string why = context_ != nullptr && context_->err != 0 ? context_->errstr : "broken";
  if (context_ != nullptr && context_->err == REDIS_ERR_IO &&
      (errno == EAGAIN || errno == EWOULDBLOCK)) {
    why = "timed out";
  }
  return absl::UnavailableError(absl::StrCat("Redis at ", endpoint_.ToString(), ": ",
                                             absl::string_view(doing.data(), doing.size()), ": ",
                                             why));
}

absl::Status RedisConnection::SetTimeout(absl::Duration timeout) {
  if (timeout == current_timeout_) return absl::OkStatus();
  if (redisSetTimeout(context_, HiredisTimeout(timeout)) != REDIS_OK)
    return Broken("set a timeout");
  current_timeout_ = timeout;
  return absl::OkStatus();
}

absl::Status RedisConnection::Append(const RedisCommand& command) {
  std::vector<const char*> data;
  std::vector<size_t> sizes;
  data.reserve(command.size());
  sizes.reserve(command.size());
  for (const std::string& argument : command) {
    data.push_back(argument.data());
    sizes.push_back(argument.size());
  }
  if (redisAppendCommandArgv(context_, static_cast<int>(command.size()), data.data(),
                             sizes.data()) != REDIS_OK) {
    return Broken("append a command");
  }
  return absl::OkStatus();
}

absl::Status RedisConnection::Flush() {
  for (int done = 0; done == 0;) {
    if (redisBufferWrite(context_, &done) != REDIS_OK) return Broken("write");
  }
  return absl::OkStatus();
}

absl::StatusOr<RedisValue> RedisConnection::ReadReply() {
  void* reply = nullptr;
  if (redisGetReply(context_, &reply) != REDIS_OK || reply == nullptr) return Broken("read");
  return TakeReply(reply);
}

absl::StatusOr<RedisValue> RedisConnection::Command(const RedisCommand& command,
                                                    absl::Duration wait) {
  if (broken_) return Broken("command");
  if (absl::Status status = SetTimeout(command_timeout_ + wait); !status.ok()) return status;
  if (absl::Status status = Append(command); !status.ok()) return status;
  return ReadReply();
}

absl::StatusOr<std::vector<RedisValue>> RedisConnection::Pipeline(
    const std::vector<RedisCommand>& commands, absl::Duration wait) {
  if (broken_) return Broken("pipeline");
  if (absl::Status status = SetTimeout(command_timeout_ + wait); !status.ok()) return status;
  for (const RedisCommand& command : commands) {
    if (absl::Status status = Append(command); !status.ok()) return status;
  }
  std::vector<RedisValue> replies;
  replies.reserve(commands.size());
  for (size_t i = 0; i < commands.size(); ++i) {
    absl::StatusOr<RedisValue> reply = ReadReply();
    if (!reply.ok()) return reply.status();
    replies.push_back(std::move(*reply));
  }
  return replies;
}

absl::Status RedisConnection::Send(const RedisCommand& command) {
  if (broken_) return Broken("send");
  if (absl::Status status = SetTimeout(command_timeout_); !status.ok()) return status;
  if (absl::Status status = Append(command); !status.ok()) return status;
  return Flush();
}

absl::StatusOr<std::optional<RedisValue>> RedisConnection::Receive(bool readable) {
  if (broken_) return Broken("receive");
  for (;;) {
    void* reply = nullptr;
    if (redisGetReplyFromReader(context_, &reply) != REDIS_OK) return Broken("parse");
    if (reply != nullptr) return TakeReply(reply);
    if (!readable) return std::nullopt;
    readable = false;
    if (redisBufferRead(context_) != REDIS_OK) return Broken("read");
  }
}

int RedisConnection::fd() const { return context_->fd; }

bool RedisConnection::Stale() const {
  pollfd descriptor{context_->fd, POLLIN, 0};
  return broken_ || poll(&descriptor, 1, 0) != 0;
}

}  // namespace kandinsky
