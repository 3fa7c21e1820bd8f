#include "training/eval/intervals.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "training/domain/random.h"

namespace kandinsky::training {
namespace {

constexpr double kZ = 1.959963984540054;  // 97.5 % of the normal distribution
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr uint64_t kBootstrapStream = 3;

// 97.5 % of Student's distribution. The first three are exact, the rest a series in 1 / freedom
// that is right to 1e-3.
double StudentQuantile(int64_t freedom) {
  constexpr double kExact[] = {12.7062047, 4.3026527, 3.1824463};
  if (freedom <= 3) return kExact[freedom - 1];
  const auto n = static_cast<double>(freedom);
  const double z = kZ;
  const double z2 = z * z;
  return z * (1 + (z2 + 1) / (4 * n) + ((5 * z2 + 16) * z2 + 3) / (96 * n * n) +
              (((3 * z2 + 19) * z2 + 17) * z2 - 15) / (384 * n * n * n));
}

}  // namespace

Interval Proportion(int64_t successes, int64_t count) {
  if (count <= 0) return {kNan, kNan, kNan, 0};
  const auto n = static_cast<double>(count);
  const double p = static_cast<double>(successes) / n;
  const double scale = 1 + kZ * kZ / n;
  const double middle = (p + kZ * kZ / (2 * n)) / scale;
  const double reach = kZ / scale * std::sqrt(p * (1 - p) / n + kZ * kZ / (4 * n * n));
  return {p, std::max(0.0, middle - reach), std::min(1.0, middle + reach), count};
}

Interval Mean(std::span<const double> values) {
  const auto count = static_cast<int64_t>(values.size());
  if (count == 0) return {kNan, kNan, kNan, 0};
  const auto n = static_cast<double>(count);
  const double mean = std::accumulate(values.begin(), values.end(), 0.0) / n;
  if (count == 1) {
    constexpr double kInfinity = std::numeric_limits<double>::infinity();
    return {mean, -kInfinity, kInfinity, 1};
  }
  double squares = 0;
  for (double value : values) squares += (value - mean) * (value - mean);
  const double reach = StudentQuantile(count - 1) * std::sqrt(squares / (n - 1) / n);
  return {mean, mean - reach, mean + reach, count};
}

Interval Bootstrap(int64_t count, const std::function<double(std::span<const int64_t>)>& statistic,
                   uint64_t seed, int resamples) {
  if (count <= 0) return {kNan, kNan, kNan, 0};
  std::vector<int64_t> chosen(count);
  std::iota(chosen.begin(), chosen.end(), 0);
  Interval interval;
  interval.value = statistic(chosen);
  interval.count = count;
  std::vector<double> results;
  for (int i = 0; i < resamples; ++i) {
    Random random = Random::At(seed, kBootstrapStream, i);
    for (int64_t& index : chosen) index = random.Below(static_cast<int>(count));
    const double result = statistic(chosen);
    if (!std::isnan(result)) results.push_back(result);
  }
  if (results.empty()) {
    interval.low = interval.high = kNan;
    return interval;
  }
  std::sort(results.begin(), results.end());
  const auto at = [&](double part) {
    return results[std::llround(part * static_cast<double>(results.size() - 1))];
  };
  interval.low = at(0.025);
  interval.high = at(0.975);
  return interval;
}

}  // namespace kandinsky::training
