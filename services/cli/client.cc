#include "services/cli/client.h"

#include <grpcpp/create_channel.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/support/byte_buffer.h>

#include <algorithm>
#include <condition_variable>
#include <fstream>
#include <iterator>
#include <mutex>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/cli/error_report.h"

namespace kandinsky::cli {
namespace {

namespace v1 = video::v1;

// Damage that is still there after so many fetches is not the connection's.
constexpr int kMaxDamaged = 3;

absl::StatusOr<std::string> ReadFile(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::string text((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
  if (!in && text.empty()) return absl::NotFoundError(absl::StrCat("cannot read ", path));
  return text;
}

}  // namespace

absl::StatusOr<std::shared_ptr<grpc::Channel>> Connect(const std::string& server,
                                                       const TlsOptions& tls) {
  if (server.empty()) return absl::InvalidArgumentError("--server must not be empty");
  grpc::ChannelArguments arguments;
  // Notice a connection that died without a word, and come back soon.
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 60'000);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 20'000);
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 200);
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 200);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 2'000);
  if (!tls.enabled) {
    return grpc::CreateCustomChannel(server, grpc::InsecureChannelCredentials(), arguments);
  }
  grpc::SslCredentialsOptions ssl;
  const struct {
    const std::string& file;
    grpc::string& pem;
  } parts[] = {{tls.ca_file, ssl.pem_root_certs},
               {tls.cert_file, ssl.pem_cert_chain},
               {tls.key_file, ssl.pem_private_key}};
  for (const auto& part : parts) {
    if (part.file.empty()) continue;
    auto text = ReadFile(part.file);
    if (!text.ok()) return text.status();
    part.pem = *std::move(text);
  }
  if (tls.cert_file.empty() != tls.key_file.empty()) {
    return absl::InvalidArgumentError("--tls-cert and --tls-key belong together");
  }
  if (!tls.server_name.empty()) arguments.SetSslTargetNameOverride(tls.server_name);
  return grpc::CreateCustomChannel(server, grpc::SslCredentials(ssl), arguments);
}

grpc::Status ToGrpcStatus(const absl::Status& status) {
  return {static_cast<grpc::StatusCode>(status.code()), std::string(status.message())};
}

// When to try again, and for how long.
class Client::Retry {
 public:
  Retry(const ClientOptions& options, Interrupt& interrupt, bool connected)
      : options_(options),
        interrupt_(interrupt),
        connected_(connected || options.retry_first),
        last_life_(absl::Now()),
        backoff_(options.first_backoff) {}

  // Something arrived.
  void Alive() {
    connected_ = true;
    last_life_ = absl::Now();
    backoff_ = options_.first_backoff;
  }

  // Waits before the next try. False: `status` is final.
  bool Wait(const grpc::Status& status, Reporter* reporter) {
    if (!IsTransient(status) || !connected_ || interrupt_.raised()) return false;
    const absl::Time end = std::min(last_life_ + options_.retry_for, options_.give_up);
    if (absl::Now() + backoff_ > end) return false;
    if (reporter != nullptr) {
      reporter->OnNote(
          absl::StrCat("connection lost (", status.error_message(), "), trying again"));
    }
    const bool raised = interrupt_.WaitFor(backoff_);
    backoff_ = std::min(backoff_ * 2, options_.max_backoff);
    return !raised;
  }

 private:
  const ClientOptions& options_;
  Interrupt& interrupt_;
  bool connected_;
  absl::Time last_life_;
  absl::Duration backoff_;
};

Client::Client(std::shared_ptr<grpc::Channel> channel, ClientOptions options, Interrupt& interrupt)
    : channel_(std::move(channel)),
      options_(options),
      interrupt_(interrupt),
      video_(v1::VideoService::NewStub(channel_)),
      admin_(v1::AdminService::NewStub(channel_)) {}

grpc::Status Client::Call(const std::function<grpc::Status(grpc::ClientContext&)>& call) {
  grpc::ClientContext context;
  context.set_deadline(
      absl::ToChronoTime(std::min(absl::Now() + options_.rpc_timeout, options_.give_up)));
  Interrupt::Guard guard(interrupt_, [&context] { context.TryCancel(); });
  return call(context);
}

