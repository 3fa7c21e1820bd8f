#include "common/transport/latent_service.h"

#include <algorithm>
#include <chrono>
#include <string>
#include <utility>

#include "common/base/crc32c.h"
#include "common/base/fault_point.h"
#include "common/transport/latent_codec.h"

namespace kandinsky {
namespace {

using worker::v1::FetchLatentsResponse;

// Sends the header, then chunk after chunk. gRPC calls it from one thread at a time and it deletes
// itself in OnDone.
class FetchReactor : public grpc::ServerWriteReactor<FetchLatentsResponse> {
 public:
  FetchReactor(StoredLatents latents, uint64_t offset, const LatentService::Options& options)
      : options_(options), latents_(std::move(latents)), offset_(offset) {
    *message_.mutable_header() = MakeHeader(latents_);
    StartWrite(&message_);
  }

  explicit FetchReactor(const grpc::Status& error, const LatentService::Options& options)
      : options_(options), offset_(0) {
    Finish(error);
  }

  void OnWriteDone(bool ok) override {
    if (!ok) {
      Finish(grpc::Status(grpc::StatusCode::UNAVAILABLE, "the client is gone"));
      return;
    }
    if (message_.has_chunk()) FaultPoint("during_send");
    sent_ += message_.chunk().data().size();
    const std::string_view bytes = latents_.tensor.bytes();
    if (offset_ >= bytes.size()) {
      Finish(grpc::Status::OK);
      return;
    }
    const std::string_view piece = bytes.substr(offset_, options_.chunk_bytes);
    worker::v1::LatentChunk* chunk = message_.mutable_chunk();
    chunk->set_offset(offset_);
    chunk->set_data(piece.data(), piece.size());
    chunk->set_crc32c(Crc32c(piece));
    offset_ += piece.size();
    StartWrite(&message_);
  }

  void OnCancel() override {}

  void OnDone() override {
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start_;
    if (options_.on_sent && sent_ > 0) options_.on_sent(sent_, elapsed.count());
    delete this;
  }

 private:
  const LatentService::Options& options_;
  const std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  const StoredLatents latents_;
  uint64_t offset_;  // of the next chunk
  uint64_t sent_ = 0;
  FetchLatentsResponse message_;
};

LatentService::Options Checked(LatentService::Options options) {
  options.chunk_bytes = std::clamp<uint64_t>(options.chunk_bytes, 1, kMaxLatentChunkBytes);
  return options;
}

}  // namespace

LatentService::LatentService(LatentStore* store, Options options)
    : store_(store), options_(Checked(std::move(options))) {}

grpc::ServerWriteReactor<FetchLatentsResponse>* LatentService::FetchLatents(
    grpc::CallbackServerContext* context, const worker::v1::FetchLatentsRequest* request) {
  absl::StatusOr<StoredLatents> latents = store_->Get(request->key());
  if (!latents.ok()) {
    return new FetchReactor(grpc::Status(static_cast<grpc::StatusCode>(latents.status().code()),
                                         std::string(latents.status().message())),
                            options_);
  }
  if (request->offset() > latents->tensor.bytes().size()) {
    return new FetchReactor(
        grpc::Status(grpc::StatusCode::OUT_OF_RANGE, "offset is behind the end of the latents"),
        options_);
  }
  return new FetchReactor(*std::move(latents), request->offset(), options_);
}

grpc::ServerUnaryReactor* LatentService::ReleaseLatents(
    grpc::CallbackServerContext* context, const worker::v1::ReleaseLatentsRequest* request,
    worker::v1::ReleaseLatentsResponse* response) {
  store_->Release(request->key());
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(grpc::Status::OK);
  return reactor;
}

}  // namespace kandinsky
