#include "training/core/picture.h"

#include <filesystem>
#include <fstream>

#include "worker/media/video_encoder.h"
#include "worker/model/error.h"

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
  const auto fail = [&](const std::string& why) {
    throw model::ModelError(model::ModelError::Kind::kDataLoss,
                            "cannot write " + path + ": " + why);
  };
  if (!png.ok()) fail(std::string(png.status().message()));
  std::ofstream stream(path + ".tmp", std::ios::binary);
  stream << *png;
  stream.close();
  if (!stream) fail("the disk may be full");
  std::filesystem::rename(path + ".tmp", path);
}

}  // namespace kandinsky::training
