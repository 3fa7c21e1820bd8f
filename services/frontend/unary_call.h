// Runs a unary method: decode on gRPC's thread, handle on the pool, answer.
#ifndef KANDINSKY_SERVICES_FRONTEND_UNARY_CALL_H_
#define KANDINSKY_SERVICES_FRONTEND_UNARY_CALL_H_

#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/server_callback.h>

#include <chrono>
#include <memory>
#include <utility>

#include "services/frontend/error_details.h"
#include "services/frontend/wire.h"
#include "services/frontend/work_pool.h"

namespace kandinsky {

// `handle` is grpc::Status(const Request&, Violations&, Response*): it adds to the violations that
// decoding found, may block, and is not called when the client has gone or its deadline has passed.
template <typename Request, typename Response, typename Handle>
grpc::ServerUnaryReactor* RunUnary(WorkPool& pool, grpc::CallbackServerContext* context,
                                   const grpc::ByteBuffer* in, grpc::ByteBuffer* out,
                                   Handle handle) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  auto request = std::make_shared<Request>();
  Violations violations;
  const grpc::Status decoded = Decode(*in, *request, violations);
  if (!decoded.ok()) {
    reactor->Finish(decoded);
    return reactor;
  }
  const bool accepted =
      pool.SubmitUnary([=, violations = std::move(violations)](WorkPool::Verdict verdict) mutable {
        if (verdict == WorkPool::Verdict::kStopped) return reactor->Finish(ShuttingDown());
        if (verdict == WorkPool::Verdict::kWaitedTooLong) {
          return reactor->Finish(Overloaded("the call waited too long for its turn"));
        }
        if (context->IsCancelled() || context->deadline() <= std::chrono::system_clock::now()) {
          return reactor->Finish(grpc::Status(grpc::StatusCode::CANCELLED, "the client is gone"));
        }
        Response response;
        const grpc::Status status = handle(std::as_const(*request), violations, &response);
        if (status.ok()) *out = Encode(response);
        reactor->Finish(status);
      });
  if (!accepted) reactor->Finish(Overloaded("this frontend serves as many calls as it may"));
  return reactor;
}

}  // namespace kandinsky

#endif  // KANDINSKY_SERVICES_FRONTEND_UNARY_CALL_H_
