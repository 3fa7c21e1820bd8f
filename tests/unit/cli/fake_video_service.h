// A VideoService with one job, and an AdminService with two dead letters, whose streams break where
// a test wants them to.
#ifndef KANDINSKY_TESTS_UNIT_CLI_FAKE_VIDEO_SERVICE_H_
#define KANDINSKY_TESTS_UNIT_CLI_FAKE_VIDEO_SERVICE_H_

#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>

#include <algorithm>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/base/crc32c.h"
#include "kandinsky/video/v1/admin_service.grpc.pb.h"
#include "kandinsky/video/v1/video_service.grpc.pb.h"

namespace kandinsky::cli {

// Two dead letters, dead-0 and dead-1.
class FakeAdminService : public video::v1::AdminService::Service {
 public:
  using Status = grpc::Status;
  using Context = grpc::ServerContext;

  std::vector<std::string> log;  // what was asked to change; read between calls

  Status ListDeadJobs(Context*, const video::v1::ListDeadJobsRequest* request,
                      video::v1::ListDeadJobsResponse* response) override {
    for (int i = 0; i < std::min(request->max_results(), 2); ++i) {
      Fill(absl::StrCat("dead-", i), *response->add_dead_jobs());
    }
    return Status::OK;
  }
  Status GetDeadJob(Context*, const video::v1::GetDeadJobRequest* request,
                    video::v1::DeadJob* dead) override {
    Fill(request->job_id(), *dead);
    return Check(request->job_id());
  }
  Status RetryDeadJob(Context*, const video::v1::RetryDeadJobRequest* request,
                      video::v1::Job* job) override {
    Note("retry " + request->job_id());
    job->set_id(request->job_id());
    job->set_state(video::v1::JOB_STATE_QUEUED);
    return Check(request->job_id());
  }
  Status PurgeDeadJob(Context*, const video::v1::PurgeDeadJobRequest* request,
                      google::protobuf::Empty*) override {
    Note("purge " + request->job_id());
    return Check(request->job_id());
  }

  void Settle() { std::lock_guard lock(mutex_); }  // see FakeVideoService

 private:
  void Note(std::string line) {
    std::lock_guard lock(mutex_);
    log.push_back(std::move(line));
  }

  static Status Check(const std::string& id) {
    if (id == "dead-0" || id == "dead-1") return Status::OK;
    return {grpc::StatusCode::NOT_FOUND, "no dead letter"};
  }
  static void Fill(const std::string& id, video::v1::DeadJob& dead) {
    dead.mutable_job()->set_id(id);
    dead.mutable_job()->mutable_error()->set_reason("OUT_OF_MEMORY");
    dead.set_last_worker("worker-9");
  }

  std::mutex mutex_;
};

class FakeVideoService : public video::v1::VideoService::Service {
 public:
  using Status = grpc::Status;
  using Context = grpc::ServerContext;

  FakeVideoService() {
    job_.set_id("job-1");
    job_.set_state(video::v1::JOB_STATE_SUCCEEDED);
    for (int i = 0; i < 100000; ++i) video_ += static_cast<char>(i * 31 >> 3);
    FinishVideo();
    AddEvent(video::v1::JobEvent::TYPE_STATE_CHANGED, video::v1::JOB_STATE_QUEUED);
    AddEvent(video::v1::JobEvent::TYPE_STAGE_STARTED, video::v1::JOB_STATE_RUNNING);
    for (int step = 1; step <= 5; ++step) {
      AddEvent(video::v1::JobEvent::TYPE_PROGRESS, video::v1::JOB_STATE_RUNNING)->set_step(step);
    }
    AddEvent(video::v1::JobEvent::TYPE_PREVIEW, video::v1::JOB_STATE_RUNNING)
        ->mutable_preview()
        ->set_png("a picture");
    *AddEvent(video::v1::JobEvent::TYPE_STATE_CHANGED, video::v1::JOB_STATE_SUCCEEDED)
         ->mutable_video() = job_.video();

    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
    builder.RegisterService(this);
    builder.RegisterService(&admin_);
    server_ = builder.BuildAndStart();
    address_ = absl::StrCat("127.0.0.1:", port);
  }
  ~FakeVideoService() override { server_->Shutdown(); }

  const std::string& address() const { return address_; }
  const std::string& video() const { return video_; }
  const FakeAdminService& admin() const { return admin_; }
  video::v1::Job& job() { return job_; }
  std::vector<video::v1::JobEvent>& events() { return events_; }

  void FinishVideo() {
    job_.mutable_video()->set_size_bytes(video_.size());
    job_.mutable_video()->set_crc32c(Crc32c(video_));
    job_.mutable_video()->set_frames(16);
  }

  // The n-th streaming call ends with UNAVAILABLE after breaks[n] messages; those after the last
  // end as they should.
  std::deque<int> breaks;
  // The n-th DownloadVideo damages its first chunk while n < damage.
  int damage = 0;
  // After the scripted messages, streams wait until the client cancels.
  bool hang = false;
  // Answer of every call instead of what it does, when not OK.
  Status refusal;

  // --- What arrived.
  std::vector<std::string> log;
  video::v1::GenerateVideoRequest generate;
  video::v1::CreateJobRequest create;

  Status GenerateVideo(Context* context, const video::v1::GenerateVideoRequest* request,
                       grpc::ServerWriter<video::v1::GenerateVideoResponse>* writer) override {
    generate = *request;
    Note(absl::StrCat("generate ", request->parameters().prompt()));
    if (Status refused = Refusal(); !refused.ok()) return refused;
    int left = NextBreak();
    std::vector<video::v1::GenerateVideoResponse> all(1);
    *all[0].mutable_job() = job_;
    all[0].mutable_job()->set_state(video::v1::JOB_STATE_QUEUED);
    all[0].mutable_job()->clear_video();
    for (const auto& event : events_) *all.emplace_back().mutable_event() = event;
    for (const auto& chunk : Chunks(0)) *all.emplace_back().mutable_chunk() = chunk;
    return Stream(context, all, left, writer);
  }

