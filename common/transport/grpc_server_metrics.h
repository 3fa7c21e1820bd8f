// Metrics of a gRPC server, for synchronous and callback services alike:
//
//   grpc_server_started_total{grpc_type, grpc_service, grpc_method}
//   grpc_server_handled_total{grpc_type, grpc_service, grpc_method, grpc_code}
//   grpc_server_handling_seconds{grpc_type, grpc_service, grpc_method, grpc_code}   buckets up to
//   1,800 s
//
// grpc_type is unary, client_stream, server_stream or bidi_stream; grpc_code is the name of the
// code ("OK", "InvalidArgument", …) in the spelling of the other gRPC Prometheus libraries. A call
// that ends without a status (the client is gone) counts as "Canceled".
#ifndef KANDINSKY_COMMON_TRANSPORT_GRPC_SERVER_METRICS_H_
#define KANDINSKY_COMMON_TRANSPORT_GRPC_SERVER_METRICS_H_

#include <grpcpp/support/server_interceptor.h>

#include <memory>

#include "common/metrics/metrics.h"

namespace kandinsky {

// Pass it to grpc::ServerBuilder: builder.experimental().SetInterceptorCreators(…). `metrics` must
// outlive the server. Thread-safe. At most 512 methods get labels of their own; calls of further
// (unknown) methods count as "other".
std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface> MakeGrpcServerMetrics(
    Metrics& metrics);

}  // namespace kandinsky

#endif  // KANDINSKY_COMMON_TRANSPORT_GRPC_SERVER_METRICS_H_
