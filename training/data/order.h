// The order of samples over the epochs, without a list of it.
#ifndef KANDINSKY_TRAINING_DATA_ORDER_H_
#define KANDINSKY_TRAINING_DATA_ORDER_H_

#include <cstdint>

namespace kandinsky::training {

// Where index goes in the shuffle of 0 … size - 1 that belongs to this seed and epoch: a
// permutation of them for each (seed, epoch). Needs no memory and no state, so that any process can
// start at any sample. index < size.
uint64_t Shuffled(uint64_t seed, uint64_t epoch, uint64_t index, uint64_t size);

}  // namespace kandinsky::training

#endif  // KANDINSKY_TRAINING_DATA_ORDER_H_
