#include "services/frontend/wire.h"

#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/wire_format_lite.h>

#include <string>
#include <vector>

namespace kandinsky {

grpc::ByteBuffer Encode(const google::protobuf::MessageLite& message) {
  const grpc::Slice slice(message.SerializeAsString());
  return grpc::ByteBuffer(&slice, 1);
}

grpc::ByteBuffer WrapAsField(int number, const grpc::Slice& value) {
  using google::protobuf::internal::WireFormatLite;
  using google::protobuf::io::CodedOutputStream;
  uint8_t prefix[16];
  uint8_t* end = CodedOutputStream::WriteTagToArray(
      WireFormatLite::MakeTag(number, WireFormatLite::WIRETYPE_LENGTH_DELIMITED), prefix);
  end = CodedOutputStream::WriteVarint32ToArray(static_cast<uint32_t>(value.size()), end);
  const grpc::Slice slices[] = {grpc::Slice(prefix, static_cast<size_t>(end - prefix)), value};
  return grpc::ByteBuffer(slices, 2);
}

grpc::Status Decode(const grpc::ByteBuffer& bytes, google::protobuf::Message& request,
                    Violations& violations) {
  std::vector<grpc::Slice> slices;
  std::string wire;
  if (bytes.Valid() && bytes.Dump(&slices).ok()) {
    wire.reserve(bytes.Length());
    for (const grpc::Slice& slice : slices) {
      wire.append(reinterpret_cast<const char*>(slice.begin()), slice.size());
    }
    if (ParseRequest(wire, request, violations)) return grpc::Status::OK;
  }
  violations.Add("", "the request is not an encoded " + request.GetTypeName());
  return InvalidRequest(violations);
}

}  // namespace kandinsky
