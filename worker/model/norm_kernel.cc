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

// v / (1 + e^-v), with e^x within 2 units in the last place.
[[gnu::always_inline]] inline Floats Silu(Floats v) {
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
  return v / (1.0f + reinterpret_cast<Floats>(reinterpret_cast<Ints>(p) + exponent));
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

}  // namespace

void NormItem(const float* x, float* y, int64_t pixels, int64_t channels, int64_t groups,
              const float* scale, const float* shift, bool silu, float eps) {
  const int64_t width = channels / groups;
  const double count = static_cast<double>(width) * static_cast<double>(pixels);
  std::vector<float> sums(static_cast<size_t>(channels)), means(sums.size()), offsets(sums.size());
  std::vector<double> totals(static_cast<size_t>(groups));
  const auto add_to_totals = [&] {
    for (int64_t c = 0; c < channels; ++c) {
      totals[static_cast<size_t>(c / width)] += static_cast<double>(sums[static_cast<size_t>(c)]);
      sums[static_cast<size_t>(c)] = 0;
    }
  };

  for (int64_t p = 0; p < pixels; p += kBlock) {
    AddRows(x + p * channels, std::min(kBlock, pixels - p), channels, sums.data());
    add_to_totals();
  }
  for (int64_t c = 0; c < channels; ++c) {
    means[static_cast<size_t>(c)] =
        static_cast<float>(totals[static_cast<size_t>(c / width)] / count);
  }
  std::fill(totals.begin(), totals.end(), 0.0);
  for (int64_t p = 0; p < pixels; p += kBlock) {
    AddSquares(x + p * channels, std::min(kBlock, pixels - p), channels, means.data(), sums.data());
    add_to_totals();
  }
  std::vector<float>& gains = sums;
  for (int64_t c = 0; c < channels; ++c) {
    const auto i = static_cast<size_t>(c);
    const double variance = totals[static_cast<size_t>(c / width)] / count;
    const double gain = scale[c] / std::sqrt(variance + static_cast<double>(eps));
    gains[i] = static_cast<float>(gain);
    offsets[i] = static_cast<float>(shift[c] - means[i] * gain);
  }
  (silu ? AffineSilu : Affine)(x, y, pixels, channels, gains.data(), offsets.data());
}

}  // namespace kandinsky::model
