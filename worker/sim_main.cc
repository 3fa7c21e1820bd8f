// kandinsky-sim-worker: a worker whose stage computes nothing (worker/runtime/simulated_stage.h),
// for soak runs and fault tests of the job engine. Everything around the stage is that of
// kandinsky-worker. See --help.
#include <filesystem>
#include <memory>

#include "absl/flags/flag.h"
#include "absl/time/time.h"
#include "common/config/flags.h"
#include "worker/runtime/simulated_stage.h"
#include "worker/worker_process.h"

ABSL_FLAG(absl::Duration, step_time, absl::Milliseconds(10),
          "Time of a step or of a decoded frame.");
ABSL_FLAG(absl::Duration, load_time, absl::ZeroDuration(), "Time to load.");
ABSL_FLAG(int, steps, 0, "Steps of a pass; 0: those of the request.");
ABSL_FLAG(std::string, models, "simulated",
          "Names of models that it pretends to have, besides the names of --model_dirs.");

int main(int argc, char** argv) {
  return kandinsky::RunWorkerProcess(
      argc, argv, "A worker with a simulated stage.",
      [](kandinsky::Stage stage, const std::vector<std::string>& model_dirs)
          -> absl::StatusOr<std::unique_ptr<kandinsky::StageRunner>> {
        kandinsky::SimulatedStageOptions options;
        options.stage = stage;
        options.models = kandinsky::SplitList(absl::GetFlag(FLAGS_models));
        for (const std::string& directory : model_dirs) {
          options.models.push_back(
              std::filesystem::path(directory + "/").parent_path().filename().string());
        }
        options.load_time = absl::GetFlag(FLAGS_load_time);
        options.steps = absl::GetFlag(FLAGS_steps);
        options.step_time = absl::GetFlag(FLAGS_step_time);
        return std::make_unique<kandinsky::SimulatedStage>(options);
      });
}
