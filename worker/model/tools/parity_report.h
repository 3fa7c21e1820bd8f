// Comparing what the model computes with what was recorded, and saying how it went.
#ifndef KANDINSKY_WORKER_MODEL_TOOLS_PARITY_REPORT_H_
#define KANDINSKY_WORKER_MODEL_TOOLS_PARITY_REPORT_H_

#include <ATen/ATen.h>

#include <cstdint>
#include <ostream>
#include <string>

namespace kandinsky::model {

// |got - want| <= atol + rtol * |want|, element by element; or, where `rms` is not 0, by the tensor
// as a whole: the root mean square of got - want is at most `rms` times want's, and the largest
// |got - want| at most `peak` times the largest |want|. The second is for narrow types, whose
// rounding is relative to what was summed and not to what is left of it.
struct Tolerance {
  double rtol = 0;
  double atol = 0;
  double rms = 0;
  double peak = 0;
};

// How far two tensors are apart. NaN equals NaN, and an infinity equals itself.
struct Difference {
  double max_absolute = 0;
  double max_relative = 0;  // |got - want| / |want|, over elements whose want is not 0
  // How much of the tolerance is used; at most 1 is within. The largest |got - want| / (atol + rtol
  // * |want|), or the larger one of the two shares of `rms` and `peak`.
  double worst = 0;
  double rms = 0;       // root mean square of got - want over that of want
  double peak = 0;      // largest |got - want| over the largest |want|
  int64_t outside = 0;  // elements beyond the tolerance; all or none, where it is of the whole
  int64_t unequal = 0;  // elements that differ at all
  int64_t count = 0;
};

// Any types and devices; shapes must be equal. Where one side alone is not finite, the distance is
// infinite.
Difference Compare(const at::Tensor& got, const at::Tensor& want, const Tolerance& tolerance);

// Prints one line for each check and counts. Not thread-safe.
class ParityReport {
 public:
  // Failed checks are always printed, passed ones only when `verbose`.
  ParityReport(std::ostream& out, bool verbose) : out_(out), verbose_(verbose) {}

  // The tensor must have the recorded shape and be within the tolerance everywhere.
  void Check(const std::string& name, const at::Tensor& got, const at::Tensor& want,
             const Tolerance& tolerance);
  // 8-bit pixels: at most one level apart, and more than 99 % equal. With a tolerance of the whole:
  // `rms` times 64 levels apart on average; unrelated pictures are about 70.
  void CheckPixels(const std::string& name, const at::Tensor& got, const at::Tensor& want,
                   const Tolerance& tolerance = {});
  void CheckEqual(const std::string& name, int64_t got, int64_t want);
  void CheckTrue(const std::string& name, bool holds, const std::string& text);
  // Printed, never judged.
  void Inform(const std::string& text);

  int64_t checks() const { return checks_; }
  int64_t failures() const { return failures_; }

  // The check that used most of its tolerance, failed ones before all others; no name: none was
  // made that has one.
  struct Worst {
    std::string name, text;
    bool holds = true;
    double used = 0;  // of the tolerance; 1 and less holds
  };
  const Worst& worst() const { return worst_; }

 private:
  void Line(bool holds, const std::string& name, const std::string& text, double used);

  std::ostream& out_;
  const bool verbose_;
  int64_t checks_ = 0;
  int64_t failures_ = 0;
  Worst worst_;
};

// "3,038,562,820"
std::string Grouped(int64_t number);

}  // namespace kandinsky::model

#endif  // KANDINSKY_WORKER_MODEL_TOOLS_PARITY_REPORT_H_
