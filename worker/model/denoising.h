// The denoising loop, classifier-free guidance, and the guided denoiser of the keyframe stage.
//
// A loop can stop after any step and go on from the saved LoopState in another process: the result
// has the same bits, because noise depends on (seed, stage, pass, step) only and the state is
// float32 on both sides.
#ifndef KANDINSKY_WORKER_MODEL_DENOISING_H_
#define KANDINSKY_WORKER_MODEL_DENOISING_H_

#include <ATen/ATen.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "worker/model/noise.h"
#include "worker/model/sampler.h"
#include "worker/model/unet.h"

namespace kandinsky::model {

// The time of a step as the network gets it (Sampler::network_time).
struct StepTime {
  StepTime(int64_t value, at::Tensor tensor = {}) : value(value), tensor(std::move(tensor)) {}

  // Chooses what is computed (TemporalGuidance::ActsAt). No denoiser computes with it if it has
  // `tensor`.
  int64_t value;
  at::Tensor tensor;  // int64 [1] on the network's device; undefined: the denoiser makes it

  at::Tensor On(at::Device device) const;  // `tensor`, or a new one on `device`
};

// (x_t [B, C, H, W] float32, time) -> prediction of the same shape, float32, guidance included.
//
// Those of this library prepare all that stays the same from step to step when they are made. A
// call with x and time.tensor on the network's device copies nothing from or to the host and waits
// for nothing; which operations it runs depends on the shape of x and on TemporalGuidance::ActsAt
// alone.
using Denoiser = std::function<at::Tensor(const at::Tensor& x, const StepTime& time)>;

class DenoisingLoop {
 public:
  // A device computes beside the host, which asks for one step after the other without waiting: so
  // that it does not run ahead by the whole loop, it asks for step k only when step k -
  // kStepsAhead - 1 is done (it waits for an event, not for the device). On the CPU every step is
  // done when it has been asked for.
  static constexpr int64_t kStepsAhead = 2;

  struct Hooks {
    // Before a step is asked for; true: ModelError::kCancelled. Up to kStepsAhead steps may then
    // still be running, and nobody waits for them.
    std::function<bool()> cancelled;
    // Told of every step in order, when it is done: up to kStepsAhead steps later. `seconds` is its
    // wall time: on a device that since the step before was done (the first: since the loop began),
    // so that over a loop they add up to the loop's time.
    std::function<void(const LoopState&, double seconds)> step;
  };

  // `sampler` and `noise` must outlive the loop. `stage` and `pass` key the noise. The state lives
  // on `device`, where the noise is drawn, too. Within the loop nothing is copied from or to the
  // host.
  DenoisingLoop(const Sampler& sampler, Denoiser denoiser, const NoiseSource& noise,
                NoiseStage stage, int pass, at::Device device = at::kCPU);

  // x_T: standard normal noise of `shape` [B, C, H, W].
  LoopState Start(at::IntArrayRef shape) const;

  // One step forward, which need not be done when this returns (kStepsAhead). state.next_step must
  // be below steps.
  void Step(LoopState& state) const;

  // Steps until the end or until cancelled; returns x_0 [B, C, H, W]. A state that was saved
  // (tensors on any device) goes on where it stood.
  at::Tensor Run(LoopState state, const Hooks& hooks = {}) const;

 private:
  const Sampler& sampler_;
  const Denoiser denoiser_;
  const NoiseSource& noise_;
  const NoiseStage stage_;
  const int pass_;
  const at::Device device_;
  const at::Tensor times_;  // int64 [steps] on the device: the network time of each step
};

// Text as the U-Net takes it.
struct TextCondition {
  at::Tensor context;  // [1, L, D] or [N, L, D] float32
  at::Tensor mask;     // [1, L] or [N, L], 1 = visible
};

// What stands for "no text": the null embedding ([D] or [1, D]) in token 0, zeros in the other L-1,
// mask only on token 0.
TextCondition NullCondition(const at::Tensor& null_embedding, int64_t tokens);

// Guidance of keyframes towards frames that belong together: scale * c(cond - parts) is added to
// the prediction, where parts is the network's answer for every `window` successive frames as a
// video of their own, at their places in time and with the same text, and c takes out of each
// channel its mean over the places of a frame and then its mean over the frames. These means are
// brightness and colours: guided as well, they go too far, and frames flicker (docs/evaluation.md).
// Not in the article; after Karras et al. 2024 ("Guiding a Diffusion Model with a Bad Version of
// Itself"), Hyung et al. 2024 ("Spatiotemporal Skip Guidance") and, for the limits, Kynkäänniemi et
// al. 2024 ("Applying Guidance in a Limited Interval"). One more pass in the steps that it acts in.
struct TemporalGuidance {
  double scale = 0;    // 0: none
  int64_t window = 1;  // divides the frames of the video
  // Network times that it acts in, both included (Sampler::network_time; more is noisier).
  int64_t from = 0, to = 10000;

