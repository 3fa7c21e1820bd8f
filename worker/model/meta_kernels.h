// Shapes of a few operations on the meta device.
#ifndef KANDINSKY_WORKER_MODEL_META_KERNELS_H_
#define KANDINSKY_WORKER_MODEL_META_KERNELS_H_

namespace kandinsky::model {

// LibTorch knows the shapes of most operations' results in C++, those of some in Python only. After
// this call the networks of this library run on the meta device. Registers what is missing and
// nothing else; any number of calls, from any thread.
void EnsureMetaKernels();

}  // namespace kandinsky::model

#endif  // KANDINSKY_WORKER_MODEL_META_KERNELS_H_
