// The preview of a job: its keyframes, small, in one picture.
#ifndef KANDINSKY_WORKER_STAGES_PREVIEW_H_
#define KANDINSKY_WORKER_STAGES_PREVIEW_H_

#include <ATen/core/Tensor.h>

#include "absl/status/statusor.h"
#include "common/queue/job.h"

namespace kandinsky {

// frames uint8 [T, H, W, 3] -> a PNG with up to 8 frames in a row, each scaled down to fit into
// side x side pixels. May throw c10::Error.
absl::StatusOr<Preview> MakePreview(const at::Tensor& frames, int side);

}  // namespace kandinsky

#endif  // KANDINSKY_WORKER_STAGES_PREVIEW_H_
