// The consumer's side of a hand-over: pull the latents of the stage before from whoever made them.
// Implementations: common/transport/latent_client.h (gRPC); tests have their own.
#ifndef KANDINSKY_COMMON_LATENT_LATENT_SOURCE_H_
#define KANDINSKY_COMMON_LATENT_LATENT_SOURCE_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/latent/host_tensor.h"

namespace kandinsky {

// Latents at a producer, and what they must be.
struct RemoteLatents {
  std::string address;  // of the producer's LatentService, host:port
  std::string key;
  DataType dtype = DataType::kFloat32;
  std::vector<int64_t> shape;  // [T, C, h, w]
  uint32_t crc32c = 0;         // of all bytes
};

// Thread-safe.
class LatentSource {
 public:
  virtual ~LatentSource() = default;

  // Blocks until all bytes are here and are what `latents` says. `cancelled` is asked often, from
  // the calling thread; true ends the call with CANCELLED.
  //   NOT_FOUND         the producer has them no longer
  //   UNAVAILABLE       the producer could not be reached, or the stream broke, again and again
  //   DATA_LOSS         the producer has something else, or damaged bytes, again and again
  //   INVALID_ARGUMENT  `latents` itself makes no sense or is larger than allowed
  virtual absl::StatusOr<HostTensor> Fetch(const RemoteLatents& latents,
                                           const std::function<bool()>& cancelled) = 0;

  // Tells the producer that they are not needed any more. Best effort: does not wait for the
  // producer and does not fail; what is not released goes when its time to live ends.
  virtual void Release(const RemoteLatents& latents) = 0;
};

}  // namespace kandinsky

#endif  // KANDINSKY_COMMON_LATENT_LATENT_SOURCE_H_
