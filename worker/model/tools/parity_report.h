// Comparing what the model computes with what was recorded, and saying how it went.
#ifndef KANDINSKY_WORKER_MODEL_TOOLS_PARITY_REPORT_H_
#define KANDINSKY_WORKER_MODEL_TOOLS_PARITY_REPORT_H_

#include <ATen/ATen.h>

#include <cstdint>
#include <ostream>
#include <string>

namespace kandinsky::model {

// |got - want| <= atol + rtol * |want|, element by element.
struct Tolerance {
  double rtol = 0;
  double atol = 0;
};

// How far two tensors are apart. NaN equals NaN, and an infinity equals itself.
struct Difference {
  double max_absolute = 0;
  double max_relative = 0;  // |got - want| / |want|, over elements whose want is not 0
  double worst = 0;         // largest |got - want| / (atol + rtol * |want|); at most 1 is within
  int64_t outside = 0;      // elements beyond the tolerance
  int64_t unequal = 0;      // elements that differ at all
  int64_t count = 0;
};

// Any types and devices; shapes must be equal.
Difference Compare(const at::Tensor& got, const at::Tensor& want, const Tolerance& tolerance);

// Prints one line for each check and counts. Not thread-safe.
class ParityReport {
 public:
  // Failed checks are always printed, passed ones only when `verbose`.
  ParityReport(std::ostream& out, bool verbose) : out_(out), verbose_(verbose) {}

  // The tensor must have the recorded shape and be within the tolerance everywhere.
  void Check(const std::string& name, const at::Tensor& got, const at::Tensor& want,
             const Tolerance& tolerance);
  // 8-bit pixels: at most one level apart, and more than 99 % equal.
  void CheckPixels(const std::string& name, const at::Tensor& got, const at::Tensor& want);
  void CheckEqual(const std::string& name, int64_t got, int64_t want);
  void CheckTrue(const std::string& name, bool holds, const std::string& text);
  // Printed, never judged.
  void Inform(const std::string& text);

  int64_t checks() const { return checks_; }
  int64_t failures() const { return failures_; }

 private:
  void Line(bool holds, const std::string& name, const std::string& text);

  std::ostream& out_;
  const bool verbose_;
  int64_t checks_ = 0;
  int64_t failures_ = 0;
};

// "3,038,562,820"
std::string Grouped(int64_t number);

}  // namespace kandinsky::model

#endif  // KANDINSKY_WORKER_MODEL_TOOLS_PARITY_REPORT_H_
