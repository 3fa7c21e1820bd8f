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
#include <vector>

#include "worker/model/noise.h"
#include "worker/model/sampler.h"
#include "worker/model/unet.h"

namespace kandinsky::model {

// (x_t [B, C, H, W] float32, network time) -> prediction of the same shape, float32, guidance
// included.
using Denoiser = std::function<at::Tensor(const at::Tensor& x, int64_t time)>;

class DenoisingLoop {
 public:
  struct Hooks {
    std::function<bool()> cancelled;  // before every step; true: ModelError::kCancelled
    std::function<void(const LoopState&, double seconds)>
        step;  // after every step, with its wall time
  };

  // `sampler` and `noise` must outlive the loop. `stage` and `pass` key the noise. The state lives
  // on `device`.
  DenoisingLoop(const Sampler& sampler, Denoiser denoiser, const NoiseSource& noise,
                NoiseStage stage, int pass, at::Device device = at::kCPU);

  // x_T: standard normal noise of `shape` [B, C, H, W].
  LoopState Start(at::IntArrayRef shape) const;

  // One step forward. state.next_step must be below steps.
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
};

struct GuidanceConfig {
  double scale = 5.0;  // w in (w+1)*cond - w*uncond; 0 is plain conditional and costs half
  bool two_passes =
      false;  // run the halves one after the other: half the activation memory, more time
  TemporalGuidance temporal;  // keyframes only
};

// (w+1)*cond - w*uncond in float32.
at::Tensor Guide(const at::Tensor& cond, const at::Tensor& uncond, double scale);

// `input` without guidance fields -> guided prediction [N, C, H, W] float32. Evaluates `unet` on
// the conditional and the unconditional half, in one batch [cond; uncond] or in two passes.
// `uncond_x` is the unconditional half's x.
at::Tensor GuidedForward(Unet& unet, const UnetInput& cond, const UnetInput& uncond,
                         const GuidanceConfig& guidance);

// The keyframe stage's denoiser: text guidance over the T frames of one video. `unconditional` is
// NullCondition or the negative prompt. positions [T]; undefined: TemporalPositions(T). `unet` must
// outlive the result.
Denoiser MakeKeyframeDenoiser(Unet& unet, const TextCondition& conditional,
                              const TextCondition& unconditional, const GuidanceConfig& guidance,
                              const at::Tensor& positions = {});

}  // namespace kandinsky::model

#endif  // KANDINSKY_WORKER_MODEL_DENOISING_H_
