// What happens to frames between a model and a viewer, for tests of the judge: blur, noise, the
// quantisation of JPEG.
#ifndef KANDINSKY_TESTS_UNIT_TRAINING_DEGRADE_H_
#define KANDINSKY_TESTS_UNIT_TRAINING_DEGRADE_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numbers>
#include <vector>

#include "training/domain/random.h"

namespace kandinsky::training {

// All three change rgb, [frames][height][width][3], in place.

// Gaussian, edges repeated.
inline void AddBlur(std::vector<uint8_t>& rgb, int height, int width, double sigma) {
  const int reach = static_cast<int>(std::ceil(3 * sigma));
  std::vector<double> kernel(2 * reach + 1);
  double sum = 0;
  for (int i = -reach; i <= reach; ++i)
    sum += kernel[i + reach] = std::exp(-i * i / (2 * sigma * sigma));
  std::vector<double> rows(static_cast<size_t>(height) * width * 3);
  for (size_t frame = 0; frame < rgb.size(); frame += rows.size()) {
    for (const bool along_x : {true, false}) {
      for (int y = 0; y < height; ++y) {
        for (int x = 0; x < width; ++x) {
          for (int c = 0; c < 3; ++c) {
            double value = 0;
            for (int i = -reach; i <= reach; ++i) {
              const int u = along_x ? std::clamp(x + i, 0, width - 1) : x;
              const int v = along_x ? y : std::clamp(y + i, 0, height - 1);
              const size_t at = (static_cast<size_t>(v) * width + u) * 3 + c;
              value += kernel[i + reach] * (along_x ? rgb[frame + at] : rows[at]);
            }
            const size_t at = (static_cast<size_t>(y) * width + x) * 3 + c;
            if (along_x) {
              rows[at] = value / sum;
            } else {
              rgb[frame + at] = static_cast<uint8_t>(value / sum + 0.5);
            }
          }
        }
      }
    }
  }
}

inline void AddNoise(std::vector<uint8_t>& rgb, double sigma, Random& random) {
  for (uint8_t& value : rgb) {
    double normal = -6;  // by the central limit
    for (int i = 0; i < 12; ++i) normal += random.Uniform();
    value = static_cast<uint8_t>(std::clamp(value + sigma * normal + 0.5, 0.0, 255.0));
  }
}

// Each 8x8 block of each channel through a discrete cosine transform whose coefficients are rounded
// to steps that grow with the frequency: `step` for the mean, 6 * step for the highest.
inline void AddBlocks(std::vector<uint8_t>& rgb, int height, int width, double step) {
  double basis[8][8];
  for (int k = 0; k < 8; ++k) {
    for (int i = 0; i < 8; ++i) {
      basis[k][i] =
          (k == 0 ? std::sqrt(0.125) : 0.5) * std::cos((2 * i + 1) * k * std::numbers::pi / 16);
    }
  }
  const size_t rows = rgb.size() / (static_cast<size_t>(width) * 3);
  for (size_t top = 0; top + 8 <= rows; top += 8) {
    for (int left = 0; left + 8 <= width; left += 8) {
      for (int c = 0; c < 3; ++c) {
        const auto at = [&](int y, int x) -> uint8_t& {
          return rgb[((top + y) * width + left + x) * 3 + c];
        };
        double half[8][8] = {};
        double coefficients[8][8] = {};
        for (int y = 0; y < 8; ++y) {
          for (int k = 0; k < 8; ++k) {
            for (int x = 0; x < 8; ++x) half[y][k] += basis[k][x] * at(y, x);
          }
        }
        for (int l = 0; l < 8; ++l) {
          for (int k = 0; k < 8; ++k) {
            for (int y = 0; y < 8; ++y) coefficients[l][k] += basis[l][y] * half[y][k];
            const double size = step * (1 + 5.0 * (k + l) / 14);
            coefficients[l][k] = std::round(coefficients[l][k] / size) * size;
          }
        }
        for (int y = 0; y < 8; ++y) {
          for (int x = 0; x < 8; ++x) {
            double value = 0;
            for (int l = 0; l < 8; ++l) {
              for (int k = 0; k < 8; ++k) value += basis[l][y] * basis[k][x] * coefficients[l][k];
            }
            at(y, x) = static_cast<uint8_t>(std::clamp(value + 0.5, 0.0, 255.0));
          }
        }
      }
    }
  }
}

}  // namespace kandinsky::training

#endif  // KANDINSKY_TESTS_UNIT_TRAINING_DEGRADE_H_
