#include "common/redis/options.h"

#include <optional>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"

namespace kandinsky {
namespace {

constexpr int kRedisPort = 6379;
constexpr int kSentinelPort = 26379;

absl::Status Bad(std::string_view what) {
  return absl::InvalidArgumentError(
      absl::StrCat("Redis address: ", absl::string_view(what.data(), what.size())));
}

bool Consume(std::string_view* text, std::string_view prefix) {
  if (text->substr(0, prefix.size()) != prefix) return false;
  text->remove_prefix(prefix.size());
  return true;
}

std::optional<std::string> Unescape(std::string_view text) {
  auto digit = [](char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
  };
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%') {
      out.push_back(text[i]);
      continue;
    }
    if (i + 2 >= text.size() || digit(text[i + 1]) < 0 || digit(text[i + 2]) < 0) {
      return std::nullopt;
    }
    out.push_back(static_cast<char>(digit(text[i + 1]) * 16 + digit(text[i + 2])));
    i += 2;
  }
  return out;
}

bool ParseNumber(std::string_view text, int min, int max, int* value) {
  return text.find_first_not_of("0123456789") == std::string_view::npos &&
         absl::SimpleAtoi(absl::string_view(text.data(), text.size()), value) && *value >= min &&
         *value <= max;
}

// Takes "[[user]:password@]" off the front.
absl::Status ParseCredentials(std::string_view* text, RedisOptions* options) {
  size_t at = text->rfind('@');
  if (at == std::string_view::npos) return absl::OkStatus();
  std::string_view credentials = text->substr(0, at);
  text->remove_prefix(at + 1);
  size_t colon = credentials.find(':');
  if (colon == std::string_view::npos) return Bad("credentials must be user:password");
  std::optional<std::string> user = Unescape(credentials.substr(0, colon));
  std::optional<std::string> password = Unescape(credentials.substr(colon + 1));
  if (!user || !password) return Bad("bad %-escape in the credentials");
  options->user = *user;
  options->password = *password;
  return absl::OkStatus();
}

absl::StatusOr<RedisEndpoint> ParseEndpoint(std::string_view text, int default_port) {
  RedisEndpoint endpoint;
  endpoint.port = default_port;
  std::string_view rest;
  if (Consume(&text, "[")) {
    size_t end = text.find(']');
    if (end == std::string_view::npos) return Bad("missing ]");
    endpoint.host = text.substr(0, end);
    rest = text.substr(end + 1);
  } else {
    size_t colon = text.find(':');
    endpoint.host = text.substr(0, colon);
    rest = colon == std::string_view::npos ? std::string_view() : text.substr(colon);
  }
  if (endpoint.host.empty()) return Bad("no host");
  if (!rest.empty() && (!Consume(&rest, ":") || !ParseNumber(rest, 1, 65535, &endpoint.port))) {
    return Bad("bad port");
  }
  return endpoint;
}

// Takes "?db=n" off the back.
absl::Status ParseQuery(std::string_view* text, RedisOptions* options) {
  size_t mark = text->find('?');
  if (mark == std::string_view::npos) return absl::OkStatus();
  std::string_view query = text->substr(mark + 1);
  *text = text->substr(0, mark);
  if (!Consume(&query, "db=") || query.empty() ||
      !ParseNumber(query, 0, 1 << 20, &options->database)) {
    return Bad("the only parameter is ?db=number");
  }
  return absl::OkStatus();
}

}  // namespace

std::string RedisEndpoint::ToString() const {
  if (host.empty()) return unix_path;
  return host.find(':') == std::string::npos ? absl::StrCat(host, ":", port)
                                             : absl::StrCat("[", host, "]:", port);
}

absl::StatusOr<RedisOptions> RedisOptions::Parse(std::string_view address) {
  RedisOptions options;
  std::string_view text = address;
  if (Consume(&text, "unix://")) {
    if (absl::Status status = ParseQuery(&text, &options); !status.ok()) return status;
    if (text.empty() || text[0] != '/') return Bad("unix:// needs an absolute path");
    RedisEndpoint endpoint;
    endpoint.unix_path = text;
    options.endpoints.push_back(endpoint);
    return options;
  }
  bool sentinel = Consume(&text, "sentinel://");
  if (!sentinel && !Consume(&text, "redis://")) {
    return Bad("must begin with redis://, unix:// or sentinel://");
  }
  if (absl::Status status = ParseCredentials(&text, &options); !status.ok()) return status;
  if (absl::Status status = ParseQuery(&text, &options); !status.ok()) return status;
  size_t slash = text.find('/');
  std::string_view hosts = text.substr(0, slash);
  std::string_view tail = slash == std::string_view::npos ? "" : text.substr(slash + 1);
  if (sentinel) {
    if (tail.empty() || tail.find('/') != std::string_view::npos) return Bad("no master name");
    options.master_name = tail;
    for (size_t begin = 0; begin <= hosts.size();) {
      size_t end = std::min(hosts.find(',', begin), hosts.size());
      absl::StatusOr<RedisEndpoint> endpoint =
          ParseEndpoint(hosts.substr(begin, end - begin), kSentinelPort);
      if (!endpoint.ok()) return endpoint.status();
      options.endpoints.push_back(*endpoint);
      begin = end + 1;
    }
    return options;
  }
  if (!tail.empty() && !ParseNumber(tail, 0, 1 << 20, &options.database)) {
    return Bad("bad database number");
  }
  absl::StatusOr<RedisEndpoint> endpoint = ParseEndpoint(hosts, kRedisPort);
  if (!endpoint.ok()) return endpoint.status();
  options.endpoints.push_back(*endpoint);
  return options;
}

std::string RedisOptions::ToString() const {
  std::string hosts = absl::StrJoin(endpoints, ",", [](std::string* out, const RedisEndpoint& e) {
    absl::StrAppend(out, e.ToString());
  });
  if (!master_name.empty()) {
    return absl::StrCat("sentinel://", hosts, "/", master_name, "?db=", database);
  }
  if (!endpoints.empty() && endpoints[0].host.empty()) {
    return absl::StrCat("unix://", hosts, "?db=", database);
  }
  return absl::StrCat("redis://", hosts, "/", database);
}

}  // namespace kandinsky
