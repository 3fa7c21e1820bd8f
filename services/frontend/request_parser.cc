#include "services/frontend/request_parser.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>
#include <google/protobuf/wire_format_lite.h>

#include "services/frontend/text.h"

namespace kandinsky {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::internal::WireFormatLite;
using google::protobuf::io::CodedInputStream;
using google::protobuf::io::CodedOutputStream;

bool Sanitize(const std::string& wire, const Descriptor& type, const std::string& path,
              std::string& clean, Violations& violations);

// The value of a length-delimited field as it may go to the generated parser.
bool SanitizeValue(const FieldDescriptor* field, const std::string& path, std::string& value,
                   Violations& violations) {
  if (field == nullptr) return true;
  const std::string name = path + field->name();
  if (field->type() == FieldDescriptor::TYPE_STRING) {
    if (InspectText(value)) return true;
    violations.Add(name, "is not valid UTF-8");
    value.clear();
    return true;
  }
  if (field->type() != FieldDescriptor::TYPE_MESSAGE) return true;
  std::string clean;
  if (!Sanitize(value, *field->message_type(), name + ".", clean, violations)) return false;
  value = std::move(clean);
  return true;
}

// Copies `wire` to `clean`, strings that are not UTF-8 emptied. The recursion is as deep as the
// message types are nested; none of the requests is recursive.
bool Sanitize(const std::string& wire, const Descriptor& type, const std::string& path,
              std::string& clean, Violations& violations) {
  CodedInputStream in(reinterpret_cast<const uint8_t*>(wire.data()), static_cast<int>(wire.size()));
  google::protobuf::io::StringOutputStream sink(&clean);
  CodedOutputStream out(&sink);
  while (const uint32_t tag = in.ReadTag()) {
    if (WireFormatLite::GetTagWireType(tag) != WireFormatLite::WIRETYPE_LENGTH_DELIMITED) {
      if (!WireFormatLite::SkipField(&in, tag, &out)) return false;
      continue;
    }
    uint32_t size = 0;
    std::string value;
    if (!in.ReadVarint32(&size) || !in.ReadString(&value, static_cast<int>(size))) return false;
    const FieldDescriptor* field = type.FindFieldByNumber(WireFormatLite::GetTagFieldNumber(tag));
    if (!SanitizeValue(field, path, value, violations)) return false;
    out.WriteTag(tag);
    out.WriteVarint32(static_cast<uint32_t>(value.size()));
    out.WriteString(value);
  }
  return in.ConsumedEntireMessage();
}

}  // namespace

bool ParseRequest(const std::string& wire, google::protobuf::Message& request,
                  Violations& violations) {
  std::string clean;
  return Sanitize(wire, *request.GetDescriptor(), "", clean, violations) &&
         request.ParseFromString(clean);
}

}  // namespace kandinsky
