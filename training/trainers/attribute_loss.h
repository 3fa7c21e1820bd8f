// What heads that read attributes off text or clips are trained by.
#ifndef KANDINSKY_TRAINING_TRAINERS_ATTRIBUTE_LOSS_H_
#define KANDINSKY_TRAINING_TRAINERS_ATTRIBUTE_LOSS_H_

#include <ATen/ATen.h>

namespace kandinsky::training {

// Cross entropy of one attribute: logits [B, values], wanted int64 [B], -1 (Description) for
// samples that do not say. The mean over all samples, 0 for those, so that the processes that share
// a batch may average it.
inline at::Tensor AttributeLoss(const at::Tensor& logits, const at::Tensor& wanted) {
  return at::cross_entropy_loss(logits, wanted, {}, at::Reduction::None, /*ignore_index=*/-1)
      .mean();
}

}  // namespace kandinsky::training

#endif  // KANDINSKY_TRAINING_TRAINERS_ATTRIBUTE_LOSS_H_
