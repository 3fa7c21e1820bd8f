// Tensors of LibTorch as host tensors, and checkpoints of the model library as bytes.
//
// A checkpoint blob, little endian:
//   "KVCP" u32 version=1 | u32 stage | u32 pass | u64 next_step | u32 n, then n tensors | u32
//   CRC-32C of all before tensor: u32 rank, or 0xffffffff when undefined | i64 dimension… | float32
//   data
// Stage, pass and step are checked by whoever resumes; a blob that is not whole or not of this
// version is refused and the stage begins anew.
#ifndef KANDINSKY_WORKER_STAGES_TENSOR_CODEC_H_
#define KANDINSKY_WORKER_STAGES_TENSOR_CODEC_H_

#include <ATen/core/Tensor.h>

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "common/latent/host_tensor.h"
#include "common/queue/job.h"
#include "worker/model/pipeline.h"

namespace kandinsky {

// A copy on the host, contiguous. INVALID_ARGUMENT unless float32, float16 or bfloat16.
absl::StatusOr<HostTensor> ToHostTensor(const at::Tensor& tensor);
// A copy; float32 on the CPU, whatever type it travelled in.
at::Tensor FromHostTensor(const HostTensor& tensor);

// Tensors of `checkpoint` are taken as float32.
std::string EncodeCheckpoint(Stage stage, const model::StageCheckpoint& checkpoint);
// DATA_LOSS: not a whole blob; FAILED_PRECONDITION: another version or stage. Allocates no more
// than the blob has.
absl::StatusOr<model::StageCheckpoint> DecodeCheckpoint(Stage stage, std::string_view blob);

}  // namespace kandinsky

#endif  // KANDINSKY_WORKER_STAGES_TENSOR_CODEC_H_
