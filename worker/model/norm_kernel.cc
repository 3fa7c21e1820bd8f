#include "worker/model/norm_kernel.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <vector>

// x86 with an ELF loader: the loader picks the version for the machine.
#if defined(__x86_64__) && defined(__ELF__) && defined(__GNUC__) && !defined(__clang__)
#define KANDINSKY_VECTOR_CLONES __attribute__((target_clones("arch=x86-64-v3", "default")))
#else
#define KANDINSKY_VECTOR_CLONES
#endif

namespace kandinsky::model {
namespace {

// Rows whose float32 sums are exact enough to be added up in double.
constexpr int64_t kBlock = 64;

// Eight floats or integers in one register (or two of four, where the machine has no wider ones).
constexpr int64_t kLanes = 8;
using Floats [[gnu::vector_size(32)]] = float;
using Ints [[gnu::vector_size(32)]] = int32_t;

// e^-v within 2 units in the last place; v is held to -88 to 87.
[[gnu::always_inline]] inline Floats ExpOfMinus(Floats v) {
  const Floats low = Floats{} - 87.0f, high = Floats{} + 88.0f;
  Floats x = -v;
  x = x < low ? low : x;
  x = x > high ? high : x;
  // x = n ln 2 + r with |r| <= ln 2 / 2; adding 1.5 * 2^23 rounds to an integer.
  constexpr float kRound = 12582912.0f;
  const Floats shifted = x * 1.44269504f + kRound;
  const Floats n = shifted - kRound;
  const Floats r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  Floats p = r * 1.98756915e-4f + 1.39819995e-3f;
  p = p * r + 8.33345193e-3f;
  p = p * r + 4.16657962e-2f;
  p = p * r + 1.66666655e-1f;
  p = p * r + 5.00000012e-1f;
  p = p * r * r + r + 1.0f;
  const Ints exponent = (reinterpret_cast<Ints>(shifted) - std::bit_cast<int32_t>(kRound)) << 23;
  return reinterpret_cast<Floats>(reinterpret_cast<Ints>(p) + exponent);
}

[[gnu::always_inline]] inline Floats Silu(Floats v) { return v / (1.0f + ExpOfMinus(v)); }

[[gnu::always_inline]] inline Floats SiluSlope(Floats v) {
  const Floats sigmoid = 1.0f / (1.0f + ExpOfMinus(v));
  return sigmoid * (1.0f + v * (1.0f - sigmoid));
}

[[gnu::always_inline]] inline Floats Load(const float* x, int64_t count = kLanes) {
  Floats v{};
  std::memcpy(&v, x, static_cast<size_t>(count) * sizeof(float));
  return v;
}

[[gnu::always_inline]] inline void Store(float* x, Floats v, int64_t count = kLanes) {
  std::memcpy(x, &v, static_cast<size_t>(count) * sizeof(float));
}

// sums[c] += x[p][c]
KANDINSKY_VECTOR_CLONES void AddRows(const float* x, int64_t rows, int64_t channels, float* sums) {
  for (int64_t p = 0; p < rows; ++p) {
    const float* row = x + p * channels;
    for (int64_t c = 0; c < channels; ++c) sums[c] += row[c];
  }
}

// sums[c] += (x[p][c] - mean[c])^2
KANDINSKY_VECTOR_CLONES void AddSquares(const float* x, int64_t rows, int64_t channels,
                                        const float* mean, float* sums) {
  for (int64_t p = 0; p < rows; ++p) {
    const float* row = x + p * channels;
    for (int64_t c = 0; c < channels; ++c) {
      const float d = row[c] - mean[c];
      sums[c] += d * d;
    }
  }
}

KANDINSKY_VECTOR_CLONES void Affine(const float* x, float* y, int64_t rows, int64_t channels,
                                    const float* gain, const float* offset) {
  for (int64_t p = 0; p < rows; ++p) {
    const float* in = x + p * channels;
    float* out = y + p * channels;
    for (int64_t c = 0; c < channels; ++c) out[c] = in[c] * gain[c] + offset[c];
  }
}

KANDINSKY_VECTOR_CLONES void AffineSilu(const float* x, float* y, int64_t rows, int64_t channels,
                                        const float* gain, const float* offset) {
  for (int64_t p = 0; p < rows; ++p) {
    const float* in = x + p * channels;
    float* out = y + p * channels;
    int64_t c = 0;
    for (; c + kLanes <= channels; c += kLanes) {
      Store(out + c, Silu(Load(in + c) * Load(gain + c) + Load(offset + c)));
    }
    if (c < channels) {
      const int64_t rest = channels - c;
      Store(out + c, Silu(Load(in + c, rest) * Load(gain + c, rest) + Load(offset + c, rest)),
            rest);
    }
  }
}

// What one item is normalised with, a value a channel: y = x * gain + offset.
struct Channels {
  explicit Channels(int64_t channels)
      : mean(static_cast<size_t>(channels)),
        rate(mean.size()),
        gain(mean.size()),
        offset(mean.size()) {}
  std::vector<float> mean, rate, gain, offset;  // rate: 1 / deviation
};

// dh = dy * slope of silu at x * gain + offset, or dy; sums[c] += dh, products[c] += dh * xhat with
// xhat = (x - mean) * rate.
[[gnu::always_inline]] inline void SlopeStrip(const float* x, const float* dy, float* dh,
                                              const Channels& by, size_t c, int64_t count,
                                              bool silu, float* sums, float* products) {
  const Floats in = Load(x + c, count);
  Floats slope = Load(dy + c, count);
  if (silu) slope *= SiluSlope(in * Load(&by.gain[c], count) + Load(&by.offset[c], count));
  Store(dh + c, slope, count);
  Store(sums + c, Load(sums + c, count) + slope, count);
  const Floats normed = (in - Load(&by.mean[c], count)) * Load(&by.rate[c], count);
  Store(products + c, Load(products + c, count) + slope * normed, count);
}

KANDINSKY_VECTOR_CLONES void Slopes(const float* x, const float* dy, float* dh, int64_t rows,
                                    int64_t channels, const Channels& by, bool silu, float* sums,
                                    float* products) {
  for (int64_t p = 0; p < rows; ++p, x += channels, dy += channels, dh += channels) {
    int64_t c = 0;
    for (; c + kLanes <= channels; c += kLanes) {
      SlopeStrip(x, dy, dh, by, static_cast<size_t>(c), kLanes, silu, sums, products);
    }
    if (c < channels) {
      SlopeStrip(x, dy, dh, by, static_cast<size_t>(c), channels - c, silu, sums, products);
    }
  }
}

// dx = dx * gain + x * slope + offset
KANDINSKY_VECTOR_CLONES void Combine(const float* x, float* dx, int64_t rows, int64_t channels,
                                     const float* gain, const float* slope, const float* offset) {
  for (int64_t p = 0; p < rows; ++p) {
    const float* in = x + p * channels;
    float* out = dx + p * channels;
    for (int64_t c = 0; c < channels; ++c) out[c] = out[c] * gain[c] + in[c] * slope[c] + offset[c];
  }
}

// Adds up sums of channels over blocks of rows in double.
class Totals {
 public:
  explicit Totals(int64_t channels) : sums_(static_cast<size_t>(channels)), totals_(sums_.size()) {}

