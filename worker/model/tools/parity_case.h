// Runs a recorded case (tests/parity/README.md describes the format) through the model library.
#ifndef KANDINSKY_WORKER_MODEL_TOOLS_PARITY_CASE_H_
#define KANDINSKY_WORKER_MODEL_TOOLS_PARITY_CASE_H_

#include <string>

#include "worker/model/pipeline.h"
#include "worker/model/tools/parity_report.h"

namespace kandinsky::model {

struct ParityOptions {
  Placement placement;  // where and in which type the networks run; cases are recorded in float32
  bool trace = false;   // compare the outputs of inner modules, too, where the case has them
};

// Reads <directory>/case.json, runs its component and reports every recorded output. All dimensions
// come from the case. Throws ModelError when the directory is not a usable case.
void RunParityCase(const std::string& directory, const ParityOptions& options,
                   ParityReport& report);

}  // namespace kandinsky::model

#endif  // KANDINSKY_WORKER_MODEL_TOOLS_PARITY_CASE_H_
