// A model directory's `model.json`: everything about a model but its weights.
//
// Format (UTF-8 JSON, at most 1 MiB; unknown fields are refused). Fields that a process without
// LibTorch needs (the frontend) are plain values on the top level and in "defaults", "limits" and
// "levels":
//
// clang-format off
//   {
//     "format_version": 1,
//     "name": "tiny",                    // A-Z a-z 0-9 . _ -, 1 to 64 characters
//     "description": "...",              // for people
//     "variant": "Conv1dAttn1dBlocks",   // temporal variant of the keyframe U-Net, for people
//     "keyframes": 16,                   // frames of stage 1
//     "defaults": {
//       "level": "high",                 // name of one of the levels
//       "width": 64, "height": 64,       // pixels
//       "steps": 50,                     // denoising steps of every loop
//       "guidance_scale": 5.0,
//       "interpolation_guidance_scale": 0.25
//     },
//     "limits": {
//       "width":  {"min": 32, "max": 256, "multiple": 8},  // "multiple" follows from the networks
//       "height": {"min": 32, "max": 256, "multiple": 8},  // and is checked
//       "pixels_max": 65536,                               // width * height
//       "steps": {"min": 2, "max": 100},
//       "guidance_scale": {"min": 0, "max": 20},
//       "interpolation_guidance_scale": {"min": 0, "max": 5},
//       "prompt_characters": {"min": 1, "max": 2000},      // Unicode code points
//       "negative_prompt_characters": {"min": 0, "max": 2000}
//     },
//     "levels": [   // level i runs i interpolation passes; fps is a fraction, frames per second
//       {"name": "low",    "passes": 0, "frames": 16,  "fps": [2, 1]},
//       {"name": "medium", "passes": 1, "frames": 61,  "fps": [15, 2]},
//       {"name": "high",   "passes": 2, "frames": 241, "fps": [30, 1]}
//     ],
//     "text_encoder": {...},             // TextEncoderConfig (text/text_encoder.h)
//     "keyframe_unet": {...},            // UnetConfig (unet.h)
//     "interpolation_unet": {...},       // UnetConfig
//     "movq": {...},                     // MovqConfig (movq.h), the image autoencoder
//     "video_movq": {...},               // optional: MovqConfig with temporal layers
//     "keyframe_sampling": {             // SamplerConfig (sampler.h)
//       "sampler": "ddpm",               // ddpm | ddim | dpm++
//       "schedule": "cosine",            // cosine | linear
//       "schedule_steps": 0,             // length of the noise schedule; 0: as many as steps
//       "prediction": "epsilon",         // epsilon | v
//       "percentile": 0.98,              // of dynamic thresholding; null: clip to the floor
//       "threshold_floor": 1,            // its least threshold, 0.01..100: about the largest latent
//       "eta": 0,                        // ddim only
//       "temporal_guidance": {           // optional: TemporalGuidance (denoising.h)
//         "scale": 0, "window": 1, "from": 0, "to": 10000
//       }
//     },
//     "interpolation_sampling": {        // the same without temporal_guidance, and
//       "skip_frames": [3, 1],           // one number a pass
//       "steps_max": 0                   // at most so many of a request's steps; 0: all of them
//     },
//     "decoding": {
//       "decoder": "image",              // image | video
//       "max_bytes": 0                   // DecodeOptions::max_bytes (movq.h)
//     },
//     "tokenizer": "spiece.model",       // a file of the directory
//     "weights": {   // file (or folder in Hugging Face layout), and what its keys carry in front
//       "text_encoder":  {"file": "text_encoder.safetensors", "prefix": ""},
//       "projection":    {"file": "keyframes.safetensors", "prefix": "projections."},
//       "keyframe_unet": {"file": "keyframes.safetensors", "prefix": "unet."},
//       "keyframe_null": {"file": "keyframes.safetensors", "prefix": "null_embedding"},
//       "interpolation_unet": {"file": "interpolation.safetensors", "prefix": "unet."},
//       "interpolation_null": {"file": "interpolation.safetensors", "prefix": "null_embedding"},
//       "movq":          {"file": "movq.safetensors"},
//       "video_movq":    {"file": "video_movq.safetensors"}   // if there is a video_movq above
//     }
//   }
// clang-format on
#ifndef KANDINSKY_WORKER_MODEL_MODEL_CONFIG_H_
#define KANDINSKY_WORKER_MODEL_MODEL_CONFIG_H_

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "worker/model/denoising.h"
#include "worker/model/movq.h"
#include "worker/model/sampler.h"
#include "worker/model/text/text_encoder.h"
#include "worker/model/unet.h"

namespace kandinsky::model {

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
  // Without the step count, which each request has.
  SamplerConfig keyframe_sampling;
  SamplerConfig interpolation_sampling;
  TemporalGuidance temporal_guidance;  // of keyframe_sampling
  std::vector<int64_t> skip_frames;    // one an interpolation pass
  // Keyframes leave little open. What they do leave open, many steps decide at random, while few
  // give nearly its mean, whose squared error is half as large.
  int64_t interpolation_steps_max = 0;  // 0: no limit but the request's
  DecoderKind decoder = DecoderKind::kImage;
  int64_t decode_max_bytes = 0;
  std::string tokenizer = "spiece.model";
  // Words and names of the captions that the model was trained on, for Vocabulary
  // (common/spec/vocabulary.h); empty: any text.
  std::vector<std::string> vocabulary;
  WeightSources weights;

  // Width and height must be multiples of this: a latent cell's side times the deeper U-Net's total
  // downsampling.
  int64_t size_multiple() const;
  // Denoising steps of an interpolation pass for a request of so many steps.
  int64_t InterpolationSteps(int64_t requested) const;

  // Throws ModelError::kInvalidArgument naming field, value and limit; kNotFound when there is no
  // model.json.
  static ModelConfig FromJson(const nlohmann::json& json);
  static ModelConfig Load(const std::string& model_directory);

  // A value that FromJson reads back to an equal config.
  nlohmann::json ToJson() const;
};

}  // namespace kandinsky::model

#endif  // KANDINSKY_WORKER_MODEL_MODEL_CONFIG_H_
