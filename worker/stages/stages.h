// The model library's stages as StageRunners for the worker runtime.
#ifndef KANDINSKY_WORKER_STAGES_STAGES_H_
#define KANDINSKY_WORKER_STAGES_STAGES_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/model/execution_flags.h"
#include "worker/runtime/stage.h"

namespace kandinsky {

struct StageOptions {
  std::vector<std::string> model_dirs;   // each becomes one model, under the name in its model.json
  model::ExecutionFlagValues execution;  // device, dtype and so on, see execution.h
  // Threads of an operation on the CPU; 0: one for each processor that the process may use. Results
  // do not depend on it.
  int threads = 0;
  // Side by side in the preview of the keyframes, each at most so many pixels wide and high.
  int preview_side = 96;
};

// Sets process-wide settings of LibTorch (deterministic algorithms): call once, early in main.
// Loads nothing. INVALID_ARGUMENT for bad options. Load and Run of the stage must be called from
// one and the same thread: each thread that computes has an OpenMP team of its own.
absl::StatusOr<std::unique_ptr<StageRunner>> MakeStage(Stage stage, const StageOptions& options);

}  // namespace kandinsky

#endif  // KANDINSKY_WORKER_STAGES_STAGES_H_
