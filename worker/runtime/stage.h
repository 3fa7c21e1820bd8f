// What a stage is to the worker runtime: no LibTorch here, so that the runtime is tested with
// simulated stages. Real stages: worker/stages. Simulated: worker/runtime/simulated_stage.h.
#ifndef KANDINSKY_WORKER_RUNTIME_STAGE_H_
#define KANDINSKY_WORKER_RUNTIME_STAGE_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/latent/host_tensor.h"
#include "common/queue/job.h"
#include "common/queue/task_queue.h"

namespace kandinsky {

struct StageInput {
  std::string job_id;
  GenerationParameters parameters;
  std::optional<HostTensor> latents;  // [T, C, h, w]; empty for keyframes
  std::optional<std::string>
      checkpoint;  // a blob that this stage made earlier, maybe on another machine
};

struct StageOutput {
  std::optional<HostTensor> latents;  // [T, C, h, w]; keyframes and interpolation
  std::optional<VideoInfo> video;  // decoding; size_bytes and crc32c are filled in by the runtime
};

// The runtime's side of a running stage. Called from the thread that runs the stage, except that
// one other thread may call WriteVideo until Run returns.
class StageContext {
 public:
  virtual ~StageContext() = default;
  // True when the stage should stop at once (cancelled, deadline, lease lost, draining in a hurry).
  // The stage then returns CANCELLED; why it was stopped is the runtime's business.
  virtual bool ShouldStop() = 0;
  virtual void ReportProgress(const StageProgress& progress) = 0;
  // True when enough time has passed since the last checkpoint (or a drain wants one now).
  virtual bool CheckpointDue() = 0;
  virtual void SaveCheckpoint(std::string blob) = 0;
  virtual void PublishPreview(Preview preview) = 0;
  // Appends bytes of the video file. An error must end the stage with that status.
  virtual absl::Status WriteVideo(std::string_view data) = 0;
};

class StageRunner {
 public:
  virtual ~StageRunner() = default;
  virtual Stage stage() const = 0;
  // Names of the models that this process has loaded.
  virtual std::vector<std::string> models() const = 0;
  // Loads weights; called once, before Run and from the thread that will call it. The status text
  // is what readiness FAILED shows.
  virtual absl::Status Load() = 0;
  // Runs one task; blocks. Status codes: INVALID_ARGUMENT, FAILED_PRECONDITION, DATA_LOSS of the
  // model: permanent; RESOURCE_EXHAUSTED: out of memory; CANCELLED: ShouldStop; anything else:
  // transient.
  virtual absl::StatusOr<StageOutput> Run(const StageInput& input, StageContext& context) = 0;
};

}  // namespace kandinsky

#endif  // KANDINSKY_WORKER_RUNTIME_STAGE_H_
