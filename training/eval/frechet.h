// Distances and scores over features and probabilities, in double precision on the CPU.
//
// N observations, D features, K classes, T frames. Inputs may be of any floating type and on any
// device. Throws model::ModelError (kInvalidArgument) for shapes that do not fit.
#ifndef KANDINSKY_TRAINING_EVAL_FRECHET_H_
#define KANDINSKY_TRAINING_EVAL_FRECHET_H_

#include <ATen/ATen.h>

#include <cstdint>
#include <vector>

namespace kandinsky::training {

// Mean and covariance of a stream of features, without keeping them. Thread-compatible.
class FeatureStatistics {
 public:
  // features: [N, D]. The first call fixes D.
  void Add(const at::Tensor& features);
  // As if all that `other` was given had been given to this one, for example by another process.
  void Merge(const FeatureStatistics& other);

  int64_t count() const { return count_; }
  at::Tensor Mean() const;        // [D]
  at::Tensor Covariance() const;  // [D, D], divided by count - 1; needs two observations

 private:
  int64_t count_ = 0;
  // About the first feature vector, so that large means cost no precision.
  at::Tensor shift_;     // [D]
  at::Tensor sum_;       // [D]
  at::Tensor products_;  // [D, D]
};

// |mean1 - mean2|^2 + trace(C1 + C2 - 2 (C1 C2)^(1/2)), of two normal distributions: FID with
// Inception's features, FVD with I3D's. The trace of the root is the sum of the roots of the
// eigenvalues of C1^(1/2) C2 C1^(1/2), which is symmetric, so nothing can become complex;
// eigenvalues that rounding made negative count as zero. [D, D] covariances, not necessarily of
// full rank.
double FrechetDistance(const at::Tensor& mean1, const at::Tensor& covariance1,
                       const at::Tensor& mean2, const at::Tensor& covariance2);
double FrechetDistance(const FeatureStatistics& a, const FeatureStatistics& b);

// exp(mean over observations of KL(p(class | observation) || p(class))), one score for each of
// `splits` equal parts in order, at most N of them; what is published is their mean.
// probabilities: [N, K], rows sum to 1.
std::vector<double> InceptionScore(const at::Tensor& probabilities, int splits = 10);

// CLIPSIM of each clip: the mean over its frames of the cosine between the frame's embedding and
// its text's. images: [N, T, D], texts: [N, D]. Published figures are the mean over clips.
std::vector<double> ClipSimilarity(const at::Tensor& images, const at::Tensor& texts);

// A distance in the manner of LPIPS without learned weights: activations of several layers are
// brought to unit length along their channels; the squared differences are summed over channels,
// averaged over places, and summed over layers. a, b: for each layer [N, C, H, W], sizes free.
// One distance for each observation: [N].
std::vector<double> PerceptualDistance(const std::vector<at::Tensor>& a,
                                       const std::vector<at::Tensor>& b);

}  // namespace kandinsky::training

#endif  // KANDINSKY_TRAINING_EVAL_FRECHET_H_
