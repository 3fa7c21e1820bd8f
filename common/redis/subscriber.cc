#include "common/redis/subscriber.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <random>

#include "absl/time/clock.h"

namespace kandinsky {
namespace {

constexpr absl::Duration kProbeInterval = absl::Seconds(5);

}  // namespace

RedisSubscriber::RedisSubscriber(RedisOptions options, std::string channel)
    : connector_(std::move(options)), channel_(std::move(channel)) {}

RedisSubscriber::~RedisSubscriber() { Stop(); }

absl::StatusOr<std::unique_ptr<RedisConnection>> RedisSubscriber::Subscribe() {
  absl::StatusOr<std::unique_ptr<RedisConnection>> connection = connector_.Connect();
  if (!connection.ok()) return connection;
  absl::StatusOr<RedisValue> reply = (*connection)->Command({"SUBSCRIBE", channel_});
  if (!reply.ok()) return reply.status();
  if (absl::Status status = RedisErrorStatus(*reply); !status.ok()) return status;
  return connection;
}

absl::Status RedisSubscriber::Start(std::function<void(std::string_view)> on_message,
                                    std::function<void()> on_gap) {
  if (thread_.joinable()) return absl::FailedPreconditionError("the subscriber runs already");
  stop_event_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (stop_event_ < 0) return absl::InternalError("eventfd failed");
  stopping_ = false;
  on_message_ = std::move(on_message);
  on_gap_ = std::move(on_gap);
  absl::StatusOr<std::unique_ptr<RedisConnection>> connection = Subscribe();
  thread_ =
      std::thread([this, first = connection.ok() ? std::move(*connection) : nullptr]() mutable {
        Loop(std::move(first));
      });
  return absl::OkStatus();
}

void RedisSubscriber::Stop() {
  if (!thread_.joinable()) return;
  stopping_ = true;
  uint64_t one = 1;
  [[maybe_unused]] ssize_t written = write(stop_event_, &one, sizeof(one));
  thread_.join();
  close(stop_event_);
  stop_event_ = -1;
}

bool RedisSubscriber::Wait(absl::Duration duration) {
  pollfd descriptor{stop_event_, POLLIN, 0};
  poll(&descriptor, 1, static_cast<int>(absl::ToInt64Milliseconds(duration)));
  return !stopping_;
}

void RedisSubscriber::Loop(std::unique_ptr<RedisConnection> connection) {
  const RedisOptions& options = connector_.options();
  std::mt19937_64 random{std::random_device()()};
  absl::Duration delay = options.backoff_base;
  while (!stopping_) {
    if (connection != nullptr) {
      Listen(*connection);
      connection.reset();
      continue;
    }
    absl::StatusOr<std::unique_ptr<RedisConnection>> next = Subscribe();
    if (next.ok()) {
      connection = std::move(*next);
      delay = options.backoff_base;
      on_gap_();
      continue;
    }
    if (!Wait(delay * std::uniform_real_distribution<double>(0.5, 1)(random))) return;
    delay = std::min(delay * 2, options.backoff_max);
  }
}

void RedisSubscriber::Listen(RedisConnection& connection) {
  absl::Time last_heard = absl::Now();
  absl::Time last_probe = last_heard;
  bool readable = false;
  while (!stopping_) {
    for (;;) {
      absl::StatusOr<std::optional<RedisValue>> reply = connection.Receive(readable);
      readable = false;
      if (!reply.ok()) return;
      if (!*reply) break;
      last_heard = absl::Now();
      const RedisValue& value = **reply;
      if (value.error()) return;
      if (value.elements.size() == 3 && value.elements[0].text == "message") {
        on_message_(value.elements[2].text);
      }
    }
    absl::Time now = absl::Now();
    if (now - std::max(last_heard, last_probe) >= kProbeInterval) {
      if (now - last_heard >= 3 * kProbeInterval) return;
      if (!connection.Send({"PING"}).ok()) return;
      last_probe = now;
    }
    pollfd descriptors[] = {{connection.fd(), POLLIN, 0}, {stop_event_, POLLIN, 0}};
    poll(descriptors, 2, static_cast<int>(absl::ToInt64Milliseconds(kProbeInterval)));
    readable = (descriptors[0].revents & (POLLIN | POLLHUP | POLLERR)) != 0;
  }
}

}  // namespace kandinsky
