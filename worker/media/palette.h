// The best 256 colours for one picture, and the picture in these colours. Deterministic, no FFmpeg.
#ifndef KANDINSKY_WORKER_MEDIA_PALETTE_H_
#define KANDINSKY_WORKER_MEDIA_PALETTE_H_

#include <array>
#include <cstddef>
#include <cstdint>

namespace kandinsky::media {

struct Palette {
  // 0xAARRGGBB, opaque; entries from `size` on are opaque black.
  std::array<uint32_t, 256> argb{};
  int size = 0;
  // True when every colour of the picture is in the palette: no dithering is needed.
  bool exact = false;
  // Typical distance between a colour and its entry, 0 to 255: how strongly to dither.
  double spread = 0;
};

// Splits the box of colours with the largest squared error at its mean, along its widest axis,
// until there are 256. rgb: [height][width][3], rows `stride` bytes apart.
Palette ChoosePalette(const uint8_t* rgb, ptrdiff_t stride, int width, int height);

// Writes [height][width] palette indexes, rows `out_stride` bytes apart. Dithers with a fixed 8x8
// pattern, so that what does not move does not flicker.
void ApplyPalette(const Palette& palette, const uint8_t* rgb, ptrdiff_t stride, int width,
                  int height, uint8_t* out, ptrdiff_t out_stride);

}  // namespace kandinsky::media

#endif  // KANDINSKY_WORKER_MEDIA_PALETTE_H_
