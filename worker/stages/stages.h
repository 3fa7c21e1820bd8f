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
  // Threads of an operation on the CPU. Sums are split by it: workers with equal numbers give equal
  // results.
  int threads = 2;
  // Side by side in the preview of the keyframes, each at most so many pixels wide and high.
  int preview_side = 96;
};

// Sets process-wide settings of LibTorch (threads, deterministic algorithms): call once, early in
// main. Loads nothing. INVALID_ARGUMENT for bad options.
absl::StatusOr<std::unique_ptr<StageRunner>> MakeStage(Stage stage, const StageOptions& options);

}  // namespace kandinsky

#endif  // KANDINSKY_WORKER_STAGES_STAGES_H_
