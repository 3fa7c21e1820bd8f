#include "worker/stages/preview.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <utility>

#include "worker/media/video_encoder.h"

namespace kandinsky {

absl::StatusOr<Preview> MakePreview(const at::Tensor& frames, int side) {
  constexpr int64_t kColumns = 8;
  if (frames.dim() != 4 || frames.size(0) < 1 || frames.size(3) != 3 || side < 1) {
    return absl::InvalidArgumentError("preview needs frames [T, H, W, 3]");
  }
  const int64_t height = frames.size(1);
  const int64_t width = frames.size(2);
  const double scale = std::min(1.0, static_cast<double>(side) / std::max(width, height));
  const int64_t h = std::max<int64_t>(1, static_cast<int64_t>(height * scale));
  const int64_t w = std::max<int64_t>(1, static_cast<int64_t>(width * scale));
  const at::Tensor small =
      at::adaptive_avg_pool2d(frames.permute({0, 3, 1, 2}).to(at::kFloat), {h, w})
          .add_(0.5)
          .clamp_(0, 255)
          .to(at::kByte)
          .permute({0, 2, 3, 1});  // [T, h, w, 3]
  const int64_t count = small.size(0);
  const int64_t columns = std::min(count, kColumns);
  const int64_t rows = (count + columns - 1) / columns;
  at::Tensor sheet = at::zeros({rows * h, columns * w, 3}, at::kByte);
  for (int64_t i = 0; i < count; ++i) {
    sheet.narrow(0, i / columns * h, h).narrow(1, i % columns * w, w).copy_(small[i]);
  }
  absl::StatusOr<std::string> png = media::EncodePng(
      sheet.const_data_ptr<uint8_t>(), static_cast<int>(columns * w), static_cast<int>(rows * h));
  if (!png.ok()) return png.status();
  return Preview{*std::move(png), static_cast<int>(columns * w), static_cast<int>(rows * h)};
}

}  // namespace kandinsky
