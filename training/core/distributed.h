// Data parallelism over processes and machines through LibTorch's c10d: Gloo on the CPU, NCCL on
// GPUs. The launcher sets RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT, as torchrun, Slurm's and
// Kubernetes' operators do.
#ifndef KANDINSKY_TRAINING_CORE_DISTRIBUTED_H_
#define KANDINSKY_TRAINING_CORE_DISTRIBUTED_H_

#include <ATen/ATen.h>

#include <memory>
#include <vector>

namespace kandinsky::training {

// Every call is collective: all processes make the same calls in the same order. Thread-compatible.
class ProcessGroup {
 public:
  virtual ~ProcessGroup() = default;

  virtual int rank() const = 0;
  virtual int size() const = 0;
  // Replaces every tensor by its sum, or its mean, over all processes, in float32. Tensors may be
  // on any device.
  virtual void AllReduceSum(const std::vector<at::Tensor>& tensors) = 0;
  virtual void AllReduceMean(const std::vector<at::Tensor>& tensors) = 0;
  // Everybody gets rank 0's values.
  virtual void Broadcast(const std::vector<at::Tensor>& tensors) = 0;
};

// A group of one when WORLD_SIZE is not set or 1. Otherwise waits (at most 5 minutes) until all are
// there. `device` chooses Gloo or NCCL. Throws ModelError::kInvalidArgument naming the variable
// that is wrong; c10::Error when the others do not come or when LibTorch lacks the backend.
std::unique_ptr<ProcessGroup> JoinProcessGroup(at::Device device);

// LOCAL_RANK, which chooses the GPU of this process; 0 when not set.
int LocalRank();

}  // namespace kandinsky::training

#endif  // KANDINSKY_TRAINING_CORE_DISTRIBUTED_H_