  Status WatchJob(Context* context, const video::v1::WatchJobRequest* request,
                  grpc::ServerWriter<video::v1::JobEvent>* writer) override {
    Note(absl::StrCat("watch after ", request->after_event_id()));
    if (Status refused = Refusal(); !refused.ok()) return refused;
    int after = 0;
    (void)absl::SimpleAtoi(request->after_event_id(), &after);
    return Stream(context, std::vector(events_.begin() + after, events_.end()), NextBreak(),
                  writer);
  }

  Status DownloadVideo(Context* context, const video::v1::DownloadVideoRequest* request,
                       grpc::ServerWriter<video::v1::VideoChunk>* writer) override {
    Note(absl::StrCat("download from ", request->offset()));
    if (Status refused = Refusal(); !refused.ok()) return refused;
    if (request->offset() > video_.size()) return {grpc::StatusCode::OUT_OF_RANGE, "past the end"};
    auto chunks = Chunks(request->offset());
    if (downloads_++ < damage && !chunks.empty()) (*chunks[0].mutable_data())[0] ^= 1;
    return Stream(context, chunks, NextBreak(), writer);
  }

  Status CreateJob(Context*, const video::v1::CreateJobRequest* request,
                   video::v1::Job* job) override {
    create = *request;
    *job = job_;
    return Refusal();
  }
  Status GetJob(Context*, const video::v1::GetJobRequest* request, video::v1::Job* job) override {
    if (request->job_id() != job_.id()) return {grpc::StatusCode::NOT_FOUND, "no such job"};
    *job = job_;
    return Refusal();
  }
  Status CancelJob(Context*, const video::v1::CancelJobRequest* request,
                   video::v1::Job* job) override {
    Note(absl::StrCat("cancel ", request->job_id()));
    *job = job_;
    return Refusal();
  }
  Status ListJobs(Context*, const video::v1::ListJobsRequest* request,
                  video::v1::ListJobsResponse* response) override {
    int first = 0;
    (void)absl::SimpleAtoi(request->page_token(), &first);
    const int total = 120;
    const int size = std::min({request->page_size(), 50, total - first});
    Note(absl::StrCat("list ", request->states_size(), " states from ", first));
    for (int i = first; i < first + size; ++i)
      response->add_jobs()->set_id(absl::StrCat("job-", i));
    if (first + size < total) response->set_next_page_token(absl::StrCat(first + size));
    return Refusal();
  }
  Status GetServerInfo(Context*, const video::v1::GetServerInfoRequest*,
                       video::v1::ServerInfo* info) override {
    std::lock_guard lock(mutex_);
    const int asked = ++info_calls_;
    info->set_version("9.9");
    for (int stage = 1; stage <= 3; ++stage) {
      auto* status = info->add_stages();
      status->set_stage(static_cast<video::v1::Stage>(stage));
      status->set_ready_workers(asked >= ready_after || stage == 1 ? 1 : 0);
    }
    return refusal;
  }
  int ready_after = 0;  // from this GetServerInfo call on every stage has a worker

  // What handlers of finished calls did to the public members is the caller's to see after this,
  // and what the caller does to them is the next handlers' to see.
  void Settle() {
    admin_.Settle();
    std::lock_guard lock(mutex_);
  }

 private:
  video::v1::JobEvent* AddEvent(video::v1::JobEvent::Type type, video::v1::JobState state) {
    auto& event = events_.emplace_back();
    event.set_event_id(absl::StrCat(events_.size()));
    event.set_job_id(job_.id());
    event.set_type(type);
    event.set_state(state);
    event.set_stage(video::v1::STAGE_KEYFRAMES);
    return &event;
  }

  std::vector<video::v1::VideoChunk> Chunks(uint64_t offset) const {
    std::vector<video::v1::VideoChunk> chunks;
    for (uint64_t at = offset; at < video_.size(); at += 30000) {
      auto& chunk = chunks.emplace_back();
      chunk.set_offset(at);
      chunk.set_data(video_.substr(at, 30000));
      chunk.set_crc32c(Crc32c(chunk.data()));
      chunk.set_total_size(video_.size());
    }
    return chunks;
  }

  int NextBreak() {
    std::lock_guard lock(mutex_);
    if (breaks.empty()) return 1 << 30;
    const int left = breaks.front();
    breaks.pop_front();
    return left;
  }

  template <typename Message>
  Status Stream(Context* context, const std::vector<Message>& messages, int left,
                grpc::ServerWriter<Message>* writer) {
    for (const Message& message : messages) {
      if (left-- <= 0) return Broken(context);
      writer->Write(message);
    }
    return left <= 0 ? Broken(context) : Status::OK;
  }

  Status Broken(Context* context) {
    while (hang && !context->IsCancelled()) std::this_thread::yield();
    return {grpc::StatusCode::UNAVAILABLE, "connection reset"};
  }

  void Note(std::string line) {
    std::lock_guard lock(mutex_);
    log.push_back(std::move(line));
  }

  Status Refusal() {
    std::lock_guard lock(mutex_);
    return refusal;
  }

  FakeAdminService admin_;
  std::mutex mutex_;
  video::v1::Job job_;
  std::string video_;
  std::vector<video::v1::JobEvent> events_;
  int downloads_ = 0;
  int info_calls_ = 0;
  std::string address_;
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace kandinsky::cli

#endif  // KANDINSKY_TESTS_UNIT_CLI_FAKE_VIDEO_SERVICE_H_
