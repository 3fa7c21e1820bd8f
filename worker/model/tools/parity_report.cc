#include "worker/model/tools/parity_report.h"

#include <cstdio>

#include "worker/model/checkpoint/tensor_source.h"

namespace kandinsky::model {
namespace {

std::string Scientific(double value) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.2e", value);
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
  difference.worst = gap.div(limit).masked_fill(same, 0).max().item<double>();
  difference.outside = gap.gt(limit).sum().item<int64_t>();
  difference.unequal = same.logical_not().sum().item<int64_t>();
  return difference;
}

void ParityReport::Check(const std::string& name, const at::Tensor& got, const at::Tensor& want,
                         const Tolerance& tolerance) {
  if (got.sizes() != want.sizes()) {
    Line(false, name,
         "shape " + ShapeToString(got.sizes()) + ", recorded " + ShapeToString(want.sizes()));
    return;
  }
  const Difference difference = Compare(got, want, tolerance);
  std::string text = ShapeToString(want.sizes()) + " max abs " +
                     Scientific(difference.max_absolute) + " rel " +
                     Scientific(difference.max_relative);
  if (tolerance.rtol == 0 && tolerance.atol == 0) {
    text += ", must be equal";
  } else {
    text += ", " + Scientific(difference.worst) + " of tolerance (rtol " +
            Scientific(tolerance.rtol) + " atol " + Scientific(tolerance.atol) + ")";
  }
  if (difference.outside > 0) {
    text += ", " + Grouped(difference.outside) + " of " + Grouped(difference.count) + " outside";
  }
  Line(difference.outside == 0, name, text);
}

void ParityReport::CheckPixels(const std::string& name, const at::Tensor& got,
                               const at::Tensor& want) {
  if (got.sizes() != want.sizes()) {
    Line(false, name,
         "shape " + ShapeToString(got.sizes()) + ", recorded " + ShapeToString(want.sizes()));
    return;
  }
  const Difference difference = Compare(got, want, {0, 1});
  const double equal = difference.count == 0 ? 1
                                             : 1 - static_cast<double>(difference.unequal) /
                                                       static_cast<double>(difference.count);
  char share[32];
  std::snprintf(share, sizeof(share), "%.4f", 100 * equal);
  Line(difference.outside == 0 && equal > 0.99, name,
       ShapeToString(want.sizes()) + " max " + std::to_string(int64_t(difference.max_absolute)) +
           " levels apart (at most 1), " + share + " % equal (more than 99)");
}

void ParityReport::CheckEqual(const std::string& name, int64_t got, int64_t want) {
  Line(got == want, name, Grouped(got) + (got == want ? "" : ", recorded " + Grouped(want)));
}

void ParityReport::CheckTrue(const std::string& name, bool holds, const std::string& text) {
  Line(holds, name, text);
}

void ParityReport::Inform(const std::string& text) { out_ << "        " << text << "\n"; }

void ParityReport::Line(bool holds, const std::string& name, const std::string& text) {
  ++checks_;
  if (!holds) ++failures_;
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
