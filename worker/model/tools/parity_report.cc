#include "worker/model/tools/parity_report.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>

#include "worker/model/checkpoint/tensor_source.h"

namespace kandinsky::model {
namespace {

std::string Scientific(double value) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.2e", value);
  return text;
}

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// a / b, where nothing of nothing is nothing.
double Share(double a, double b) { return a == 0 ? 0 : a / b; }

std::string Percent(double share) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.4f", 100 * share);
  return text;
}

}  // namespace

Difference Compare(const at::Tensor& got, const at::Tensor& want, const Tolerance& tolerance) {
  Difference difference;
  difference.count = want.numel();
  if (want.numel() == 0) return difference;
  const at::Tensor a = got.detach().to(at::kCPU, at::kDouble);
  const at::Tensor b = want.detach().to(at::kCPU, at::kDouble);
  const at::Tensor same = a.eq(b).logical_or(a.isnan().logical_and(b.isnan()));
  // Where one side alone is not finite the distance is infinite.
  const at::Tensor gap =
      at::nan_to_num(a - b, INFINITY, INFINITY, -INFINITY).abs().masked_fill(same, 0);
  const at::Tensor size = at::nan_to_num(b.abs(), 0, 0, 0);
  const at::Tensor limit = size * tolerance.rtol + tolerance.atol;
  difference.max_absolute = gap.max().item<double>();
  difference.max_relative = gap.div(size).masked_fill(size.eq(0), 0).max().item<double>();
  difference.unequal = same.logical_not().sum().item<int64_t>();
  difference.rms = Share(std::sqrt(gap.square().mean().item<double>()),
                         std::sqrt(size.square().mean().item<double>()));
  difference.peak = Share(difference.max_absolute, size.max().item<double>());
  if (tolerance.rms > 0) {
    difference.worst =
        std::max(difference.rms / tolerance.rms, Share(difference.peak, tolerance.peak));
    difference.outside = difference.worst <= 1 ? 0 : difference.count;
  } else {
    difference.worst = gap.div(limit).masked_fill(same, 0).max().item<double>();
    difference.outside = gap.gt(limit).sum().item<int64_t>();
  }
  return difference;
}

void ParityReport::Check(const std::string& name, const at::Tensor& got, const at::Tensor& want,
                         const Tolerance& tolerance) {
  if (got.sizes() != want.sizes()) {
    Line(false, name,
         "shape " + ShapeToString(got.sizes()) + ", recorded " + ShapeToString(want.sizes()),
         kInfinity);
    return;
  }
  const Difference difference = Compare(got, want, tolerance);
  std::string text = ShapeToString(want.sizes()) + " max abs " +
                     Scientific(difference.max_absolute) + " rel " +
                     Scientific(difference.max_relative);
  if (tolerance.rms > 0) {
    text += ", rms " + Scientific(difference.rms) + " (at most " + Scientific(tolerance.rms) +
            ") peak " + Scientific(difference.peak) + " (at most " + Scientific(tolerance.peak) +
            ")";
  } else if (tolerance.rtol == 0 && tolerance.atol == 0) {
    text += ", must be equal";
  } else {
    text += ", " + Scientific(difference.worst) + " of tolerance (rtol " +
            Scientific(tolerance.rtol) + " atol " + Scientific(tolerance.atol) + ")";
  }
  if (difference.outside > 0 && tolerance.rms == 0) {
    text += ", " + Grouped(difference.outside) + " of " + Grouped(difference.count) + " outside";
  }
  Line(difference.outside == 0, name, text, difference.worst);
}

void ParityReport::CheckPixels(const std::string& name, const at::Tensor& got,
                               const at::Tensor& want, const Tolerance& tolerance) {
  if (got.sizes() != want.sizes()) {
    Line(false, name,
         "shape " + ShapeToString(got.sizes()) + ", recorded " + ShapeToString(want.sizes()),
         kInfinity);
    return;
  }
  const Difference difference = Compare(got, want, {0, 1});
  const double count = static_cast<double>(std::max<int64_t>(difference.count, 1));
  if (tolerance.rms > 0) {
    const double mean =
        difference.count == 0
            ? 0
            : (got.to(at::kCPU, at::kDouble) - want.to(at::kDouble)).abs().mean().item<double>();
    const double most = 64 * tolerance.rms;
    Line(mean <= most, name,
         ShapeToString(want.sizes()) + " " + Scientific(mean) +
             " levels apart on average (at most " + Scientific(most) + "), max " +
             std::to_string(int64_t(difference.max_absolute)),
         mean / most);
    return;
  }
  const double unequal = static_cast<double>(difference.unequal) / count;
  Line(difference.outside == 0 && unequal < 0.01, name,
       ShapeToString(want.sizes()) + " max " + std::to_string(int64_t(difference.max_absolute)) +
           " levels apart (at most 1), " + Percent(1 - unequal) + " % equal (more than 99)",
       std::max(difference.max_absolute, unequal / 0.01));
}

void ParityReport::CheckEqual(const std::string& name, int64_t got, int64_t want) {
  Line(got == want, name, Grouped(got) + (got == want ? "" : ", recorded " + Grouped(want)),
       got == want ? 0 : kInfinity);
}

void ParityReport::CheckTrue(const std::string& name, bool holds, const std::string& text) {
  Line(holds, name, text, holds ? 0 : kInfinity);
}

void ParityReport::Inform(const std::string& text) { out_ << "        " << text << "\n"; }

void ParityReport::Line(bool holds, const std::string& name, const std::string& text, double used) {
  ++checks_;
  if (!holds) ++failures_;
  if (worst_.name.empty() || (worst_.holds && !holds) ||
      (worst_.holds == holds && used > worst_.used)) {
    worst_ = {name, text, holds, used};
  }
  if (!holds || verbose_) {
    out_ << (holds ? "  ok    " : "  FAIL  ") << name << ": " << text << "\n";
  }
}

std::string Grouped(int64_t number) {
  std::string digits = std::to_string(number < 0 ? -number : number);
  for (int64_t at = static_cast<int64_t>(digits.size()) - 3; at > 0; at -= 3)
    digits.insert(at, ",");
  return number < 0 ? "-" + digits : digits;
}

}  // namespace kandinsky::model
