// How far a recorded case may be missed on a device and in a type that it was not recorded with.
#ifndef KANDINSKY_WORKER_MODEL_TOOLS_PARITY_TOLERANCE_H_
#define KANDINSKY_WORKER_MODEL_TOOLS_PARITY_TOLERANCE_H_

#include <string>

#include "worker/model/pipeline.h"
#include "worker/model/tools/parity_report.h"

namespace kandinsky::model {

// The tolerance of a case of this component (tests/parity/README.md).
//   * float32 on the CPU: `recorded`, the case's own.
//   * float32 elsewhere: four times that. Other libraries sum in another order, and convolve 3x3
//     kernels by Winograd's algorithm, whose rounding is a few times larger.
//   * float16 and bfloat16: of the tensor as a whole, three times what was measured on the CPU
//     (docs/gpu.md has the figures), where products are rounded once as on a GPU; but an rms of at
//     most 1, as unrelated tensors have 1.4.
// What the type does not touch (tokenizer, schedules) keeps `recorded` on every device.
Tolerance ToleranceFor(const std::string& component, const Placement& placement,
                       const Tolerance& recorded);

}  // namespace kandinsky::model

#endif  // KANDINSKY_WORKER_MODEL_TOOLS_PARITY_TOLERANCE_H_
