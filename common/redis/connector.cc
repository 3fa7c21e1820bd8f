#include "common/redis/connector.h"

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace kandinsky {

absl::StatusOr<std::unique_ptr<RedisConnection>> RedisConnector::ConnectTo(
    const RedisEndpoint& endpoint) {
  return RedisConnection::Connect(endpoint, {options_.user, options_.password, options_.database},
                                  options_.connect_timeout, options_.command_timeout);
}

absl::StatusOr<RedisEndpoint> RedisConnector::AskSentinel(const RedisEndpoint& sentinel) {
  absl::StatusOr<std::unique_ptr<RedisConnection>> connection =
      RedisConnection::Connect(sentinel, {options_.sentinel_user, options_.sentinel_password, 0},
                               options_.connect_timeout, options_.command_timeout);
  if (!connection.ok()) return connection.status();
  absl::StatusOr<RedisValue> reply =
      (*connection)->Command({"SENTINEL", "GET-MASTER-ADDR-BY-NAME", options_.master_name});
  if (!reply.ok()) return reply.status();
  if (absl::Status status = RedisErrorStatus(*reply); !status.ok()) return status;
  RedisEndpoint master;
  if (reply->elements.size() != 2 || !absl::SimpleAtoi(reply->elements[1].text, &master.port)) {
    return absl::UnavailableError(absl::StrCat("Sentinel ", sentinel.ToString(),
                                               " knows no master named ", options_.master_name));
  }
  master.host = reply->elements[0].text;
  return master;
}

absl::StatusOr<std::unique_ptr<RedisConnection>> RedisConnector::Connect() {
  if (options_.endpoints.empty()) return absl::InvalidArgumentError("no Redis address");
  if (options_.master_name.empty()) return ConnectTo(options_.endpoints[0]);
  absl::Status last = absl::OkStatus();
  size_t count = options_.endpoints.size();
  size_t first = first_sentinel_.load();
  for (size_t i = 0; i < count; ++i) {
    size_t index = (first + i) % count;
    absl::StatusOr<RedisEndpoint> master = AskSentinel(options_.endpoints[index]);
    if (!master.ok()) {
      last = master.status();
      continue;
    }
    absl::StatusOr<std::unique_ptr<RedisConnection>> connection = ConnectTo(*master);
    if (!connection.ok()) {
      last = connection.status();
      continue;
    }
    absl::StatusOr<RedisValue> role = (*connection)->Command({"ROLE"});
    if (!role.ok()) {
      last = role.status();
      continue;
    }
    if (role->elements.empty() || role->elements[0].text != "master") {
      last = absl::UnavailableError(
          absl::StrCat("Redis at ", master->ToString(), " is not the master any more"));
      continue;
    }
    first_sentinel_ = index;
    return connection;
  }
  // Whatever went wrong, another try may find a master.
  return absl::UnavailableError(
      absl::StrCat("no master named ", options_.master_name, ": ", last.message()));
}

}  // namespace kandinsky
