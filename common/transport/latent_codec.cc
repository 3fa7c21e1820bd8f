#include "common/transport/latent_codec.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace kandinsky {
namespace {

worker::v1::DataType ToProto(DataType dtype) {
  switch (dtype) {
    case DataType::kFloat32:
      return worker::v1::DATA_TYPE_FLOAT32;
    case DataType::kFloat16:
      return worker::v1::DATA_TYPE_FLOAT16;
    case DataType::kBFloat16:
      return worker::v1::DATA_TYPE_BFLOAT16;
  }
  return worker::v1::DATA_TYPE_UNSPECIFIED;
}

}  // namespace

worker::v1::LatentHeader MakeHeader(const StoredLatents& latents) {
  worker::v1::LatentHeader header;
  header.set_dtype(ToProto(latents.tensor.dtype()));
  for (const int64_t dimension : latents.tensor.shape()) header.add_shape(dimension);
  header.set_byte_size(latents.tensor.bytes().size());
  header.set_crc32c(latents.crc32c);
  return header;
}

absl::Status CheckHeader(const worker::v1::LatentHeader& header, const RemoteLatents& expected,
                         uint64_t byte_size) {
  if (header.dtype() != ToProto(expected.dtype)) {
    return absl::DataLossError(absl::StrCat("header announces dtype ",
                                            static_cast<int>(header.dtype()), ", not ",
                                            std::string(Name(expected.dtype))));
  }
  if (!std::equal(header.shape().begin(), header.shape().end(), expected.shape.begin(),
                  expected.shape.end())) {
    return absl::DataLossError(absl::StrCat("header announces another shape than [",
                                            absl::StrJoin(expected.shape, ", "), "], with ",
                                            header.shape_size(), " dimensions"));
  }
  if (header.byte_size() != byte_size) {
    return absl::DataLossError(absl::StrCat("header announces byte_size ", header.byte_size(),
                                            ", but dtype and shape make ", byte_size));
  }
  if (header.crc32c() != expected.crc32c) {
    return absl::DataLossError("header announces another checksum than the task");
  }
  return absl::OkStatus();
}

}  // namespace kandinsky
