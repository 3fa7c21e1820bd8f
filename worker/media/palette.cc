#include "worker/media/palette.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace kandinsky::media {
namespace {

constexpr int kColors = 256;

uint32_t Pack(const uint8_t* p) {
  return static_cast<uint32_t>(p[0]) << 16 | static_cast<uint32_t>(p[1]) << 8 | p[2];
}

int Channel(uint32_t color, int axis) { return (color >> (16 - 8 * axis)) & 0xff; }

// All pixels of one cell of a 32x32x32 grid over the colour cube.
struct Bin {
  int64_t count = 0;
  std::array<int64_t, 3> sum{};
  double Mean(int axis) const { return static_cast<double>(sum[axis]) / count; }
};

// bins[begin, end) and their statistics.
struct Box {
  int begin = 0;
  int end = 0;
  int64_t count = 0;
  std::array<double, 3> mean{};
  std::array<double, 3> error{};  // sum of squared distances to the mean, by axis

  double TotalError() const { return error[0] + error[1] + error[2]; }
};

Box MeasureBox(const std::vector<Bin>& bins, int begin, int end) {
  Box box{.begin = begin, .end = end};
  for (int i = begin; i < end; ++i) {
    box.count += bins[i].count;
    for (int a = 0; a < 3; ++a) box.mean[a] += static_cast<double>(bins[i].sum[a]);
  }
  for (double& m : box.mean) m /= static_cast<double>(box.count);
  for (int i = begin; i < end; ++i) {
    for (int a = 0; a < 3; ++a) {
      const double d = bins[i].Mean(a) - box.mean[a];
      box.error[a] += d * d * static_cast<double>(bins[i].count);
    }
  }
  return box;
}

// Fills the palette when the picture has at most 256 colours.
bool ExactPalette(const uint8_t* rgb, ptrdiff_t stride, int width, int height, Palette& palette) {
  std::vector<uint32_t> colors;  // sorted
  uint32_t last = 0xffffffff;
  for (int y = 0; y < height; ++y) {
    for (int x = 0; x < width; ++x) {
      const uint32_t color = Pack(rgb + y * stride + x * 3);
      if (color == last) continue;
      last = color;
      auto at = std::lower_bound(colors.begin(), colors.end(), color);
      if (at != colors.end() && *at == color) continue;
      if (colors.size() == kColors) return false;
      colors.insert(at, color);
    }
  }
  palette.size = static_cast<int>(colors.size());
  palette.exact = true;
  for (int i = 0; i < palette.size; ++i) palette.argb[i] = 0xff000000u | colors[i];
  return true;
}

// Bayer's 8x8 threshold matrix, 0 to 63: bits of (x ^ y) and y, interleaved from the least
// significant bit up.
int Threshold(int x, int y) {
  int value = 0;
  for (int bit = 0; bit < 3; ++bit) {
    value = value << 2 | ((x ^ y) >> bit & 1) << 1 | (y >> bit & 1);
  }
  return value;
}

int Nearest(const Palette& palette, int r, int g, int b) {
  int best = 0;
  int best_distance = 1 << 30;
  for (int i = 0; i < palette.size; ++i) {
    const int dr = r - Channel(palette.argb[i], 0);
    const int dg = g - Channel(palette.argb[i], 1);
    const int db = b - Channel(palette.argb[i], 2);
    const int distance = dr * dr + dg * dg + db * db;
    if (distance < best_distance) {
      best_distance = distance;
      best = i;
    }
  }
  return best;
}

}  // namespace

