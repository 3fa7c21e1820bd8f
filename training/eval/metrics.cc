#include "training/eval/metrics.h"

#include <array>
#include <cmath>
#include <limits>
#include <vector>

namespace kandinsky::training {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr int kWindow = 11;

std::array<double, kWindow> Gaussian() {
  std::array<double, kWindow> weights;
  double sum = 0;
  for (int i = 0; i < kWindow; ++i) {
    const int x = i - kWindow / 2;
    sum += weights[i] = std::exp(-x * x / (2 * 1.5 * 1.5));
  }
  for (double& weight : weights) weight /= sum;
  return weights;
}

// The five weighted sums of the window: a, b, a^2, b^2, ab.
using Sums = std::array<double, 5>;

}  // namespace

double MeanSquaredError(std::span<const uint8_t> a, std::span<const uint8_t> b) {
  if (a.size() != b.size() || a.empty()) return kNan;
  uint64_t sum = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const int difference = a[i] - b[i];
    sum += static_cast<uint64_t>(difference * difference);
  }
  return static_cast<double>(sum) / static_cast<double>(a.size());
}

double PsnrOfError(double mean_squared_error) {
  return 10 * std::log10(255.0 * 255.0 / mean_squared_error);
}

double Psnr(std::span<const uint8_t> a, std::span<const uint8_t> b) {
  return PsnrOfError(MeanSquaredError(a, b));
}

double Ssim(std::span<const uint8_t> a, std::span<const uint8_t> b, int height, int width,
            int channels) {
  if (height < kWindow || width < kWindow || channels < 1) return kNan;
  const size_t row = static_cast<size_t>(width) * channels;
  if (a.size() != b.size() || a.size() != row * height) return kNan;
  constexpr double kC1 = (0.01 * 255) * (0.01 * 255);
  constexpr double kC2 = (0.03 * 255) * (0.03 * 255);
  static const std::array<double, kWindow> weights = Gaussian();

  // The window is a product: down the columns first, then along the row.
  std::vector<Sums> columns(row);
  double total = 0;
  for (int top = 0; top + kWindow <= height; ++top) {
    for (size_t i = 0; i < row; ++i) {
      Sums sums{};
      for (int k = 0; k < kWindow; ++k) {
        const double x = a[(top + k) * row + i];
        const double y = b[(top + k) * row + i];
        sums[0] += weights[k] * x;
        sums[1] += weights[k] * y;
        sums[2] += weights[k] * x * x;
        sums[3] += weights[k] * y * y;
        sums[4] += weights[k] * x * y;
      }
      columns[i] = sums;
    }
    for (size_t i = 0; i + static_cast<size_t>(kWindow - 1) * channels < row; ++i) {
      Sums sums{};
      for (int k = 0; k < kWindow; ++k) {
        const Sums& column = columns[i + static_cast<size_t>(k) * channels];
        for (int s = 0; s < 5; ++s) sums[s] += weights[k] * column[s];
      }
      const auto [mean_a, mean_b, square_a, square_b, product] = sums;
      const double variance_a = square_a - mean_a * mean_a;
      const double variance_b = square_b - mean_b * mean_b;
      const double covariance = product - mean_a * mean_b;
      total += (2 * mean_a * mean_b + kC1) * (2 * covariance + kC2) /
               ((mean_a * mean_a + mean_b * mean_b + kC1) * (variance_a + variance_b + kC2));
    }
  }
  return total / (static_cast<double>(height - kWindow + 1) * (width - kWindow + 1) * channels);
}

double ClipSsim(std::span<const uint8_t> a, std::span<const uint8_t> b, int frames, int height,
                int width, int channels) {
  if (frames < 1 || a.size() != b.size() || a.size() % frames != 0) return kNan;
  const size_t frame = a.size() / frames;
  double sum = 0;
  for (int i = 0; i < frames; ++i) {
    sum += Ssim(a.subspan(i * frame, frame), b.subspan(i * frame, frame), height, width, channels);
  }
  return sum / frames;
}

double Flicker(std::span<const uint8_t> clip, std::span<const uint8_t> truth, int frames) {
  if (frames < 2 || clip.size() != truth.size() || clip.empty() || clip.size() % frames != 0) {
    return kNan;
  }
  const size_t frame = clip.size() / frames;
  uint64_t sum = 0;
  for (size_t i = frame; i < clip.size(); ++i) {
    const int now = clip[i] - truth[i];
    const int before = clip[i - frame] - truth[i - frame];
    sum += static_cast<uint64_t>((now - before) * (now - before));
  }
  return std::sqrt(static_cast<double>(sum) / static_cast<double>(clip.size() - frame));
}

}  // namespace kandinsky::training
