// Random numbers with fixed arithmetic: the same numbers on every machine and with every compiler,
// which std:: distributions do not promise. Small enough to make one for each clip.
#ifndef KANDINSKY_TRAINING_DOMAIN_RANDOM_H_
#define KANDINSKY_TRAINING_DOMAIN_RANDOM_H_

#include <cstdint>

namespace kandinsky::training {

// SplitMix64. Copyable; a copy continues from the same place. Thread-compatible.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}

  // Number `index` of an endless list of generators that do not overlap in practice. `stream`
  // tells uses of one seed apart: clips, captions, times, …
  static Random At(uint64_t seed, uint64_t stream, uint64_t index) {
    return Random(Mix(Mix(Mix(seed) ^ stream) ^ index));
  }

  uint64_t Next() {
    state_ += 0x9e3779b97f4a7c15u;
    return Finish(state_);
  }
  // In [0, 1), with 53 bits.
  double Uniform() { return static_cast<double>(Next() >> 11) * 0x1p-53; }
  // In [low, high).
  double Uniform(double low, double high) { return low + (high - low) * Uniform(); }
  // In [0, n); n > 0. The bias is below 2^-32 for n below 2^32.
  int Below(int n) {
    return static_cast<int>(((Next() >> 32) * static_cast<uint64_t>(static_cast<uint32_t>(n))) >>
                            32);
  }
  // True with this probability.
  bool Chance(double probability) { return Uniform() < probability; }

 private:
  static uint64_t Finish(uint64_t z) {
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  static uint64_t Mix(uint64_t z) { return Finish(z + 0x9e3779b97f4a7c15u); }

  uint64_t state_;
};

}  // namespace kandinsky::training

#endif  // KANDINSKY_TRAINING_DOMAIN_RANDOM_H_
