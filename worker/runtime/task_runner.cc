#include "worker/runtime/task_runner.h"

#include <algorithm>
#include <exception>
#include <new>
#include <utility>
#include <vector>

#include "absl/random/random.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/base/fault_point.h"
#include "common/base/log.h"
#include "worker/runtime/checkpoint_writer.h"
#include "worker/runtime/failure.h"
#include "worker/runtime/store_retry.h"

namespace kandinsky {
namespace {

std::optional<RemoteLatents> ToRemote(const LatentLocation& location) {
  const std::optional<DataType> dtype = ParseDataType(location.dtype);
  if (!dtype) return std::nullopt;
  return RemoteLatents{location.address, location.key, *dtype, location.shape, location.crc32c};
}

// Unique for every result, so that a late duplicate never replaces what another task refers to.
std::string NewLatentKey(const Lease& lease) {
  absl::BitGen random;
  return absl::StrFormat("%s.%s.%016x", lease.job_id, std::string(Name(lease.stage)),
                         absl::Uniform<uint64_t>(random));
}

}  // namespace

// What a running stage sees. All calls come from the thread that runs it.
class TaskRunner::Context : public StageContext {
 public:
  Context(TaskRunner* runner, const Lease& lease, LeaseKeeper* keeper, CheckpointWriter* writer,
          VideoSink* sink)
      : runner_(*runner), lease_(lease), keeper_(*keeper), writer_(*writer), sink_(*sink) {
    last_checkpoint_ = last_report_ = Now();
  }

  bool ShouldStop() override {
    if (keeper_.state() != LeaseKeeper::State::kHeld) return true;
    if (!Hurrying()) return false;
    // One more step, so that a checkpoint can be made; then out.
    return checkpoint_made_in_hurry_ || ++asked_in_hurry_ > 1 || runner_.parts_.drain->over();
  }

  void ReportProgress(const StageProgress& reported) override {
    const absl::Time now = Now();
    if (reported.pass == last_.pass && reported.step > last_.step) {
      runner_.parts_.metrics->Step((now - last_report_) / (reported.step - last_.step));
    }
    last_ = reported;
    last_report_ = now;

    StageProgress progress = reported;
    if (progress.stage_fraction <= 0 && progress.steps > 0 && progress.passes > 0) {
      progress.stage_fraction =
          (progress.pass - 1 + static_cast<double>(progress.step) / progress.steps) /
          progress.passes;
    }
    progress.stage_fraction = std::clamp(progress.stage_fraction, 0.0, 1.0);
    if (!first_) {
      first_ = {now, progress.stage_fraction};
    } else if (!progress.stage_eta && progress.stage_fraction > first_->second) {
      progress.stage_eta = (now - first_->first) * ((1 - progress.stage_fraction) /
                                                    (progress.stage_fraction - first_->second));
    }
    eta_ = progress.stage_eta;
    keeper_.SetProgress(progress);
    FaultPoint("mid_steps");
  }

  bool CheckpointDue() override {
    if (Hurrying()) return !checkpoint_made_in_hurry_;
    return Now() - last_checkpoint_ >= runner_.options_.checkpoint_interval && !writer_.busy();
  }

  void SaveCheckpoint(std::string blob) override {
    last_checkpoint_ = Now();
    if (Hurrying()) checkpoint_made_in_hurry_ = true;
    writer_.Post(std::move(blob));
  }

  void PublishPreview(Preview preview) override {
    // Nice to have: two tries.
    int tries = 0;
    const absl::Status status =
        RetryUntil([&] { return runner_.parts_.queue->PublishPreview(lease_, preview); },
                   [&] { return ++tries > 1; });
    if (!status.ok()) {
      Log(LogLevel::kWarning, "preview not published",
          {{"job", lease_.job_id}, {"why", std::string(status.message())}});
    }
  }

  absl::Status WriteVideo(std::string_view data) override {
    if (keeper_.state() != LeaseKeeper::State::kHeld) return absl::CancelledError("stopped");
    return sink_.Write(data);
  }

 private:
  absl::Time Now() const { return runner_.parts_.clock->Now(); }

