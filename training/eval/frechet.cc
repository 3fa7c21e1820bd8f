#include "training/eval/frechet.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "worker/model/error.h"

namespace kandinsky::training {
namespace {

using model::ModelError;

void Require(bool condition, const std::string& message) {
  if (!condition) throw ModelError(ModelError::Kind::kInvalidArgument, message);
}

at::Tensor ToDouble(const at::Tensor& tensor) {
  return tensor.detach().to(at::Device(at::kCPU), at::kDouble).contiguous();
}

std::vector<double> ToVector(const at::Tensor& tensor) {
  const at::Tensor values = ToDouble(tensor);  // [N]
  const double* data = values.const_data_ptr<double>();
  return {data, data + values.numel()};
}

// The root of a symmetric positive semidefinite matrix, [D, D].
at::Tensor SymmetricRoot(const at::Tensor& matrix) {
  const auto [values, vectors] = at::linalg_eigh(matrix);  // [D], [D, D]
  return (vectors * values.clamp_min(0).sqrt()).matmul(vectors.t());
}

}  // namespace

void FeatureStatistics::Add(const at::Tensor& features) {
  Require(features.dim() == 2,
          "features: want [N, D], got " + std::to_string(features.dim()) + " dimensions");
  if (features.size(0) == 0) return;
  const at::Tensor x = ToDouble(features);
  if (count_ == 0) {
    shift_ = x[0].clone();
    sum_ = at::zeros_like(shift_);
    products_ = at::zeros({x.size(1), x.size(1)}, x.options());
  }
  Require(x.size(1) == shift_.size(0), "features: want " + std::to_string(shift_.size(0)) +
                                           " a row, got " + std::to_string(x.size(1)));
  const at::Tensor centered = x - shift_;  // [N, D]
  count_ += x.size(0);
  sum_ += centered.sum(0);
  products_ += centered.t().matmul(centered);
}

void FeatureStatistics::Merge(const FeatureStatistics& other) {
  if (other.count_ == 0) return;
  if (count_ == 0) {
    count_ = other.count_;
    shift_ = other.shift_.clone();
    sum_ = other.sum_.clone();
    products_ = other.products_.clone();
    return;
  }
  Require(shift_.size(0) == other.shift_.size(0), "features of different length cannot be merged");
  // The other's sums about this one's origin.
  const at::Tensor offset = other.shift_ - shift_;  // [D]
  const auto n = static_cast<double>(other.count_);
  products_ += other.products_ + at::outer(offset, other.sum_) + at::outer(other.sum_, offset) +
               n * at::outer(offset, offset);
  sum_ += other.sum_ + n * offset;
  count_ += other.count_;
}

at::Tensor FeatureStatistics::Mean() const {
  Require(count_ > 0, "the mean needs an observation");
  return shift_ + sum_ / static_cast<double>(count_);
}

at::Tensor FeatureStatistics::Covariance() const {
  Require(count_ > 1, "the covariance needs two observations");
  const auto n = static_cast<double>(count_);
  return (products_ - at::outer(sum_, sum_) / n) / (n - 1);
}

double FrechetDistance(const at::Tensor& mean1, const at::Tensor& covariance1,
                       const at::Tensor& mean2, const at::Tensor& covariance2) {
  Require(mean1.dim() == 1 && mean1.sizes() == mean2.sizes(), "means: want two of [D]");
  const int64_t size = mean1.size(0);
  for (const at::Tensor* covariance : {&covariance1, &covariance2}) {
    Require(covariance->dim() == 2 && covariance->size(0) == size && covariance->size(1) == size,
            "covariances: want two of [D, D]");
  }
  const at::Tensor difference = ToDouble(mean1) - ToDouble(mean2);
  const at::Tensor c1 = ToDouble(covariance1);
  const at::Tensor c2 = ToDouble(covariance2);
  const at::Tensor root = SymmetricRoot(c1);
  at::Tensor product = root.matmul(c2).matmul(root);  // [D, D]
  product = (product + product.t()) / 2;
  const double overlap = at::linalg_eigvalsh(product).clamp_min(0).sqrt().sum().item<double>();
  return difference.square().sum().item<double>() + c1.trace().item<double>() +
         c2.trace().item<double>() - 2 * overlap;
}

double FrechetDistance(const FeatureStatistics& a, const FeatureStatistics& b) {
  return FrechetDistance(a.Mean(), a.Covariance(), b.Mean(), b.Covariance());
}

std::vector<double> InceptionScore(const at::Tensor& probabilities, int splits) {
  Require(probabilities.dim() == 2 && probabilities.size(0) > 0,
          "probabilities: want [N, K] with N > 0");
  Require(splits > 0, "splits: want at least 1, got " + std::to_string(splits));
  const at::Tensor p = ToDouble(probabilities);
  const int64_t count = p.size(0);
  const int64_t parts = std::min<int64_t>(splits, count);
  std::vector<double> scores;
  for (int64_t part = 0; part < parts; ++part) {
    const at::Tensor rows = p.slice(0, part * count / parts, (part + 1) * count / parts);  // [n, K]
    const at::Tensor marginal = rows.mean(0, /*keepdim=*/true);                            // [1, K]
    // 0 log 0 = 0; where the marginal is zero, so is every row.
    const at::Tensor divergence =
        (at::xlogy(rows, rows) - at::xlogy(rows, marginal)).sum(1);  // [n]
    scores.push_back(std::exp(divergence.mean().item<double>()));
  }
  return scores;
}

std::vector<double> ClipSimilarity(const at::Tensor& images, const at::Tensor& texts) {
  Require(images.dim() == 3 && texts.dim() == 2 && images.size(0) == texts.size(0) &&
              images.size(2) == texts.size(1) && images.size(1) > 0,
          "embeddings: want images [N, T, D] and texts [N, D]");
  const at::Tensor cosine =
      at::cosine_similarity(ToDouble(images), ToDouble(texts).unsqueeze(1), /*dim=*/2);  // [N, T]
  return ToVector(cosine.mean(1));
}

std::vector<double> PerceptualDistance(const std::vector<at::Tensor>& a,
                                       const std::vector<at::Tensor>& b) {
  Require(!a.empty() && a.size() == b.size(), "activations: want the same layers twice");
  at::Tensor total;  // [N]
  for (size_t layer = 0; layer < a.size(); ++layer) {
    Require(a[layer].dim() == 4 && a[layer].sizes() == b[layer].sizes(),
            "activations of layer " + std::to_string(layer) + ": want two of [N, C, H, W]");
    const auto unit = [](const at::Tensor& x) {  // [N, C, H, W]
      const at::Tensor y = ToDouble(x);
      return y / y.square().sum(1, /*keepdim=*/true).sqrt().clamp_min(1e-10);
    };
    const at::Tensor distance =
        (unit(a[layer]) - unit(b[layer])).square().sum(1).mean(at::IntArrayRef{1, 2});  // [N]
    total = total.defined() ? total + distance : distance;
  }
  return ToVector(total);
}

}  // namespace kandinsky::training
