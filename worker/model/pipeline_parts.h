// The steps that the stages of pipeline.h are made of, over networks and samplers that the caller
// has built. The parity checks run the same functions on recorded noise.
#ifndef KANDINSKY_WORKER_MODEL_PIPELINE_PARTS_H_
#define KANDINSKY_WORKER_MODEL_PIPELINE_PARTS_H_

#include <ATen/ATen.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "worker/model/denoising.h"
#include "worker/model/movq.h"
#include "worker/model/noise.h"
#include "worker/model/pipeline.h"
#include "worker/model/sampler.h"
#include "worker/model/text/embedding_cache.h"
#include "worker/model/text/text_encoder.h"
#include "worker/model/text/tokenizer.h"
#include "worker/model/unet.h"

namespace kandinsky::model {

// Prompt and negative prompt (nullptr: none) through tokenizer, encoder and projection, in one
// batch. The results lie on the CPU and have one length.
EncodedPrompt EncodePrompt(const Tokenizer& tokenizer, const TextEncoder& encoder,
                           const std::string& prompt, const std::string* negative_prompt);

// The keyframe loop: [T, 4, h, w] of `frames` frames, float32 on the CPU. `null_embedding` [W]
// stands for "no text" without a negative prompt. A checkpoint that does not fit is
// ModelError::kInvalidArgument.
at::Tensor SampleKeyframes(Unet& unet, const EncodedPrompt& prompt,
                           const at::Tensor& null_embedding, int64_t frames, int64_t height,
                           int64_t width, const SamplerConfig& sampling,
                           const GuidanceConfig& guidance, const NoiseSource& noise,
                           const StageHooks& hooks = {},
                           const std::optional<StageCheckpoint>& resume = std::nullopt);

struct InterpolationPass {
  int pass = 0;    // keys the noise
  int passes = 1;  // for progress only
  int64_t skip_frames = 3;
};

// One interpolation loop: video [T, 4, h, w] -> groups [T - 1, 12, h, w], float32 on the CPU.
// MergeGroups (interpolation.h) makes the next video of them.
at::Tensor SampleGroups(Unet& unet, const at::Tensor& video, const at::Tensor& null_embedding,
                        const InterpolationPass& pass, const SamplerConfig& sampling,
                        const GuidanceConfig& guidance, const NoiseSource& noise,
                        const StageHooks& hooks = {},
                        const std::optional<StageCheckpoint>& resume = std::nullopt);

// Decodes latents [T, 4, h, w] (any device) in chunks by DecodeChunkLengths, each chunk a clip of
// its own. `sink` gets the index of a chunk's first frame and the decoder's raw output [n, 3, H, W]
// on `device`. Starts at the chunk border `first_frame`; asks `cancelled` before every chunk.
void DecodeChunks(const Movq& movq, at::Device device, const at::Tensor& latents,
                  const DecodeOptions& options, const std::function<bool()>& cancelled,
                  const std::function<void(int64_t first, const at::Tensor& decoded)>& sink,
                  int64_t first_frame = 0);

}  // namespace kandinsky::model

#endif  // KANDINSKY_WORKER_MODEL_PIPELINE_PARTS_H_
