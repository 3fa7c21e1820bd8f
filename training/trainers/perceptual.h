// Activations of a network, for perceptual losses and distances.
#ifndef KANDINSKY_TRAINING_TRAINERS_PERCEPTUAL_H_
#define KANDINSKY_TRAINING_TRAINERS_PERCEPTUAL_H_

#include <ATen/ATen.h>

#include <memory>
#include <string>
#include <vector>

namespace kandinsky::training {

// A network as TorchScript: forward takes [N, 3, H, W] in [-1, 1] and gives one tensor, or a tuple
// or list of tensors, [N, C, h, w] each, one a layer. Its weights want no gradients; its input may.
// Thread rule: one thread at a time.
class PerceptualNetwork {
 public:
  // Throws ModelError::kDataLoss for a file that is no TorchScript.
  PerceptualNetwork(const std::string& path, at::Device device);
  ~PerceptualNetwork();

  // images: as forward takes them, on any device. Throws ModelError::kInvalidArgument for results
  // of another kind.
  std::vector<at::Tensor> Activations(const at::Tensor& images);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace kandinsky::training

#endif  // KANDINSKY_TRAINING_TRAINERS_PERCEPTUAL_H_
