// Reads a request message from the bytes of the wire.
//
// The generated parser fails as a whole, without naming the field, when a proto3 string is not
// UTF-8. So the bytes are checked field by field first: a string that is not UTF-8 becomes a
// violation and is parsed as empty, and everything else of the request can still be validated.
#ifndef KANDINSKY_SERVICES_FRONTEND_REQUEST_PARSER_H_
#define KANDINSKY_SERVICES_FRONTEND_REQUEST_PARSER_H_

#include <google/protobuf/message.h>

#include <string>

#include "services/frontend/error_details.h"

namespace kandinsky {

// False when `wire` is not an encoded message at all. Thread-safe.
bool ParseRequest(const std::string& wire, google::protobuf::Message& request,
                  Violations& violations);

}  // namespace kandinsky

#endif  // KANDINSKY_SERVICES_FRONTEND_REQUEST_PARSER_H_
