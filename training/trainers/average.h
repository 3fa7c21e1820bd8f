// The mean of weights.
#ifndef KANDINSKY_TRAINING_TRAINERS_AVERAGE_H_
#define KANDINSKY_TRAINING_TRAINERS_AVERAGE_H_

#include <string>
#include <vector>

namespace kandinsky::training {

// Writes the mean of two or more weight files of one network to the safetensors file `path`, as
// float16. It is a network of its own where they were trained from the same weights (Wortsman et
// al. 2022, "Model soups"). Throws ModelError: kInvalidArgument for fewer than two files and for
// tensors that differ in name or shape or hold no floating-point numbers, naming file and tensor.
void AverageWeights(const std::vector<std::string>& checkpoints, const std::string& path);

}  // namespace kandinsky::training

#endif  // KANDINSKY_TRAINING_TRAINERS_AVERAGE_H_
