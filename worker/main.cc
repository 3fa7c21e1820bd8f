// kandinsky-worker: works on the tasks of one stage. See --help and worker_process.h.
#include <cstdlib>
#include <memory>

#include "absl/flags/flag.h"
#include "common/config/flags.h"
#include "worker/model/execution_flags.h"
#include "worker/stages/stages.h"
#include "worker/worker_process.h"

#define KANDINSKY_DEFINE_FLAG(name, otherwise, help) ABSL_FLAG(std::string, name, otherwise, help);
KANDINSKY_EXECUTION_FLAGS(KANDINSKY_DEFINE_FLAG)
ABSL_FLAG(int, threads, 2,
          "CPU threads of an operation. Results are equal on workers with equal numbers only.");

int main(int argc, char** argv) {
  // The math libraries must not choose fewer threads by what the machine has: that would change
  // sums.
  setenv("MKL_DYNAMIC", "FALSE", /*overwrite=*/0);
  setenv("OMP_DYNAMIC", "FALSE", /*overwrite=*/0);
  return kandinsky::RunWorkerProcess(
      argc, argv, "Works on the tasks of one stage of Kandinsky Video Service.",
      [](kandinsky::Stage stage, const std::vector<std::string>& model_dirs) {
        kandinsky::StageOptions options;
        options.model_dirs = model_dirs;
#define KANDINSKY_READ_FLAG(name, otherwise, help) \
  options.execution[#name] = absl::GetFlag(FLAGS_##name);
        KANDINSKY_EXECUTION_FLAGS(KANDINSKY_READ_FLAG)
        options.threads = absl::GetFlag(FLAGS_threads);
        return kandinsky::MakeStage(stage, options);
      });
}