  // A drain that this task cannot outlast, by its own estimate, is in a hurry from the start.
  bool Hurrying() const {
    const Drain& drain = *runner_.parts_.drain;
    if (drain.hurrying()) return true;
    return drain.draining() && eta_ && *eta_ > drain.TimeToFinish();
  }

  TaskRunner& runner_;
  const Lease& lease_;
  LeaseKeeper& keeper_;
  CheckpointWriter& writer_;
  VideoSink& sink_;
  absl::Time last_checkpoint_;
  absl::Time last_report_;
  StageProgress last_;
  std::optional<std::pair<absl::Time, double>> first_;  // the first report: time and fraction
  std::optional<absl::Duration> eta_;
  int asked_in_hurry_ = 0;
  bool checkpoint_made_in_hurry_ = false;
};

TaskRunner::TaskRunner(const Parts& parts, const Options& options)
    : parts_(parts), options_(options) {}

TaskOutcome TaskRunner::Run(const Lease& lease) {
  const absl::Time start = parts_.clock->Now();
  const absl::Duration wait = parts_.wall->Now() - lease.enqueue_time;
  FaultPoint("claimed");
  if (lease.reclaimed) {
    parts_.metrics->LeaseReclaimed();
  } else {
    parts_.metrics->QueueWait(lease.priority, wait);
  }
  Log(LogLevel::kInfo, "task claimed",
      {{"job", lease.job_id},
       {"stage", Name(lease.stage)},
       {"attempt", lease.attempt},
       {"delivery", lease.delivery},
       {"reclaimed", lease.reclaimed},
       {"waited_s", absl::ToDoubleSeconds(std::max(wait, absl::ZeroDuration()))}});
  if (LogPrompts()) {
    Log(LogLevel::kInfo, "prompt", {{"job", lease.job_id}, {"prompt", lease.parameters.prompt}});
  }

  LeaseKeeper keeper(parts_.queue, lease, parts_.clock, parts_.metrics, options_.lease);
  keeper.Start();
  const TaskOutcome outcome = RunLeased(lease, keeper);
  keeper.Stop();

  const absl::Duration duration = parts_.clock->Now() - start;
  parts_.metrics->TaskEnded(outcome, duration);
  Log(outcome == TaskOutcome::kLeaseLost ? LogLevel::kWarning : LogLevel::kInfo, "task ended",
      {{"job", lease.job_id},
       {"stage", Name(lease.stage)},
       {"outcome", Name(outcome)},
       {"seconds", absl::ToDoubleSeconds(duration)}});
  return outcome;
}

TaskOutcome TaskRunner::RunLeased(const Lease& lease, LeaseKeeper& keeper) {
  const std::vector<std::string> models = parts_.stage->models();
  if (std::find(models.begin(), models.end(), lease.parameters.model) == models.end()) {
    return Fail(lease, keeper,
                {TaskFailure::Class::kTransient, "MODEL_NOT_LOADED",
                 absl::StrCat("this worker has no model \"", lease.parameters.model, "\"")});
  }

  StageInput input;
  input.job_id = lease.job_id;
  input.parameters = lease.parameters;
  if (lease.stage != Stage::kKeyframes) {
    absl::StatusOr<HostTensor> latents = FetchInput(lease, keeper);
    if (absl::IsCancelled(latents.status())) return Stopped(lease, keeper, latents.status());
    if (absl::IsInvalidArgument(latents.status())) {
      return Fail(lease, keeper, ClassifyStageError(WithReason(latents.status(), "BAD_LATENTS")));
    }
    if (!latents.ok()) {
      const std::string why(latents.status().message());
      Log(LogLevel::kWarning, "input latents are gone",
          {{"job", lease.job_id},
           {"producer", lease.input ? lease.input->address : std::string()},
           {"why", why}});
      return End(lease, keeper, TaskOutcome::kSentBack,
                 [&] { return parts_.queue->SendBack(lease, why); });
    }
    input.latents = *std::move(latents);
  }

  absl::StatusOr<std::optional<std::string>> checkpoint = std::nullopt;
  (void)RetryUntil(
      [&] {
        checkpoint = parts_.queue->LoadCheckpoint(lease);
        return checkpoint.status();
      },
      [&] { return GiveUp(keeper) || parts_.drain->hurrying(); });
  if (absl::IsFailedPrecondition(checkpoint.status())) return TaskOutcome::kLeaseLost;
  if (!checkpoint.ok()) return Stopped(lease, keeper, checkpoint.status());
  input.checkpoint = *std::move(checkpoint);
  if (input.checkpoint) {
    Log(LogLevel::kInfo, "task resumes from a checkpoint",
        {{"job", lease.job_id},
         {"stage", Name(lease.stage)},
         {"checkpoint_bytes", input.checkpoint->size()}});
  }

  const auto give_up = [this, &keeper] { return GiveUp(keeper); };
  VideoSink sink(parts_.videos, lease.job_id, lease.video_generation, give_up);
  CheckpointWriter writer(parts_.queue, lease, parts_.metrics, give_up);
  writer.Start();
  absl::StatusOr<StageOutput> output;
  {
    Context context(this, lease, &keeper, &writer, &sink);
    output = RunStage(input, context);
  }
  FaultPoint("after_result");

  // A result is worth keeping even in a hurry, but not when nobody wants it.
  const bool wanted = keeper.state() == LeaseKeeper::State::kHeld;
  if (!output.ok() || !wanted) {
    writer.Stop();  // a checkpoint that is on its way arrives first
    if (!wanted || absl::IsCancelled(output.status())) {
      return Stopped(lease, keeper, output.status());
    }
    if (!sink.status().ok()) {
      return Fail(lease, keeper, TransientFailure(sink.status(), "VIDEO_STORE_ERROR"));
    }
    return Fail(lease, keeper, ClassifyStageError(output.status()));
  }
  if (lease.stage == Stage::kDecoding) {
    if (!output->video) {
      return Fail(lease, keeper, ClassifyStageError(absl::InternalError("no video came out")));
    }
    return Finish(lease, keeper, sink, *std::move(output->video));
  }
  if (!output->latents) {
    return Fail(lease, keeper, ClassifyStageError(absl::InternalError("no latents came out")));
  }
  return Complete(lease, keeper, *output->latents);
}

absl::StatusOr<HostTensor> TaskRunner::FetchInput(const Lease& lease, LeaseKeeper& keeper) {
  if (!lease.input) return absl::NotFoundError("the task names no latents");
  const std::optional<RemoteLatents> remote = ToRemote(*lease.input);
  if (!remote) return absl::InvalidArgumentError("latents of an unknown dtype");
  if (remote->address == options_.address) {
    absl::StatusOr<StoredLatents> stored = parts_.latents->Get(remote->key);
    if (!stored.ok()) return stored.status();
    if (stored->crc32c != remote->crc32c || stored->tensor.shape() != remote->shape ||
        stored->tensor.dtype() != remote->dtype) {
      return absl::DataLossError("the stored latents are not those of the task");
    }
    return stored->tensor;
  }
  return parts_.source->Fetch(*remote, [&] {
    return keeper.state() != LeaseKeeper::State::kHeld || parts_.drain->hurrying();
  });
}

absl::StatusOr<StageOutput> TaskRunner::RunStage(const StageInput& input, StageContext& context) {
  try {
    return parts_.stage->Run(input, context);
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError("out of host memory");
  } catch (const std::exception& error) {
    return absl::InternalError(error.what());
  }
}

TaskOutcome TaskRunner::Complete(const Lease& lease, LeaseKeeper& keeper,
                                 const HostTensor& latents) {
  LatentLocation location;
  location.address = options_.address;
  location.key = NewLatentKey(lease);
  location.dtype = std::string(Name(latents.dtype()));
  location.shape = latents.shape();
  const absl::StatusOr<uint32_t> crc32c = parts_.latents->Put(location.key, latents);
  if (!crc32c.ok()) {
    return Fail(lease, keeper,
                TransientFailure(crc32c.status(), absl::IsResourceExhausted(crc32c.status())
                                                      ? "LATENT_STORE_FULL"
                                                      : "LATENT_STORE_ERROR"));
  }
  location.crc32c = *crc32c;
  FaultPoint("before_ack");
  // When the lease turns out to be lost the latents stay until their time to live ends: the call
  // may have taken effect although its reply was lost.
  const TaskOutcome outcome = End(lease, keeper, TaskOutcome::kCompleted,
                                  [&] { return parts_.queue->Complete(lease, location); });
  if (outcome == TaskOutcome::kCompleted && lease.input) {
    if (const auto remote = ToRemote(*lease.input)) parts_.source->Release(*remote);
  }
  return outcome;
}

TaskOutcome TaskRunner::Finish(const Lease& lease, LeaseKeeper& keeper, VideoSink& sink,
                               VideoInfo video) {
  if (!sink.Seal().ok()) {
    if (keeper.state() != LeaseKeeper::State::kHeld) return Stopped(lease, keeper, sink.status());
    return Fail(lease, keeper, TransientFailure(sink.status(), "VIDEO_STORE_ERROR"));
  }
  video.size_bytes = sink.size();
  video.crc32c = sink.crc32c();
  FaultPoint("before_ack");
  const TaskOutcome outcome = End(lease, keeper, TaskOutcome::kCompleted,
                                  [&] { return parts_.queue->Finish(lease, video); });
  if (outcome == TaskOutcome::kCompleted) {
    if (const auto remote = lease.input ? ToRemote(*lease.input) : std::nullopt) {
      parts_.source->Release(*remote);
    }
    // Bytes of claims that were lost.
    (void)parts_.videos->Remove(lease.job_id, lease.video_generation);
  }
  return outcome;
}

TaskOutcome TaskRunner::Stopped(const Lease& lease, LeaseKeeper& keeper,
                                const absl::Status& status) {
  switch (keeper.state()) {
    case LeaseKeeper::State::kLost:
      return TaskOutcome::kLeaseLost;
    case LeaseKeeper::State::kCancelRequested:
      return End(lease, keeper, TaskOutcome::kCancelled,
                 [&] { return parts_.queue->AcknowledgeCancel(lease); });
    case LeaseKeeper::State::kDeadlineExceeded:
      return End(lease, keeper, TaskOutcome::kExpired,
                 [&] { return parts_.queue->AcknowledgeCancel(lease); });
    case LeaseKeeper::State::kHeld:
      break;
  }
  if (parts_.drain->draining()) {
    return End(lease, keeper, TaskOutcome::kReleased, [&] { return parts_.queue->Release(lease); });
  }
  return Fail(
      lease, keeper,
      TransientFailure(status.ok() ? absl::InternalError("stopped without a reason") : status,
                       "STAGE_ERROR"));
}

TaskOutcome TaskRunner::Fail(const Lease& lease, LeaseKeeper& keeper, const TaskFailure& failure) {
  Log(LogLevel::kWarning, "task failed",
      {{"job", lease.job_id},
       {"stage", Name(lease.stage)},
       {"attempt", lease.attempt},
       {"reason", failure.reason},
       {"why", failure.message}});
  TaskOutcome outcome = TaskOutcome::kFailedTransient;
  if (failure.failure_class == TaskFailure::Class::kPermanent) {
    outcome = TaskOutcome::kFailedPermanent;
  } else if (failure.failure_class == TaskFailure::Class::kOutOfMemory) {
    outcome = TaskOutcome::kOutOfMemory;
  }
  return End(lease, keeper, outcome, [&] { return parts_.queue->Fail(lease, failure); });
}

// The keeper goes on meanwhile: the store may be away for longer than the lease lasts. That a
// renewal finds the lease ended may be the doing of `call` itself, so `call` has the last word.
TaskOutcome TaskRunner::End(const Lease& lease, LeaseKeeper& keeper, TaskOutcome outcome,
                            const std::function<absl::Status()>& call) {
  const absl::Status status = RetryUntil(call, [&] { return GiveUp(keeper); });
  keeper.Stop();
  if (status.ok()) return outcome;
  Log(LogLevel::kWarning, "task not ended",
      {{"job", lease.job_id}, {"intended", Name(outcome)}, {"why", std::string(status.message())}});
  return TaskOutcome::kLeaseLost;
}

bool TaskRunner::GiveUp(const LeaseKeeper& keeper) const {
  return keeper.state() == LeaseKeeper::State::kLost || parts_.drain->over();
}

}  // namespace kandinsky
