// Real Redis servers for tests and benchmarks: in a temporary directory of their own, gone with the
// object.
//
// Thread rule: one thread at a time. The processes also die with the process that started them.
#ifndef KANDINSKY_TESTS_SUPPORT_REDIS_SERVER_H_
#define KANDINSKY_TESTS_SUPPORT_REDIS_SERVER_H_

#include <sys/types.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace kandinsky {

// A new directory below $TMPDIR or /tmp; removed with its content.
class TemporaryDirectory {
 public:
  TemporaryDirectory();
  ~TemporaryDirectory();
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

// A TCP port of 127.0.0.1 that nobody listens on now.
int FreePort();

class RedisServer {
 public:
  struct Options {
    // Write every command to disk before it is answered, so that kill -9 loses nothing.
    bool append_only = false;
    bool tcp = false;  // also listen on port()
    // More settings: {"--maxmemory", "10mb", …}.
    std::vector<std::string> settings;
    // Not a server but a Sentinel: these lines are its configuration besides port and directory.
    std::vector<std::string> sentinel;
  };

  // Started and answering, or an error.
  static absl::StatusOr<std::unique_ptr<RedisServer>> Start(Options options);
  static absl::StatusOr<std::unique_ptr<RedisServer>> Start() { return Start(Options()); }
  ~RedisServer();

  void Kill();                // kill -9
  void Stop();                // SIGTERM, and waits for it
  void Pause();               // SIGSTOP
  void Continue();            // SIGCONT
  absl::Status StartAgain();  // after Kill or Stop, on the same data and addresses

  // "unix:///…", or "redis://127.0.0.1:port" with tcp.
  std::string address() const;
  int port() const { return port_; }
  pid_t pid() const { return pid_; }

 private:
  explicit RedisServer(Options options) : options_(std::move(options)) {}
  absl::Status Launch();

  const Options options_;
  TemporaryDirectory directory_;
  int port_ = 0;
  pid_t pid_ = -1;
};

}  // namespace kandinsky

#endif  // KANDINSKY_TESTS_SUPPORT_REDIS_SERVER_H_
