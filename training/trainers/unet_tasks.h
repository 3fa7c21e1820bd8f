// Trainers of the three U-Nets: text-to-image, keyframes, interpolation (with masked frame
// interpolation as a baseline). PAPER sections 3 and 4.
#ifndef KANDINSKY_TRAINING_TRAINERS_UNET_TASKS_H_
#define KANDINSKY_TRAINING_TRAINERS_UNET_TASKS_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "training/core/task.h"
#include "training/data/clip_source.h"
#include "training/domain/shapes.h"
#include "worker/model/model_config.h"

namespace kandinsky::training {

// What they share.
struct UnetTaskOptions {
  int64_t height = 64, width = 64;  // pixels
  int64_t clips = 4000;             // of the pool of encoded clips (latent_pool.h)
  bool encode_ahead = true;         // false: each clip of the pool when it is first drawn
  int threads = 1;                  // that fill the pool
  std::string pool;                 // file that keeps it; empty: training/TASK/latents.safetensors
  int64_t schedule_steps = 1000;    // T of the noise schedule
  // Timestep T u becomes T s u / (1 + (s - 1) u) for u in [0, 1): above 1, more of the training is
  // spent on high noise, where layout and motion are decided (Esser et al. 2024, equation 23).
  double timestep_shift = 1;
  double unconditional = 0.1;  // how often text (or keyframes) are left out, for guidance
  // How many captions a clip has, if the source can make several; 0: a new one whenever it is
  // drawn.
  int64_t captions = 0;
  // Directory that has what this trainer starts from (see each); empty: the model directory itself.
  std::string from;
  // Keyframes and interpolation: model directory whose weights of the same network are trained on,
  // with their projection and null embedding, instead of text-to-image weights, which are not
  // needed then; empty: none.
  std::string tune;
};

struct TextToImageOptions : UnetTaskOptions {
  int64_t frames = 4;  // that are taken of each clip of the pool
  // Heads that read shape, colour, background and motion off the pooled text as the blocks' norms
  // see it (with the timestep, after SiLU): they make a text encoder that starts from nothing learn
  // its words soon. Their weights are random and fixed, of length 1 a value, so that it is the text
  // that has to tell the values apart, motions as clearly as colours: single frames do not ask for
  // motions, and what is faint here keyframes never learn to follow.
  double attribute_weight = 0.1;
  // Dimensions of config.interpolation_unet instead of keyframe_unet's: a start for the
  // interpolation trainer where the two differ.
  bool interpolation = false;
};

// Spatial U-Net, text encoder, projection and null embedding together, on single frames. It
// predicts what keyframe_sampling.prediction of model.json says: noise, as in the paper, or v.
// Needs `weights.movq`. State "text-to-image"; exports `weights.text_encoder` and
// training/text-to-image.safetensors (unet.*, projections.*, null_embedding), which the next two
// start from.
std::unique_ptr<Task> MakeTextToImageTask(const model::ModelConfig& config,
                                          const std::string& model_directory,
                                          std::shared_ptr<const ClipSource> source,
                                          const TextToImageOptions& options, uint64_t seed,
                                          at::Device device);

struct KeyframesOptions : UnetTaskOptions {
  double spacing = 16;  // of keyframes, in frames of 30 a second: 2 a second
  // The clips of the pool have spacings from this to `spacing`, in five even steps; 0: all
  // have `spacing`. What jumps from keyframe to keyframe is learned by way of what moves slowly
  // (docs/training.md).
  double spacing_least = 0;
  // Learning rate of the spatial parts, relative to that of the temporal ones; 0: they are frozen,
  // as in the paper.
  double spatial_rate = 0;
  // Weight of a head that reads the layout, in [0, 1] where a clip differs from its background, off
  // the coarsest features: where things are is then learned apart from their colours, for all clips
  // together (docs/training.md). 0: none.
  double layout_weight = 0;
  // So many of a clip's keyframes, spread evenly from the first to the last and with their own
  // temporal positions; 0: all. What a motion does from beginning to end is learned from four
  // frames as well as from sixteen, at four times as many clips a second.
  int64_t frames = 0;
  // Only clips of the shapes whose captions say one of these (the first caption of each; others may
  // leave it out); empty: any. A start on clips that differ in nothing but their motion teaches
  // what the words for motions mean (docs/training.md).
  std::vector<Color> colors;
  std::vector<Background> backgrounds;
  std::vector<Motion> motions;
};

// The temporal parts of config.keyframe_unet on top of frozen text-to-image weights. State
// "keyframes". The loss is the error divided by the one that is expected at the timestep, and the
// logarithm of that, which is learned alongside (docs/training.md). Exports the files of
// `weights.keyframe_unet`, `projection` and `keyframe_null`.
std::unique_ptr<Task> MakeKeyframesTask(const model::ModelConfig& config,
                                        const std::string& model_directory,
                                        std::shared_ptr<const ClipSource> source,
                                        const KeyframesOptions& options, uint64_t seed,
                                        at::Device device);

struct InterpolationOptions : UnetTaskOptions {
  int64_t groups = 3;      // a sample is 4 groups + 1 frames
  int64_t skip_least = 1;  // distance of neighbouring frames of a sample, in frames of 30 a second,
  int64_t skip_most = 12;  // drawn evenly
  bool served_skips = false;        // only interpolation_sampling.skip_frames of model.json instead
  int64_t perturbation_most = 250;  // noise on the keyframes: up to so many steps of the schedule
  bool mfi = false;  // the baseline instead (worker/model/mfi.h): sequences of five frames
};

// All of config.interpolation_unet, started from text-to-image weights; v prediction. State
// "interpolation", exports the files of `weights.interpolation_unet` and `interpolation_null`. The
// baseline: state "mfi", exports training/mfi.safetensors (unet.*, null_embedding).
std::unique_ptr<Task> MakeInterpolationTask(const model::ModelConfig& config,
                                            const std::string& model_directory,
                                            std::shared_ptr<const ClipSource> source,
                                            const InterpolationOptions& options, uint64_t seed,
                                            at::Device device);

}  // namespace kandinsky::training

#endif  // KANDINSKY_TRAINING_TRAINERS_UNET_TASKS_H_
