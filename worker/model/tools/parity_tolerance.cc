#include "worker/model/tools/parity_tolerance.h"

#include <map>

namespace kandinsky::model {
namespace {

struct Narrow {
  Tolerance half, bfloat16;
};

// rms and peak of Tolerance.
constexpr Tolerance Whole(double rms, double peak) { return {.rms = rms, .peak = peak}; }

const std::map<std::string, Narrow>& Narrows() {
  static const auto* const table = new std::map<std::string, Narrow>{
      {"t2i_unet", {Whole(0.012, 0.012), Whole(0.09, 0.1)}},
      {"keyframe_unet", {Whole(0.014, 0.018), Whole(0.1, 0.13)}},
      {"interpolation_unet", {Whole(0.007, 0.0085), Whole(0.052, 0.06)}},
      {"keyframe_sampling", {Whole(0.11, 0.24), Whole(1, 2)}},
      {"interpolation_sampling", {Whole(0.0075, 0.0145), Whole(0.055, 0.14)}},
      {"movq", {Whole(0.007, 0.0095), Whole(0.064, 0.068)}},
      {"video_movq", {Whole(0.0075, 0.013), Whole(0.07, 0.1)}},
      {"text_encoder", {Whole(0.006, 0.0086), Whole(0.045, 0.095)}},
      {"pipeline", {Whole(0.6, 0.9), Whole(1, 2)}},
  };
  return *table;
}

}  // namespace

Tolerance ToleranceFor(const std::string& component, const Placement& placement,
                       const Tolerance& recorded) {
  const auto narrow = Narrows().find(component);
  if (narrow == Narrows().end()) return recorded;  // computed on the host in full width
  if (placement.dtype == at::kHalf) return narrow->second.half;
  if (placement.dtype == at::kBFloat16) return narrow->second.bfloat16;
  constexpr double kOtherDevice = 4;
  const double factor = placement.device.is_cpu() ? 1 : kOtherDevice;
  return {.rtol = recorded.rtol * factor, .atol = recorded.atol * factor};
}

}  // namespace kandinsky::model
