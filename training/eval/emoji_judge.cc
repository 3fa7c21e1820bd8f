#include "training/eval/emoji_judge.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

namespace kandinsky::training {
namespace {

constexpr int kMoments = 12;
constexpr int kDifference = 24;       // levels: sum over channels of a pixel of the mask
constexpr double kSpeck = 0.03;       // of the largest region: smaller ones are left out
constexpr double kLeastArea = 0.004;  // of the frame
constexpr double kFarthest = 70;      // levels (Euclidean) between a background and its name
constexpr double kTravel = 0.16;      // of the frame's side
constexpr double kGrowth = 0.25;      // of log(side)
constexpr int kReferenceSide = 96;    // pixels of the frames that references are drawn in

// The median of each channel along the border.
std::array<int, 3> Border(const uint8_t* rgb, int height, int width) {
  std::array<int, 3> result{};
  for (size_t c = 0; c < 3; ++c) {
    std::vector<uint8_t> values;
    const auto add = [&](int y, int x) {
      values.push_back(
          rgb[3 * (static_cast<size_t>(y) * static_cast<size_t>(width) + static_cast<size_t>(x)) +
              c]);
    };
    for (int x = 0; x < width; ++x) add(0, x), add(height - 1, x);
    for (int y = 1; y + 1 < height; ++y) add(y, 0), add(y, width - 1);
    const auto middle = values.begin() + static_cast<ptrdiff_t>(values.size() / 2);
    std::nth_element(values.begin(), middle, values.end());
    result[c] = *middle;
  }
  return result;
}

std::optional<EmojiBackground> Nearest(const std::array<int, 3>& color) {
  std::optional<EmojiBackground> nearest;
  double least = kFarthest;
  for (int i = 0; i < kEmojiBackgrounds; ++i) {
    const Rgb known = ColorOf(static_cast<EmojiBackground>(i));
    double squares = 0;
    for (size_t c = 0; c < 3; ++c) squares += std::pow(color[c] - known[c], 2);
    if (std::sqrt(squares) < least) {
      least = std::sqrt(squares);
      nearest = static_cast<EmojiBackground>(i);
    }
  }
  return nearest;
}

// Labels of connected regions of the mask, 1 and up, and their sizes; 0: not in the mask.
std::vector<int> Regions(const std::vector<uint8_t>& mask, int height, int width,
                         std::vector<int>& sizes) {
  std::vector<int> labels(mask.size()), stack;
  sizes.assign(1, 0);
  for (int start = 0; start < height * width; ++start) {
    if (mask[static_cast<size_t>(start)] == 0 || labels[static_cast<size_t>(start)] != 0) continue;
    const int label = static_cast<int>(sizes.size());
    sizes.push_back(0);
    stack.assign(1, start);
    labels[static_cast<size_t>(start)] = label;
    while (!stack.empty()) {
      const int at = stack.back(), y = at / width, x = at % width;
      stack.pop_back();
      ++sizes.back();
      const std::pair<int, int> neighbours[] = {{y - 1, x}, {y + 1, x}, {y, x - 1}, {y, x + 1}};
      for (const auto& [ny, nx] : neighbours) {
        if (ny < 0 || ny >= height || nx < 0 || nx >= width) continue;
        const auto next = static_cast<size_t>(ny * width + nx);
        if (mask[next] == 0 || labels[next] != 0) continue;
        labels[next] = label;
        stack.push_back(static_cast<int>(next));
      }
    }
  }
  return labels;
}

// The slope of the line through (i, values[i]) for the i that have a value, over all of them.
double Change(const std::vector<std::optional<double>>& values) {
  double n = 0, sum_i = 0, sum_v = 0, sum_ii = 0, sum_iv = 0;
  for (size_t i = 0; i < values.size(); ++i) {
    if (!values[i]) continue;
    const auto t = static_cast<double>(i);
    n += 1, sum_i += t, sum_v += *values[i], sum_ii += t * t, sum_iv += t * *values[i];
  }
  const double spread = n * sum_ii - sum_i * sum_i;
  if (spread <= 0) return 0;
  return (n * sum_iv - sum_i * sum_v) / spread * static_cast<double>(values.size() - 1);
}

}  // namespace

EmojiJudge::EmojiJudge(std::shared_ptr<const EmojiArt> art) : art_(std::move(art)) {
  std::vector<uint8_t> rgb(size_t{3} * kReferenceSide * kReferenceSide);
  for (int b = 0; b < kEmojiBackgrounds; ++b) {
    auto& references = references_[static_cast<size_t>(b)];
    const auto background = static_cast<EmojiBackground>(b);
    const Rgb color = ColorOf(background);
    for (size_t emoji = 0; emoji < art_->classes().size(); ++emoji) {
      const EmojiSpec clip{
          .emoji = static_cast<int>(emoji), .background = background, .side0 = 0.8, .side1 = 0.8};
      for (int moment = 0; moment < kMoments; ++moment) {
        art_->Draw(clip, moment / static_cast<double>(kMoments - 1), kReferenceSide, kReferenceSide,
                   rgb.data());
        const auto cut =
            CutOut(rgb.data(), kReferenceSide, kReferenceSide, {color[0], color[1], color[2]});
        references.push_back(cut ? cut->square : Square{});
      }
    }
  }
}

std::optional<EmojiJudge::Cut> EmojiJudge::CutOut(const uint8_t* rgb, int height, int width,
                                                  const std::array<int, 3>& background) {
  std::vector<uint8_t> mask(static_cast<size_t>(height) * static_cast<size_t>(width));
  for (size_t i = 0; i < mask.size(); ++i) {
    int difference = 0;
    for (size_t c = 0; c < 3; ++c) difference += std::abs(rgb[3 * i + c] - background[c]);
    mask[i] = difference > kDifference ? 1 : 0;
  }
  std::vector<int> sizes;
  const std::vector<int> labels = Regions(mask, height, width, sizes);
  const int largest = *std::max_element(sizes.begin(), sizes.end());
  if (largest < kLeastArea * height * width) return std::nullopt;
  int left = width, right = 0, top = height, bottom = 0;
  for (int y = 0; y < height; ++y) {
    for (int x = 0; x < width; ++x) {
      const int size = sizes[static_cast<size_t>(labels[static_cast<size_t>(y * width + x)])];
      if (size < kSpeck * largest) continue;
      left = std::min(left, x), right = std::max(right, x + 1);
      top = std::min(top, y), bottom = std::max(bottom, y + 1);
    }
  }
  Cut cut;
  cut.side = std::max(right - left, bottom - top);
  cut.x = (left + right) / 2.0;
  cut.y = (top + bottom) / 2.0;
  // Each cell is the mean of 3 x 3 linear samples.
  const auto at = [&](int y, int x, size_t c) -> double {
    if (y < 0 || y >= height || x < 0 || x >= width) return 0;
    return rgb[3 * static_cast<size_t>(y * width + x) + c] - background[c];
  };
  for (int row = 0; row < kCell; ++row) {
    for (int column = 0; column < kCell; ++column) {
      std::array<double, 3> sum{};
      for (int i = 0; i < 9; ++i) {
        const double v = (row + (i / 3 + 0.5) / 3) / kCell,
                     u = (column + (i % 3 + 0.5) / 3) / kCell;
        const double y = cut.y + (v - 0.5) * cut.side - 0.5, x = cut.x + (u - 0.5) * cut.side - 0.5;
        const int y0 = static_cast<int>(std::floor(y)), x0 = static_cast<int>(std::floor(x));
        const double dy = y - y0, dx = x - x0;
        for (size_t c = 0; c < 3; ++c) {
          sum[c] += (1 - dy) * ((1 - dx) * at(y0, x0, c) + dx * at(y0, x0 + 1, c)) +
                    dy * ((1 - dx) * at(y0 + 1, x0, c) + dx * at(y0 + 1, x0 + 1, c));
        }
      }
      for (size_t c = 0; c < 3; ++c) {
        cut.square[3 * static_cast<size_t>(row * kCell + column) + c] =
            static_cast<int16_t>(std::lround(sum[c] / 9));
      }
    }
  }
  return cut;
}

double EmojiJudge::Deviation(const std::vector<Square>& squares) {
  if (squares.empty()) return 0;
  double sum = 0;
  const auto count = static_cast<double>(squares.size());
  for (size_t i = 0; i < squares[0].size(); ++i) {
    double mean = 0;
    for (const Square& square : squares) mean += square[i] / count;
    for (const Square& square : squares) sum += std::abs(square[i] - mean);
  }
  return sum / (count * static_cast<double>(squares[0].size()));
}

std::optional<Motion> EmojiJudge::JudgeMotion(const std::vector<std::optional<Cut>>& cuts,
                                              int side) {
  std::vector<std::optional<double>> x, y, size;
  size_t seen = 0;
  for (const auto& cut : cuts) {
    x.push_back(cut ? std::optional(cut->x / side) : std::nullopt);
    y.push_back(cut ? std::optional(cut->y / side) : std::nullopt);
    size.push_back(cut ? std::optional(std::log(cut->side)) : std::nullopt);
    seen += cut ? 1 : 0;
  }
  if (cuts.size() < 4 || seen * 4 < cuts.size() * 3) return std::nullopt;
  const double right = Change(x) / kTravel, down = Change(y) / kTravel,
               growth = Change(size) / kGrowth;
  const double most = std::max({std::abs(right), std::abs(down), std::abs(growth)});
  if (most < 1) return Motion::kStill;
  if (std::abs(growth) == most) return growth > 0 ? Motion::kGrow : Motion::kShrink;
  if (std::abs(right) == most) return right > 0 ? Motion::kRight : Motion::kLeft;
  return down > 0 ? Motion::kDown : Motion::kUp;
}

EmojiVerdict EmojiJudge::Judge(const uint8_t* rgb, int frames, int height, int width) const {
  EmojiVerdict verdict;
  std::vector<std::optional<Cut>> cuts;
  std::array<int, kEmojiBackgrounds> votes{};
  const size_t size = size_t{3} * static_cast<size_t>(height) * static_cast<size_t>(width);
  const size_t classes = art_->classes().size();
  std::vector<double> distances(classes);
  std::vector<Square> squares;
  for (int frame = 0; frame < frames; ++frame) {
    const uint8_t* const picture = rgb + size * static_cast<size_t>(frame);
    const std::array<int, 3> border = Border(picture, height, width);
    const auto background = Nearest(border);
    if (background) ++votes[static_cast<size_t>(*background)];
    cuts.push_back(CutOut(picture, height, width, border));
    if (!cuts.back()) continue;
    const Square& square = cuts.back()->square;
    squares.push_back(square);
    // A background that is none of the eight: as on gray.
    const auto& references =
        references_[static_cast<size_t>(background.value_or(EmojiBackground::kGray))];
    for (size_t emoji = 0; emoji < classes; ++emoji) {
      int64_t least = std::numeric_limits<int64_t>::max();
      for (size_t moment = 0; moment < kMoments; ++moment) {
        const Square& reference = references[emoji * kMoments + moment];
        int64_t sum = 0;
        for (size_t i = 0; i < square.size(); i += 3 * kCell) {
          int32_t row = 0;
          for (size_t k = i; k < i + size_t{3} * kCell; ++k) {
            const int32_t difference = square[k] - reference[k];
            row += difference * difference;
          }
          sum += row;
          if (sum >= least) break;
        }
        least = std::min(least, sum);
      }
      distances[emoji] += static_cast<double>(least);
    }
  }
  for (int b = 0; b < kEmojiBackgrounds; ++b) {
    if (4 * votes[static_cast<size_t>(b)] >= 3 * frames)
      verdict.background = static_cast<EmojiBackground>(b);
  }
  verdict.motion = JudgeMotion(cuts, std::min(height, width));
  if (squares.empty() || 4 * squares.size() < 3 * cuts.size()) return verdict;
  const auto nearest = std::min_element(distances.begin(), distances.end()) - distances.begin();
  verdict.emoji = static_cast<int>(nearest);
  verdict.animation = Deviation(squares);
  const auto& references =
      references_[static_cast<size_t>(verdict.background.value_or(EmojiBackground::kGray))];
  std::vector<Square> expected;
  for (size_t moment = 0; moment < kMoments; ++moment) {
    expected.push_back(references[static_cast<size_t>(nearest) * kMoments + moment]);
  }
  verdict.expected_animation = Deviation(expected);
  verdict.animated = verdict.animation >= 0.5 * verdict.expected_animation;
  return verdict;
}

}  // namespace kandinsky::training
