// Text in the form in which the U-Net attends to it. B rows, L tokens, D width.
#ifndef KANDINSKY_WORKER_MODEL_TEXT_KEYS_H_
#define KANDINSKY_WORKER_MODEL_TEXT_KEYS_H_

#include <ATen/ATen.h>

namespace kandinsky::model::blocks {

// Which tokens may be attended to. The published semantics: masked logits become the lowest finite
// value, so a row without any visible token attends uniformly to all of its tokens. Here such a row
// gets no bias and zero keys, which gives the same weights in every dtype.
struct KeyMask {
  at::Tensor bias;  // [B, 1, 1, L] 0 or the lowest finite value; undefined: every token is visible
  at::Tensor keep;  // [B, 1, 1] 1, or 0 for rows without visible tokens; undefined: there are none
};

// The text of a forward pass, on the network's device and in its type. Every N/B neighbouring
// frames share a row.
struct TextKeys {
  at::Tensor context;  // [B, L, D]
  KeyMask mask;
};

}  // namespace kandinsky::model::blocks

#endif  // KANDINSKY_WORKER_MODEL_TEXT_KEYS_H_
