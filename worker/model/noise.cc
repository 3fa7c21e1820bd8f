#include "worker/model/noise.h"

#include <array>
#include <cmath>
#include <numbers>

#include "worker/model/error.h"

namespace kandinsky::model {
namespace {

// Philox4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", SC
// 2011).
std::array<uint32_t, 4> Philox(std::array<uint32_t, 4> counter, uint64_t seed) {
  constexpr uint64_t kMultiplier0 = 0xD2511F53, kMultiplier1 = 0xCD9E8D57;
  constexpr uint32_t kWeyl0 = 0x9E3779B9, kWeyl1 = 0xBB67AE85;
  uint32_t key0 = static_cast<uint32_t>(seed);
  uint32_t key1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = kMultiplier0 * counter[0];
    const uint64_t product1 = kMultiplier1 * counter[2];
    counter = {
        static_cast<uint32_t>(product1 >> 32) ^ counter[1] ^ key0, static_cast<uint32_t>(product1),
        static_cast<uint32_t>(product0 >> 32) ^ counter[3] ^ key1, static_cast<uint32_t>(product0)};
    key0 += kWeyl0;
    key1 += kWeyl1;
  }
  return counter;
}

// Two independent standard normals. Computed in double and rounded once, so that a last-bit
// difference between two math libraries does not reach the result. |z| <= 6.8.
void BoxMuller(uint32_t a, uint32_t b, float* out) {
  const double radius = std::sqrt(-2.0 * std::log((a + 0.5) * 0x1p-32));
  const double angle = 2.0 * std::numbers::pi * (b * 0x1p-32);
  out[0] = static_cast<float>(radius * std::cos(angle));
  out[1] = static_cast<float>(radius * std::sin(angle));
}

}  // namespace

at::Tensor SeededNoise::Draw(const NoiseKey& key, at::IntArrayRef shape) const {
  at::Tensor noise = at::empty(shape, at::kFloat);
  const int64_t count = noise.numel();
  if (count > (int64_t{1} << 34) || key.pass < 0 || key.pass > 0xFFFF) {
    throw ModelError(ModelError::Kind::kInvalidArgument,
                     "noise: at most 2^34 elements and passes 0..65535 fit into one stream");
  }
  const uint32_t place = static_cast<uint32_t>(key.stage) << 16 | static_cast<uint32_t>(key.pass);
  const auto step = static_cast<uint64_t>(key.step);
  float* out = noise.mutable_data_ptr<float>();
  // Element i depends on i / 4 only, never on the shape or on how the work is divided.
  for (int64_t i = 0; i < count; i += 4) {
    const std::array<uint32_t, 4> bits =
        Philox({static_cast<uint32_t>(i / 4), place, static_cast<uint32_t>(step),
                static_cast<uint32_t>(step >> 32)},
               seed_);
    float block[4];
    BoxMuller(bits[0], bits[1], block);
    BoxMuller(bits[2], bits[3], block + 2);
    for (int64_t j = 0; j < 4 && i + j < count; ++j) out[i + j] = block[j];
  }
  return noise;
}

}  // namespace kandinsky::model
