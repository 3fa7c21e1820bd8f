// Reads many tensors of one checkpoint with several threads, straight to where they are needed.
#ifndef KANDINSKY_WORKER_MODEL_CHECKPOINT_PARALLEL_READ_H_
#define KANDINSKY_WORKER_MODEL_CHECKPOINT_PARALLEL_READ_H_

#include <ATen/ATen.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "worker/model/checkpoint/tensor_source.h"

namespace kandinsky::model {

struct ReadJob {
  std::string name;      // in the source
  at::ScalarType dtype;  // converts floating-point tensors only, as TensorSource::Read does
  at::MemoryFormat order = at::MemoryFormat::Contiguous;  // of the axes in memory
};

struct ParallelReadOptions {
  at::Device device = at::kCPU;
  // 1 to 64; 1 reads on the calling thread. 0: as many as ATen uses for an operation, at least 4
  // for a device that is not the CPU, never more than 8 or than there are processors.
  int threads = 0;
  // Page-locked host memory in all, for a device that is not the CPU: at least 4 KiB a thread.
  int64_t staging_bytes = int64_t{64} << 20;
};

// `take` gets every job's tensor once: new, in the job's order of axes, on options.device. It is
// called by one thread at a time, in any order; copies to a device are queued on the stream that
// was current on the calling thread, and are done when ReadTensors returns.
//
// Values are those that TensorSource::Read gives, bit for bit. To the CPU a thread copies or
// converts from the mapped file into the tensor, piece by piece, so one large tensor keeps all
// threads busy. To a device it copies pieces into page-locked buffers of its own, and from there
// without waiting; a conversion that widens (which is exact) happens on the device and one that
// narrows (with the CPU's rounding) on the way into the buffer, so the smaller type is what
// travels. No thread here starts an OpenMP team.
//
// At most one tensor a thread is incomplete at any time. When several jobs fail, the error of the
// first in `jobs` among those that were begun is thrown, after all threads have stopped; what
// `take` has been given stays given. ModelError::kNotFound for an unknown name.
void ReadTensors(const TensorSource& source, const std::vector<ReadJob>& jobs,
                 const ParallelReadOptions& options,
                 const std::function<void(size_t job, const at::Tensor& tensor)>& take);

}  // namespace kandinsky::model

#endif  // KANDINSKY_WORKER_MODEL_CHECKPOINT_PARALLEL_READ_H_
