// CRC-32C (Castagnoli, reflected polynomial 0x82F63B78), as in iSCSI (RFC 3720) and gRPC object
// stores.
#ifndef KANDINSKY_COMMON_BASE_CRC32C_H_
#define KANDINSKY_COMMON_BASE_CRC32C_H_

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace kandinsky {

// CRC of the concatenation of what `crc` was computed over and `size` bytes at `data`. The CRC of
// nothing is 0. Uses the processor's instruction where there is one. Thread-safe.
uint32_t ExtendCrc32c(uint32_t crc, const void* data, size_t size);

inline uint32_t Crc32c(std::string_view data) { return ExtendCrc32c(0, data.data(), data.size()); }

namespace internal {
// The table-driven form, for tests and processors without the instruction.
uint32_t ExtendCrc32cPortable(uint32_t crc, const void* data, size_t size);
}  // namespace internal

}  // namespace kandinsky

#endif  // KANDINSKY_COMMON_BASE_CRC32C_H_
