// Latents as messages of latent_service.proto.
#ifndef KANDINSKY_COMMON_TRANSPORT_LATENT_CODEC_H_
#define KANDINSKY_COMMON_TRANSPORT_LATENT_CODEC_H_

#include "absl/status/status.h"
#include "common/latent/latent_source.h"
#include "common/latent/latent_store.h"
#include "kandinsky/worker/v1/latent_service.pb.h"

namespace kandinsky {

worker::v1::LatentHeader MakeHeader(const StoredLatents& latents);

// DATA_LOSS, naming the field, unless the header announces exactly what is expected; `byte_size` is
// that of `expected`. Allocates nothing.
absl::Status CheckHeader(const worker::v1::LatentHeader& header, const RemoteLatents& expected,
                         uint64_t byte_size);

}  // namespace kandinsky

#endif  // KANDINSKY_COMMON_TRANSPORT_LATENT_CODEC_H_
