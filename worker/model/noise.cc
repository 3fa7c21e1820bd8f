#include "worker/model/noise.h"

#include <array>
#include <cmath>
#include <numbers>
#include <utility>

#include "worker/model/error.h"

namespace kandinsky::model {
namespace {

constexpr int kRounds = 10;
constexpr uint64_t kMultiplier0 = 0xD2511F53, kMultiplier1 = 0xCD9E8D57;
constexpr uint32_t kWeyl0 = 0x9E3779B9, kWeyl1 = 0xBB67AE85;

// Philox4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", SC
// 2011).
std::array<uint32_t, 4> Philox(std::array<uint32_t, 4> counter, uint64_t seed) {
  uint32_t key0 = static_cast<uint32_t>(seed);
  uint32_t key1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < kRounds; ++round) {
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

// Philox and BoxMuller with operations on tensors: the same stream on any device. Numbers below
// 2^32 are held in int64, whose products wrap around without losing bits.
class DeviceStream {
 public:
  DeviceStream(at::Device device, uint64_t seed)
      : options_(at::TensorOptions(at::kLong).device(device)), seed_(seed) {}

  // counter: element i / 4, place, low and high half of the step -> float32 [count].
  at::Tensor Draw(int64_t count, uint32_t place, uint64_t step) const {
    const auto constant = [&](uint64_t value) {
      return at::full({1}, static_cast<int64_t>(value), options_);
    };
    std::array<at::Tensor, 4> bits = {at::arange((count + 3) / 4, options_), constant(place),
                                      constant(Low(step)), constant(step >> 32)};
    Philox(bits);
    const auto [a, b] = BoxMuller(bits[0], bits[1]);
    const auto [c, d] = BoxMuller(bits[2], bits[3]);
    return at::stack({a, b, c, d}, 1).flatten().narrow(0, 0, count);
  }

 private:
  static uint64_t Low(uint64_t value) { return value & 0xFFFFFFFF; }
  static at::Tensor Low(const at::Tensor& value) {
    return value.bitwise_and(at::Scalar(int64_t{0xFFFFFFFF}));
  }
  static at::Tensor High(const at::Tensor& value) { return Low(value.bitwise_right_shift(32)); }

  void Philox(std::array<at::Tensor, 4>& counter) const {
    uint64_t key0 = Low(seed_), key1 = seed_ >> 32;
    for (int round = 0; round < kRounds; ++round) {
      const at::Tensor product0 = counter[0] * static_cast<int64_t>(kMultiplier0);
      const at::Tensor product1 = counter[2] * static_cast<int64_t>(kMultiplier1);
      counter = {High(product1).bitwise_xor(counter[1]).bitwise_xor(static_cast<int64_t>(key0)),
                 Low(product1),
                 High(product0).bitwise_xor(counter[3]).bitwise_xor(static_cast<int64_t>(key1)),
                 Low(product0)};
      key0 = Low(key0 + kWeyl0);
      key1 = Low(key1 + kWeyl1);
    }
  }

  static std::pair<at::Tensor, at::Tensor> BoxMuller(const at::Tensor& a, const at::Tensor& b) {
    const at::Tensor radius = a.to(at::kDouble).add_(0.5).mul_(0x1p-32).log_().mul_(-2.0).sqrt_();
    const at::Tensor angle = b.to(at::kDouble).mul_(0x1p-32).mul_(2.0 * std::numbers::pi);
    return {(radius * angle.cos()).to(at::kFloat), (radius * angle.sin()).to(at::kFloat)};
  }

  const at::TensorOptions options_;
  const uint64_t seed_;
};

}  // namespace

at::Tensor SeededNoise::DrawOn(const NoiseKey& key, at::IntArrayRef shape,
                               at::Device device) const {
  const int64_t count = c10::multiply_integers(shape);
  if (count > (int64_t{1} << 34) || key.pass < 0 || key.pass > 0xFFFF) {
    throw ModelError(ModelError::Kind::kInvalidArgument,
                     "noise: at most 2^34 elements and passes 0..65535 fit into one stream");
  }
  const uint32_t place = static_cast<uint32_t>(key.stage) << 16 | static_cast<uint32_t>(key.pass);
  const auto step = static_cast<uint64_t>(key.step);
  if (!device.is_cpu()) return DeviceStream(device, seed_).Draw(count, place, step).view(shape);
  at::Tensor noise = at::empty(shape, at::kFloat);
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
