// SHA-256 (FIPS 180-4), to name weight files in results.
#ifndef KANDINSKY_TRAINING_EVAL_SHA256_H_
#define KANDINSKY_TRAINING_EVAL_SHA256_H_

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

namespace kandinsky::training {

// Of a stream of bytes. Thread-compatible.
class Sha256 {
 public:
  void Add(std::string_view bytes);
  // 64 hexadecimal digits; nothing may be added afterwards.
  std::string Finish();

 private:
  void Block(const uint8_t* block);  // 64 bytes

  std::array<uint32_t, 8> state_ = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                    0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  std::string rest_;    // less than a block
  uint64_t bytes_ = 0;  // added
};

// Throws ModelError::kNotFound for a file that cannot be read.
std::string Sha256OfFile(const std::string& path);

}  // namespace kandinsky::training

#endif  // KANDINSKY_TRAINING_EVAL_SHA256_H_
