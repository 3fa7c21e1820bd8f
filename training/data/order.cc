#include "training/data/order.h"

#include <bit>

#include "training/domain/random.h"

namespace kandinsky::training {
namespace {

constexpr int kRounds = 6;
constexpr uint64_t kOrderStream = 4;

}  // namespace

uint64_t Shuffled(uint64_t seed, uint64_t epoch, uint64_t index, uint64_t size) {
  if (size < 2) return 0;
  // A Feistel network permutes the numbers of 2 * half bits; what falls outside is sent on until it
  // falls inside, which keeps it a permutation. Fewer than four rounds on average.
  const int half = (std::bit_width(size - 1) + 1) / 2;
  const uint64_t mask = (uint64_t{1} << half) - 1;
  uint64_t keys[kRounds];
  Random random = Random::At(seed, kOrderStream, epoch);
  for (uint64_t& key : keys) key = random.Next();
  uint64_t value = index;
  do {
    uint64_t left = value >> half;
    uint64_t right = value & mask;
    for (const uint64_t key : keys) {
      const uint64_t mixed = left ^ (Random(key ^ right).Next() & mask);
      left = right;
      right = mixed;
    }
    value = left << half | right;
  } while (value >= size);
  return value;
}

}  // namespace kandinsky::training
