#include "common/transport/latent_client.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <optional>
#include <thread>

#include "absl/random/random.h"
#include "absl/strings/str_cat.h"
#include "common/base/crc32c.h"
#include "common/base/fault_point.h"
#include "common/transport/latent_codec.h"
#include "common/transport/latent_service.h"
#include "kandinsky/worker/v1/latent_service.grpc.pb.h"

namespace kandinsky {
namespace {

using Stub = worker::v1::LatentService::Stub;
using worker::v1::FetchLatentsRequest;
using worker::v1::FetchLatentsResponse;
using SteadyTime = std::chrono::steady_clock::time_point;

// How often a waiting thread looks whether it was cancelled.
constexpr std::chrono::milliseconds kCancelPoll(20);

absl::Status FromGrpc(const grpc::Status& status) {
  return absl::Status(static_cast<absl::StatusCode>(status.error_code()), status.error_message());
}

// One FetchLatents stream, read message by message with a time limit for each. gRPC's thread fills
// it, the caller's thread empties it and owns it: the destructor waits until gRPC is done with it.
class Stream : public grpc::ClientReadReactor<FetchLatentsResponse> {
 public:
  Stream(std::shared_ptr<grpc::Channel> channel, const FetchLatentsRequest& request)
      : request_(request), stub_(worker::v1::LatentService::NewStub(std::move(channel))) {
    stub_->async()->FetchLatents(&context_, &request_, this);
    AddHold();  // the caller's thread starts reads, too
    StartRead(&message_);
    StartCall();
  }

  // Ends the stream if it goes on.
  ~Stream() override {
    context_.TryCancel();
    ReleaseHold();
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [this] { return done_.has_value(); });
  }

  // The next message, until Advance; OUT_OF_RANGE at the end of the stream; what the stream ended
  // with; DEADLINE_EXCEEDED when nothing came until `until`; CANCELLED.
  absl::StatusOr<const FetchLatentsResponse*> Next(SteadyTime until,
                                                   const std::function<bool()>& cancelled) {
    std::unique_lock<std::mutex> lock(mutex_);
    while (!have_message_ && !done_) {
      lock.unlock();
      if (cancelled && cancelled()) return absl::CancelledError("cancelled");
      const SteadyTime now = std::chrono::steady_clock::now();
      lock.lock();
      if (have_message_ || done_) break;
      if (now >= until) return absl::DeadlineExceededError("the producer sends nothing");
      changed_.wait_until(lock, std::min(until, now + kCancelPoll));
    }
    if (have_message_) return &message_;
    if (!done_->ok()) return FromGrpc(*done_);
    return absl::OutOfRangeError("end of stream");
  }

  // The message that Next gave is used up: read on.
  void Advance() {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      have_message_ = false;
    }
    StartRead(&message_);
  }

 private:
  void OnReadDone(bool ok) override {
    if (!ok) {
      ReleaseHold();  // OnDone follows
      return;
    }
    const std::lock_guard<std::mutex> lock(mutex_);
    have_message_ = true;
    changed_.notify_all();
  }

  void OnDone(const grpc::Status& status) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    done_ = status;
    changed_.notify_all();
  }

  void ReleaseHold() {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      if (!held_) return;
      held_ = false;
    }
    RemoveHold();
  }

  const FetchLatentsRequest request_;
  const std::unique_ptr<Stub> stub_;
  grpc::ClientContext context_;
  FetchLatentsResponse
      message_;  // gRPC's while a read is under way, the caller's while have_message_

  std::mutex mutex_;
  std::condition_variable changed_;
  bool have_message_ = false;         // guarded by mutex_
  bool held_ = true;                  // guarded by mutex_
  std::optional<grpc::Status> done_;  // guarded by mutex_
};

// What was fetched so far; its bytes are checked chunk by chunk.
struct Received {
  std::string bytes;
  uint32_t crc32c = 0;  // of bytes
};

