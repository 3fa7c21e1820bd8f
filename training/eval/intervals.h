// Confidence intervals for what evaluation counts and averages.
//
// Pure functions: any thread, no state. Without data, value and bounds are NaN.
#ifndef KANDINSKY_TRAINING_EVAL_INTERVALS_H_
#define KANDINSKY_TRAINING_EVAL_INTERVALS_H_

#include <cstdint>
#include <functional>
#include <span>

namespace kandinsky::training {

struct Interval {
  double value = 0;
  double low = 0;  // the two bounds at 95 %
  double high = 0;
  int64_t count = 0;  // of observations
};

// A proportion with Wilson's score interval: stays in [0, 1] and is right near the ends, too.
Interval Proportion(int64_t successes, int64_t count);

// A mean with Student's t interval. One observation has infinite bounds.
Interval Mean(std::span<const double> values);

// Any statistic with a percentile bootstrap: for what has no simple formula, such as ratios of
// means and decibels of mean errors. `statistic` gets the numbers of the observations drawn, with
// repetition; for `value`, each number once. The same seed gives the same bounds.
Interval Bootstrap(int64_t count, const std::function<double(std::span<const int64_t>)>& statistic,
                   uint64_t seed, int resamples = 1000);

}  // namespace kandinsky::training

#endif  // KANDINSKY_TRAINING_EVAL_INTERVALS_H_
