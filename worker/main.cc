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
ABSL_FLAG(
    int, threads, 0,
    "CPU threads of an operation; 0: one for each processor that the process may use (affinity, "
    "control group). Results do not depend on it.");

int main(int argc, char** argv) {
  // The number of threads is ours to choose.
  setenv("MKL_DYNAMIC", "FALSE", /*overwrite=*/0);
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
