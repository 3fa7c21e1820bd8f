#include "worker/model/denoising.h"

#include <ATen/core/grad_mode.h>

#include <chrono>
#include <string>
#include <utility>

#include "worker/model/error.h"

namespace kandinsky::model {
namespace {

[[noreturn]] void Refuse(const std::string& message) {
  throw ModelError(ModelError::Kind::kInvalidArgument, message);
}

// a, b with equal rows per video -> [2 * rows, ...].
at::Tensor Stack(const at::Tensor& a, const at::Tensor& b) {
  return a.defined() ? at::cat({a, b}, 0) : a;
}

// context, mask with `rows` rows. One row may stand for all.
TextCondition ExpandRows(const TextCondition& text, int64_t rows) {
  return {text.context.expand({rows, -1, -1}),
          text.mask.defined() ? text.mask.expand({rows, -1}) : text.mask};
}

struct Halves {
  at::Tensor cond, uncond;  // uncond is undefined without guidance
};

Halves ForwardHalves(Unet& unet, const UnetInput& cond, const UnetInput& uncond,
                     const GuidanceConfig& guidance) {
  if (guidance.scale == 0) return {unet.forward(cond), {}};
  if (guidance.two_passes) {
    const at::Tensor first = unet.forward(cond);
    return {first, unet.forward(uncond)};
  }
  UnetInput both = cond;
  both.x = Stack(cond.x, uncond.x);
  both.context = Stack(cond.context, uncond.context);
  both.context_mask = Stack(cond.context_mask, uncond.context_mask);
  const at::Tensor out = unet.forward(both);
  const int64_t half = cond.x.size(0);
  return {out.narrow(0, 0, half), out.narrow(0, half, half)};
}

at::Tensor Guided(const Halves& halves, double scale) {
  return halves.uncond.defined() ? Guide(halves.cond, halves.uncond, scale)
                                 : halves.cond.to(at::kFloat);
}

}  // namespace

DenoisingLoop::DenoisingLoop(const Sampler& sampler, Denoiser denoiser, const NoiseSource& noise,
                             NoiseStage stage, int pass, at::Device device)
    : sampler_(sampler),
      denoiser_(std::move(denoiser)),
      noise_(noise),
      stage_(stage),
      pass_(pass),
      device_(device) {}

LoopState DenoisingLoop::Start(at::IntArrayRef shape) const {
  LoopState state;
  state.x = noise_.Draw({stage_, pass_, -1}, shape).to(device_);
  return state;
}

void DenoisingLoop::Step(LoopState& state) const {
  at::NoGradGuard no_grad;
  const int64_t k = state.next_step;
  if (k < 0 || k >= sampler_.steps()) {
    Refuse("next_step is " + std::to_string(k) + ", must be 0.." +
           std::to_string(sampler_.steps() - 1));
  }
  const at::Tensor prediction = denoiser_(state.x, sampler_.network_time(k));
  at::Tensor noise;
  if (sampler_.NeedsNoise(k)) noise = noise_.Draw({stage_, pass_, k}, state.x.sizes()).to(device_);
  sampler_.Advance(state, prediction, noise);
}

at::Tensor DenoisingLoop::Run(LoopState state, const Hooks& hooks) const {
  if (state.next_step < 0 || state.next_step > sampler_.steps() || !state.x.defined()) {
    Refuse("next_step is " + std::to_string(state.next_step) + ", must be 0.." +
           std::to_string(sampler_.steps()) + " with a defined x");
  }
  state.x = state.x.to(device_, at::kFloat);
  if (state.previous_x0.defined()) state.previous_x0 = state.previous_x0.to(device_, at::kFloat);
  while (state.next_step < sampler_.steps()) {
    if (hooks.cancelled && hooks.cancelled()) {
      throw ModelError(ModelError::Kind::kCancelled,
                       "cancelled before step " + std::to_string(state.next_step));
    }
    const auto start = std::chrono::steady_clock::now();
    Step(state);
    if (hooks.step) {
      const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
      hooks.step(state, elapsed.count());
    }
  }
  return state.x;
}

TextCondition NullCondition(const at::Tensor& null_embedding, int64_t tokens) {
  if (tokens < 1 || null_embedding.numel() != null_embedding.size(-1)) {
    Refuse("null embedding must be [D] or [1, D], tokens at least 1");
  }
  const at::Tensor embedding = null_embedding.reshape({1, 1, -1}).to(at::kFloat);
  TextCondition text;
  text.context = at::constant_pad_nd(embedding, {0, 0, 0, tokens - 1});  // [1, L, D]
  text.mask = at::constant_pad_nd(at::ones({1, 1}, at::kLong), {0, tokens - 1});
  return text;
}

at::Tensor Guide(const at::Tensor& cond, const at::Tensor& uncond, double scale) {
  return cond.to(at::kFloat) * (scale + 1) - uncond.to(at::kFloat) * scale;
}

at::Tensor GuidedForward(Unet& unet, const UnetInput& cond, const UnetInput& uncond,
                         const GuidanceConfig& guidance) {
  return Guided(ForwardHalves(unet, cond, uncond, guidance), guidance.scale);
}

Denoiser MakeKeyframeDenoiser(Unet& unet, const TextCondition& conditional,
                              const TextCondition& unconditional, const GuidanceConfig& guidance,
                              const at::Tensor& positions) {
  const at::Device device = unet.parameters().front().device();
  const auto prepare = [&](const TextCondition& text, int64_t rows) {
    UnetInput input;
    const TextCondition expanded = ExpandRows(text, rows);
    input.context = expanded.context.to(device);
    input.context_mask = expanded.mask;  // small, and read on the host
    input.temporal_positions = positions.defined() ? positions.to(device) : positions;
    return input;
  };
  const int64_t rows = std::max(conditional.context.size(0), unconditional.context.size(0));
  UnetInput cond = prepare(conditional, rows), uncond = prepare(unconditional, rows);
  return [&unet, cond, uncond, guidance, device](const at::Tensor& x, int64_t time) mutable {
    cond.x = uncond.x = x.to(device);
    cond.frames = uncond.frames = x.size(0);
    cond.time = uncond.time = at::full({1}, time, at::TensorOptions(at::kLong).device(device));
    const Halves halves = ForwardHalves(unet, cond, uncond, guidance);
    at::Tensor prediction = Guided(halves, guidance.scale);
    const TemporalGuidance& temporal = guidance.temporal;
    if (temporal.scale != 0 && time >= temporal.from && time <= temporal.to) {
      UnetInput parts = cond;
      parts.frames = temporal.window;
      if (!parts.temporal_positions.defined()) {
        parts.temporal_positions = TemporalPositions(x.size(0));
      }
      const at::Tensor apart = halves.cond.to(at::kFloat) - unet.forward(parts).to(at::kFloat);
      const at::Tensor places = apart - apart.mean({2, 3}, true);
      prediction = prediction + (places - places.mean(0, true)) * temporal.scale;
    }
    return prediction;
  };
}

}  // namespace kandinsky::model
