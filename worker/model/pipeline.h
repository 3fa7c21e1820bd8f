// The three stages of Kandinsky Video as plain functions over tensors: no gRPC, no Redis, no files
// but the weights.
//
// A stage object loads what its stage needs from a model directory once and may then run any number
// of requests. Thread rule: construct, then call Run from one thread at a time. Tensors that go in
// and come out live on the CPU. Every random number comes from a NoiseSource keyed by (seed, stage,
// pass, step), so equal requests give equal tensors on any machine of the same build and device
// type, with any number of threads (reproducible.h), whether a run was interrupted and resumed or
// not.
//
// Memory: a constructor refuses a model that cannot fit on its device (CheckMemory, memory_plan.h).
// When a device runs out of memory all the same, Run answers once with the next cheaper plan that
// needs no loading (NextPlan); the result is then the same up to rounding.
//
// Errors: ModelError (bad request, damaged files, cancellation, no memory by plan) and c10::Error
// (device failures, out of memory).
#ifndef KANDINSKY_WORKER_MODEL_PIPELINE_H_
#define KANDINSKY_WORKER_MODEL_PIPELINE_H_

#include <ATen/ATen.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "worker/model/execution.h"
#include "worker/model/graph_cache.h"
#include "worker/model/model_config.h"
#include "worker/model/noise.h"

namespace kandinsky::model {

// One request with every default already filled in (see ModelConfig::defaults).
struct GenerationRequest {
  std::string prompt;
  std::string negative_prompt;  // empty: none
  uint64_t seed = 0;
  int64_t width = 0;   // pixels; a multiple of ModelConfig::size_multiple()
  int64_t height = 0;  // pixels
  int64_t steps = 0;   // denoising steps of each of the loops
  double guidance_scale = 0;
  double interpolation_guidance_scale = 0;
  int passes = 2;  // interpolation passes: 0 (16 frames), 1 (61) or 2 (241)
};

// Throws ModelError::kInvalidArgument naming the first field that the model cannot serve.
void ValidateRequest(const GenerationRequest& request, const ModelConfig& config);

// Number of frames after `passes` passes over n keyframes: n, 4n-3, 16n-15.
int64_t FrameCount(int64_t keyframes, int passes);

// Where a stage stands. For keyframes pass is always 0; for interpolation passes count from 0.
struct StageProgress {
  int pass = 0;
  int passes = 1;
  int64_t step = 0;  // finished denoising steps of this pass
  int64_t steps = 0;
  double step_seconds = 0;  // wall time of the last step (DenoisingLoop::Hooks::step)
};

// All that is needed to go on after `next_step` finished steps of pass `pass`. Tensors are float32
// on the CPU.
struct StageCheckpoint {
  int pass = 0;
  int64_t next_step = 0;
  at::Tensor x;  // [N, C, h, w] the loop's state x_t
  // [N, C, h, w] x_0 of the step before; undefined if the sampler needs none.
  at::Tensor previous_x0;
  at::Tensor video;  // [T, 4, h, w] what this pass started from; undefined for keyframes
};

// On a device that computes beside the host, the host asks for up to DenoisingLoop::kStepsAhead
// steps more than are done. Hooks speak of steps that are done.
struct StageHooks {
  // Asked before every step and every decoded chunk; true ends the run with ModelError::kCancelled
  // (without waiting for the steps that a device is still computing).
  std::function<bool()> cancelled;
  // Told of every step, in order.
  std::function<void(const StageProgress&)> progress;
  // Asked after every step whether a checkpoint is wanted now; if so `checkpoint` gets it. On a
  // device that is the only copy and the only wait for the device within a loop.
  std::function<bool()> checkpoint_due;
  std::function<void(const StageCheckpoint&)> checkpoint;
  // Told when memory ran out and the loop (or what is left to decode) begins again with a cheaper
  // plan, which the stage keeps: the options that changed ("--guidance_passes=2") and the error.
  std::function<void(const std::string& flags, const std::string& why)> plan_changed;
};

// Stage 1: text encoder + keyframe U-Net. Also holds the image decoder, for the preview.
class KeyframeStage {
 public:
  explicit KeyframeStage(const std::string& model_directory,
                         const ExecutionOptions& execution = {});
  ~KeyframeStage();

  // -> [T, 4, h, w] float32, T = config().keyframes. `noise` null: SeededNoise(request.seed).
  at::Tensor Run(const GenerationRequest& request, const StageHooks& hooks = {},
                 const std::optional<StageCheckpoint>& resume = std::nullopt,
                 const NoiseSource* noise = nullptr);

  // Decodes keyframes [T, 4, h, w] with the image decoder -> uint8 [T, H, W, 3].
  at::Tensor Preview(const at::Tensor& keyframes);

  const ModelConfig& config() const;
  // What became of ExecutionOptions::cuda_graphs; on other devices than CUDA's all is zero.
  GraphStats graph_stats() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Stage 2: the interpolation U-Net, once per pass.
class InterpolationStage {
 public:
  explicit InterpolationStage(const std::string& model_directory,
                              const ExecutionOptions& execution = {});
  ~InterpolationStage();

  // keyframes [T, 4, h, w] -> [FrameCount(T, request.passes), 4, h, w] float32; passes 0 returns
  // the input.
  at::Tensor Run(const at::Tensor& keyframes, const GenerationRequest& request,
                 const StageHooks& hooks = {},
                 const std::optional<StageCheckpoint>& resume = std::nullopt,
                 const NoiseSource* noise = nullptr);

  const ModelConfig& config() const;
  // What became of ExecutionOptions::cuda_graphs; on other devices than CUDA's all is zero.
  GraphStats graph_stats() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Stage 3: the MoVQ-GAN decoder (image or video decoder, as the model directory says).
class DecodingStage {
 public:
  explicit DecodingStage(const std::string& model_directory,
                         const ExecutionOptions& execution = {});
  ~DecodingStage();

  // Decodes latents [T, 4, h, w] chunk by chunk, in order. `sink` gets the index of the first frame
  // of the chunk and uint8 [n, H, W, 3] on the CPU (contiguous). Starts at frame `first_frame`,
  // which must be a chunk border (0, or a number that a sink saw as first + n). On a device that is
  // not the CPU a chunk is handed over while the next one is computed (frame_delivery.h), so
  // `cancelled` is asked once before the chunk ahead; what had been decoded when the run ends early
  // is still handed over.
  void Run(const at::Tensor& latents, const StageHooks& hooks,
           const std::function<void(int64_t first, const at::Tensor& frames)>& sink,
           int64_t first_frame = 0);

  const ModelConfig& config() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace kandinsky::model

#endif  // KANDINSKY_WORKER_MODEL_PIPELINE_H_