  float* sums() { return sums_.data(); }
  void EndBlock() {
    for (size_t c = 0; c < sums_.size(); ++c) {
      totals_[c] += static_cast<double>(sums_[c]);
      sums_[c] = 0;
    }
  }
  double operator[](int64_t c) const { return totals_[static_cast<size_t>(c)]; }
  double OfGroup(int64_t group, int64_t width) const {
    double total = 0;
    for (int64_t c = group * width; c < (group + 1) * width; ++c) total += (*this)[c];
    return total;
  }

 private:
  std::vector<float> sums_;
  std::vector<double> totals_;
};

Channels Measure(const float* x, int64_t pixels, int64_t channels, int64_t groups,
                 const float* scale, const float* shift, float eps) {
  const int64_t width = channels / groups;
  const double count = static_cast<double>(width) * static_cast<double>(pixels);
  Channels result(channels);
  Totals totals(channels), squares(channels);
  for (int64_t p = 0; p < pixels; p += kBlock) {
    AddRows(x + p * channels, std::min(kBlock, pixels - p), channels, totals.sums());
    totals.EndBlock();
  }
  for (int64_t group = 0; group < groups; ++group) {
    std::fill_n(result.mean.begin() + group * width, width,
                static_cast<float>(totals.OfGroup(group, width) / count));
  }
  for (int64_t p = 0; p < pixels; p += kBlock) {
    AddSquares(x + p * channels, std::min(kBlock, pixels - p), channels, result.mean.data(),
               squares.sums());
    squares.EndBlock();
  }
  for (int64_t group = 0; group < groups; ++group) {
    const double variance = squares.OfGroup(group, width) / count;
    const double rate = 1 / std::sqrt(variance + static_cast<double>(eps));
    for (int64_t c = group * width; c < (group + 1) * width; ++c) {
      const auto i = static_cast<size_t>(c);
      const double gain = scale[c] * rate;
      result.rate[i] = static_cast<float>(rate);
      result.gain[i] = static_cast<float>(gain);
      result.offset[i] = static_cast<float>(shift[c] - result.mean[i] * gain);
    }
  }
  return result;
}

}  // namespace

void NormItem(const float* x, float* y, int64_t pixels, int64_t channels, int64_t groups,
              const float* scale, const float* shift, bool silu, float eps) {
  const Channels by = Measure(x, pixels, channels, groups, scale, shift, eps);
  (silu ? AffineSilu : Affine)(x, y, pixels, channels, by.gain.data(), by.offset.data());
}

void NormItemBackward(const float* x, const float* dy, float* dx, float* dscale, float* dshift,
                      int64_t pixels, int64_t channels, int64_t groups, const float* scale,
                      const float* shift, bool silu, float eps) {
  const int64_t width = channels / groups;
  const double count = static_cast<double>(width) * static_cast<double>(pixels);
  const Channels by = Measure(x, pixels, channels, groups, scale, shift, eps);
  Totals sums(channels), products(channels);
  for (int64_t p = 0; p < pixels; p += kBlock) {
    Slopes(x + p * channels, dy + p * channels, dx + p * channels, std::min(kBlock, pixels - p),
           channels, by, silu, sums.sums(), products.sums());
    sums.EndBlock();
    products.EndBlock();
  }
  // dx = rate * (scale dh - mean of (scale dh) - xhat * mean of (scale dh xhat)), means over
  // groups.
  std::vector<float> slopes(by.mean.size()), offsets(slopes.size());  // of x
  for (int64_t group = 0; group < groups; ++group) {
    double sum = 0, product = 0;
    for (int64_t c = group * width; c < (group + 1) * width; ++c) {
      sum += scale[c] * sums[c];
      product += scale[c] * products[c];
    }
    for (int64_t c = group * width; c < (group + 1) * width; ++c) {
      const auto i = static_cast<size_t>(c);
      const double rate = by.rate[i], along = rate * rate * product / count;
      slopes[i] = static_cast<float>(-along);
      offsets[i] = static_cast<float>(by.mean[i] * along - rate * sum / count);
      dscale[c] = static_cast<float>(products[c]);
      dshift[c] = static_cast<float>(sums[c]);
    }
  }
  Combine(x, dx, pixels, channels, by.gain.data(), slopes.data(), offsets.data());
}

}  // namespace kandinsky::model
