#include "worker/model/denoising.h"

#include <ATen/core/grad_mode.h>
#include <c10/core/Event.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <bit>
#include <chrono>
#include <cstddef>
#include <deque>
#include <string>
#include <utility>
#include <vector>

#include "worker/model/error.h"
#include "worker/model/graph_cache.h"

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

at::Device DeviceOf(const Unet& unet) { return unet.parameters().front().device(); }

at::Tensor NetworkTimes(const Sampler& sampler, at::Device device) {
  std::vector<int64_t> times;
  for (int64_t k = 0; k < sampler.steps(); ++k) times.push_back(sampler.network_time(k));
  return at::tensor(times, at::kLong).to(device);
}

GuidanceConfig WithSecondPass(GuidanceConfig guidance) {
  guidance.two_passes |= guidance.second != nullptr;
  return guidance;
}

// Tells every number from every other.
uint64_t Bits(double value) { return std::bit_cast<uint64_t>(value); }

// The steps that a device was asked for and that are not known to be done.
class StepsUnderWay {
 public:
  using Hook = std::function<void(const LoopState&, double)>;

  StepsUnderWay(at::Device device, const Hook& hook)
      : device_(device), hook_(hook), last_(std::chrono::steady_clock::now()) {}

  // The step that led to `state` has been asked for. Waits until at most `ahead` are under way.
  void Add(const LoopState& state, int64_t ahead) {
    if (device_.is_cpu() || device_.is_meta()) {
      Tell(state);
      last_ = std::chrono::steady_clock::now();
      return;
    }
    const c10::impl::VirtualGuardImpl runtime(device_.type());
    Step& step = steps_.emplace_back(Step{state, c10::Event(device_.type())});
    step.done.record(runtime.getStream(device_));
    WaitFor(ahead);
  }

  // Waits until at most `left` steps are under way.
  void WaitFor(int64_t left) {
    while (static_cast<int64_t>(steps_.size()) > left) {
      steps_.front().done.synchronize();
      Tell(steps_.front().state);
      steps_.pop_front();
    }
  }

 private:
  struct Step {
    LoopState state;
    c10::Event done;
  };

  void Tell(const LoopState& state) {
    const auto now = std::chrono::steady_clock::now();
    const std::chrono::duration<double> elapsed = now - last_;
    last_ = now;
    if (hook_) hook_(state, elapsed.count());
  }

  const at::Device device_;
  const Hook& hook_;
  std::chrono::steady_clock::time_point last_;
  std::deque<Step> steps_;
};

}  // namespace

at::Tensor StepTime::On(at::Device device) const {
  return tensor.defined() ? tensor
                          : at::full({1}, value, at::TensorOptions(at::kLong).device(device));
}

DenoisingLoop::DenoisingLoop(const Sampler& sampler, Denoiser denoiser, const NoiseSource& noise,
                             NoiseStage stage, int pass, at::Device device)
    : sampler_(sampler),
      denoiser_(std::move(denoiser)),
      noise_(noise),
      stage_(stage),
      pass_(pass),
      device_(device),
      times_(NetworkTimes(sampler, device)) {}

LoopState DenoisingLoop::Start(at::IntArrayRef shape) const {
  LoopState state;
  state.x = noise_.Draw({stage_, pass_, -1}, shape, device_);
  return state;
}

void DenoisingLoop::Step(LoopState& state) const {
  at::NoGradGuard no_grad;
  const int64_t k = state.next_step;
  if (k < 0 || k >= sampler_.steps()) {
    Refuse("next_step is " + std::to_string(k) + ", must be 0.." +
           std::to_string(sampler_.steps() - 1));
  }
  const at::Tensor prediction =
      denoiser_(state.x, {sampler_.network_time(k), times_.narrow(0, k, 1)});
  at::Tensor noise;
  if (sampler_.NeedsNoise(k)) noise = noise_.Draw({stage_, pass_, k}, state.x.sizes(), device_);
  sampler_.Advance(state, prediction, noise);
}

