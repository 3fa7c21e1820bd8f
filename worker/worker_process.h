// All that a worker process is apart from its stage: flags, store, server, metrics, signals. The
// mains choose the stage.
//
// Life of the process:
//   1. flags, log, signals (blocked in every thread; one thread waits for them)
//   2. store (it need not be reachable yet), latents found in --spill_dir, metrics endpoint, gRPC
//   server: from here on
//      latents of an earlier life are served; --port_file is written
//   3. LOADING: the stage loads its models, on the thread that will run its tasks. An error makes
//   the worker FAILED: it stays, shows the reason and serves latents,
//      until it is told to stop, and exits with status 1
//   4. READY: tasks are claimed and run
//   5. first SIGTERM or SIGINT, DRAINING: no more claims; the task at hand is finished, or saved
//   and handed back, within
//      --drain_grace; then latents that nobody has fetched yet are served for up to --drain_linger.
//      A second signal hurries: save and hand back now. A third ends the process at once.
//   6. shutdown, in this order: claimer, gRPC server (transfers under way may end), heartbeat,
//   store
#ifndef KANDINSKY_WORKER_WORKER_PROCESS_H_
#define KANDINSKY_WORKER_WORKER_PROCESS_H_

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/runtime/stage.h"

namespace kandinsky {

// Makes the stage; loads nothing yet. INVALID_ARGUMENT for flags that make no sense.
using StageFactory = std::function<absl::StatusOr<std::unique_ptr<StageRunner>>(
    Stage stage, const std::vector<std::string>& model_dirs)>;

// The whole of a worker's main: parses flags, runs until it is told to stop and returns the exit
// status.
int RunWorkerProcess(int argc, char** argv, std::string_view usage, const StageFactory& factory);

}  // namespace kandinsky

#endif  // KANDINSKY_WORKER_WORKER_PROCESS_H_
