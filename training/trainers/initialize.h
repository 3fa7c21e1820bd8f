// Weights to start training from.
#ifndef KANDINSKY_TRAINING_TRAINERS_INITIALIZE_H_
#define KANDINSKY_TRAINING_TRAINERS_INITIALIZE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "training/core/task.h"
#include "worker/model/movq.h"
#include "worker/model/text/text_encoder.h"
#include "worker/model/vector_quantizer.h"

namespace kandinsky::training {

// Convolutions: normal with fan-in variance; biases 0; norms 1 and 0; the spatial condition of the
// decoder's norms starts as scale 1 and shift 0; temporal layers as the identity (merge 0, last
// projection 0). Equal seeds give equal weights.
void InitializeMovq(model::Movq& movq, uint64_t seed);
// Only what a video decoder has beyond an image decoder.
void InitializeTemporal(model::Movq& movq, uint64_t seed);

// T5's own rules: embeddings normal with 1, matrices by their fan-in, queries smaller by the square
// root of the head's width; the projection like a linear layer with a norm of 1 and 0.
void InitializeTextEncoder(model::TextEncoder& encoder, uint64_t seed);

// Whether a parameter of a Movq belongs to the way from pixels to latents.
bool IsEncoderParameter(const std::string& name);

// The parameters of a module for an Objective, in order; `prefix` goes in front of their names.
std::vector<NamedTensor> ParametersOf(torch::nn::Module& module, const std::string& prefix = "");

}  // namespace kandinsky::training

#endif  // KANDINSKY_TRAINING_TRAINERS_INITIALIZE_H_
