#include "worker/media/palette.h"

#include <gtest/gtest.h>

#include <vector>

#include "tests/unit/media/media_test_util.h"

namespace kandinsky::media {
namespace {

std::vector<uint8_t> Apply(const Palette& palette, const std::vector<uint8_t>& rgb, int width,
                           int height) {
  std::vector<uint8_t> index(static_cast<size_t>(width) * height);
  ApplyPalette(palette, rgb.data(), width * 3, width, height, index.data(), width);
  std::vector<uint8_t> out;
  for (uint8_t i : index) {
    EXPECT_LT(i, palette.size);
    const uint32_t color = palette.argb[i];
    out.insert(out.end(), {static_cast<uint8_t>(color >> 16), static_cast<uint8_t>(color >> 8),
                           static_cast<uint8_t>(color)});
  }
  return out;
}

TEST(PaletteTest, KeepsUpTo256ColorsExactly) {
  for (const int colors : {1, 2, 16, 255, 256}) {
    std::vector<uint8_t> rgb;
    for (int i = 0; i < 64 * 64; ++i) {
      const int color = i * 7 % colors;
      rgb.insert(rgb.end(), {static_cast<uint8_t>(color), static_cast<uint8_t>(255 - color),
                             static_cast<uint8_t>(color * 31)});
    }
    const Palette palette = ChoosePalette(rgb.data(), 64 * 3, 64, 64);
    EXPECT_TRUE(palette.exact) << colors;
    EXPECT_EQ(palette.size, colors);
    EXPECT_EQ(Apply(palette, rgb, 64, 64), rgb) << colors;
  }
}

TEST(PaletteTest, ApproximatesManyColors) {
  const std::vector<uint8_t> rgb = TestFrame(128, 96, 5);
  const Palette palette = ChoosePalette(rgb.data(), 128 * 3, 128, 96);
  EXPECT_FALSE(palette.exact);
  EXPECT_EQ(palette.size, 256);
  for (uint32_t color : palette.argb) EXPECT_EQ(color >> 24, 0xffu);
  EXPECT_GT(Psnr(Apply(palette, rgb, 128, 96), rgb), 30);
}

TEST(PaletteTest, DitheringKeepsTheMeanOfAFlatArea) {
  // One flat colour that the palette lacks, next to noise that uses the palette up.
  const int size = 128;
  std::vector<uint8_t> rgb;
  uint32_t state = 1;
  for (int i = 0; i < size * size; ++i) {
    state = state * 1664525 + 1013904223;
    const uint8_t noise[] = {static_cast<uint8_t>(state >> 24), static_cast<uint8_t>(state >> 16),
                             static_cast<uint8_t>(state >> 8)};
    rgb.insert(rgb.end(), noise, noise + 3);
  }
  for (int y = 0; y < 32; ++y) {
    for (int x = 0; x < 32; ++x) {
      uint8_t* p = &rgb[(static_cast<size_t>(y) * size + x) * 3];
      p[0] = p[1] = p[2] = 101;
    }
  }
  const Palette palette = ChoosePalette(rgb.data(), size * 3, size, size);
  const std::vector<uint8_t> out = Apply(palette, rgb, size, size);
  for (int channel = 0; channel < 3; ++channel) {
    double sum = 0;
    for (int y = 0; y < 32; ++y) {
      for (int x = 0; x < 32; ++x) sum += out[(static_cast<size_t>(y) * size + x) * 3 + channel];
    }
    EXPECT_NEAR(sum / (32 * 32), 101, 14);
  }
}

}  // namespace
}  // namespace kandinsky::media