// Reads one stream from received->bytes.size() on. OK: complete.
absl::Status ReadStream(Stream& stream, const RemoteLatents& expected, uint64_t byte_size,
                        absl::Duration progress_timeout, SteadyTime give_up,
                        const std::function<bool()>& cancelled, Received* received) {
  bool have_header = false;
  while (true) {
    const SteadyTime until = std::min(
        give_up, std::chrono::steady_clock::now() + absl::ToChronoNanoseconds(progress_timeout));
    const absl::StatusOr<const FetchLatentsResponse*> message = stream.Next(until, cancelled);
    if (!message.ok()) {
      if (!absl::IsOutOfRange(message.status())) return message.status();
      if (have_header && received->bytes.size() == byte_size) return absl::OkStatus();
      return absl::UnavailableError(absl::StrCat("the stream ended after ", received->bytes.size(),
                                                 " of ", byte_size, " bytes"));
    }
    if (!have_header) {
      if (!(*message)->has_header())
        return absl::DataLossError("the stream begins without a header");
      const absl::Status status = CheckHeader((*message)->header(), expected, byte_size);
      if (!status.ok()) return status;
      have_header = true;
      received->bytes.reserve(byte_size);
      stream.Advance();
      continue;
    }
    if (!(*message)->has_chunk()) return absl::DataLossError("a second header in the stream");
    const worker::v1::LatentChunk& chunk = (*message)->chunk();
    if (chunk.offset() != received->bytes.size()) {
      return absl::DataLossError(absl::StrCat("a chunk for offset ", chunk.offset(), ", expected ",
                                              received->bytes.size()));
    }
    if (chunk.data().empty() || chunk.data().size() > kMaxLatentChunkBytes ||
        chunk.data().size() > byte_size - received->bytes.size()) {
      return absl::DataLossError(absl::StrCat("a chunk of ", chunk.data().size(), " bytes at ",
                                              received->bytes.size(), " of ", byte_size));
    }
    if (Crc32c(chunk.data()) != chunk.crc32c()) {
      return absl::DataLossError(
          absl::StrCat("wrong checksum of the chunk at offset ", chunk.offset()));
    }
    FaultPoint("during_transfer");
    received->bytes += chunk.data();
    received->crc32c = ExtendCrc32c(received->crc32c, chunk.data().data(), chunk.data().size());
    stream.Advance();
  }
}

// False when `cancelled` came true meanwhile.
bool Pause(absl::Duration duration, SteadyTime give_up, const std::function<bool()>& cancelled) {
  const SteadyTime until =
      std::min(give_up, std::chrono::steady_clock::now() + absl::ToChronoNanoseconds(duration));
  while (true) {
    if (cancelled && cancelled()) return false;
    const SteadyTime now = std::chrono::steady_clock::now();
    if (now >= until) return true;
    std::this_thread::sleep_for(
        std::min<std::chrono::nanoseconds>(until - now, std::chrono::nanoseconds(kCancelPoll)));
  }
}

LatentClient::Options WithDefaults(LatentClient::Options options) {
  if (!options.make_channel) {
    options.make_channel = [](const std::string& address) {
      grpc::ChannelArguments arguments;
      arguments.SetMaxReceiveMessageSize(static_cast<int>(kMaxLatentChunkBytes + (64 << 10)));
      // A producer that was restarted is found again at once.
      arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
      arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 1000);
      arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 1000);
      return grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments);
    };
  }
  return options;
}

}  // namespace

// Releases under way. Calls are destroyed by our threads, never in gRPC's callback.
class LatentClient::Releases {
 public:
  ~Releases() {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [this] {
      return std::all_of(calls_.begin(), calls_.end(), [](const auto& call) { return call->done; });
    });
  }

  void Start(std::shared_ptr<grpc::Channel> channel, const std::string& key) {
    auto owned = std::make_unique<Call>();
    Call* call = owned.get();
    call->stub = worker::v1::LatentService::NewStub(std::move(channel));
    call->context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(2));
    call->request.set_key(key);
    std::list<std::unique_ptr<Call>> old;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      for (auto it = calls_.begin(); it != calls_.end();) {
        const auto next = std::next(it);
        if ((*it)->done) old.splice(old.end(), calls_, it);
        it = next;
      }
      calls_.push_back(std::move(owned));
    }
    call->stub->async()->ReleaseLatents(&call->context, &call->request, &call->response,
                                        [this, call](const grpc::Status&) {
                                          const std::lock_guard<std::mutex> lock(mutex_);
                                          call->done = true;
                                          changed_.notify_all();
                                        });
  }

 private:
  struct Call {
    std::unique_ptr<Stub> stub;
    grpc::ClientContext context;
    worker::v1::ReleaseLatentsRequest request;
    worker::v1::ReleaseLatentsResponse response;
    bool done = false;  // guarded by Releases::mutex_
  };

  std::mutex mutex_;
  std::condition_variable changed_;
  std::list<std::unique_ptr<Call>> calls_;  // guarded by mutex_
};

