#include "tests/support/redis_server.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/redis/connection.h"

namespace kandinsky {

TemporaryDirectory::TemporaryDirectory() {
  const char* base = getenv("TMPDIR");
  std::string pattern = absl::StrCat(base != nullptr ? base : "/tmp", "/kandinsky-test-XXXXXX");
  if (mkdtemp(pattern.data()) != nullptr) path_ = pattern;
}

TemporaryDirectory::~TemporaryDirectory() {
  std::error_code ignored;
  if (!path_.empty()) std::filesystem::remove_all(path_, ignored);
}

int FreePort() {
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(address);
  int port = 0;
  if (bind(fd, reinterpret_cast<sockaddr*>(&address), size) == 0 &&
      getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size) == 0) {
    port = ntohs(address.sin_port);
  }
  close(fd);
  return port;
}

absl::StatusOr<std::unique_ptr<RedisServer>> RedisServer::Start(Options options) {
  std::unique_ptr<RedisServer> server(new RedisServer(std::move(options)));
  bool tcp = server->options_.tcp || !server->options_.sentinel.empty();
  if (tcp) server->port_ = FreePort();
  if (absl::Status status = server->Launch(); !status.ok()) return status;
  return server;
}

RedisServer::~RedisServer() { Kill(); }

std::string RedisServer::address() const {
  if (port_ != 0) return absl::StrCat("redis://127.0.0.1:", port_);
  return absl::StrCat("unix://", directory_.path(), "/redis.sock");
}

absl::Status RedisServer::Launch() {
  const std::string& dir = directory_.path();
  if (dir.empty()) return absl::InternalError("no temporary directory");
  std::vector<std::string> arguments{"redis-server"};
  if (!options_.sentinel.empty()) {
    const std::string config = dir + "/sentinel.conf";
    if (!std::filesystem::exists(config)) {
      std::ofstream out(config);
      out << "port " << port_ << "\nbind 127.0.0.1\ndir " << dir << "\n";
      for (const std::string& line : options_.sentinel) out << line << "\n";
    }
    arguments.insert(arguments.end(), {config, "--sentinel"});
  } else {
    arguments.insert(
        arguments.end(),
        {"--port", std::to_string(port_), "--bind", "127.0.0.1", "--dir", dir, "--save", "",
         "--unixsocket", dir + "/redis.sock", "--appendonly", options_.append_only ? "yes" : "no",
         "--appendfsync", options_.append_only ? "always" : "everysec"});
    arguments.insert(arguments.end(), options_.settings.begin(), options_.settings.end());
  }
  std::vector<char*> argv;
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  const std::string log = dir + "/log";
  const pid_t parent = getpid();
  pid_ = fork();
  if (pid_ < 0) return absl::InternalError("fork failed");
  if (pid_ == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) _exit(1);
    int fd = open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0644);
    if (fd >= 0) {
      dup2(fd, STDOUT_FILENO);
      dup2(fd, STDERR_FILENO);
    }
    execvp(argv[0], argv.data());
    _exit(127);
  }
  RedisEndpoint endpoint;
  if (port_ != 0) {
    endpoint.host = "127.0.0.1";
    endpoint.port = port_;
  } else {
    endpoint.unix_path = dir + "/redis.sock";
  }
  absl::Status last = absl::OkStatus();
  for (absl::Time end = absl::Now() + absl::Seconds(20); absl::Now() < end;) {
    int status = 0;
    if (waitpid(pid_, &status, WNOHANG) == pid_) {
      pid_ = -1;
      std::ifstream in(log);
      std::stringstream text;
      text << in.rdbuf();
      return absl::InternalError(absl::StrCat("redis-server ended: ", text.str()));
    }
    auto connection = RedisConnection::Connect(endpoint, {}, absl::Seconds(1), absl::Seconds(1));
    last = connection.status();
    if (connection.ok()) {
      absl::StatusOr<RedisValue> pong = (*connection)->Command({"PING"});
      // With a password set, that it asks for it is answer enough.
      if (pong.ok() && (pong->text == "PONG" || pong->text.rfind("NOAUTH", 0) == 0)) {
        return absl::OkStatus();
      }
    }
    absl::SleepFor(absl::Milliseconds(5));
  }
  return absl::DeadlineExceededError(
      absl::StrCat("redis-server does not answer: ", last.message()));
}

void RedisServer::Kill() {
  if (pid_ <= 0) return;
  kill(pid_, SIGKILL);
  waitpid(pid_, nullptr, 0);
  pid_ = -1;
}

void RedisServer::Stop() {
  if (pid_ <= 0) return;
  kill(pid_, SIGTERM);
  waitpid(pid_, nullptr, 0);
  pid_ = -1;
}

void RedisServer::Pause() {
  if (pid_ > 0) kill(pid_, SIGSTOP);
}

void RedisServer::Continue() {
  if (pid_ > 0) kill(pid_, SIGCONT);
}

absl::Status RedisServer::StartAgain() {
  if (pid_ > 0) return absl::FailedPreconditionError("it runs");
  return Launch();
}

}  // namespace kandinsky
