// Counts the floating-point operations of what runs: matrix products, convolutions and attention,
// as LibTorch dispatches them, on any device, the meta device included (where nothing is computed
// and full-size networks cost no memory). Multiplication and addition count one each; what is done
// element by element (norms, activations, softmax) counts nothing, as is usual for "model FLOP/s".
//
// An operation is counted once, by its mathematical size, at the level at which it is first known:
// whatever a kernel does inside of a convolution or an attention (im2col products, recomputation)
// adds nothing. Backward passes count, too: a convolution's as one forward for each gradient that
// is wanted, attention's as two.
//
// Not seen: products of kernels that do not pass through LibTorch's dispatcher, and those that a
// CUDA graph replays.
#ifndef KANDINSKY_WORKER_MODEL_FLOP_COUNTER_H_
#define KANDINSKY_WORKER_MODEL_FLOP_COUNTER_H_

#include <cstdint>

namespace kandinsky::model {

struct Flops {
  int64_t products = 0;  // matrix products, linear layers
  int64_t convolutions = 0;
  int64_t attention = 0;

  int64_t total() const { return products + convolutions + attention; }
  Flops operator-(const Flops& other) const {
    return {products - other.products, convolutions - other.convolutions,
            attention - other.attention};
  }
  Flops operator+(const Flops& other) const {
    return {products + other.products, convolutions + other.convolutions,
            attention + other.attention};
  }
  Flops operator*(int64_t times) const {
    return {products * times, convolutions * times, attention * times};
  }
  Flops operator/(int64_t parts) const {
    return {products / parts, convolutions / parts, attention / parts};
  }
  bool operator==(const Flops&) const = default;
};

// Counts from construction to destruction what the constructing thread dispatches, and what threads
// dispatch that work for it with its thread-local state (autograd's). Construct and destroy on one
// thread; flops() from any. At most one counter exists in a process at a time: a second one throws
// std::logic_error.
class FlopCounter {
 public:
  FlopCounter();
  ~FlopCounter();
  FlopCounter(const FlopCounter&) = delete;
  FlopCounter& operator=(const FlopCounter&) = delete;

  Flops flops() const;

 private:
  Flops start_;
  uint64_t handle_ = 0;
};

}  // namespace kandinsky::model

#endif  // KANDINSKY_WORKER_MODEL_FLOP_COUNTER_H_
