// What a trainer is to the training loop: parameters, a batch for every step, a loss.
//
// Every random number of a step comes from (seed, step, index of the sample in the joined batch),
// never from a generator that lives on between steps. So a run that was killed goes on with the
// same numbers, and N processes that share a batch compute what one would.
#ifndef KANDINSKY_TRAINING_CORE_TASK_H_
#define KANDINSKY_TRAINING_CORE_TASK_H_

#include <ATen/ATen.h>

#include <cstdint>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

namespace kandinsky::training {

class ProcessGroup;

// Which samples of which step: [first, first + count) of the joined batch of all processes.
struct BatchKey {
  uint64_t seed = 0;
  int64_t step = 0;  // 0-based
  int64_t first = 0;
  int64_t count = 0;
  int64_t steps = 0;       // of the whole run
  int64_t batch_size = 0;  // of all processes together

  // Number of sample i of this part in the endless order of samples.
  uint64_t Sample(int64_t i) const { return static_cast<uint64_t>(step * batch_size + first + i); }
};

using Batch = std::map<std::string, at::Tensor>;

// A generator for one sample and one use of it ("noise", "time", …: any number).
at::Generator SampleGenerator(const BatchKey& key, int64_t i, uint64_t use);
// Standard normal [count, ...shape] with one generator a sample.
at::Tensor SampleNoise(const BatchKey& key, uint64_t use, at::IntArrayRef shape);

struct NamedTensor {
  std::string name;
  at::Tensor value;
  double rate = 1;  // its learning rate, relative to that of the run
};

// Parameters that one loss trains. A task has one; an adversarial one has a second for the
// discriminator.
struct Objective {
  std::string name;                     // "generator"; part of the names in the state file
  std::vector<NamedTensor> parameters;  // leaves that require gradients
  bool average = true;                  // keep an exponential moving average of them
};

struct Losses {
  at::Tensor total;                      // scalar, to be minimised: a mean over the samples
  std::map<std::string, double> values;  // further numbers for the log
};

class Task {
 public:
  virtual ~Task() = default;

  // One lower-case word with dashes, as on the command line.
  virtual std::string name() const = 0;
  // All that changes what is learned, apart from the loop's own options: a run goes on only with
  // the same.
  virtual nlohmann::json Fingerprint() const = 0;
  // The same parameters in the same order at every call.
  virtual std::vector<Objective> Objectives() = 0;

  // What takes long and is to be done before the first Load, shared between the processes.
  // Collective.
  virtual void Prepare(ProcessGroup& group) { (void)group; }

  // The samples of one step on the CPU. Called from several threads at once, ahead of the training.
  virtual Batch Load(const BatchKey& key) const = 0;
  // The loss of one objective. Called for all objectives of a step, in order, with the same batch.
  virtual Losses Loss(size_t objective, const Batch& batch, const BatchKey& key) = 0;

  // The next two see the averaged parameters and no gradients.
  // A picture that shows what has been learned: uint8 [H, W, 3] on the CPU.
  virtual at::Tensor SampleSheet(uint64_t seed) = 0;
  // Writes the trained weights into the model directory.
  virtual void Export(const std::string& model_directory) = 0;
};

}  // namespace kandinsky::training

#endif  // KANDINSKY_TRAINING_CORE_TASK_H_
