// The gRPC server of a worker: LatentService, grpc.health.v1 (overall and by stage name) and the
// server's metrics.
#ifndef KANDINSKY_COMMON_TRANSPORT_WORKER_SERVER_H_
#define KANDINSKY_COMMON_TRANSPORT_WORKER_SERVER_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/latent/latent_store.h"
#include "common/metrics/metrics.h"

namespace kandinsky {

// Thread-safe.
class WorkerServer {
 public:
  struct Options {
    std::string listen;       // host:port; port 0 picks one
    std::string health_name;  // health service name besides "", for example "keyframes"
    std::function<void(uint64_t bytes, double seconds)> on_latents_sent;
  };

  // Starts serving, NOT_SERVING in its health. `store` and `metrics` must outlive it. UNAVAILABLE
  // when the address cannot be bound.
  static absl::StatusOr<std::unique_ptr<WorkerServer>> Start(const Options& options,
                                                             LatentStore* store, Metrics* metrics);
  // Shuts down at once if Shutdown was not called.
  ~WorkerServer();
  WorkerServer(const WorkerServer&) = delete;
  WorkerServer& operator=(const WorkerServer&) = delete;

  int port() const { return port_; }
  void SetServing(bool serving);

  // Refuses new calls, lets transfers that are under way end within `grace`, then breaks them.
  // Blocks.
  void Shutdown(absl::Duration grace);

 private:
  struct Impl;
  explicit WorkerServer(std::unique_ptr<Impl> impl);

  const std::unique_ptr<Impl> impl_;
  int port_ = 0;
};

}  // namespace kandinsky

#endif  // KANDINSKY_COMMON_TRANSPORT_WORKER_SERVER_H_
