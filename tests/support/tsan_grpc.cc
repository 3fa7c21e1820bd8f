// Tells ThreadSanitizer what gRPC promises: that whatever a thread did before it started an
// operation has happened when the operation's tag comes out of a completion queue. Debian's gRPC is
// not instrumented, so its own synchronisation is invisible, and without this everything that
// travels through a call would look like a race.
//
// Part of every executable of the tsan preset: its definitions take precedence over the library's,
// which they call.
#include <dlfcn.h>
#include <grpc/grpc.h>

extern "C" {

void __tsan_acquire(void* address);
void __tsan_release(void* address);

}  // extern "C"

namespace {

// The library's function that ours stands in front of.
template <typename Function>
Function* Next(const char* name) {
  return reinterpret_cast<Function*>(dlsym(RTLD_NEXT, name));
}

grpc_event Acquired(grpc_event event) {
  if (event.type == GRPC_OP_COMPLETE) __tsan_acquire(event.tag);
  return event;
}

}  // namespace

extern "C" {

grpc_call_error grpc_call_start_batch(grpc_call* call, const grpc_op* ops, size_t nops, void* tag,
                                      void* reserved) {
  static auto* const next = Next<decltype(grpc_call_start_batch)>("grpc_call_start_batch");
  __tsan_release(tag);
  return next(call, ops, nops, tag, reserved);
}

grpc_call_error grpc_server_request_call(grpc_server* server, grpc_call** call,
                                         grpc_call_details* details, grpc_metadata_array* metadata,
                                         grpc_completion_queue* call_queue,
                                         grpc_completion_queue* notification_queue, void* tag) {
  static auto* const next = Next<decltype(grpc_server_request_call)>("grpc_server_request_call");
  __tsan_release(tag);
  return next(server, call, details, metadata, call_queue, notification_queue, tag);
}

grpc_call_error grpc_server_request_registered_call(
    grpc_server* server, void* method, grpc_call** call, gpr_timespec* deadline,
    grpc_metadata_array* metadata, grpc_byte_buffer** payload, grpc_completion_queue* call_queue,
    grpc_completion_queue* notification_queue, void* tag) {
  static auto* const next =
      Next<decltype(grpc_server_request_registered_call)>("grpc_server_request_registered_call");
  __tsan_release(tag);
  return next(server, method, call, deadline, metadata, payload, call_queue, notification_queue,
              tag);
}

void grpc_server_shutdown_and_notify(grpc_server* server, grpc_completion_queue* queue, void* tag) {
  static auto* const next =
      Next<decltype(grpc_server_shutdown_and_notify)>("grpc_server_shutdown_and_notify");
  __tsan_release(tag);
  next(server, queue, tag);
}

grpc_event grpc_completion_queue_next(grpc_completion_queue* queue, gpr_timespec deadline,
                                      void* reserved) {
  static auto* const next =
      Next<decltype(grpc_completion_queue_next)>("grpc_completion_queue_next");
  return Acquired(next(queue, deadline, reserved));
}

grpc_event grpc_completion_queue_pluck(grpc_completion_queue* queue, void* tag,
                                       gpr_timespec deadline, void* reserved) {
  static auto* const next =
      Next<decltype(grpc_completion_queue_pluck)>("grpc_completion_queue_pluck");
  return Acquired(next(queue, tag, deadline, reserved));
}

}  // extern "C"
