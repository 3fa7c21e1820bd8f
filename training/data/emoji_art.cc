#include "training/data/emoji_art.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/base/crc32c.h"
#include "training/data/animated_webp.h"

namespace kandinsky::training {
namespace {

constexpr size_t kFrameBytes = size_t{4} * kArtSide * kArtSide;
constexpr int kVisibleAlpha = 8;  // of 255: fainter pixels do not count towards the extent
// In front of the frames; version, so that a file of another layout is made anew.
struct Header {
  char magic[8] = {'E', 'M', 'O', 'J', 'I', 'A', '0', '1'};
  uint32_t checksum = 0;
  uint32_t side = kArtSide;
  uint32_t frames = kArtFrames;
  uint32_t classes = 0;
  char padding[4072] = {};
};
static_assert(sizeof(Header) == 4096);

// What one row or column of a result is made of: weights[k] of input first + k. Inputs outside of
// the picture are transparent and left out, so that the sum may be below 1.
struct Taps {
  int first = 0;
  std::vector<float> weights;
};

// Result i has its middle at `start` + (i + 0.5) * scale in the input, in pixels: linear
// interpolation, with a window that widens as the picture shrinks.
std::vector<Taps> MakeTaps(int size, int to_size, double start, double scale) {
  const double reach = std::max(1.0, scale);
  std::vector<Taps> all(static_cast<size_t>(to_size));
  for (int i = 0; i < to_size; ++i) {
    const double center = start + (i + 0.5) * scale - 0.5;
    const int first = static_cast<int>(std::ceil(center - reach));
    const int last = static_cast<int>(std::floor(center + reach));
    Taps& taps = all[static_cast<size_t>(i)];
    double sum = 0;
    for (int k = first; k <= last; ++k) sum += std::max(0.0, 1 - std::abs(k - center) / reach);
    taps.first = std::clamp(first, 0, size);
    for (int k = taps.first; k <= std::min(last, size - 1); ++k) {
      const double weight = std::max(0.0, 1 - std::abs(k - center) / reach);
      taps.weights.push_back(static_cast<float>(weight / sum));
    }
  }
  return all;
}

// One picture of a mixture: [height][width][4], and its weight.
struct Layer {
  const uint8_t* rgba;
  float weight;
};

// Calls put(row, column, float[4]) for each pixel of the mixture of the layers, resized.
template <typename Put>
void Resample(const std::vector<Layer>& layers, int width, const std::vector<Taps>& rows,
              const std::vector<Taps>& columns, const Put& put) {
  const size_t row_values = static_cast<size_t>(width) * 4;
  std::vector<float> line(row_values);
  for (size_t y = 0; y < rows.size(); ++y) {
    const Taps& vertical = rows[y];
    std::fill(line.begin(), line.end(), 0.0F);
    for (const Layer& layer : layers) {
      for (size_t k = 0; k < vertical.weights.size(); ++k) {
        const uint8_t* from = layer.rgba + (static_cast<size_t>(vertical.first) + k) * row_values;
        const float weight = layer.weight * vertical.weights[k];
        for (size_t i = 0; i < row_values; ++i) line[i] += weight * static_cast<float>(from[i]);
      }
    }
    for (size_t x = 0; x < columns.size(); ++x) {
      float sum[4] = {};
      const float* from = line.data() + static_cast<size_t>(columns[x].first) * 4;
      for (const float weight : columns[x].weights) {
        for (int c = 0; c < 4; ++c) sum[c] += weight * from[c];
        from += 4;
      }
      put(y, x, sum);
    }
  }
}

uint8_t ToByte(float value) { return static_cast<uint8_t>(std::clamp(value + 0.5F, 0.0F, 255.0F)); }

// All frames of a picture, cut to the square around what is ever visible, at kArtSide.
std::vector<uint8_t> MakeArt(AnimatedPicture picture) {
  const int width = picture.width, height = picture.height;
  int left = width, right = 0, top = height, bottom = 0;
  for (std::vector<uint8_t>& frame : picture.frames) {
    for (int y = 0; y < height; ++y) {
      for (int x = 0; x < width; ++x) {
        uint8_t* pixel = &frame[4 * (static_cast<size_t>(y) * static_cast<size_t>(width) +
                                     static_cast<size_t>(x))];
        if (pixel[3] > kVisibleAlpha) {
          left = std::min(left, x), right = std::max(right, x + 1);
          top = std::min(top, y), bottom = std::max(bottom, y + 1);
        }
        for (int c = 0; c < 3; ++c) {
          pixel[c] = static_cast<uint8_t>((pixel[c] * pixel[3] + 127) / 255);
        }
      }
    }
  }
  if (right <= left) left = 0, right = width, top = 0, bottom = height;  // nothing is visible
  const double side = std::max(right - left, bottom - top) + 2;
  const double scale = side / kArtSide;
  const auto rows = MakeTaps(height, kArtSide, (top + bottom - side) / 2, scale);
  const auto columns = MakeTaps(width, kArtSide, (left + right - side) / 2, scale);
  std::vector<uint8_t> art(kFrameBytes * picture.frames.size());
  uint8_t* out = art.data();
  for (const std::vector<uint8_t>& frame : picture.frames) {
    Resample({{frame.data(), 1}}, width, rows, columns, [&](size_t, size_t, const float* rgba) {
      for (int c = 0; c < 4; ++c) *out++ = ToByte(rgba[c]);
    });
  }
  return art;
}

absl::Status WriteArt(const std::string& folder, const std::string& path,
                      const std::vector<EmojiClass>& classes, uint32_t checksum) {
  std::fprintf(stderr, "%s: decoding %zu animated pictures, once\n", path.c_str(), classes.size());
  const std::string part = absl::StrCat(path, ".", getpid(), ".part");
  std::ofstream file(part, std::ios::binary | std::ios::trunc);
  Header header;
  header.checksum = checksum;
  header.classes = static_cast<uint32_t>(classes.size());
  file.write(reinterpret_cast<const char*>(&header), sizeof(header));
  for (const EmojiClass& emoji : classes) {
    absl::StatusOr<AnimatedPicture> picture =
        ReadAnimatedWebp(absl::StrCat(folder, "/webp/", emoji.code, ".webp"), kArtFrames);
    if (!picture.ok()) {
      std::filesystem::remove(part);
      return picture.status();
    }
    const std::vector<uint8_t> art = MakeArt(*std::move(picture));
    file.write(reinterpret_cast<const char*>(art.data()), static_cast<std::streamsize>(art.size()));
  }
  file.close();
  std::error_code error;
  if (file) std::filesystem::rename(part, path, error);
  if (!file || error) {
    std::filesystem::remove(part, error);
    return absl::InternalError(absl::StrCat(path, " cannot be written"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::vector<EmojiClass>> ParseEmojiList(const std::string& tsv) {
  constexpr size_t kColumns =
      9;  // code, en, ru, group, frames, en_synonyms, ru_synonyms, animation, animation_note
  std::vector<EmojiClass> classes;
  const std::vector<std::string> lines = absl::StrSplit(tsv, '\n');
  for (size_t i = 1; i < lines.size(); ++i) {
    if (lines[i].empty()) continue;
    const std::vector<std::string> cells = absl::StrSplit(lines[i], '\t');
    const auto wrong = [&](const std::string& what) {
      return absl::InvalidArgumentError(absl::StrCat("emoji.tsv, line ", i + 1, ": ", what));
    };
    if (cells.size() < kColumns) {
      return wrong(
          absl::StrCat("has ", cells.size(), " columns, must have ", kColumns, " or more"));
    }
    EmojiClass emoji{.code = cells[0], .english = cells[1], .russian = cells[2], .group = cells[3]};
    if (emoji.code.empty() || emoji.english.empty() || emoji.russian.empty()) {
      return wrong("code, en and ru must not be empty");
    }
    if (emoji.code.find_first_not_of("0123456789abcdef-") != std::string::npos) {
      return wrong(absl::StrCat("code is \"", emoji.code, "\", must be of 0-9, a-f and -"));
    }
    emoji.english_synonyms = absl::StrSplit(cells[5], ';', absl::SkipEmpty());
    emoji.russian_synonyms = absl::StrSplit(cells[6], ';', absl::SkipEmpty());
    if (!absl::SimpleAtod(cells[7], &emoji.animation)) {
      return wrong(absl::StrCat("animation is \"", cells[7], "\", must be a number"));
    }
    emoji.weak = cells[8] == "weak";
    classes.push_back(std::move(emoji));
  }
  if (classes.empty()) return absl::InvalidArgumentError("emoji.tsv has no lines");
  return classes;
}

absl::StatusOr<std::shared_ptr<const EmojiArt>> EmojiArt::Open(const std::string& folder) {
  std::ifstream list(folder + "/emoji.tsv", std::ios::binary);
  if (!list) {
    return absl::NotFoundError(absl::StrCat(
        folder, "/emoji.tsv cannot be opened; training/data/fetch_emoji fills such a folder"));
  }
  const std::string tsv{std::istreambuf_iterator<char>(list), std::istreambuf_iterator<char>()};
  absl::StatusOr<std::vector<EmojiClass>> classes = ParseEmojiList(tsv);
  if (!classes.ok()) return classes.status();
  const std::shared_ptr<EmojiArt> art(new EmojiArt);
  art->classes_ = *std::move(classes);
  art->checksum_ = Crc32c(tsv);
  art->size_ = sizeof(Header) + art->classes_.size() * kArtFrames * kFrameBytes;

  const std::string path = folder + "/art.rgba";
  Header wanted, found;
  wanted.checksum = art->checksum_;
  wanted.classes = static_cast<uint32_t>(art->classes_.size());
  std::ifstream before(path, std::ios::binary);
  std::error_code none;
  if (!before.read(reinterpret_cast<char*>(&found), sizeof(found)) ||
      std::memcmp(&found, &wanted, sizeof(found)) != 0 ||
      std::filesystem::file_size(path, none) != art->size_) {
    const absl::Status written = WriteArt(folder, path, art->classes_, art->checksum_);
    if (!written.ok()) return written;
  }
  const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file >= 0) {
    art->mapped_ = mmap(nullptr, art->size_, PROT_READ, MAP_SHARED, file, 0);
    close(file);
  }
  if (art->mapped_ == nullptr || art->mapped_ == MAP_FAILED) {
    art->mapped_ = nullptr;
    return absl::InternalError(absl::StrCat(path, " cannot be mapped"));
  }
  return art;
}

EmojiArt::~EmojiArt() {
  if (mapped_ != nullptr) munmap(mapped_, size_);
}

const uint8_t* EmojiArt::Frame(int emoji, int frame) const {
  const size_t number = static_cast<size_t>(emoji) * kArtFrames + static_cast<size_t>(frame);
  return static_cast<const uint8_t*>(mapped_) + sizeof(Header) + number * kFrameBytes;
}

void EmojiArt::Draw(const EmojiSpec& clip, double t, int height, int width, uint8_t* rgb) const {
  const Rgb background = ColorOf(clip.background);
  for (int i = 0; i < height * width; ++i) {
    std::copy(background.begin(), background.end(), rgb + ptrdiff_t{3} * i);
  }
  const double frame = std::fmod(EmojiSpec::ArtFrameAt(t), kArtFrames);
  const int first = static_cast<int>(frame);
  // Each frame is shown alone for half of its time, which keeps what moves fast from being seen
  // twice.
  const auto mix = static_cast<float>(std::clamp(2 * (frame - first) - 0.5, 0.0, 1.0));
  std::vector<Layer> layers = {{Frame(clip.emoji, first), 1 - mix}};
  if (mix > 0) layers.push_back({Frame(clip.emoji, (first + 1) % kArtFrames), mix});

  const double square = std::min(height, width), side = square * clip.SideAt(t);
  const Point center = clip.CenterAt(t);
  const double left = (width - square) / 2 + square * center.x - side / 2;
  const double top = (height - square) / 2 + square * center.y - side / 2;
  const double scale = kArtSide / side;
  // The rows and columns of the frame that the picture reaches.
  const auto range = [](double from, double length, int size) {
    const int begin = std::clamp(static_cast<int>(std::floor(from)) - 1, 0, size);
    const int end = std::clamp(static_cast<int>(std::ceil(from + length)) + 1, begin, size);
    return std::pair{begin, end - begin};
  };
  const auto [y0, rows] = range(top, side, height);
  const auto [x0, columns] = range(left, side, width);
  Resample(layers, kArtSide, MakeTaps(kArtSide, rows, (y0 - top) * scale, scale),
           MakeTaps(kArtSide, columns, (x0 - left) * scale, scale),
           [&, y0 = y0, x0 = x0](size_t y, size_t x, const float* rgba) {
             const size_t row = static_cast<size_t>(y0) + y, column = static_cast<size_t>(x0) + x;
             uint8_t* pixel = rgb + 3 * (row * static_cast<size_t>(width) + column);
             const float rest = 1 - rgba[3] / 255;
             for (int c = 0; c < 3; ++c) {
               pixel[c] = ToByte(rgba[c] + rest * static_cast<float>(pixel[c]));
             }
           });
}

}  // namespace kandinsky::training
