// The work of one request, counted without doing it: the networks are built on the meta device and
// evaluated there by the code that generates videos, under a FlopCounter.
#ifndef KANDINSKY_WORKER_MODEL_TOOLS_REQUEST_FLOPS_H_
#define KANDINSKY_WORKER_MODEL_TOOLS_REQUEST_FLOPS_H_

#include <cstdint>
#include <vector>

#include "worker/model/flop_counter.h"
#include "worker/model/model_config.h"
#include "worker/model/pipeline.h"

namespace kandinsky::model {

// Of one request. Decoding is counted without strips (DecodeOptions::max_bytes), whose halos are
// computed twice.
struct RequestFlops {
  Flops text;       // encoder and projection over all max_length positions of one prompt
  Flops keyframes;  // the loop of all steps, guidance included, text not
  std::vector<Flops> interpolation;  // the loop of each pass
  Flops decoding;                    // all chunks
  // One evaluation of each network, as docs/model.md states them: a keyframe of 16, an
  // interpolation group of 15 and a decoded frame.
  Flops keyframe, group, frame;

  Flops total() const;
};

// `request` must be valid for `config` (ValidateRequest). `context_tokens` is the length of the
// prompt's context (TextContext): its visible tokens and one more, at most text_encoder.max_length.
// A negative prompt counts as none.
RequestFlops CountRequest(const ModelConfig& config, const GenerationRequest& request,
                          int64_t context_tokens);

}  // namespace kandinsky::model

#endif  // KANDINSKY_WORKER_MODEL_TOOLS_REQUEST_FLOPS_H_
