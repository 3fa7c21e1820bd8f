// A model directory's `model.json`: everything about a model but its weights.
//
// Format (UTF-8 JSON, at most 1 MiB; unknown fields are refused). Fields that a process without
// LibTorch needs (the frontend) are plain values on the top level and in "defaults", "limits" and
// "levels":
//
//   {
//     "format_version": 1,
//     "name": "tiny",                      // [A-Za-z0-9._-], 1 to 64 characters
//     "description": "…",                  // for people
//     "variant": "Conv1dAttn1dBlocks",     // temporal variant of the keyframe U-Net, informative
//     "keyframes": 16,                     // frames of stage 1
//     "defaults": {
//       "level": "high",                   // name of one of the levels
//       "width": 64, "height": 64,         // pixels
//       "steps": 50,                       // denoising steps of every loop
//       "guidance_scale": 5.0,
//       "interpolation_guidance_scale": 0.25
//     },
//     "limits": {
//       "width":  {"min": 32, "max": 256, "multiple": 8},   // "multiple" follows from the networks
//       and is checked "height": {"min": 32, "max": 256, "multiple": 8}, "pixels_max": 65536, //
//       width * height "steps":  {"min": 2, "max": 100}, "guidance_scale": {"min": 0, "max": 20},
//       "interpolation_guidance_scale": {"min": 0, "max": 5},
//       "prompt_characters": {"min": 1, "max": 2000},
//       "negative_prompt_characters": {"min": 0, "max": 2000}
//     },
//     "levels": [                          // level i runs i interpolation passes; all last equally
//     long
//       {"name": "low",    "passes": 0, "frames": 16,  "fps": [2, 1]},    // frames per second as a
//       fraction
//       {"name": "medium", "passes": 1, "frames": 61,  "fps": [15, 2]},
//       {"name": "high",   "passes": 2, "frames": 241, "fps": [30, 1]}
//     ],
//     "text_encoder": {…},                 // TextEncoderConfig (text/text_encoder.h)
//     "keyframe_unet": {…},                // UnetConfig (unet.h)
//     "interpolation_unet": {…},           // UnetConfig, 20 -> 12 channels
//     "movq": {…},                         // MovqConfig (movq.h), the image autoencoder
//     "video_movq": {…},                   // optional: MovqConfig with temporal layers
//     "keyframe_sampling": {               // SamplingConfig
//       "sampler": "ddpm",                 // ddpm | ddim | dpm++
//       "schedule": "cosine",              // cosine | linear
//       "prediction": "epsilon",           // epsilon | v
//       "percentile": 0.98,                // dynamic thresholding; null: clip to [-1, 1]
//       "training_steps": 1000             // ddim and dpm++ choose their timesteps among these;
//       ddpm builds its
//     },                                   // schedule over the requested steps T and scales times
//     by 1000 / T "interpolation_sampling": {…, "skip_frames": [3, 1]},   // skip_frames: one a
//     pass "decoding": {"decoder": "image", "max_bytes": 0},       // image | video; memory bound,
//     see DecodeOptions "tokenizer": "spiece.model",         // file in the directory "weights": {
//     // a file (or a folder in Hugging Face layout) of the directory and the
//       "text_encoder":  {"file": "text_encoder.safetensors"},  // prefix that its keys carry there
//       "projection":    {"file": "keyframes.safetensors", "prefix": "projections."},
//       "keyframe_unet": {"file": "keyframes.safetensors", "prefix": "unet."},
//       "keyframe_null": {"file": "keyframes.safetensors", "prefix": "null_embedding"},   // exact
//       name of a tensor "interpolation_unet": {"file": "interpolation.safetensors", "prefix":
//       "unet."}, "interpolation_null": {"file": "interpolation.safetensors", "prefix":
//       "null_embedding"}, "movq":          {"file": "movq.safetensors"}, "video_movq":    {"file":
//       "video_movq.safetensors"}
//     }
//   }
#ifndef KANDINSKY_WORKER_MODEL_MODEL_CONFIG_H_
#define KANDINSKY_WORKER_MODEL_MODEL_CONFIG_H_

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "worker/model/movq.h"
#include "worker/model/text/text_encoder.h"
#include "worker/model/unet.h"

namespace kandinsky::model {

enum class SamplerKind { kDdpm, kDdim, kDpmPlusPlus };

// How a stage's denoising loop runs; see the format above.
struct SamplingConfig {
  SamplerKind sampler = SamplerKind::kDdpm;
  std::string schedule = "cosine";
  bool v_prediction = false;
  std::optional<double> percentile = 0.98;
  int64_t training_steps = 1000;
  std::vector<int64_t> skip_frames;  // interpolation only: one a pass
};

enum class DecoderKind { kImage, kVideo };

// One of the frame counts that a client may ask for.
struct Level {
  std::string name;
  int passes = 0;
  int64_t frames = 0;
  int64_t fps_numerator = 0;  // playback rate, frames per second
  int64_t fps_denominator = 1;
};

struct GenerationDefaults {
  std::string level;
  int64_t width = 0;
  int64_t height = 0;
  int64_t steps = 0;
  double guidance_scale = 0;
  double interpolation_guidance_scale = 0;
};

struct IntRange {
  int64_t min = 0, max = 0;
};

struct DoubleRange {
  double min = 0, max = 0;
};

struct GenerationLimits {
  IntRange width, height;  // pixels, multiples of ModelConfig::size_multiple()
  int64_t pixels_max = 0;
  IntRange steps;
  DoubleRange guidance_scale, interpolation_guidance_scale;
  IntRange prompt_characters, negative_prompt_characters;  // Unicode code points
};

// Where the weights of one network lie. `file` is relative to the model directory.
struct WeightSource {
  std::string file;
  std::string prefix;  // what the checkpoint's keys carry in front of the module's names
};

struct WeightSources {
  WeightSource text_encoder, projection, keyframe_unet, keyframe_null, interpolation_unet,
      interpolation_null, movq;
  std::optional<WeightSource> video_movq;
};

struct ModelConfig {
  std::string name;
  std::string description;
  std::string variant;
  int64_t keyframes = 16;
  GenerationDefaults defaults;
  GenerationLimits limits;
  std::vector<Level> levels;
  TextEncoderConfig text_encoder;
  UnetConfig keyframe_unet;
  UnetConfig interpolation_unet;
  MovqConfig movq;
  std::optional<MovqConfig> video_movq;
  SamplingConfig keyframe_sampling;
  SamplingConfig interpolation_sampling;
  DecoderKind decoder = DecoderKind::kImage;
  int64_t decode_max_bytes = 0;
  std::string tokenizer = "spiece.model";
  WeightSources weights;

  // Width and height must be multiples of this: a latent cell's side times the deeper U-Net's total
  // downsampling.
  int64_t size_multiple() const;

  // Throws ModelError::kInvalidArgument naming field, value and limit; kNotFound when there is no
  // model.json.
  static ModelConfig FromJson(const nlohmann::json& json);
  static ModelConfig Load(const std::string& model_directory);

  // A value that FromJson reads back to an equal config.
  nlohmann::json ToJson() const;
};

}  // namespace kandinsky::model

#endif  // KANDINSKY_WORKER_MODEL_MODEL_CONFIG_H_
