// A clock that never jumps: for leases, intervals and limits. Its epoch means nothing; never
// compare it with Clock::Real().
#ifndef KANDINSKY_WORKER_RUNTIME_STEADY_CLOCK_H_
#define KANDINSKY_WORKER_RUNTIME_STEADY_CLOCK_H_

#include <chrono>

#include "common/base/clock.h"

namespace kandinsky {

class SteadyClock : public Clock {
 public:
  absl::Time Now() const override {
    return absl::UnixEpoch() +
           absl::FromChrono(std::chrono::steady_clock::now().time_since_epoch());
  }
};

}  // namespace kandinsky

#endif  // KANDINSKY_WORKER_RUNTIME_STEADY_CLOCK_H_
