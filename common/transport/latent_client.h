// Pulls latents from a producer's LatentService: checked before memory is taken, checked chunk by
// chunk, resumed where a stream broke.
#ifndef KANDINSKY_COMMON_TRANSPORT_LATENT_CLIENT_H_
#define KANDINSKY_COMMON_TRANSPORT_LATENT_CLIENT_H_

#include <grpcpp/grpcpp.h>

#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/latent/latent_source.h"

namespace kandinsky {

// Thread-safe.
class LatentClient : public LatentSource {
 public:
  struct Options {
    uint64_t max_bytes = uint64_t{1} << 30;  // larger tensors are refused before anything is sent
    int max_rank = 4;
    // A stream that brings nothing for so long is given up and tried again.
    absl::Duration progress_timeout = absl::Seconds(10);
    // Tries without a new byte before Fetch gives up, and the pause between them: doubled each time
    // from `backoff` to `max_backoff`, with jitter.
    int max_attempts = 6;
    absl::Duration backoff = absl::Milliseconds(100);
    absl::Duration max_backoff = absl::Seconds(5);
    // Fetch as a whole, however much progress it makes.
    absl::Duration timeout = absl::Minutes(10);
    int max_channels = 64;
    // Told about every Fetch that brought bytes. May be called from any thread.
    std::function<void(uint64_t bytes, double seconds)> on_received;
    // Makes the channel of an address; empty: an insecure one. For tests.
    std::function<std::shared_ptr<grpc::Channel>(const std::string& address)> make_channel;
  };

  explicit LatentClient(Options options);
  // Waits for releases that are under way (at most their deadline of 2 s).
  ~LatentClient() override;
  LatentClient(const LatentClient&) = delete;
  LatentClient& operator=(const LatentClient&) = delete;

  absl::StatusOr<HostTensor> Fetch(const RemoteLatents& latents,
                                   const std::function<bool()>& cancelled) override;
  void Release(const RemoteLatents& latents) override;

 private:
  class Releases;

  std::shared_ptr<grpc::Channel> ChannelTo(const std::string& address);
  void Forget(const std::string& address);

  const Options options_;
  std::mutex mutex_;
  // Most recently used first; guarded by mutex_.
  std::list<std::pair<std::string, std::shared_ptr<grpc::Channel>>> channels_;
  const std::unique_ptr<Releases> releases_;  // last: waits for calls on those channels
};

}  // namespace kandinsky

#endif  // KANDINSKY_COMMON_TRANSPORT_LATENT_CLIENT_H_
