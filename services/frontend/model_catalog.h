// The models that clients may ask for, with their limits and defaults: the part of each model
// directory's model.json (format: worker/model/model_config.h) that a process without LibTorch
// needs.
//
// Immutable after Load, so thread-safe.
#ifndef KANDINSKY_SERVICES_FRONTEND_MODEL_CATALOG_H_
#define KANDINSKY_SERVICES_FRONTEND_MODEL_CATALOG_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "common/queue/job.h"
#include "common/spec/vocabulary.h"

namespace kandinsky {

struct IntLimits {
  int64_t min = 0;
  int64_t max = 0;
  int64_t default_value = 0;
};

struct DoubleLimits {
  double min = 0;
  double max = 0;
  double default_value = 0;
};

struct LevelLimits {
  Level level = Level::kHigh;
  int64_t frames = 0;
  double fps = 0;
};

struct ModelInfo {
  std::string name;
  std::string description;
  IntLimits width;   // pixels
  IntLimits height;  // pixels
  int64_t size_multiple = 1;
  int64_t pixels_max = 0;  // width * height
  IntLimits steps;
  DoubleLimits guidance_scale;
  DoubleLimits interpolation_guidance_scale;
  int64_t prompt_characters_max = 0;           // Unicode code points
  int64_t negative_prompt_characters_max = 0;  // Unicode code points
  Level default_level = Level::kHigh;
  std::vector<LevelLimits> levels;
  std::vector<std::string> vocabulary_entries;  // as model.json has them; empty: any text
  Vocabulary vocabulary;

  const LevelLimits* FindLevel(Level level) const;
};

class ModelCatalog {
 public:
  // Reads DIR/model.json of each directory; the first is the default model. INVALID_ARGUMENT names
  // file, field and limit; NOT_FOUND names a file that cannot be read.
  static absl::StatusOr<ModelCatalog> Load(const std::vector<std::string>& directories);
  // The same from texts; `origin` stands for the file in messages. For tests.
  static absl::StatusOr<ModelInfo> Parse(const std::string& json, const std::string& origin);
  explicit ModelCatalog(std::vector<ModelInfo> models) : models_(std::move(models)) {}

  // "" finds the default model. Null when there is none of that name.
  const ModelInfo* Find(std::string_view name) const;
  // Not empty after Load.
  const std::vector<ModelInfo>& models() const { return models_; }

 private:
  std::vector<ModelInfo> models_;
};

}  // namespace kandinsky

#endif  // KANDINSKY_SERVICES_FRONTEND_MODEL_CATALOG_H_