at::Tensor DenoisingLoop::Run(LoopState state, const Hooks& hooks) const {
  if (state.next_step < 0 || state.next_step > sampler_.steps() || !state.x.defined()) {
    Refuse("next_step is " + std::to_string(state.next_step) + ", must be 0.." +
           std::to_string(sampler_.steps()) + " with a defined x");
  }
  state.x = state.x.to(device_, at::kFloat);
  if (state.previous_x0.defined()) state.previous_x0 = state.previous_x0.to(device_, at::kFloat);
  StepsUnderWay under_way(device_, hooks.step);
  while (state.next_step < sampler_.steps()) {
    if (hooks.cancelled && hooks.cancelled()) {
      throw ModelError(ModelError::Kind::kCancelled,
                       "cancelled before step " + std::to_string(state.next_step));
    }
    Step(state);
    under_way.Add(state, kStepsAhead);
  }
  under_way.WaitFor(0);
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

GuidedUnet::GuidedUnet(Unet& unet, UnetInput cond, UnetInput uncond, const GuidanceConfig& guidance)
    : unet_(unet),
      guidance_(WithSecondPass(guidance)),
      cond_(std::move(cond)),
      uncond_(std::move(uncond)) {
  if (guidance_.scale != 0 && !guidance_.two_passes) {
    both_ = cond_;
    both_.text = unet.PrepareText(Stack(cond_.context, uncond_.context),
                                  Stack(cond_.context_mask, uncond_.context_mask));
  }
  cond_.text = unet.PrepareText(cond_.context, cond_.context_mask);
  if (guidance_.scale == 0) return;  // nobody asks for the other half
  Unet& other = guidance_.second != nullptr ? *guidance_.second : unet;
  uncond_.text = other.PrepareText(uncond_.context, uncond_.context_mask);
  const at::Device there = DeviceOf(other);
  for (at::Tensor* tensor :
       {&uncond_.temporal_positions, &uncond_.skip_frames, &uncond_.perturbation}) {
    if (tensor->defined()) *tensor = tensor->to(there);
  }
}

GuidedUnet::Halves GuidedUnet::Forward(const at::Tensor& cond_x, const at::Tensor& uncond_x,
                                       const at::Tensor& time, int64_t frames) const {
  const auto forward = [&](Unet& unet, UnetInput input, const at::Tensor& x,
                           const at::Tensor& when) {
    input.x = x;
    input.time = when;
    if (frames > 0) input.frames = frames;
    return unet.forward(input);
  };
  if (guidance_.scale == 0) return {forward(unet_, cond_, cond_x, time), {}};
  if (guidance_.second != nullptr) {
    // Asked for first, so that the copies are under way while the other half is asked for.
    const at::Device here = DeviceOf(unet_), there = DeviceOf(*guidance_.second);
    const at::Tensor uncond =
        forward(*guidance_.second, uncond_, uncond_x.to(there, /*non_blocking=*/true),
                time.to(there, /*non_blocking=*/true));
    const at::Tensor first = forward(unet_, cond_, cond_x, time);
    return {first, uncond.to(here, /*non_blocking=*/true)};
  }
  if (guidance_.two_passes) {
    const at::Tensor first = forward(unet_, cond_, cond_x, time);
    return {first, forward(unet_, uncond_, uncond_x, time)};
  }
  const at::Tensor out = forward(unet_, both_, Stack(cond_x, uncond_x), time);
  const int64_t half = cond_x.size(0);
  return {out.narrow(0, 0, half), out.narrow(0, half, half)};
}

at::Tensor GuidedUnet::Run(const std::string& signature, const std::vector<at::Tensor>& inputs,
                           const StepFunction& step) const {
  if (guidance_.graphs == nullptr || guidance_.second != nullptr) return step(*this, inputs);
  std::string key = c10::str(signature, "|", Bits(guidance_.scale), guidance_.two_passes, "|",
                             cond_.frames, "|", cond_.window, "|");
  std::vector<at::Tensor> all;
  for (const at::Tensor& input : inputs) all.push_back(input.contiguous());
  GuidedUnet guided = *this;
  guided.VisitConditions([&](at::Tensor& condition) {
    key += condition.defined() ? '1' : '0';
    if (condition.defined()) all.push_back(condition.contiguous());
  });
  return guidance_.graphs->Run(key, all,
                               [guided, step, own = static_cast<std::ptrdiff_t>(inputs.size())](
                                   const std::vector<at::Tensor>& recorded) {
                                 GuidedUnet replaced = guided;
                                 auto next = recorded.begin() + own;
                                 replaced.VisitConditions([&](at::Tensor& condition) {
                                   if (condition.defined()) condition = *next++;
                                 });
                                 return step(replaced, {recorded.begin(), recorded.begin() + own});
                               });
}

void GuidedUnet::VisitConditions(const std::function<void(at::Tensor&)>& visit) {
  for (UnetInput* half : {&cond_, &uncond_, &both_}) {
    visit(half->text.context);
    visit(half->text.mask.bias);
    visit(half->text.mask.keep);
    visit(half->temporal_positions);
    visit(half->skip_frames);
    visit(half->perturbation);
  }
}

at::Tensor GuidedUnet::ForwardGuided(const at::Tensor& cond_x, const at::Tensor& uncond_x,
                                     const at::Tensor& time) const {
  return Guided(Forward(cond_x, uncond_x, time));
}

at::Tensor GuidedUnet::ForwardParts(const at::Tensor& x, const at::Tensor& time,
                                    int64_t frames) const {
  UnetInput parts = cond_;
  parts.x = x;
  parts.time = time;
  parts.frames = frames;
  if (!parts.temporal_positions.defined()) {
    parts.temporal_positions = TemporalPositions(x.size(0), x.device());
  }
  return unet_.forward(parts);
}

at::Tensor GuidedUnet::Guided(const Halves& halves) const {
  return halves.uncond.defined() ? Guide(halves.cond, halves.uncond, guidance_.scale)
                                 : halves.cond.to(at::kFloat);
}

Denoiser MakeKeyframeDenoiser(Unet& unet, const TextCondition& conditional,
                              const TextCondition& unconditional, const GuidanceConfig& guidance,
                              const at::Tensor& positions) {
  const at::Device device = DeviceOf(unet);
  const int64_t rows = std::max(conditional.context.size(0), unconditional.context.size(0));
  const auto prepare = [&](const TextCondition& text) {
    UnetInput input;
    const TextCondition expanded = ExpandRows(text, rows);
    input.context = expanded.context.to(device);
    input.context_mask = expanded.mask;
    input.temporal_positions = positions.defined() ? positions.to(device) : positions;
    return input;
  };
  const GuidedUnet guided(unet, prepare(conditional), prepare(unconditional), guidance);
  return
      [guided, temporal = guidance.temporal, device](const at::Tensor& x_t, const StepTime& step) {
        const bool acts = temporal.ActsAt(step.value);
        const auto predict = [temporal, acts](const GuidedUnet& halves_of,
                                              const std::vector<at::Tensor>& inputs) {
          const at::Tensor &x = inputs[0], &time = inputs[1];
          const GuidedUnet::Halves halves = halves_of.Forward(x, x, time, x.size(0));
          at::Tensor prediction = halves_of.Guided(halves);
          if (acts) {
            const at::Tensor parts = halves_of.ForwardParts(x, time, temporal.window);
            const at::Tensor apart = halves.cond.to(at::kFloat) - parts.to(at::kFloat);
            const at::Tensor places = apart - apart.mean({2, 3}, true);
            prediction = prediction + (places - places.mean(0, true)) * temporal.scale;
          }
          return prediction;
        };
        const std::string signature =
            acts ? c10::str("parts", Bits(temporal.scale), ",", temporal.window) : "";
        return guided.Run(signature, {x_t.to(device), step.On(device)}, predict);
      };
}

}  // namespace kandinsky::model