  bool ActsAt(int64_t time) const { return scale != 0 && time >= from && time <= to; }
};

class GraphCache;

struct GuidanceConfig {
  double scale = 5.0;  // w in (w+1)*cond - w*uncond; 0 is plain conditional and costs half
  bool two_passes =
      false;  // run the halves one after the other: half the activation memory, more time
  TemporalGuidance temporal;  // keyframes only
  // The same network once more, as a rule on another device: it computes the unconditional half of
  // two passes (whatever two_passes says) while the first computes the conditional one. nullptr:
  // there is none. Must outlive the denoiser.
  Unet* second = nullptr;
  // Steps are replayed as recorded graphs (graph_cache.h), the same bits. Of this network alone;
  // not used with `second`. nullptr: they run as usual. Must outlive the denoiser.
  GraphCache* graphs = nullptr;
  int64_t window = 0;  // UnetInput::window; interpolation only
};

// (w+1)*cond - w*uncond in float32.
at::Tensor Guide(const at::Tensor& cond, const at::Tensor& uncond, double scale);

// Both halves of text or keyframe guidance through one network, in one batch [cond; uncond] or in
// two passes, or each through a network of its own. Thread rule: const use from any number of
// threads, but for Run with graphs.
class GuidedUnet {
 public:
  struct Halves {
    at::Tensor cond, uncond;  // [N, C, H, W] in the network's type; uncond undefined at scale 0
  };

  // What both halves have beside x and time is taken from `cond` and `uncond`, and their text is
  // prepared, once. Both have a mask or none has. `unet` must outlive this.
  GuidedUnet(Unet& unet, UnetInput cond, UnetInput uncond, const GuidanceConfig& guidance);

  // x of the halves [N, C, H, W], time [1] on the network's device. frames 0: what the halves were
  // made with.
  Halves Forward(const at::Tensor& cond_x, const at::Tensor& uncond_x, const at::Tensor& time,
                 int64_t frames = 0) const;
  // The same, guided: [N, C, H, W] float32.
  at::Tensor ForwardGuided(const at::Tensor& cond_x, const at::Tensor& uncond_x,
                           const at::Tensor& time) const;
  // The conditional half alone, as videos of `frames` frames each.
  at::Tensor ForwardParts(const at::Tensor& x, const at::Tensor& time, int64_t frames) const;

  // (w+1)*cond - w*uncond in float32, or cond at scale 0.
  at::Tensor Guided(const Halves& halves) const;

  // A step over `inputs`, all on the network's device, and the halves that it is handed.
  using StepFunction =
      std::function<at::Tensor(const GuidedUnet& guided, const std::vector<at::Tensor>& inputs)>;
  // step(*this, inputs), by way of a graph where GuidanceConfig::graphs says so. `inputs` hold
  // every tensor of the request that `step` reads; `signature` says what else it depends on.
  at::Tensor Run(const std::string& signature, const std::vector<at::Tensor>& inputs,
                 const StepFunction& step) const;

 private:
  // Calls `visit` for every tensor of a request in the halves.
  void VisitConditions(const std::function<void(at::Tensor&)>& visit);

  Unet& unet_;
  const GuidanceConfig guidance_;
  UnetInput cond_, uncond_, both_;
};

// The keyframe stage's denoiser: text guidance over the T frames of one video. `unconditional` is
// NullCondition or the negative prompt. positions [T]; undefined: TemporalPositions(T). `unet` must
// outlive the result.
Denoiser MakeKeyframeDenoiser(Unet& unet, const TextCondition& conditional,
                              const TextCondition& unconditional, const GuidanceConfig& guidance,
                              const at::Tensor& positions = {});

}  // namespace kandinsky::model

#endif  // KANDINSKY_WORKER_MODEL_DENOISING_H_
