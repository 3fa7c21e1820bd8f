// Any text may be given as a model.json: it becomes a config that can be written and read again, or
// a ModelError.
#include <cstdint>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <string>

#include "worker/model/error.h"
#include "worker/model/model_config.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace kandinsky::model;
  const nlohmann::json json =
      nlohmann::json::parse(data, data + size, nullptr, /*allow_exceptions=*/false);
  if (json.is_discarded()) return 0;
  nlohmann::json written;
  try {
    written = ModelConfig::FromJson(json).ToJson();
  } catch (const ModelError&) {
    return 0;
  }
  // What was accepted must be accepted again, and mean the same.
  if (ModelConfig::FromJson(written).ToJson() != written) std::abort();
  return 0;
}
