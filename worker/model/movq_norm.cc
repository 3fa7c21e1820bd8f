#include "worker/model/movq_norm.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <vector>

#include "worker/model/reproducible.h"

namespace kandinsky::model {
namespace {

// The loader picks the version for the machine.
#if defined(__x86_64__) && defined(__ELF__) && defined(__GNUC__) && !defined(__clang__)
#define KANDINSKY_SIMD __attribute__((target_clones("arch=x86-64-v3", "default"), optimize("O3")))
#else
#define KANDINSKY_SIMD
#endif

// Eight channels. The number of channels is a multiple of 32.
using Floats [[gnu::vector_size(32), gnu::aligned(4), gnu::may_alias]] = float;
using Ints [[gnu::vector_size(32)]] = int32_t;
constexpr int64_t kLanes = 8;
constexpr int64_t kPixels = 16;  // that one call takes at most, to stay in the cache

// v / (1 + exp(-v)). exp(x) with x = n ln 2 + r, |r| <= ln 2 / 2: exp(r) by its Taylor polynomial
// (relative error below 3e-7), 2^n by the exponent bits. Adding 1.5 * 2^23 rounds to an integer.
[[gnu::always_inline]] inline Floats Silu(Floats v) {
  const Floats low = Floats{} - 87.0f, high = Floats{} + 88.0f;
  Floats x = -v;
  x = x < low ? low : x;
  x = x > high ? high : x;
  constexpr float kRound = 12582912.0f;
  const Floats shifted = x * 1.44269504f + kRound;
  const Floats n = shifted - kRound;
  const Floats r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  Floats p = r * (1.0f / 5040) + 1.0f / 720;
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  const Ints power = (reinterpret_cast<Ints>(shifted) - std::bit_cast<int32_t>(kRound) + 127) << 23;
  return v / (1.0f + p * reinterpret_cast<Floats>(power));
}

// out[c] = f(x[c] * a[c] + b[c]) for `pixels` neighbouring pixels of C channels.
KANDINSKY_SIMD void AffineSilu(const float* x, const float* a, const float* b, float* out,
                               int64_t pixels, int64_t channels) {
  for (int64_t c = 0; c < channels; c += kLanes) {
    const Floats gain = *reinterpret_cast<const Floats*>(a + c);
    const Floats offset = *reinterpret_cast<const Floats*>(b + c);
    for (int64_t p = 0; p < pixels; ++p) {
      const Floats in = *reinterpret_cast<const Floats*>(x + p * channels + c);
      *reinterpret_cast<Floats*>(out + p * channels + c) = Silu(in * gain + offset);
    }
  }
}

KANDINSKY_SIMD void Affine(const float* x, const float* a, const float* b, float* out,
                           int64_t pixels, int64_t channels) {
  for (int64_t p = 0; p < pixels; ++p) {
    const float* __restrict in = x + p * channels;
    float* __restrict to = out + p * channels;
    for (int64_t c = 0; c < channels; ++c) to[c] = in[c] * a[c] + b[c];
  }
}

// a' = a * scale, b' = b * scale + shift
KANDINSKY_SIMD void Condition(const float* a, const float* b, const float* scale,
                              const float* shift, float* to_a, float* to_b, int64_t channels) {
  for (int64_t c = 0; c < channels; ++c) {
    to_a[c] = a[c] * scale[c];
    to_b[c] = b[c] * scale[c] + shift[c];
  }
}

// Adds the sums of (x - origin) and its square over `pixels` pixels to two rows of C floats.
KANDINSKY_SIMD void AddMoments(const float* x, const float* origin, float* __restrict sum,
                               float* __restrict square, int64_t pixels, int64_t channels) {
  for (int64_t p = 0; p < pixels; ++p) {
    const float* in = x + p * channels;
    for (int64_t c = 0; c < channels; ++c) {
      const float v = in[c] - origin[c];
      sum[c] += v;
      square[c] += v * v;
    }
  }
}

bool IsFused(const at::Tensor& x) {
  return x.device().is_cpu() && x.scalar_type() == at::kFloat &&
         x.is_contiguous(at::MemoryFormat::ChannelsLast) &&
         !(at::GradMode::is_enabled() && x.requires_grad());
}

bool NeedsGradient(const NormParameters& parameters) {
  if (!at::GradMode::is_enabled()) return false;
  for (const at::Tensor* tensor :
       {&parameters.weight, &parameters.bias, &parameters.scale, &parameters.shift}) {
    if (tensor->defined() && tensor->requires_grad()) return true;
  }
  return false;
}

GroupStatistics FusedStatistics(const at::Tensor& x) {
  const int64_t n = x.size(0), c = x.size(1), rows = x.size(2), columns = x.size(3);
  const int64_t group = c / kMovqGroups;
  at::Tensor mean = at::empty({n, kMovqGroups}, at::kFloat);
  at::Tensor rstd = at::empty_like(mean);
  const float* data = x.const_data_ptr<float>();
  float* means = mean.data_ptr<float>();
  float* rstds = rstd.data_ptr<float>();
  // Rows are summed in float32 around an origin (the frame's first pixel, which takes away a large
  // common offset), the row sums in float64. Blocks of rows are fixed, so that the result does not
  // depend on the number of threads.
  constexpr int64_t kRows = 16;
  const int64_t blocks = (rows + kRows - 1) / kRows;
  std::vector<double> partial(static_cast<size_t>(n * blocks * 2 * c), 0.0);
  at::parallel_for(0, n * blocks, 1, [&](int64_t begin, int64_t end) {
    std::vector<float> sums(static_cast<size_t>(2 * c));
    for (int64_t i = begin; i < end; ++i) {
      const float* frame = data + (i / blocks) * c * rows * columns;
      double* out = partial.data() + i * 2 * c;
      const int64_t last = std::min(rows, (i % blocks + 1) * kRows);
      for (int64_t row = i % blocks * kRows; row < last; ++row) {
        std::fill(sums.begin(), sums.end(), 0.0f);
        AddMoments(frame + row * columns * c, frame, sums.data(), sums.data() + c, columns, c);
        for (int64_t k = 0; k < 2 * c; ++k) out[k] += sums[k];
      }
    }
  });
  const double count = static_cast<double>(rows) * columns;
  for (int64_t i = 0; i < n; ++i) {
    const float* origin = data + i * c * rows * columns;
    for (int64_t g = 0; g < kMovqGroups; ++g) {
      // Channel means first, then the group's variance from within and between its channels.
      double total = 0, within = 0;
      std::vector<double> channel_means(static_cast<size_t>(group));
      for (int64_t k = 0; k < group; ++k) {
        double sum = 0, square = 0;
        for (int64_t b = 0; b < blocks; ++b) {
          sum += partial[(i * blocks + b) * 2 * c + g * group + k];
          square += partial[(i * blocks + b) * 2 * c + c + g * group + k];
        }
        channel_means[k] = sum / count + origin[g * group + k];
        total += channel_means[k];
        within += std::max(square - sum * sum / count, 0.0);
      }
      const double group_mean = total / group;
      double between = 0;
      for (const double m : channel_means) between += (m - group_mean) * (m - group_mean);
      const double variance = within / (count * group) + between / group;
      means[i * kMovqGroups + g] = static_cast<float>(group_mean);
      rstds[i * kMovqGroups + g] = static_cast<float>(1.0 / std::sqrt(variance + kMovqEpsilon));
    }
  }
  return {mean, rstd};
}

// Rows of the latent that the nearest resize to `height` rows puts at rows first .. first + count
// of the map.
int64_t NearestRow(int64_t row, int64_t from, int64_t to) {
  return to % from == 0 ? row / (to / from)
                        : std::min(static_cast<int64_t>(std::floor(
                                       static_cast<float>(row) *
                                       (static_cast<float>(from) / static_cast<float>(to)))),
                                   from - 1);
}

at::Tensor FusedApply(const at::Tensor& x, const GroupStatistics& statistics,
                      const NormParameters& parameters, int64_t first_row, int64_t height) {
  const int64_t n = x.size(0), c = x.size(1), rows = x.size(2), columns = x.size(3);
  const int64_t group = c / kMovqGroups;
  at::Tensor out = at::empty(x.sizes(), x.options().memory_format(at::MemoryFormat::ChannelsLast));
  const at::Tensor weight = parameters.weight.contiguous(), bias = parameters.bias.contiguous();
  const bool conditioned = parameters.scale.defined();
  at::Tensor scale, shift;
  int64_t latent_rows = 1, latent_columns = 1, scale_frame = 0;
  if (conditioned) {
    scale = parameters.scale.contiguous(at::MemoryFormat::ChannelsLast);
    shift = parameters.shift.contiguous(at::MemoryFormat::ChannelsLast);
    latent_rows = scale.size(2);
    latent_columns = scale.size(3);
    scale_frame = scale.size(0) == 1 ? 0 : latent_rows * latent_columns * c;
  }
  const float* in = x.const_data_ptr<float>();
  float* to = out.data_ptr<float>();
  const float* means = statistics.mean.const_data_ptr<float>();
  const float* rstds = statistics.rstd.const_data_ptr<float>();
  const float* weights = weight.const_data_ptr<float>();
  const float* biases = bias.const_data_ptr<float>();
  const float* scales = conditioned ? scale.const_data_ptr<float>() : nullptr;
  const float* shifts = conditioned ? shift.const_data_ptr<float>() : nullptr;
  at::parallel_for(0, n * rows, 1, [&](int64_t begin, int64_t end) {
    std::vector<float> buffer(static_cast<size_t>(4 * c));
    float *a = buffer.data(), *b = a + c, *ca = b + c, *cb = ca + c;
    int64_t frame = -1;
    for (int64_t i = begin; i < end; ++i) {
      if (i / rows != frame) {
        frame = i / rows;
        for (int64_t k = 0; k < c; ++k) {
          const float rstd = rstds[frame * kMovqGroups + k / group];
          a[k] = rstd * weights[k];
          b[k] = biases[k] - means[frame * kMovqGroups + k / group] * a[k];
        }
      }
      const float* row_in = in + i * columns * c;
      float* row_to = to + i * columns * c;
      if (!conditioned) {
        for (int64_t column = 0; column < columns; column += kPixels) {
          (parameters.activate ? AffineSilu : Affine)(row_in + column * c, a, b,
                                                      row_to + column * c,
                                                      std::min(kPixels, columns - column), c);
        }
        continue;
      }
      const int64_t latent_row = NearestRow(first_row + i % rows, latent_rows, height);
      const int64_t base = frame * scale_frame + latent_row * latent_columns * c;
      for (int64_t column = 0; column < columns;) {
        const int64_t cell = NearestRow(column, latent_columns, columns);
        int64_t last = column + 1;
        while (last < columns && NearestRow(last, latent_columns, columns) == cell) ++last;
        Condition(a, b, scales + base + cell * c, shifts + base + cell * c, ca, cb, c);
        (parameters.activate ? AffineSilu : Affine)(row_in + column * c, ca, cb,
                                                    row_to + column * c, last - column, c);
        column = last;
      }
    }
  });
  return out;
}

// [N, C, h, w] -> rows [first_row, first_row + rows) of its nearest resize to [height, width].
at::Tensor NearestRows(const at::Tensor& map, int64_t first_row, int64_t rows, int64_t height,
                       int64_t width) {
  if (first_row == 0 && rows == height) {
    return map.size(2) == height && map.size(3) == width
               ? map
               : at::upsample_nearest2d(map, {height, width});
  }
  std::vector<int64_t> indices(static_cast<size_t>(rows));
  for (int64_t i = 0; i < rows; ++i) {
    indices[i] = NearestRow(first_row + i, map.size(2), height);
  }
  const at::Tensor index = at::tensor(indices, at::kLong).to(map.device());
  return at::upsample_nearest2d(map.index_select(2, index), {rows, width});
}

at::Tensor Condition(at::Tensor y, const NormParameters& parameters, int64_t first_row,
                     int64_t height) {
  if (parameters.scale.defined()) {
    const int64_t rows = y.size(2), width = y.size(3);
    y = y * NearestRows(parameters.scale, first_row, rows, height, width) +
        NearestRows(parameters.shift, first_row, rows, height, width);
  }
  return parameters.activate ? model::Silu(y) : y;
}

}  // namespace

GroupStatistics ComputeGroupStatistics(const at::Tensor& x) {
  if (IsFused(x)) return FusedStatistics(x);
  const int64_t n = x.size(0), c = x.size(1);
  const at::Tensor groups = x.reshape({n, kMovqGroups, c / kMovqGroups, x.size(2), x.size(3)})
                                .to(at::kFloat);  // [N, 32, C / 32, H, W]
  auto [variance, mean] = at::var_mean(groups, {2, 3, 4}, /*correction=*/0);
  return {mean, (variance + kMovqEpsilon).rsqrt()};
}

at::Tensor ApplyNorm(const at::Tensor& x, const GroupStatistics& statistics,
                     const NormParameters& parameters, int64_t first_row, int64_t height) {
  if (IsFused(x) && !NeedsGradient(parameters)) {
    return FusedApply(x, statistics, parameters, first_row, height);
  }
  const int64_t n = x.size(0), c = x.size(1);
  const auto per_channel = [&](const at::Tensor& groups) {  // [N, 32] -> [N, C, 1, 1]
    return groups.unsqueeze(2).expand({n, kMovqGroups, c / kMovqGroups}).reshape({n, c, 1, 1});
  };
  const at::Tensor gain =
      per_channel(statistics.rstd) * parameters.weight.to(at::kFloat).view({1, c, 1, 1});
  const at::Tensor offset =
      parameters.bias.to(at::kFloat).view({1, c, 1, 1}) - per_channel(statistics.mean) * gain;
  return Condition((x.to(at::kFloat) * gain + offset).to(x.scalar_type()), parameters, first_row,
                   height);
}

at::Tensor NormActivate(const at::Tensor& x, const NormParameters& parameters) {
  if (IsFused(x) && !NeedsGradient(parameters)) {
    return FusedApply(x, FusedStatistics(x), parameters, 0, x.size(2));
  }
  return Condition(at::group_norm(x, kMovqGroups, parameters.weight, parameters.bias, kMovqEpsilon),
                   parameters, 0, x.size(2));
}

}  // namespace kandinsky::model
