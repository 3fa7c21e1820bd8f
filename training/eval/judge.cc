#include "training/eval/judge.h"

#include <algorithm>
#include <cmath>
#include <complex>
#include <numbers>

namespace kandinsky::training {
namespace {

using Rgbd = std::array<double, 3>;

// Colours: distances in RGB, 0 to 441. The closest pairs are orange and yellow (76) and, of
// backgrounds, gray and cyan (126).
constexpr double kMaxColorError = 55;
constexpr double kMinColorLead = 8;  // over the second nearest
constexpr double kMaxBackgroundError = 50;
constexpr double kBorderSpread = 60;  // a border pixel this far from the median is no background
constexpr double kMinBorderShare = 0.75;  // of pixels that are background
constexpr double kMaskDistance = 32;      // after averaging over 3 x 3 pixels
constexpr double kMinArea = 0.006;        // the smallest triangle has 0.016
constexpr double kMaxRest = 0.2;          // other regions, as a part of the largest
constexpr double kMinOverlap = 0.8;
constexpr double kFrameShare = 0.75;
constexpr int kMotionFrames = kKeyframes;

double DistanceOf(const Rgbd& a, const Rgbd& b) {
  return std::sqrt((a[0] - b[0]) * (a[0] - b[0]) + (a[1] - b[1]) * (a[1] - b[1]) +
                   (a[2] - b[2]) * (a[2] - b[2]));
}

// The element of the palette of `count` entries that is clearly nearest.
template <typename Name>
std::optional<Name> Nearest(const Rgbd& rgb, int count, double max_error) {
  double best = 1e9;
  double second = 1e9;
  int index = 0;
  for (int i = 0; i < count; ++i) {
    const Rgb entry = ColorOf(static_cast<Name>(i));
    const double distance = DistanceOf(rgb, {double(entry[0]), double(entry[1]), double(entry[2])});
    if (distance < best) {
      second = best;
      best = distance;
      index = i;
    } else {
      second = std::min(second, distance);
    }
  }
  if (best > max_error || second - best < kMinColorLead) return std::nullopt;
  return static_cast<Name>(index);
}

// The median of each channel over the pixels; zero without pixels.
Rgbd Median(const uint8_t* rgb, const std::vector<int>& pixels) {
  Rgbd median{};
  if (pixels.empty()) return median;
  std::vector<uint8_t> values(pixels.size());
  const auto middle = values.begin() + values.size() / 2;
  for (int channel = 0; channel < 3; ++channel) {
    for (size_t i = 0; i < pixels.size(); ++i) values[i] = rgb[pixels[i] * 3 + channel];
    std::nth_element(values.begin(), middle, values.end());
    median[channel] = *middle;
  }
  return median;
}

std::vector<int> Border(int height, int width) {
  std::vector<int> pixels;
  for (int y = 0; y < height; ++y) {
    for (int x = 0; x < width; ++x) {
      if (x < 2 || y < 2 || x >= width - 2 || y >= height - 2) pixels.push_back(y * width + x);
    }
  }
  return pixels;
}

// 1 where the mean over 3 x 3 pixels is far from the background.
std::vector<uint8_t> Foreground(const uint8_t* rgb, int height, int width, const Rgbd& background) {
  std::vector<uint8_t> mask(static_cast<size_t>(height) * width);
  for (int y = 0; y < height; ++y) {
    for (int x = 0; x < width; ++x) {
      Rgbd sum{};
      int count = 0;
      for (int v = std::max(0, y - 1); v <= std::min(height - 1, y + 1); ++v) {
        for (int u = std::max(0, x - 1); u <= std::min(width - 1, x + 1); ++u) {
          for (int c = 0; c < 3; ++c) sum[c] += rgb[(v * width + u) * 3 + c];
          ++count;
        }
      }
      for (double& value : sum) value /= count;
      mask[y * width + x] = DistanceOf(sum, background) > kMaskDistance;
    }
  }
  return mask;
}

struct Region {
  std::vector<int> pixels;
  int rest = 0;  // pixels of all other regions
};

// The largest region of neighbours (4 of them) with mask != 0. Clears the mask.
Region Largest(std::vector<uint8_t>& mask, int height, int width) {
  Region best;
  int total = 0;
  std::vector<int> pixels;
  for (int seed = 0; seed < height * width; ++seed) {
    if (mask[seed] == 0) continue;
    pixels.assign(1, seed);
    mask[seed] = 0;
    for (size_t next = 0; next < pixels.size(); ++next) {
      const int y = pixels[next] / width;
      const int x = pixels[next] % width;
      const auto visit = [&](int v, int u) {
        if (v < 0 || u < 0 || v >= height || u >= width || mask[v * width + u] == 0) return;
        mask[v * width + u] = 0;
        pixels.push_back(v * width + u);
      };
      visit(y - 1, x);
      visit(y + 1, x);
      visit(y, x - 1);
      visit(y, x + 1);
    }
    total += static_cast<int>(pixels.size());
    if (pixels.size() > best.pixels.size()) best.pixels.swap(pixels);
  }
  best.rest = total - static_cast<int>(best.pixels.size());
  return best;
}

// The pixels of `region` whose square of side 2 * reach + 1 around them lies in it (grow = false),
// or all that lie in the square around one of the region (grow = true).
std::vector<int> Resized(const std::vector<int>& region, int height, int width, int reach,
                         bool grow) {
  std::vector<uint8_t> inside(static_cast<size_t>(height) * width);
  for (int pixel : region) inside[pixel] = 1;
  int top = height, bottom = -1, left = width, right = -1;
  for (int pixel : region) {
    top = std::min(top, pixel / width - reach);
    bottom = std::max(bottom, pixel / width + reach);
    left = std::min(left, pixel % width - reach);
    right = std::max(right, pixel % width + reach);
  }
  std::vector<int> out;
  for (int y = std::max(0, top); y <= std::min(height - 1, bottom); ++y) {
    for (int x = std::max(0, left); x <= std::min(width - 1, right); ++x) {
      int count = 0;
      for (int v = y - reach; v <= y + reach; ++v) {
        for (int u = x - reach; u <= x + reach; ++u) {
          count += v >= 0 && u >= 0 && v < height && u < width && inside[v * width + u];
        }
      }
      const int all = (2 * reach + 1) * (2 * reach + 1);
      if (grow ? count > 0 : count == all) out.push_back(y * width + x);
    }
  }
  return out;
}

bool InsideIdeal(Shape shape, double area, double dx, double dy) {
  switch (shape) {
    case Shape::kCircle:
      return dx * dx + dy * dy <= area / std::numbers::pi;
    case Shape::kSquare:
      return std::max(std::abs(dx), std::abs(dy)) <= std::sqrt(area) / 2;
    case Shape::kTriangle: {
      // As wide as high; the centroid lies at two thirds of the height.
      const double height = std::sqrt(2 * area);
      const double from_tip = dy + height * 2 / 3;
      return from_tip >= 0 && from_tip <= height && std::abs(dx) <= from_tip / 2;
    }
  }
  return false;
}

// The ideal shapes have (third, fourth) harmonics of circle (0, 0), square (0, 0.43), triangle
// (0.65, 0.02), and blur takes a fifth off; the gaps between the classes are unknown.
std::optional<Shape> ShapeOf(const std::array<double, 3>& harmonics) {
  const auto [second, third, fourth] = harmonics;
  if (second > 0.3) return std::nullopt;
  if (third > 0.38) return Shape::kTriangle;
  if (third > 0.2) return std::nullopt;
  if (fourth > 0.26) return Shape::kSquare;
  if (fourth < 0.14) return Shape::kCircle;
  return std::nullopt;
}

template <typename T>
std::optional<T> Prevailing(const std::vector<Sight>& frames, std::optional<T> Sight::*member) {
  std::array<int, 16> count{};
  for (const Sight& frame : frames) {
    if (frame.*member) ++count[static_cast<int>(*(frame.*member))];
  }
  const auto most = std::max_element(count.begin(), count.end());
  if (frames.empty() || *most < kFrameShare * static_cast<double>(frames.size())) {
    return std::nullopt;
  }
  return static_cast<T>(most - count.begin());
}

// Least squares through values at times[i].
struct Line {
  double start = 0;  // at time 0
  double slope = 0;  // to time 1
  double error = 0;  // root mean square
};

Line Fit(const std::vector<double>& times, const std::vector<double>& values) {
  const auto n = static_cast<double>(times.size());
  double t = 0, v = 0, tt = 0, tv = 0;
  for (size_t i = 0; i < times.size(); ++i) {
    t += times[i];
    v += values[i];
    tt += times[i] * times[i];
    tv += times[i] * values[i];
  }
  Line line;
  line.slope = (n * tv - t * v) / std::max(1e-12, n * tt - t * t);
  line.start = (v - line.slope * t) / n;
  for (size_t i = 0; i < times.size(); ++i) {
    const double error = values[i] - line.start - line.slope * times[i];
    line.error += error * error / n;
  }
  line.error = std::sqrt(line.error);
  return line;
}

// Do the points run around one circle, for more than half of a turn and always the same way?
bool OnCircle(const std::vector<double>& x, const std::vector<double>& y) {
  // x^2 + y^2 + a x + b y + c = 0, least squares, about the mean.
  const auto n = static_cast<double>(x.size());
  double mean_x = 0, mean_y = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    mean_x += x[i] / n;
    mean_y += y[i] / n;
  }
  double xx = 0, xy = 0, yy = 0, xr = 0, yr = 0, rr = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    const double u = x[i] - mean_x;
    const double v = y[i] - mean_y;
    const double r = u * u + v * v;
    xx += u * u;
    xy += u * v;
    yy += v * v;
    xr += u * r;
    yr += v * r;
    rr += r;
  }
  const double determinant = xx * yy - xy * xy;
  if (determinant < 1e-9) return false;
  const double u0 = (xr * yy - yr * xy) / (2 * determinant);
  const double v0 = (yr * xx - xr * xy) / (2 * determinant);
  const double radius = std::sqrt(u0 * u0 + v0 * v0 + rr / n);
  if (radius < 0.1 || radius > 0.4) return false;
  double error = 0;
  double turn = 0;
  int forward = 0;
  int short_steps = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    const double u = x[i] - mean_x - u0;
    const double v = y[i] - mean_y - v0;
    error += std::pow(std::hypot(u, v) - radius, 2) / n;
    if (i == 0) continue;
    const double before = std::atan2(y[i - 1] - mean_y - v0, x[i - 1] - mean_x - u0);
    const double step = std::remainder(std::atan2(v, u) - before, 2 * std::numbers::pi);
    turn += step;
    forward += step > 0;
    short_steps += std::hypot(x[i] - x[i - 1], y[i] - y[i - 1]) < 0.05;
  }
  const int steps = static_cast<int>(x.size()) - 1;
  return std::sqrt(error) < 0.15 * radius && std::abs(turn) > 1.2 * std::numbers::pi &&
         std::min(forward, steps - forward) <= steps / 10 && short_steps <= steps / 4;
}

