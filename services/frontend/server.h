// The gRPC server of a frontend: VideoService, health, reflection and, if asked for, AdminService;
// and what runs beside the calls: timers, the queue's housekeeping, health per stage, metrics.
//
// Health (grpc.health.v1) knows "" and "kandinsky.video.v1.VideoService": SERVING while the store
// answers and the server does not drain; and "kandinsky.stage.keyframes", ".interpolation",
// ".decoding": SERVING while at least one worker of the stage is READY.
#ifndef KANDINSKY_SERVICES_FRONTEND_SERVER_H_
#define KANDINSKY_SERVICES_FRONTEND_SERVER_H_

#include <grpcpp/channel.h>

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/metrics/metrics.h"
#include "services/frontend/frontend.h"

namespace kandinsky {

struct TlsFiles {
  std::string certificate;  // PEM chain; empty: no TLS
  std::string key;          // PEM
  std::string client_ca;    // PEM; clients must present a certificate of it. Empty: any client
};

struct ServerOptions {
  std::string listen = "127.0.0.1:50051";  // port 0 picks one; empty: in-process clients only
  TlsFiles tls;
  bool admin = false;
  // --- limits of the server itself
  int max_request_bytes = 256 << 10;  // the largest valid request has about 17 KiB
  int max_streams_per_connection = 10000;
  int64_t max_memory_bytes = int64_t{2} << 30;  // of gRPC's buffers
  absl::Duration keepalive_time = absl::Seconds(60);
  absl::Duration keepalive_timeout = absl::Seconds(20);
  // --- what runs beside the calls
  absl::Duration tick_period = absl::Seconds(1);
  absl::Duration housekeeping_period = absl::Seconds(1);
  // Asks the store for settings that endanger jobs (see FrontendMetrics::SetStoreWarnings); may be
  // null. Blocks.
  std::function<absl::StatusOr<std::map<std::string, bool>>()> check_store;
  absl::Duration check_store_period = absl::Seconds(30);
};

class FrontendServer {
 public:
  // Serves when it returns. UNAVAILABLE when the address cannot be bound, INVALID_ARGUMENT for bad
  // TLS files. The parts of `engine` and `metrics` must outlive the server.
  static absl::StatusOr<std::unique_ptr<FrontendServer>> Start(const ServerOptions& options,
                                                               const Engine& engine,
                                                               ModelCatalog catalog,
                                                               FrontendSettings settings,
                                                               Metrics& metrics);
  // Shutdown(0) if that was not done.
  ~FrontendServer();
  FrontendServer(const FrontendServer&) = delete;
  FrontendServer& operator=(const FrontendServer&) = delete;

  // The address with the port in use.
  const std::string& address() const;
  std::shared_ptr<grpc::Channel> InProcessChannel();

  // Drains and stops, in this order:
  //   1. health says NOT_SERVING; no new stream is opened; watch and generate streams end with
  //   SHUTTING_DOWN;
  //   2. downloads go on for at most `grace`, or until `hurry` (may be null) is true;
  //   3. they end, too; unary calls under way are answered;
  //   4. timers, event hub and pool stop.
  // Blocks. Call once.
  void Shutdown(absl::Duration grace, const std::atomic<bool>* hurry = nullptr);

 private:
  class Impl;
  explicit FrontendServer(std::unique_ptr<Impl> impl);
  const std::unique_ptr<Impl> impl_;
};

}  // namespace kandinsky

#endif  // KANDINSKY_SERVICES_FRONTEND_SERVER_H_
