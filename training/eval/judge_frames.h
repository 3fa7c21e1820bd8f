// The judge (judge.h, which knows no tensors) for frames as generators and decoders give them.
#ifndef KANDINSKY_TRAINING_EVAL_JUDGE_FRAMES_H_
#define KANDINSKY_TRAINING_EVAL_JUDGE_FRAMES_H_

#include <ATen/ATen.h>

#include "training/eval/judge.h"

namespace kandinsky::training {

// frames: uint8 [T, H, W, 3] on the CPU. Any thread, no state.
inline Verdict JudgeFrames(const at::Tensor& frames) {
  const at::Tensor rgb = frames.contiguous();
  return Judge(rgb.data_ptr<uint8_t>(), static_cast<int>(rgb.size(0)),
               static_cast<int>(rgb.size(1)), static_cast<int>(rgb.size(2)));
}

}  // namespace kandinsky::training

#endif  // KANDINSKY_TRAINING_EVAL_JUDGE_FRAMES_H_
