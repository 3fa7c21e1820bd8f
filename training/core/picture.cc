#include "training/core/picture.h"

#include "worker/media/video_encoder.h"
#include "worker/model/error.h"
#include "worker/model/write_file.h"

namespace kandinsky::training {

at::Tensor Tile(const at::Tensor& images, int64_t columns, int64_t zoom) {
  constexpr int64_t kGap = 2;
  const at::Tensor large =
      images.repeat_interleave(zoom, 1).repeat_interleave(zoom, 2);  // [N, H zoom, W zoom, 3]
  const int64_t n = large.size(0), height = large.size(1), width = large.size(2);
  const int64_t rows = (n + columns - 1) / columns;
  at::Tensor picture =
      at::full({rows * (height + kGap), columns * (width + kGap), 3}, 90, at::kByte);
  for (int64_t i = 0; i < n; ++i) {
    picture.narrow(0, i / columns * (height + kGap), height)
        .narrow(1, i % columns * (width + kGap), width)
        .copy_(large[i]);
  }
  return picture;
}

void WritePng(const std::string& path, const at::Tensor& picture) {
  const at::Tensor pixels = picture.contiguous();
  const auto png = media::EncodePng(pixels.data_ptr<uint8_t>(), static_cast<int>(pixels.size(1)),
                                    static_cast<int>(pixels.size(0)));
  if (!png.ok()) {
    throw model::ModelError(model::ModelError::Kind::kDataLoss,
                            "cannot write " + path + ": " + std::string(png.status().message()));
  }
  model::WriteFile(path, *png);
}

}  // namespace kandinsky::training