// Do the points run to and fro between two edges of the frame, straight in between?
bool Bouncing(const std::vector<double>& x, const std::vector<double>& y) {
  const auto [left, right] = std::minmax_element(x.begin(), x.end());
  const auto [top, bottom] = std::minmax_element(y.begin(), y.end());
  const bool horizontal = *left < -0.18 && *right > 0.18;
  const bool vertical = *top < -0.18 && *bottom > 0.18;
  if (!horizontal && !vertical) return false;
  std::vector<double> lengths;
  int straight = 0;
  int reversals = 0;
  for (size_t i = 1; i < x.size(); ++i) {
    lengths.push_back(std::hypot(x[i] - x[i - 1], y[i] - y[i - 1]));
    if (i == 1) continue;
    const double dx[2] = {x[i - 1] - x[i - 2], x[i] - x[i - 1]};
    const double dy[2] = {y[i - 1] - y[i - 2], y[i] - y[i - 1]};
    straight += std::min(std::abs(dx[1] - dx[0]), std::abs(dy[1] - dy[0])) < 0.06;
    reversals += dx[0] * dx[1] < -1e-4 || dy[0] * dy[1] < -1e-4;
  }
  std::sort(lengths.begin(), lengths.end());
  const double typical = lengths[lengths.size() / 2];
  return typical > 0.1 && lengths.back() < 0.4 && reversals >= 1 &&
         straight >= 0.6 * static_cast<double>(x.size() - 2);
}

}  // namespace

