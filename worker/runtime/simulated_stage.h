// A stage without a model, for tests and soak runs of the engine: it takes as many steps of as much
// time as it is told and makes numbers that depend on all that the real result depends on (seed,
// prompt, level, input latents, every step), so that lost or doubled work, a wrong checkpoint and
// mixed-up latents show in the result. It checkpoints, resumes, stops and reports progress like a
// real stage.
#ifndef KANDINSKY_WORKER_RUNTIME_SIMULATED_STAGE_H_
#define KANDINSKY_WORKER_RUNTIME_SIMULATED_STAGE_H_

#include <atomic>
#include <functional>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "worker/runtime/stage.h"

namespace kandinsky {

struct SimulatedStageOptions {
  Stage stage = Stage::kKeyframes;
  std::vector<std::string> models = {"tiny"};
  absl::Duration load_time = absl::ZeroDuration();
  // Steps of a pass; 0: those of the request. Decoding takes a step a frame.
  int steps = 0;
  absl::Duration step_time = absl::Milliseconds(10);
  // Sleeps; tests may count steps or advance a clock instead.
  std::function<void(absl::Duration)> work;
  // Asked at the begin of every run; a failure ends it. For tests.
  std::function<absl::Status(const StageInput&)> fail;
};

class SimulatedStage : public StageRunner {
 public:
  explicit SimulatedStage(SimulatedStageOptions options);

  Stage stage() const override { return options_.stage; }
  std::vector<std::string> models() const override { return options_.models; }
  absl::Status Load() override;
  absl::StatusOr<StageOutput> Run(const StageInput& input, StageContext& context) override;

  // Steps computed so far by this object, wasted ones included. Thread-safe.
  int64_t steps_done() const { return steps_done_; }

  // What an undisturbed run of the whole job makes: the bytes of its video.
  static std::string ExpectedVideo(const GenerationParameters& parameters, int steps = 0);

 private:
  absl::StatusOr<StageOutput> Denoise(const StageInput& input, StageContext& context);
  absl::StatusOr<StageOutput> Decode(const StageInput& input, StageContext& context);
  absl::Status Step(StageContext& context, const StageProgress& after);

  const SimulatedStageOptions options_;
  std::atomic<int64_t> steps_done_{0};
};

}  // namespace kandinsky

#endif  // KANDINSKY_WORKER_RUNTIME_SIMULATED_STAGE_H_
