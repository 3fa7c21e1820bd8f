#include "training/core/task.h"

#include <ATen/CPUGeneratorImpl.h>

#include "training/domain/random.h"

namespace kandinsky::training {

at::Generator SampleGenerator(const BatchKey& key, int64_t i, uint64_t use) {
  return at::detail::createCPUGenerator(Random::At(key.seed, use, key.Sample(i)).Next());
}

at::Tensor SampleNoise(const BatchKey& key, uint64_t use, at::IntArrayRef shape) {
  std::vector<at::Tensor> samples;
  for (int64_t i = 0; i < key.count; ++i) {
    samples.push_back(
        at::randn(shape, SampleGenerator(key, i, use), at::TensorOptions(at::kFloat)));
  }
  return at::stack(samples);
}

}  // namespace kandinsky::training