Palette ChoosePalette(const uint8_t* rgb, ptrdiff_t stride, int width, int height) {
  Palette palette;
  palette.argb.fill(0xff000000u);
  if (ExactPalette(rgb, stride, width, height, palette)) return palette;

  std::vector<Bin> bins(32 * 32 * 32);
  for (int y = 0; y < height; ++y) {
    for (int x = 0; x < width; ++x) {
      const uint8_t* p = rgb + y * stride + x * 3;
      Bin& bin = bins[(p[0] >> 3) << 10 | (p[1] >> 3) << 5 | p[2] >> 3];
      ++bin.count;
      for (int a = 0; a < 3; ++a) bin.sum[a] += p[a];
    }
  }
  std::erase_if(bins, [](const Bin& bin) { return bin.count == 0; });

  std::vector<Box> boxes = {MeasureBox(bins, 0, static_cast<int>(bins.size()))};
  while (static_cast<int>(boxes.size()) < kColors) {
    auto worst = std::max_element(boxes.begin(), boxes.end(), [](const Box& a, const Box& b) {
      return a.TotalError() < b.TotalError();
    });
    if (worst->end - worst->begin < 2 || worst->TotalError() <= 0) break;
    const int axis = static_cast<int>(std::max_element(worst->error.begin(), worst->error.end()) -
                                      worst->error.begin());
    const auto middle =
        std::stable_partition(bins.begin() + worst->begin, bins.begin() + worst->end,
                              [&](const Bin& bin) { return bin.Mean(axis) <= worst->mean[axis]; });
    const int split = static_cast<int>(middle - bins.begin());
    // Rounding may put every bin on one side.
    if (split == worst->begin || split == worst->end) break;
    const Box right = MeasureBox(bins, split, worst->end);
    *worst = MeasureBox(bins, worst->begin, split);
    boxes.push_back(right);
  }

  double error = 0;
  for (const Box& box : boxes) {
    uint32_t color = 0;
    for (int a = 0; a < 3; ++a)
      color = color << 8 | static_cast<uint32_t>(std::lround(box.mean[a]));
    palette.argb[palette.size++] = 0xff000000u | color;
    error += box.TotalError();
  }
  palette.spread = std::sqrt(error / (static_cast<double>(width) * height));
  return palette;
}

void ApplyPalette(const Palette& palette, const uint8_t* rgb, ptrdiff_t stride, int width,
                  int height, uint8_t* out, ptrdiff_t out_stride) {
  if (palette.exact) {
    const auto begin = palette.argb.begin();
    for (int y = 0; y < height; ++y) {
      for (int x = 0; x < width; ++x) {
        const uint32_t color = 0xff000000u | Pack(rgb + y * stride + x * 3);
        out[y * out_stride + x] =
            static_cast<uint8_t>(std::lower_bound(begin, begin + palette.size, color) - begin);
      }
    }
    return;
  }
  // Distance between neighbouring entries is about twice the distance of a colour to its entry.
  const double strength = std::min(2 * palette.spread, 24.0);
  std::array<int, 64> offsets{};
  for (int y = 0; y < 8; ++y) {
    for (int x = 0; x < 8; ++x) {
      offsets[y * 8 + x] =
          static_cast<int>(std::lround(strength * ((Threshold(x, y) + 0.5) / 64 - 0.5)));
    }
  }
  std::vector<int16_t> nearest(64 * 64 * 64, -1);  // by 6 bits of each channel; filled on demand
  for (int y = 0; y < height; ++y) {
    for (int x = 0; x < width; ++x) {
      const uint8_t* p = rgb + y * stride + x * 3;
      const int offset = offsets[(y & 7) * 8 + (x & 7)];
      const int r = std::clamp(p[0] + offset, 0, 255) >> 2;
      const int g = std::clamp(p[1] + offset, 0, 255) >> 2;
      const int b = std::clamp(p[2] + offset, 0, 255) >> 2;
      int16_t& index = nearest[r << 12 | g << 6 | b];
      if (index < 0) {
        index = static_cast<int16_t>(Nearest(palette, r << 2 | 2, g << 2 | 2, b << 2 | 2));
      }
      out[y * out_stride + x] = static_cast<uint8_t>(index);
    }
  }
}

}  // namespace kandinsky::media
