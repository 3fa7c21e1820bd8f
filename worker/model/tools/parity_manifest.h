// Compares full-size modules with the recorded lists of the published checkpoints' tensors.
#ifndef KANDINSKY_WORKER_MODEL_TOOLS_PARITY_MANIFEST_H_
#define KANDINSKY_WORKER_MODEL_TOOLS_PARITY_MANIFEST_H_

#include <string>

#include "worker/model/tools/parity_report.h"

namespace kandinsky::model {

// Builds the manifest's module on the meta device (no memory is used), compares every name, shape
// and type, and the parameter counts of its parts with the manifest's and with those of the article
// where the configuration is the article's. Throws ModelError when the file is not a manifest.
void CheckManifest(const std::string& path, ParityReport& report);

}  // namespace kandinsky::model

#endif  // KANDINSKY_WORKER_MODEL_TOOLS_PARITY_MANIFEST_H_