grpc::Status Client::CheckHealth(const std::string& service, bool& serving) {
  // HealthCheckRequest{string service = 1}, HealthCheckResponse{ServingStatus status = 1}; SERVING
  // is 1. Two fields are not worth a copy of the protocol file.
  std::string request;
  if (!service.empty()) {
    request = "\x0a";
    for (size_t n = service.size(); true; n >>= 7) {
      request += static_cast<char>(n < 0x80 ? n : (n & 0x7f) | 0x80);
      if (n < 0x80) break;
    }
    request += service;
  }
  const grpc::Slice slice(request);
  const grpc::ByteBuffer buffer(&slice, 1);
  grpc::ByteBuffer response;
  const grpc::Status status = Call([&](grpc::ClientContext& context) {
    grpc::GenericStub stub(channel_);
    std::mutex mutex;
    std::condition_variable changed;
    bool done = false;
    grpc::Status result;
    stub.UnaryCall(&context, "/grpc.health.v1.Health/Check", grpc::StubOptions(), &buffer,
                   &response, [&](grpc::Status s) {
                     std::lock_guard lock(mutex);
                     result = std::move(s);
                     done = true;
                     changed.notify_one();
                   });
    std::unique_lock lock(mutex);
    changed.wait(lock, [&] { return done; });
    return result;
  });
  if (!status.ok()) return status;
  std::vector<grpc::Slice> slices;
  std::string bytes;
  if (response.Dump(&slices).ok()) {
    for (const grpc::Slice& part : slices) {
      bytes.append(reinterpret_cast<const char*>(part.begin()), part.size());
    }
  }
  serving = bytes == std::string("\x08\x01", 2);
  return status;
}

grpc::Status Client::Watch(const std::string& job_id, std::string& after_event_id,
                           const std::function<void(const v1::JobEvent&)>& on_event) {
  Retry retry(options_, interrupt_, !after_event_id.empty());
  while (true) {
    v1::WatchJobRequest request;
    request.set_job_id(job_id);
    request.set_after_event_id(after_event_id);
    grpc::ClientContext context;
    if (options_.give_up != absl::InfiniteFuture()) {
      context.set_deadline(absl::ToChronoTime(options_.give_up));
    }
    Interrupt::Guard guard(interrupt_, [&context] { context.TryCancel(); });
    auto reader = video_->WatchJob(&context, request);
    v1::JobEvent event;
    bool finished = false;
    while (reader->Read(&event)) {
      retry.Alive();
      after_event_id = event.event_id();
      finished = event.type() == v1::JobEvent::TYPE_STATE_CHANGED && IsFinished(event.state());
      on_event(event);
    }
    const grpc::Status status = reader->Finish();
    if (status.ok() || finished) return grpc::Status::OK;
    if (!retry.Wait(status, nullptr)) return status;
  }
}

grpc::Status Client::Download(const std::string& job_id, VideoFile& file, Reporter& reporter,
                              v1::VideoInfo& info) {
  Retry retry(options_, interrupt_, false);
  int damaged = 0;
  while (true) {
    v1::DownloadVideoRequest request;
    request.set_job_id(job_id);
    request.set_offset(file.offset());
    absl::Status written;
    grpc::Status status;
    {
      grpc::ClientContext context;
      if (options_.give_up != absl::InfiniteFuture()) {
        context.set_deadline(absl::ToChronoTime(options_.give_up));
      }
      Interrupt::Guard guard(interrupt_, [&context] { context.TryCancel(); });
      auto reader = video_->DownloadVideo(&context, request);
      v1::VideoChunk chunk;
      while (written.ok() && reader->Read(&chunk)) {
        retry.Alive();
        written = file.Write(chunk);
        reporter.OnBytes(file.offset(), chunk.total_size());
      }
      if (!written.ok()) context.TryCancel();
      status = reader->Finish();
    }
    if (interrupt_.raised()) return {grpc::StatusCode::CANCELLED, "interrupted"};
    if (written.ok() && status.ok()) {
      v1::GetJobRequest get;
      get.set_job_id(job_id);
      v1::Job job;
      status = Call([&](grpc::ClientContext& c) { return video_->GetJob(&c, get, &job); });
      if (status.ok()) {
        info = job.video();
        written = file.Commit(info);
        if (written.ok()) return grpc::Status::OK;
      }
    }
    const bool past_the_end =
        status.error_code() == grpc::StatusCode::OUT_OF_RANGE && file.continued();
    if (absl::IsDataLoss(written) || past_the_end) {
      const grpc::Status last = written.ok() ? status : ToGrpcStatus(written);
      if (++damaged > kMaxDamaged) return last;
      // A bad chunk was not written: fetch it again. A bad whole must be fetched again from the
      // start.
      if (status.ok() || past_the_end) {
        if (!file.Restart().ok()) return last;
        reporter.OnNote("the saved bytes do not belong to this video, starting again");
      }
      continue;
    }
    if (!written.ok()) return ToGrpcStatus(written);
    if (!retry.Wait(status, &reporter)) return status;
  }
}

