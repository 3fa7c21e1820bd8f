// Where evaluated clips come from.
#ifndef KANDINSKY_TRAINING_EVAL_GENERATOR_H_
#define KANDINSKY_TRAINING_EVAL_GENERATOR_H_

#include <ATen/ATen.h>

#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "training/eval/prompt_match.h"
#include "worker/model/model_config.h"
#include "worker/model/pipeline.h"

namespace kandinsky::training {

// Thread rule: one thread at a time.
class ClipGenerator {
 public:
  virtual ~ClipGenerator() = default;
  // uint8 [T, H, W, 3] on the CPU, contiguous; equal arguments give equal clips.
  virtual at::Tensor Generate(const std::string& prompt, uint64_t seed) = 0;
};

// Generates a clip, takes the time and judges what it shows: a record of prompt_match.h. `frames`
// gets the clip if it is not null.
nlohmann::ordered_json RunPrompt(ClipGenerator& generator, const PromptClip& clip, uint64_t seed,
                                 at::Tensor* frames = nullptr);

struct GeneratorOptions {
  std::string model;              // directory
  model::Placement placement;     // of all three stages
  std::string level;              // low, medium or high; this and what follows: as model.json
  int64_t width = 0, height = 0;  // has it if empty, zero or negative
  int64_t steps = 0;
  double guidance_scale = -1;
  double interpolation_guidance_scale = -1;
};

// A model directory, through the same stages as in the service, one after the other in this
// process. Throws ModelError.
class ModelGenerator : public ClipGenerator {
 public:
  explicit ModelGenerator(const GeneratorOptions& options);

  at::Tensor Generate(const std::string& prompt, uint64_t seed) override;

  const model::ModelConfig& config() const { return keyframes_.config(); }
  const model::Level& level() const { return level_; }
  const model::GenerationRequest& request() const { return request_; }  // without prompt and seed
  // Level, size, samplers, steps and guidance scales, for a report.
  std::vector<std::pair<std::string, std::string>> Settings() const;

 private:
  model::KeyframeStage keyframes_;
  std::unique_ptr<model::InterpolationStage> interpolation_;  // only if the level has passes
  model::DecodingStage decoding_;
  model::Level level_;
  model::GenerationRequest request_;
};

// Name, temporal variant and the SHA-256 of each file of weights, for a report.
std::vector<std::pair<std::string, std::string>> DescribeModel(const model::ModelConfig& config,
                                                               const std::string& directory);
// "dpm++, cosine schedule of 1000 steps, epsilon prediction".
std::string DescribeSampler(const model::SamplerConfig& sampling);

}  // namespace kandinsky::training

#endif  // KANDINSKY_TRAINING_EVAL_GENERATOR_H_
