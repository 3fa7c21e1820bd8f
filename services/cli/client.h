// Calls of the public API that survive a broken connection: a watch goes on after the last event, a
// download after the last byte, and a GenerateVideo as a watch and a download.
#ifndef KANDINSKY_SERVICES_CLI_CLIENT_H_
#define KANDINSKY_SERVICES_CLI_CLIENT_H_

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>

#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "kandinsky/video/v1/admin_service.grpc.pb.h"
#include "kandinsky/video/v1/video_service.grpc.pb.h"
#include "services/cli/interrupt.h"
#include "services/cli/reporter.h"
#include "services/cli/video_file.h"

namespace kandinsky::cli {

struct TlsOptions {
  bool enabled = false;
  std::string ca_file;    // empty: the system's
  std::string cert_file;  // empty: no client certificate
  std::string key_file;
  std::string server_name;
};

// INVALID_ARGUMENT or the file's error when the TLS files cannot be used. Connects on the first
// call.
absl::StatusOr<std::shared_ptr<grpc::Channel>> Connect(const std::string& server,
                                                       const TlsOptions& tls);

struct ClientOptions {
  absl::Duration rpc_timeout = absl::Seconds(20);
  // Reconnect for so long after the last sign of life of the server.
  absl::Duration retry_for = absl::Seconds(60);
  // Also try again when nothing has arrived yet, that is, when the server may never have been
  // there.
  bool retry_first = false;
  absl::Duration first_backoff = absl::Milliseconds(200);
  absl::Duration max_backoff = absl::Seconds(5);
  // When to give up altogether: DEADLINE_EXCEEDED.
  absl::Time give_up = absl::InfiniteFuture();
};

// Thread-compatible. An interrupt ends every call with CANCELLED; see interrupted().
class Client {
 public:
  Client(std::shared_ptr<grpc::Channel> channel, ClientOptions options, Interrupt& interrupt);

  video::v1::VideoService::Stub& stub() { return *video_; }
  video::v1::AdminService::Stub& admin() { return *admin_; }
  bool interrupted() const { return interrupt_.raised(); }

  // A short call: sets deadline and interruption. `call` makes it on the context it is given.
  grpc::Status Call(const std::function<grpc::Status(grpc::ClientContext&)>& call);

  // grpc.health.v1.Health/Check; `serving` is only meaningful with OK.
  grpc::Status CheckHealth(const std::string& service, bool& serving);

  struct Outcome {
    grpc::Status status;
    video::v1::Job job;  // as far as it is known
  };

  // Follows the job to its end, calling `on_event` for each event once, in order. `after_event_id`
  // advances.
  grpc::Status Watch(const std::string& job_id, std::string& after_event_id,
                     const std::function<void(const video::v1::JobEvent&)>& on_event);

  // Fills `file` from its offset and commits it. DATA_LOSS when damage came back after it was
  // fetched again.
  grpc::Status Download(const std::string& job_id, VideoFile& file, Reporter& reporter,
                        video::v1::VideoInfo& info);

  // GenerateVideo, continued by Watch and Download when its connection breaks. `open_file` is
  // called before the first byte is written. The request must have a request_id, so that a job is
  // never made twice.
  Outcome Generate(
      const video::v1::GenerateVideoRequest& request, Reporter& reporter,
      const std::function<void(const video::v1::JobEvent&)>& on_event,
      const std::function<absl::StatusOr<VideoFile*>(const video::v1::Job&)>& open_file,
      video::v1::VideoInfo& info);

 private:
  class Retry;

  std::shared_ptr<grpc::Channel> channel_;
  const ClientOptions options_;
  Interrupt& interrupt_;
  std::unique_ptr<video::v1::VideoService::Stub> video_;
  std::unique_ptr<video::v1::AdminService::Stub> admin_;
};

grpc::Status ToGrpcStatus(const absl::Status& status);

}  // namespace kandinsky::cli

#endif  // KANDINSKY_SERVICES_CLI_CLIENT_H_
