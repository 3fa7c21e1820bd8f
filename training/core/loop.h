// The training loop that all trainers share: data in parallel, AdamW, schedule, clipping, moving
// average, several processes, state on disk, log, progress bar, metrics.
//
// Files in <out>/training/<task>/:
//   state.safetensors  parameters, their moving averages, AdamW's moments; step and fingerprint in
//                      its metadata. Replaced atomically, so a killed run has the last complete one
//   log.csv            the first five steps and those that --log_every chooses, a line each: step,
//                      losses, learning rate, gradient norm. A resumed run cuts off what is newer
//                      than its state
//   samples/NNNNNN.png sample sheets
#ifndef KANDINSKY_TRAINING_CORE_LOOP_H_
#define KANDINSKY_TRAINING_CORE_LOOP_H_

#include <cstdint>
#include <functional>

#include "training/core/distributed.h"
#include "training/core/options.h"
#include "training/core/task.h"

namespace kandinsky::training {

struct TrainResult {
  int64_t step = 0;       // finished steps
  bool finished = false;  // false: interrupted or stopped by stop_at; the state is on disk
};

// Trains until options.steps, options.stop_at or until `interrupted` is true after a step; goes on
// where the state in options.out ends. When finished, exports the averaged weights to options.out.
// Throws ModelError: kInvalidArgument for options that are out of range or a state of another run,
// kDataLoss for files, and when a loss is not finite (the last state on disk is then from before).
TrainResult Train(Task& task, const TrainOptions& options, ProcessGroup& group,
                  const std::function<bool()>& interrupted = nullptr);

}  // namespace kandinsky::training

#endif  // KANDINSKY_TRAINING_CORE_LOOP_H_
