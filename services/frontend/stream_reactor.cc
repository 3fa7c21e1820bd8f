#include "services/frontend/stream_reactor.h"

#include "services/frontend/error_details.h"

namespace kandinsky {

std::shared_ptr<StreamReactor> StreamReactor::Open(StreamRegistry* registry, StreamKind kind,
                                                   std::function<void()> on_disconnect,
                                                   bool* open) {
  std::shared_ptr<StreamReactor> stream(
      new StreamReactor(registry, kind, std::move(on_disconnect)));
  {
    MutexLock lock(&stream->mutex_);
    stream->self_ = stream;
  }
  const grpc::Status status = registry->Add(stream.get());
  *open = status.ok();
  if (!status.ok()) stream->End(status);
  return stream;
}

void StreamReactor::Begin(std::optional<grpc::ByteBuffer> first,
                          const std::vector<std::shared_ptr<StreamSource>>& sources) {
  {
    MutexLock lock(&mutex_);
    if (finished_ || end_) return;
    begun_ = true;
    first_ = std::move(first);
    sources_ = sources;
    Pump();
  }
  for (const auto& source : sources) {
    source->Start([weak = weak_from_this()] {
      if (const auto stream = weak.lock()) {
        MutexLock lock(&stream->mutex_);
        stream->Pump();
      }
    });
  }
  // The stream may have ended while the sources started: OnDone may have stopped them too early.
  MutexLock lock(&mutex_);
  if (finished_) {
    for (const auto& source : sources) source->Stop();
  }
}

void StreamReactor::End(grpc::Status status) {
  MutexLock lock(&mutex_);
  if (!end_) end_ = std::move(status);
  if (!writing_) FinishOnce(*end_);
}

void StreamReactor::EndForDrain() {
  {
    MutexLock lock(&mutex_);
    drained_ = true;
  }
  End(ShuttingDown());
}

void StreamReactor::OnWriteDone(bool ok) {
  MutexLock lock(&mutex_);
  writing_ = false;
  message_.Clear();
  if (!ok) return FinishOnce(grpc::Status(grpc::StatusCode::CANCELLED, "the client is gone"));
  if (end_) return FinishOnce(*end_);
  Pump();
}

void StreamReactor::OnCancel() {
  bool disconnected = false;
  {
    MutexLock lock(&mutex_);
    disconnected = !drained_ && !end_;
  }
  if (disconnected && on_disconnect_) on_disconnect_();
  End(grpc::Status(grpc::StatusCode::CANCELLED, "the client is gone"));
}

void StreamReactor::OnDone() {
  registry_->Remove(this);
  std::vector<std::shared_ptr<StreamSource>> sources;
  std::shared_ptr<StreamReactor> self;  // goes last, after the lock
  {
    MutexLock lock(&mutex_);
    sources.swap(sources_);
    self.swap(self_);
  }
  for (const auto& source : sources) source->Stop();
}

void StreamReactor::Pump() {
  if (!begun_ || writing_ || finished_) return;
  if (first_) {
    message_.Swap(&*first_);
    first_.reset();
    return Write();
  }
  bool waiting = false;
  for (const auto& source : sources_) {
    grpc::ByteBuffer message;
    grpc::Status status;
    switch (source->Next(&message, &status)) {
      case StreamSource::Pull::kMessage:
        message_.Swap(&message);
        return Write();
      case StreamSource::Pull::kWait:
        waiting = true;
        break;
      case StreamSource::Pull::kEnd:
        if (!status.ok() && !waiting) return FinishOnce(status);
        break;
    }
  }
  if (!waiting) FinishOnce(grpc::Status::OK);
}

void StreamReactor::Write() {
  writing_ = true;
  StartWrite(&message_);
}

void StreamReactor::FinishOnce(const grpc::Status& status) {
  if (finished_) return;
  finished_ = true;
  Finish(status);
}

grpc::Status StreamRegistry::Add(StreamReactor* stream) {
  MutexLock lock(&mutex_);
  if (draining_) return ShuttingDown();
  if (streams_.size() >= max_streams_) {
    return Overloaded("this frontend serves as many streams as it may");
  }
  streams_.insert(stream);
  ++counts_[static_cast<size_t>(stream->kind())];
  return grpc::Status::OK;
}

void StreamRegistry::Remove(StreamReactor* stream) {
  MutexLock lock(&mutex_);
  if (streams_.erase(stream) > 0) --counts_[static_cast<size_t>(stream->kind())];
}

size_t StreamRegistry::Count(StreamKind kind) const {
  MutexLock lock(&mutex_);
  return counts_[static_cast<size_t>(kind)];
}

std::vector<std::shared_ptr<StreamReactor>> StreamRegistry::Streams() const {
  MutexLock lock(&mutex_);
  std::vector<std::shared_ptr<StreamReactor>> streams;
  streams.reserve(streams_.size());
  // A stream leaves the registry before it gives up its reference to itself.
  for (StreamReactor* stream : streams_) streams.push_back(stream->shared_from_this());
  return streams;
}

void StreamRegistry::Drain() {
  {
    MutexLock lock(&mutex_);
    draining_ = true;
  }
  for (const auto& stream : Streams()) {
    if (stream->kind() != StreamKind::kDownload) stream->EndForDrain();
  }
}

void StreamRegistry::EndAll() {
  Drain();
  for (const auto& stream : Streams()) stream->EndForDrain();
}

}  // namespace kandinsky
