// The producer's side of a hand-over: serves a LatentStore by kandinsky.worker.v1.LatentService.
#ifndef KANDINSKY_COMMON_TRANSPORT_LATENT_SERVICE_H_
#define KANDINSKY_COMMON_TRANSPORT_LATENT_SERVICE_H_

#include <grpcpp/grpcpp.h>

#include <cstdint>
#include <functional>

#include "common/latent/latent_store.h"
#include "kandinsky/worker/v1/latent_service.grpc.pb.h"

namespace kandinsky {

// Most bytes of one chunk.
inline constexpr uint64_t kMaxLatentChunkBytes = uint64_t{1} << 20;

// Callback service; thread-safe. Codes: NOT_FOUND, OUT_OF_RANGE (offset), DATA_LOSS (the stored
// bytes were damaged), UNAVAILABLE (the disk cannot be read now).
class LatentService final : public worker::v1::LatentService::CallbackService {
 public:
  struct Options {
    uint64_t chunk_bytes = uint64_t{256} << 10;  // at most kMaxLatentChunkBytes
    // Told about every fetch that ended: bytes that were sent and seconds since its begin. May be
    // called from any thread.
    std::function<void(uint64_t bytes, double seconds)> on_sent;
  };

  // `store` must outlive the server.
  LatentService(LatentStore* store, Options options);

  grpc::ServerWriteReactor<worker::v1::FetchLatentsResponse>* FetchLatents(
      grpc::CallbackServerContext* context,
      const worker::v1::FetchLatentsRequest* request) override;
  grpc::ServerUnaryReactor* ReleaseLatents(grpc::CallbackServerContext* context,
                                           const worker::v1::ReleaseLatentsRequest* request,
                                           worker::v1::ReleaseLatentsResponse* response) override;

 private:
  LatentStore* const store_;
  const Options options_;
};

}  // namespace kandinsky

#endif  // KANDINSKY_COMMON_TRANSPORT_LATENT_SERVICE_H_
