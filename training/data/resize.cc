#include "training/data/resize.h"

#include <algorithm>
#include <cmath>

namespace kandinsky::training {

// `scale` is input pixels a pixel of the result.
std::vector<ResizeAndCrop::Taps> ResizeAndCrop::MakeTaps(int size, int to_size, double scale) {
  const double reach = std::max(1.0, scale);
  // The part of the input that is used lies in its middle.
  const double start = (size - to_size * scale) / 2;
  std::vector<Taps> all(to_size);
  for (int i = 0; i < to_size; ++i) {
    const double center = start + (i + 0.5) * scale - 0.5;
    const int first = std::max(0, static_cast<int>(std::ceil(center - reach)));
    const int last = std::min(size - 1, static_cast<int>(std::floor(center + reach)));
    Taps& taps = all[i];
    taps.first = std::min(first, size - 1);
    double sum = 0;
    for (int k = first; k <= last; ++k) {
      const double weight = std::max(0.0, 1 - std::abs(k - center) / reach);
      taps.weights.push_back(static_cast<float>(weight));
      sum += weight;
    }
    if (sum <= 0) {
      taps.weights.assign(1, 1);
      sum = 1;
    }
    for (float& weight : taps.weights) weight = static_cast<float>(weight / sum);
  }
  return all;
}

ResizeAndCrop::ResizeAndCrop(int height, int width, int to_height, int to_width) : width_(width) {
  const double scale =
      std::min(static_cast<double>(height) / to_height, static_cast<double>(width) / to_width);
  rows_ = MakeTaps(height, to_height, scale);
  columns_ = MakeTaps(width, to_width, scale);
}

void ResizeAndCrop::Apply(const uint8_t* rgb, uint8_t* out) const {
  const size_t row_values = static_cast<size_t>(width_) * 3;
  std::vector<float> row(row_values);
  for (const Taps& vertical : rows_) {
    std::fill(row.begin(), row.end(), 0.0f);
    for (size_t k = 0; k < vertical.weights.size(); ++k) {
      const uint8_t* from = rgb + (vertical.first + k) * row_values;
      const float weight = vertical.weights[k];
      for (size_t i = 0; i < row_values; ++i) row[i] += weight * from[i];
    }
    for (const Taps& horizontal : columns_) {
      float sum[3] = {};
      const float* from = row.data() + static_cast<size_t>(horizontal.first) * 3;
      for (float weight : horizontal.weights) {
        for (int c = 0; c < 3; ++c) sum[c] += weight * from[c];
        from += 3;
      }
      for (int c = 0; c < 3; ++c) {
        *out++ = static_cast<uint8_t>(std::clamp(sum[c] + 0.5f, 0.0f, 255.0f));
      }
    }
  }
}

}  // namespace kandinsky::training
