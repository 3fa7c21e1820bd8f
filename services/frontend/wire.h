// Messages to and from grpc::ByteBuffer. The services use raw methods: requests are checked before
// they are parsed (request_parser.h) and events are encoded once for all streams that send them.
// Pure functions; thread-safe.
#ifndef KANDINSKY_SERVICES_FRONTEND_WIRE_H_
#define KANDINSKY_SERVICES_FRONTEND_WIRE_H_

#include <google/protobuf/message_lite.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/status.h>

#include "kandinsky/video/v1/video_service.pb.h"
#include "services/frontend/error_details.h"
#include "services/frontend/request_parser.h"

namespace kandinsky {

grpc::ByteBuffer Encode(const google::protobuf::MessageLite& message);

// The encoding of a message whose only field is message field `number` with the encoding `value`;
// shares the bytes of `value`.
grpc::ByteBuffer WrapAsField(int number, const grpc::Slice& value);

// INVALID_REQUEST when the bytes are no message of the type; violations as ParseRequest.
grpc::Status Decode(const grpc::ByteBuffer& bytes, google::protobuf::Message& request,
                    Violations& violations);

}  // namespace kandinsky

#endif  // KANDINSKY_SERVICES_FRONTEND_WIRE_H_
