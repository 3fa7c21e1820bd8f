#include "training/data/animated_webp.h"

#include <webp/demux.h>

#include <fstream>
#include <iterator>
#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace kandinsky::training {
namespace {

constexpr uint32_t kSideMost = 4096;

struct DeleteDecoder {
  void operator()(WebPAnimDecoder* decoder) const { WebPAnimDecoderDelete(decoder); }
};

}  // namespace

absl::StatusOr<AnimatedPicture> ReadAnimatedWebp(const std::string& path, int frames) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return absl::NotFoundError(absl::StrCat(path, " cannot be opened"));
  const std::string bytes{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  const WebPData data = {reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()};
  WebPAnimDecoderOptions options;
  if (!WebPAnimDecoderOptionsInit(&options))
    return absl::InternalError("another version of libwebp");
  options.color_mode = MODE_RGBA;
  const std::unique_ptr<WebPAnimDecoder, DeleteDecoder> decoder(
      WebPAnimDecoderNew(&data, &options));
  WebPAnimInfo info;
  if (!decoder || !WebPAnimDecoderGetInfo(decoder.get(), &info) || info.frame_count < 1) {
    return absl::DataLossError(absl::StrCat(path, " is no WebP picture"));
  }
  if (info.canvas_width > kSideMost || info.canvas_height > kSideMost) {
    return absl::DataLossError(absl::StrCat(path, " is ", info.canvas_width, "x",
                                            info.canvas_height, " pixels, must be at most ",
                                            kSideMost, "x", kSideMost));
  }
  const size_t size = size_t{4} * info.canvas_width * info.canvas_height;
  std::vector<std::pair<int, std::vector<uint8_t>>> shown;  // until when in ms, and what
  while (WebPAnimDecoderHasMoreFrames(decoder.get())) {
    uint8_t* rgba = nullptr;
    int until = 0;
    if (!WebPAnimDecoderGetNext(decoder.get(), &rgba, &until)) {
      return absl::DataLossError(absl::StrCat(path, " is damaged in frame ", shown.size()));
    }
    shown.emplace_back(until, std::vector<uint8_t>(rgba, rgba + size));
  }
  if (shown.empty()) return absl::DataLossError(absl::StrCat(path, " has no frames"));

  AnimatedPicture picture;
  picture.width = static_cast<int>(info.canvas_width);
  picture.height = static_cast<int>(info.canvas_height);
  const double duration = shown.back().first;
  size_t at = 0;
  for (int i = 0; i < frames; ++i) {
    const double moment = duration * i / frames;
    while (at + 1 < shown.size() && shown[at].first <= moment) ++at;
    picture.frames.push_back(shown[at].second);
  }
  return picture;
}

}  // namespace kandinsky::training