LatentClient::LatentClient(Options options)
    : options_(WithDefaults(std::move(options))), releases_(std::make_unique<Releases>()) {}

LatentClient::~LatentClient() = default;

absl::StatusOr<HostTensor> LatentClient::Fetch(const RemoteLatents& latents,
                                               const std::function<bool()>& cancelled) {
  if (latents.address.empty() || latents.key.empty() ||
      latents.shape.size() > static_cast<size_t>(options_.max_rank)) {
    return absl::InvalidArgumentError("latents without address or key, or of too many dimensions");
  }
  const absl::StatusOr<uint64_t> byte_size =
      CheckedByteSize(latents.dtype, latents.shape, options_.max_bytes);
  if (!byte_size.ok()) return byte_size.status();

  const SteadyTime start = std::chrono::steady_clock::now();
  const SteadyTime give_up = start + absl::ToChronoNanoseconds(options_.timeout);
  absl::BitGen random;
  Received received;
  absl::Status status;
  absl::Duration backoff = options_.backoff;
  for (int attempt = 1; attempt <= options_.max_attempts; ++attempt) {
    if (attempt > 1) {
      if (!Pause(backoff * absl::Uniform(random, 0.75, 1.25), give_up, cancelled)) {
        return absl::CancelledError("cancelled");
      }
      if (std::chrono::steady_clock::now() >= give_up) break;
      backoff = std::min(backoff * 2, options_.max_backoff);
    }
    const size_t before = received.bytes.size();
    FetchLatentsRequest request;
    request.set_key(latents.key);
    request.set_offset(before);
    {
      Stream stream(ChannelTo(latents.address), request);
      status = ReadStream(stream, latents, *byte_size, options_.progress_timeout, give_up,
                          cancelled, &received);
    }
    if (status.ok() && received.crc32c != latents.crc32c) {
      status = absl::DataLossError("wrong checksum of the whole tensor");
      received = Received();
    } else if (status.ok()) {
      const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
      if (options_.on_received) options_.on_received(received.bytes.size(), elapsed.count());
      return HostTensor::Create(latents.dtype, latents.shape, std::move(received.bytes));
    }
    if (absl::IsCancelled(status) && cancelled && cancelled()) return status;
    if (absl::IsNotFound(status)) return status;
    if (received.bytes.size() > before) {
      attempt = 0;  // it goes on, if slowly
      backoff = options_.backoff;
    }
  }
  if (absl::IsDataLoss(status)) return status;
  Forget(latents.address);
  return absl::UnavailableError(absl::StrCat("cannot fetch latents from ", latents.address, ": ",
                                             std::string(status.message())));
}

void LatentClient::Release(const RemoteLatents& latents) {
  if (latents.address.empty() || latents.key.empty()) return;
  releases_->Start(ChannelTo(latents.address), latents.key);
}

std::shared_ptr<grpc::Channel> LatentClient::ChannelTo(const std::string& address) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto it = std::find_if(channels_.begin(), channels_.end(),
                               [&](const auto& entry) { return entry.first == address; });
  if (it != channels_.end()) {
    channels_.splice(channels_.begin(), channels_, it);
  } else {
    channels_.emplace_front(address, options_.make_channel(address));
    if (channels_.size() > static_cast<size_t>(options_.max_channels)) channels_.pop_back();
  }
  return channels_.front().second;
}

void LatentClient::Forget(const std::string& address) {
  const std::lock_guard<std::mutex> lock(mutex_);
  channels_.remove_if([&](const auto& entry) { return entry.first == address; });
}

}  // namespace kandinsky
