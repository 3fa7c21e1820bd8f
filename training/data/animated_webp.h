// Animated WebP pictures, which Debian's FFmpeg does not read, through libwebp's demuxer.
#ifndef KANDINSKY_TRAINING_DATA_ANIMATED_WEBP_H_
#define KANDINSKY_TRAINING_DATA_ANIMATED_WEBP_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace kandinsky::training {

struct AnimatedPicture {
  int width = 0, height = 0;
  // What the screen shows at even moments of one loop: [frames][height][width][4], red, green, blue
  // and alpha, colours not multiplied by alpha.
  std::vector<std::vector<uint8_t>> frames;
};

// Reads the file and takes `frames` > 0 pictures of its loop at moments 0, d / frames,
// 2 d / frames, … of its duration d. A picture without animation is the same at every moment.
// NOT_FOUND when the file cannot be opened, DATA_LOSS when it is no whole WebP picture; both name
// it. Pictures of more than 4096 x 4096 pixels are DATA_LOSS, too.
absl::StatusOr<AnimatedPicture> ReadAnimatedWebp(const std::string& path, int frames);

}  // namespace kandinsky::training

#endif  // KANDINSKY_TRAINING_DATA_ANIMATED_WEBP_H_
