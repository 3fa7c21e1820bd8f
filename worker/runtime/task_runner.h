// One task from claim to end: fetch the input, run the stage, store the result, tell the queue.
//
// What happens when the process dies, point by point:
//   claimed, nothing done        the lease ends, somebody else claims the task
//   during the transfer          the producer still has the latents (they are released only after
//   the task's end) during steps                 the next worker goes on from the last checkpoint
//   after the result, unstored   likewise; the result comes out the same
//   stored, not acknowledged     likewise; the stored bytes have a key (a generation) of their own
//   and are left to their
//                                time to live
//   acknowledged                 the latents are on disk and served again when this worker is back;
//   if it never is, the
//                                task is sent back one stage
// A worker that was stopped and comes back finds its lease lost: each call that changes anything is
// fenced, and its bytes in the video store are under a generation that does not count.
#ifndef KANDINSKY_WORKER_RUNTIME_TASK_RUNNER_H_
#define KANDINSKY_WORKER_RUNTIME_TASK_RUNNER_H_

#include <functional>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/base/clock.h"
#include "common/latent/latent_source.h"
#include "common/latent/latent_store.h"
#include "common/queue/task_queue.h"
#include "common/queue/video_store.h"
#include "worker/runtime/drain.h"
#include "worker/runtime/lease_keeper.h"
#include "worker/runtime/stage.h"
#include "worker/runtime/video_sink.h"
#include "worker/runtime/worker_metrics.h"

namespace kandinsky {

// Run from one thread.
class TaskRunner {
 public:
  // All must outlive the runner.
  struct Parts {
    TaskQueue* queue = nullptr;
    VideoStore* videos = nullptr;    // used by the decoding stage
    LatentStore* latents = nullptr;  // of this worker
    LatentSource* source = nullptr;  // of the other workers' latents
    StageRunner* stage = nullptr;
    WorkerMetrics* metrics = nullptr;
    Drain* drain = nullptr;
    const Clock* clock = nullptr;  // see SteadyClock
    const Clock* wall = nullptr;   // the store's time, about
  };
  struct Options {
    std::string address;  // of this worker's LatentService, as other workers reach it
    absl::Duration checkpoint_interval = absl::Seconds(5);
    LeaseKeeper::Options lease;
  };

  TaskRunner(const Parts& parts, const Options& options);

  // Blocks until the task has ended or its lease is lost. Never throws.
  TaskOutcome Run(const Lease& lease);

 private:
  class Context;

  TaskOutcome RunLeased(const Lease& lease, LeaseKeeper& keeper);
  absl::StatusOr<HostTensor> FetchInput(const Lease& lease, LeaseKeeper& keeper);
  absl::StatusOr<StageOutput> RunStage(const StageInput& input, StageContext& context);
  TaskOutcome Complete(const Lease& lease, LeaseKeeper& keeper, const HostTensor& latents);
  TaskOutcome Finish(const Lease& lease, LeaseKeeper& keeper, VideoSink& sink, VideoInfo video);
  TaskOutcome Stopped(const Lease& lease, LeaseKeeper& keeper, const absl::Status& status);
  TaskOutcome Fail(const Lease& lease, LeaseKeeper& keeper, const TaskFailure& failure);
  TaskOutcome End(const Lease& lease, LeaseKeeper& keeper, TaskOutcome outcome,
                  const std::function<absl::Status()>& call);
  // Whether to stop trying to reach a store on behalf of this task.
  bool GiveUp(const LeaseKeeper& keeper) const;

  const Parts parts_;
  const Options options_;
};

}  // namespace kandinsky

#endif  // KANDINSKY_WORKER_RUNTIME_TASK_RUNNER_H_
