// Places where a test may kill or stop this process, to show that nothing is lost there.
//
// Compiled in always; without the environment variable a fault point costs one relaxed load. With
//
//   KANDINSKY_FAULT_POINT=name[:count[:action]]
//
// the process sends itself a signal when it comes to the fault point `name` for the count-th time
// (default 1): SIGKILL (action "kill", the default) or SIGSTOP (action "stop"; once, it goes on
// after SIGCONT). A value that is not of this form ends the process with status 2 at the first
// fault point.
//
// Names:
//   claimed          a worker has got a lease and done nothing yet
//   during_transfer  a consumer has received a chunk of latents
//   during_send      a producer has sent a chunk of latents
//   mid_steps        a stage has reported a finished step (or decoded frames)
//   during_encode    bytes of a video are about to be written
//   after_result     a stage has returned its result; nothing of it is stored yet
//   before_ack       the result is stored; the queue does not know yet
#ifndef KANDINSKY_COMMON_BASE_FAULT_POINT_H_
#define KANDINSKY_COMMON_BASE_FAULT_POINT_H_

#include <string_view>

namespace kandinsky {

// Thread-safe.
void FaultPoint(std::string_view name);

}  // namespace kandinsky

#endif  // KANDINSKY_COMMON_BASE_FAULT_POINT_H_
