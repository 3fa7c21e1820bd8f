// Synthetic frames and the outside view (ffprobe) of a file, for the media tests.
#ifndef KANDINSKY_TESTS_UNIT_MEDIA_MEDIA_TEST_UTIL_H_
#define KANDINSKY_TESTS_UNIT_MEDIA_MEDIA_TEST_UTIL_H_

#include <cmath>
#include <cstdint>
#include <vector>

namespace kandinsky::media {

// [height][width][3]: a colour gradient that drifts, with a bright square that moves across it.
inline std::vector<uint8_t> TestFrame(int width, int height, int index) {
  std::vector<uint8_t> rgb(static_cast<size_t>(width) * height * 3);
  const int left = (index * 3) % width;
  for (int y = 0; y < height; ++y) {
    for (int x = 0; x < width; ++x) {
      uint8_t* p = &rgb[(static_cast<size_t>(y) * width + x) * 3];
      const double phase = 0.05 * index;
      p[0] = static_cast<uint8_t>(128 + 100 * std::sin(6.28 * x / width + phase));
      p[1] = static_cast<uint8_t>(128 + 100 * std::sin(6.28 * y / height - phase));
      p[2] = static_cast<uint8_t>(64 + 120 * x / width);
      if (x >= left && x < left + width / 8 && y >= height / 4 && y < height / 2) {
        p[0] = 230;
        p[1] = 220;
        p[2] = 40;
      }
    }
  }
  return rgb;
}

// Peak signal-to-noise ratio in dB; infinity for equal pictures.
inline double Psnr(const std::vector<uint8_t>& a, const std::vector<uint8_t>& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const double d = static_cast<double>(a[i]) - b[i];
    sum += d * d;
  }
  return 10 * std::log10(255.0 * 255.0 * static_cast<double>(a.size()) / sum);
}

}  // namespace kandinsky::media

#endif  // KANDINSKY_TESTS_UNIT_MEDIA_MEDIA_TEST_UTIL_H_