Sight JudgeFrame(const uint8_t* rgb, int height, int width) {
  Sight sight;
  if (height < 16 || width < 16) return sight;
  const std::vector<int> border = Border(height, width);
  sight.background_rgb = Median(rgb, border);
  const auto distance_from_background = [&](int pixel) {
    const uint8_t* p = rgb + pixel * 3;
    return DistanceOf({double(p[0]), double(p[1]), double(p[2])}, sight.background_rgb);
  };
  const auto plain = std::count_if(border.begin(), border.end(), [&](int pixel) {
    return distance_from_background(pixel) < kBorderSpread;
  });
  if (static_cast<double>(plain) < kMinBorderShare * static_cast<double>(border.size())) {
    return sight;
  }
  sight.background = Nearest<Background>(sight.background_rgb, kBackgrounds, kMaxBackgroundError);

  std::vector<uint8_t> mask = Foreground(rgb, height, width, sight.background_rgb);
  const Region region = Largest(mask, height, width);
  const double side = std::min(height, width);
  if (static_cast<double>(region.pixels.size()) < kMinArea * side * side) return sight;

  // The colour inside, then how much of each pixel is covered, and from it everything else.
  std::vector<int> core = Resized(region.pixels, height, width, 2, false);
  if (core.size() < 9) core = Resized(region.pixels, height, width, 1, false);
  if (core.size() < 4) core = region.pixels;
  sight.color_rgb = Median(rgb, core);
  double contrast = 0;
  for (int c = 0; c < 3; ++c) {
    contrast += std::pow(sight.color_rgb[c] - sight.background_rgb[c], 2);
  }
  if (contrast < kMaskDistance * kMaskDistance) return sight;
  const std::vector<int> window = Resized(region.pixels, height, width, 1, true);
  std::vector<double> coverage(window.size());
  double area = 0;
  double sum_x = 0;
  double sum_y = 0;
  for (size_t i = 0; i < window.size(); ++i) {
    double along = 0;
    for (int c = 0; c < 3; ++c) {
      along += (rgb[window[i] * 3 + c] - sight.background_rgb[c]) *
               (sight.color_rgb[c] - sight.background_rgb[c]);
    }
    // Without the ends of the scale, where noise is.
    coverage[i] = std::clamp((along / contrast - 0.2) / 0.6, 0.0, 1.0);
    area += coverage[i];
    const int column = window[i] % width;
    const int row = window[i] / width;
    sum_x += coverage[i] * column;
    sum_y += coverage[i] * row;
  }
  if (area < kMinArea * side * side) return sight;
  sight.found = true;
  sight.area = area / (side * side);
  const double center_x = sum_x / area;
  const double center_y = sum_y / area;
  sight.centroid = {(center_x + 0.5 - width / 2.0) / side, (center_y + 0.5 - height / 2.0) / side};
  sight.color = Nearest<Color>(sight.color_rgb, kColors, kMaxColorError);

  std::complex<double> moments[3];
  double norms[3] = {};
  for (size_t i = 0; i < window.size(); ++i) {
    const int column = window[i] % width;
    const int row = window[i] / width;
    const std::complex<double> z(column - center_x, row - center_y);
    std::complex<double> power = z;
    double length = std::abs(z);
    for (int n = 0; n < 3; ++n) {
      power *= z;
      length *= std::abs(z);
      moments[n] += coverage[i] * power;
      norms[n] += coverage[i] * length;
    }
  }
  for (int n = 0; n < 3; ++n) {
    sight.harmonics[n] = std::abs(moments[n]) / std::max(norms[n], 1e-9);
  }

  const std::optional<Shape> shape = ShapeOf(sight.harmonics);
  if (!shape) return sight;
  int both = 0;
  int either = 0;
  size_t next = 0;  // the window's pixels are in order
  for (int pixel = 0; pixel < height * width; ++pixel) {
    bool seen = false;
    if (next < window.size() && window[next] == pixel) seen = coverage[next++] > 0.5;
    const int column = pixel % width;
    const int row = pixel / width;
    const bool ideal = InsideIdeal(*shape, area, column - center_x, row - center_y);
    both += seen && ideal;
    either += seen || ideal;
  }
  sight.overlap = static_cast<double>(both) / std::max(1, either);
  const bool in_pieces = region.rest > kMaxRest * static_cast<double>(region.pixels.size());
  if (sight.overlap >= kMinOverlap && !in_pieces) sight.shape = shape;
  return sight;
}

