#include "worker/model/tools/request_flops.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <functional>
#include <map>

#include "worker/model/denoising.h"
#include "worker/model/interpolation.h"
#include "worker/model/meta_kernels.h"
#include "worker/model/movq.h"
#include "worker/model/sampler.h"
#include "worker/model/text/text_encoder.h"
#include "worker/model/unet.h"

namespace kandinsky::model {
namespace {

// Wide enough for every operation that a narrower type has as well.
at::TensorOptions Meta() { return at::TensorOptions(at::kMeta).dtype(at::kFloat); }

Flops Count(const std::function<void()>& run) {
  const FlopCounter counter;
  run();
  return counter.flops();
}

Flops CountText(const TextEncoderConfig& config) {
  const T5Encoder t5(config, Meta());
  const TextProjection projection(config, Meta());
  const at::Tensor ids = at::zeros({1, config.max_length}, at::kLong);
  return Count([&] { projection.forward(t5.forward(ids, at::ones_like(ids))); });
}

// All steps of a loop. Steps differ only by whether temporal guidance acts in them.
Flops CountLoop(const Denoiser& denoiser, at::IntArrayRef shape, const SamplerConfig& sampling,
                const TemporalGuidance& temporal) {
  const Sampler sampler(sampling);
  const at::Tensor x = at::empty(shape, Meta());
  std::map<bool, Flops> step;
  Flops sum;
  for (int64_t k = 0; k < sampler.steps(); ++k) {
    const int64_t time = sampler.network_time(k);
    const bool acts = temporal.scale != 0 && time >= temporal.from && time <= temporal.to;
    if (step.count(acts) == 0) step[acts] = Count([&] { denoiser(x, time); });
    sum = sum + step[acts];
  }
  return sum;
}

SamplerConfig WithSteps(SamplerConfig config, int64_t steps) {
  config.steps = steps;
  return config;
}

}  // namespace

Flops RequestFlops::total() const {
  Flops sum = text + keyframes + decoding;
  for (const Flops& pass : interpolation) sum = sum + pass;
  return sum;
}

RequestFlops CountRequest(const ModelConfig& config, const GenerationRequest& request,
                          int64_t context_tokens) {
  at::NoGradGuard no_grad;
  EnsureMetaKernels();
  const int64_t cell = config.movq.downsampling();
  const int64_t height = request.height / cell, width = request.width / cell;
  RequestFlops flops;
  flops.text = CountText(config.text_encoder);

  {
    Unet unet(config.keyframe_unet, Meta());
    const int64_t depth = config.keyframe_unet.context_dim;
    const TextCondition text = {at::zeros({1, context_tokens, depth}),
                                at::ones({1, context_tokens}, at::kLong)};
    const std::vector<int64_t> shape = {config.keyframes, config.keyframe_unet.num_channels, height,
                                        width};
    const auto loop = [&](const GuidanceConfig& guidance, int64_t steps) {
      return CountLoop(MakeKeyframeDenoiser(
                           unet, text, NullCondition(at::zeros({depth}), context_tokens), guidance),
                       shape, WithSteps(config.keyframe_sampling, steps), guidance.temporal);
    };
    flops.keyframes = loop({.scale = request.guidance_scale, .temporal = config.temporal_guidance},
                           request.steps);
    flops.keyframe = loop({.scale = 0}, request.steps) / (config.keyframes * request.steps);
  }

  {
    Unet unet(config.interpolation_unet, Meta());
    const auto loop = [&](int64_t frames, double scale, int64_t steps) {
      return CountLoop(MakeInterpolationDenoiser(
                           unet, at::empty({frames, config.movq.z_channels, height, width}, Meta()),
                           at::zeros({config.interpolation_unet.context_dim}), 1, {.scale = scale}),
                       {frames - 1, config.interpolation_unet.out_channels, height, width},
                       WithSteps(config.interpolation_sampling, steps), {});
    };
    const int64_t steps = config.InterpolationSteps(request.steps);
    for (int pass = 0; pass < request.passes; ++pass) {
      flops.interpolation.push_back(
          loop(FrameCount(config.keyframes, pass), request.interpolation_guidance_scale, steps));
    }
    flops.group = loop(config.keyframes, 0, steps) / ((config.keyframes - 1) * steps);
  }

  {
    const bool video = config.decoder == DecoderKind::kVideo;
    const Movq movq(video ? *config.video_movq : config.movq, Meta(), /*decoder_only=*/true);
    const auto decode = [&](int64_t frames) {
      return Count([&] {
        movq.Decode(at::empty({frames, config.movq.z_channels, height, width}, Meta()));
      });
    };
    std::map<int64_t, Flops> chunk;
    const std::vector<int64_t> lengths =
        DecodeChunkLengths(FrameCount(config.keyframes, request.passes));
    for (const int64_t length : lengths) {
      if (chunk.count(length) == 0) chunk[length] = decode(length);
      flops.decoding = flops.decoding + chunk[length];
    }
    flops.frame = chunk[lengths.front()] / lengths.front();
  }
  return flops;
}

}  // namespace kandinsky::model