Client::Outcome Client::Generate(
    const v1::GenerateVideoRequest& request, Reporter& reporter,
    const std::function<void(const v1::JobEvent&)>& on_event,
    const std::function<absl::StatusOr<VideoFile*>(const v1::Job&)>& open_file,
    v1::VideoInfo& info) {
  Outcome outcome;
  std::string last_event_id;
  VideoFile* file = nullptr;
  absl::Status written;
  v1::JobState state = v1::JOB_STATE_UNSPECIFIED;
  const auto handle_event = [&](const v1::JobEvent& event) {
    last_event_id = event.event_id();
    if (event.state() != v1::JOB_STATE_UNSPECIFIED) state = event.state();
    if (event.has_error()) *outcome.job.mutable_error() = event.error();
    if (event.has_video()) *outcome.job.mutable_video() = event.video();
    on_event(event);
  };
  const auto ensure_file = [&] {
    if (file != nullptr || !written.ok()) return;
    auto opened = open_file(outcome.job);
    written = opened.status();
    if (opened.ok()) file = *opened;
  };

  Retry retry(options_, interrupt_, false);
  while (true) {
    {
      grpc::ClientContext context;
      Interrupt::Guard guard(interrupt_, [&context] { context.TryCancel(); });
      auto reader = video_->GenerateVideo(&context, request);
      v1::GenerateVideoResponse response;
      while (written.ok() && reader->Read(&response)) {
        retry.Alive();
        switch (response.payload_case()) {
          case v1::GenerateVideoResponse::kJob:
            outcome.job = response.job();
            state = outcome.job.state();
            reporter.OnJob(outcome.job);
            break;
          case v1::GenerateVideoResponse::kEvent:
            handle_event(response.event());
            break;
          case v1::GenerateVideoResponse::kChunk:
            ensure_file();
            if (!written.ok()) break;
            written = file->Write(response.chunk());
            reporter.OnBytes(file->offset(), response.chunk().total_size());
            break;
          case v1::GenerateVideoResponse::PAYLOAD_NOT_SET:
            break;
        }
      }
      if (!written.ok()) context.TryCancel();
      outcome.status = reader->Finish();
    }
    if (!outcome.job.id().empty() || outcome.status.ok()) break;
    // No job yet: the request_id makes it safe to ask again.
    if (!retry.Wait(outcome.status, &reporter)) return outcome;
  }
  if (interrupt_.raised()) {
    outcome.status = {grpc::StatusCode::CANCELLED, "interrupted"};
    return outcome;
  }
  if (!written.ok() && !absl::IsDataLoss(written)) {
    outcome.status = ToGrpcStatus(written);
    return outcome;
  }

  const bool broken = written.ok() && !outcome.status.ok();
  if (broken && !IsTransient(outcome.status)) return outcome;  // the job's own error
  if (broken && !IsFinished(state)) {
    reporter.OnNote(
        absl::StrCat("connection lost (", outcome.status.error_message(), "), following the job"));
    outcome.status = Watch(outcome.job.id(), last_event_id, handle_event);
    if (!outcome.status.ok()) return outcome;
  }
  ensure_file();
  if (!written.ok() && !absl::IsDataLoss(written)) {
    outcome.status = ToGrpcStatus(written);
    return outcome;
  }
  if (outcome.status.ok() && written.ok() && outcome.job.has_video() && !broken) {
    info = outcome.job.video();
    if (file->Commit(info).ok()) return outcome;
    if (file->offset() >= info.size_bytes()) written = file->Restart();
  }
  // What is missing, or a job without a video: the download says why.
  outcome.status = Download(outcome.job.id(), *file, reporter, info);
  return outcome;
}

}  // namespace kandinsky::cli