std::optional<Motion> JudgeMotion(const std::vector<Sight>& frames) {
  const int count = static_cast<int>(frames.size());
  if (count < 4) return std::nullopt;
  // Steps are judged by their length, so clips that are denser are judged at their keyframes.
  const int samples = std::min(count, kMotionFrames);
  std::vector<double> times, x, y, size;
  for (int i = 0; i < samples; ++i) {
    const double t = static_cast<double>(i) / (samples - 1);
    const Sight& sight = frames[static_cast<int>(std::lround(t * (count - 1)))];
    if (!sight.found) continue;
    times.push_back(t);
    x.push_back(sight.centroid.x);
    y.push_back(sight.centroid.y);
    size.push_back(std::sqrt(sight.area));
  }
  if (static_cast<double>(times.size()) < 0.8 * samples || times.size() < 4) return std::nullopt;

  const Line along_x = Fit(times, x);
  const Line along_y = Fit(times, y);
  const Line growth = Fit(times, size);
  const auto range = [](const std::vector<double>& values) {
    const auto [low, high] = std::minmax_element(values.begin(), values.end());
    return *high - *low;
  };
  const auto [smallest, largest] = std::minmax_element(size.begin(), size.end());
  const double spread = *largest / *smallest;  // of lengths
  const double moved = std::max(range(x), range(y));
  const double first = std::max(1e-6, growth.start);
  const double last = std::max(1e-6, growth.start + growth.slope);
  const double factor = (last / first) * (last / first);

  if (factor >= 2 || factor <= 0.5) {
    if (moved > 0.15 || growth.error > 0.15 * std::abs(growth.slope)) return std::nullopt;
    return factor > 1 ? Motion::kGrow : Motion::kShrink;
  }
  // An area that changes by half and more, but does not grow or shrink steadily, is none of ours.
  if (spread > std::sqrt(2.0)) return std::nullopt;
  if (moved < 0.08) {
    return spread < std::sqrt(1.5) ? std::optional(Motion::kStill) : std::nullopt;
  }
  const double straightness = std::hypot(along_x.error, along_y.error);
  const double dx = std::abs(along_x.slope);
  const double dy = std::abs(along_y.slope);
  if (std::max(dx, dy) >= 0.3 && straightness < 0.06) {
    if (std::min(dx, dy) > 0.35 * std::max(dx, dy)) return std::nullopt;  // aslant
    if (dx > dy) return along_x.slope < 0 ? Motion::kLeft : Motion::kRight;
    return along_y.slope < 0 ? Motion::kUp : Motion::kDown;
  }
  if (OnCircle(x, y)) return Motion::kCircle;
  if (Bouncing(x, y)) return Motion::kBounce;
  return std::nullopt;
}

Verdict Judge(const uint8_t* rgb, int frames, int height, int width) {
  Verdict verdict;
  const size_t frame_bytes = static_cast<size_t>(height) * width * 3;
  for (int frame = 0; frame < frames; ++frame) {
    verdict.frames.push_back(JudgeFrame(rgb + frame * frame_bytes, height, width));
  }
  verdict.shape = Prevailing(verdict.frames, &Sight::shape);
  verdict.color = Prevailing(verdict.frames, &Sight::color);
  verdict.background = Prevailing(verdict.frames, &Sight::background);
  verdict.motion = JudgeMotion(verdict.frames);
  return verdict;
}

}  // namespace kandinsky::training
