// Latents on disk: safetensors files with one tensor, "latents", and checksums in the metadata.
//
//   __metadata__: {"format": "kandinsky-latent-1", "key": …, "crc32c": 8 hex digits of the data's
//   CRC-32C,
//                  "header_crc32c": 8 hex digits over key, dtype, shape and crc32c}
//
// Any safetensors reader can open them. ReadLatentFile reads only what WriteLatentFile writes: the
// header must be, byte for byte, the one that the writer makes for what it says.
#ifndef KANDINSKY_COMMON_LATENT_LATENT_FILE_H_
#define KANDINSKY_COMMON_LATENT_LATENT_FILE_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/latent/host_tensor.h"

namespace kandinsky {

struct LatentFile {
  std::string key;
  HostTensor tensor;
  uint32_t crc32c = 0;  // of the tensor's bytes
};

// A key is also a file name: 1 to 200 characters of [A-Za-z0-9._-], not beginning with a dot.
bool IsLatentKey(const std::string& key);

// Writes `path` so that after OK it is complete and survives a crash of the machine, and without OK
// the old `path` (or none) is there: a temporary file in the same folder, fsync, rename, fsync of
// the folder. RESOURCE_EXHAUSTED: disk full; UNAVAILABLE: other I/O errors, with the system's
// reason.
absl::Status WriteLatentFile(const std::string& path, const LatentFile& file);

// NOT_FOUND: no such file; DATA_LOSS: it is damaged or not of this format; INVALID_ARGUMENT: larger
// than `max_bytes`. Nothing larger than the file is allocated.
absl::StatusOr<LatentFile> ReadLatentFile(const std::string& path, uint64_t max_bytes);

}  // namespace kandinsky

#endif  // KANDINSKY_COMMON_LATENT_LATENT_FILE_H_
