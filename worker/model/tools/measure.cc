#include "worker/model/tools/measure.h"

#include <ATen/Context.h>
#include <ATen/core/grad_mode.h>
#include <c10/core/Allocator.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <optional>
#include <utility>
#include <vector>

#include "worker/model/error.h"
#include "worker/model/flop_counter.h"
#include "worker/model/text/tokenizer.h"
#include "worker/model/tools/request_flops.h"

namespace kandinsky::model {
namespace {

using nlohmann::json;
using Clock = std::chrono::steady_clock;

double SecondsSince(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

double Median(std::vector<double> values) {
  if (values.empty()) return 0;
  const auto middle = values.begin() + static_cast<int64_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

// FNV-1a over the bytes of host tensors: says whether two runs gave the same bits.
class Hash {
 public:
  void Add(const at::Tensor& tensor) {
    const at::Tensor flat = tensor.to(at::kCPU).contiguous();
    const auto* bytes = static_cast<const unsigned char*>(flat.const_data_ptr());
    for (size_t i = 0; i < flat.nbytes(); ++i) hash_ = (hash_ ^ bytes[i]) * 0x100000001b3u;
  }
  std::string text() const {
    char text[17];
    std::snprintf(text, sizeof(text), "%016llx", static_cast<unsigned long long>(hash_));
    return text;
  }

 private:
  uint64_t hash_ = 0xcbf29ce484222325u;
};

// Counts what the thread that pushed it allocates on the CPU and gives back.
class HostMemory : public c10::MemoryReportingInfoBase {
 public:
  void reportMemoryUsage(void* pointer, int64_t bytes, size_t allocated, size_t reserved,
                         c10::Device device) override {
    if (!device.is_cpu()) return;
    current += bytes;
    peak = std::max(peak, current);
  }
  bool memoryProfilingEnabled() const override { return true; }

  int64_t current = 0, peak = 0;
};

}  // namespace

struct MemoryMeter::Impl {
  at::Device device;
  std::shared_ptr<HostMemory> host;
  std::optional<c10::DebugInfoGuard> guard;

  c10::CachingDeviceAllocator::DeviceStats stats() const {
    return c10::getDeviceAllocator(device.type())->getDeviceStats(device.index());
  }
};

MemoryMeter::MemoryMeter(at::Device device) {
  impl_.reset(
      new Impl{device.is_cpu() || device.has_index() ? device : at::Device(device.type(), 0)});
  if (device.is_cpu()) {
    impl_->host = std::make_shared<HostMemory>();
    impl_->guard.emplace(c10::DebugInfoKind::PROFILER_STATE, impl_->host);
  }
  ResetPeak();
}

MemoryMeter::~MemoryMeter() = default;

void MemoryMeter::ResetPeak() {
  if (impl_->host) {
    impl_->host->peak = impl_->host->current;
  } else {
    c10::getDeviceAllocator(impl_->device.type())->resetPeakStats(impl_->device.index());
  }
}

int64_t MemoryMeter::current() const {
  return impl_->host ? impl_->host->current : impl_->stats().allocated_bytes[0].current;
}

int64_t MemoryMeter::peak() const {
  return impl_->host ? impl_->host->peak : impl_->stats().allocated_bytes[0].peak;
}

int64_t MemoryMeter::reserved_peak() const {
  return impl_->host ? 0 : impl_->stats().reserved_bytes[0].peak;
}

void Synchronize(at::Device device) {
  if (device.is_cpu()) return;
  const c10::impl::VirtualGuardImpl guard(device.type());
  guard.synchronizeDevice(device.has_index() ? device.index() : guard.getDevice().index());
}

json MeasurePeaks(at::Device device, double seconds) {
  at::NoGradGuard no_grad;
  struct Type {
    const char* name;
    at::ScalarType type;
    bool tf32;
  };
  std::vector<Type> types = {{"float32", at::kFloat, false},
                             {"bfloat16", at::kBFloat16, false},
                             {"float16", at::kHalf, false}};
  if (device.is_cuda()) types.insert(types.begin() + 1, {"tf32", at::kFloat, true});
  const int64_t largest = device.is_cpu() ? 4096 : 16384;
  json result = json::array();
  for (const Type& type : types) {
    at::globalContext().setAllowTF32CuBLAS(type.tf32);
    double best = 0;
    int64_t best_size = 0;
    const Clock::time_point start = Clock::now();
    for (int64_t size = 256; size <= largest; size *= 2) {
      const at::TensorOptions options = at::TensorOptions(device).dtype(type.type);
      const at::Tensor a = at::full({size, size}, 0.5, options), b = at::full_like(a, 0.25);
      at::mm(a, b);  // kernels are chosen and loaded
      Synchronize(device);
      double once = 0;
      for (int64_t times = 1;; times *= 2) {
        const Clock::time_point begin = Clock::now();
        for (int64_t i = 0; i < times; ++i) at::mm(a, b);
        Synchronize(device);
        const double elapsed = SecondsSince(begin);
        once = elapsed / static_cast<double>(times);
        const double rate = 2.0 * std::pow(static_cast<double>(size), 3) / once;
        if (rate > best) best = rate, best_size = size;
        if (elapsed > seconds / 20 || SecondsSince(start) > seconds) break;
      }
      // The next size takes eight times as long.
      if (SecondsSince(start) + 16 * once > seconds) break;
    }
    result.push_back({{"type", type.name}, {"size", best_size}, {"flops_per_second", best}});
  }
  at::globalContext().setAllowTF32CuBLAS(false);
  return result;
}

namespace {

// What a stage's loop says of its steps.
class StepTimes {
 public:
  StageHooks hooks(const std::string& stage, const MeasureProgress& progress) {
    StageHooks hooks;
    hooks.cancelled = [this] {
      asked_.push_back(Clock::now());
      return false;
    };
    hooks.progress = [this, stage, progress](const StageProgress& at) {
      steps_.push_back(at.step_seconds);
      if (progress) progress(stage, at.pass * at.steps + at.step, at.passes * at.steps);
    };
    return hooks;
  }

  // From the first question to the second: a keyframe stage asks before the text encoder and then
  // before every step.
  double UntilFirstStep() const {
    return asked_.size() < 2 ? 0 : std::chrono::duration<double>(asked_[1] - asked_[0]).count();
  }
  double first() const { return steps_.empty() ? 0 : steps_.front(); }
  double median() const {
    return Median({steps_.begin() + (steps_.size() > 1 ? 1 : 0), steps_.end()});
  }

 private:
  std::vector<Clock::time_point> asked_;
  std::vector<double> steps_;
};

int64_t ContextTokens(const MeasureSetup& setup, const ModelConfig& config) {
  const Tokenizer tokenizer(setup.model_directory + "/" + config.tokenizer);
  const TokenSequence sequence =
      tokenizer.EncodePadded(setup.request.prompt, config.text_encoder.max_length);
  const int64_t visible = std::count(sequence.mask.begin(), sequence.mask.end(), 1);
  return std::min<int64_t>(visible + 1, config.text_encoder.max_length);
}

// Loads a stage, runs it once and describes both.
template <typename Stage>
json MeasureStage(const char* name, const MeasureSetup& setup, const Flops& planned,
                  const MeasureProgress& progress,
                  const std::function<void(Stage&, const StageHooks&, json&)>& run) {
  const at::Device device = setup.execution.placement.device;
  json result = {{"stage", name}};
  MemoryMeter memory(device);
  const int64_t before = memory.current();
  Clock::time_point start = Clock::now();
  Stage stage(setup.model_directory, setup.execution);
  Synchronize(device);
  result["load_seconds"] = SecondsSince(start);
  result["weights_bytes"] = memory.current() - before;
  memory.ResetPeak();
  StepTimes times;
  Flops counted;
  start = Clock::now();
  {
    const FlopCounter counter;
    run(stage, times.hooks(name, progress), result);
    Synchronize(device);
    counted = counter.flops();
  }
  const double seconds = SecondsSince(start);
  result["seconds"] = seconds;
  if (std::string(name) == "keyframes") result["text_seconds"] = times.UntilFirstStep();
  if (std::string(name) != "decoding") {
    result["first_step_seconds"] = times.first();
    result["step_seconds"] = times.median();
  }
  result["flops"] = planned.total();
  result["counted_flops"] = counted.total();
  result["flops_per_second"] = static_cast<double>(planned.total()) / seconds;
  result["peak_bytes"] = memory.peak() - before;
  result["reserved_bytes"] = memory.reserved_peak();
  return result;
}

void DescribeLatents(const at::Tensor& latents, json& result) {
  Hash hash;
  hash.Add(latents);
  result["finite"] = at::isfinite(latents).all().item<bool>();
  result["hash"] = hash.text();
}

}  // namespace

json MeasureRun(const MeasureSetup& setup, const MeasureProgress& progress) {
  const ModelConfig config = ModelConfig::Load(setup.model_directory);
  ValidateRequest(setup.request, config);
  const RequestFlops flops = CountRequest(config, setup.request, ContextTokens(setup, config));
  json stages = json::array();
  at::Tensor latents;  // [T, 4, h, w]
  stages.push_back(
      MeasureStage<KeyframeStage>("keyframes", setup, flops.text + flops.keyframes, progress,
                                  [&](KeyframeStage& stage, const StageHooks& hooks, json& result) {
                                    latents = stage.Run(setup.request, hooks);
                                    DescribeLatents(latents, result);
                                  }));
  if (setup.request.passes > 0) {
    Flops passes;
    for (const Flops& pass : flops.interpolation) passes = passes + pass;
    stages.push_back(MeasureStage<InterpolationStage>(
        "interpolation", setup, passes, progress,
        [&](InterpolationStage& stage, const StageHooks& hooks, json& result) {
          latents = stage.Run(latents, setup.request, hooks);
          DescribeLatents(latents, result);
        }));
  }
  stages.push_back(MeasureStage<DecodingStage>(
      "decoding", setup, flops.decoding, progress,
      [&](DecodingStage& stage, const StageHooks& hooks, json& result) {
        Hash hash;
        int64_t frames = 0;
        stage.Run(latents, hooks, [&](int64_t first, const at::Tensor& pixels) {
          hash.Add(pixels);
          frames = first + pixels.size(0);
        });
        result["finite"] = frames == latents.size(0);
        result["hash"] = hash.text();
      }));
  double seconds = 0;
  for (const json& stage : stages) seconds += stage["seconds"].get<double>();
  return {{"model", config.name},
          {"frames", latents.size(0)},
          {"seconds", seconds},
          {"flops", flops.total().total()},
          {"flops_per_second", static_cast<double>(flops.total().total()) / seconds},
          {"stages", stages}};
}

json DescribeFlops(const MeasureSetup& setup) {
  const ModelConfig config = ModelConfig::Load(setup.model_directory);
  ValidateRequest(setup.request, config);
  const RequestFlops flops = CountRequest(config, setup.request, ContextTokens(setup, config));
  json interpolation = json::array();
  for (const Flops& pass : flops.interpolation) interpolation.push_back(pass.total());
  return {{"text", flops.text.total()},     {"keyframes", flops.keyframes.total()},
          {"interpolation", interpolation}, {"decoding", flops.decoding.total()},
          {"total", flops.total().total()}, {"keyframe", flops.keyframe.total()},
          {"group", flops.group.total()},   {"frame", flops.frame.total()}};
}

namespace {

// Runs of one stage that must agree.
class Repeats {
 public:
  explicit Repeats(json& checks) : checks_(checks) {}

  void Same(const std::string& name, const at::Tensor& got, const at::Tensor& want) {
    const bool same = got.sizes() == want.sizes() && at::equal(got, want);
    std::string text = "the same bits";
    if (!same) {
      const at::Tensor gap = (got.to(at::kDouble) - want.to(at::kDouble)).abs();
      text = c10::str(gap.gt(0).sum().item<int64_t>(), " of ", gap.numel(),
                      " numbers differ, at most by ", gap.max().item<double>());
    }
    Add(name, same, text);
  }

  void Close(const std::string& name, const at::Tensor& got, const at::Tensor& want,
             double tolerance) {
    const double gap = (got - want).square().mean().sqrt().item<double>();
    const double share = gap / want.square().mean().sqrt().item<double>();
    Add(name, share <= tolerance,
        at::equal(got, want) ? "the same bits"
                             : c10::str("root mean square of the difference ", share,
                                        " of the latents' (at most ", tolerance, ")"));
  }

  void Add(const std::string& name, bool passed, const std::string& text) {
    checks_.push_back({{"name", name}, {"passed", passed}, {"text", text}});
  }

 private:
  json& checks_;
};

// Takes one checkpoint, after `step` steps of all passes together.
class CheckpointAt {
 public:
  explicit CheckpointAt(int64_t step) : step_(step) {}

  StageHooks Hooks() {
    StageHooks hooks;
    hooks.checkpoint_due = [this] { return ++asked_ == step_; };  // asked after every step
    hooks.checkpoint = [this](const StageCheckpoint& checkpoint) { taken = checkpoint; };
    return hooks;
  }

  std::optional<StageCheckpoint> taken;

 private:
  const int64_t step_;
  int64_t asked_ = 0;
};

// Twice, and resumed by a stage that is loaded anew. `run` runs a stage of the given setup.
template <typename Stage>
at::Tensor RepeatLoop(const std::string& name, const MeasureSetup& setup, double passes_tolerance,
                      int pass, int64_t steps, Repeats& checks, const std::function<void()>& done,
                      const std::function<at::Tensor(Stage&, const StageHooks&,
                                                     const std::optional<StageCheckpoint>&)>& run) {
  CheckpointAt checkpoint(pass * steps + (steps + 1) / 2);
  at::Tensor want;
  {
    Stage stage(setup.model_directory, setup.execution);
    want = run(stage, checkpoint.Hooks(), std::nullopt);
    done();
    checks.Same(name + ": the same request again", run(stage, {}, std::nullopt), want);
    done();
  }
  checks.Add(name + ": every number is finite", at::isfinite(want).all().item<bool>(), "");
  if (!checkpoint.taken) {
    checks.Add(name + ": resumed from a checkpoint", false, "no checkpoint was taken");
  } else {
    Stage stage(setup.model_directory, setup.execution);
    checks.Same(name + ": loaded anew and resumed after step " +
                    std::to_string(checkpoint.taken->next_step) + " of " + std::to_string(steps),
                run(stage, {}, checkpoint.taken), want);
  }
  done();
  MeasureSetup other = setup;
  other.execution.guidance_passes = setup.execution.guidance_passes == 1 ? 2 : 1;
  Stage stage(other.model_directory, other.execution);
  checks.Close(name + ": guidance in " + std::to_string(other.execution.guidance_passes) +
                   " passes against " + std::to_string(setup.execution.guidance_passes),
               run(stage, {}, std::nullopt), want, passes_tolerance);
  done();
  return want;
}

}  // namespace

json MeasureRepeats(const MeasureSetup& setup, double passes_tolerance,
                    const MeasureProgress& progress) {
  const ModelConfig config = ModelConfig::Load(setup.model_directory);
  ValidateRequest(setup.request, config);
  json result = json::array();
  Repeats checks(result);
  int64_t finished = 0;
  const int64_t parts = setup.request.passes > 0 ? 11 : 7;
  const auto done = [&] {
    if (progress) progress("repeats", ++finished, parts);
  };
  at::Tensor latents = RepeatLoop<KeyframeStage>("keyframes", setup, passes_tolerance, 0,
                                                 setup.request.steps, checks, done,
                                                 [&](KeyframeStage& stage, const StageHooks& hooks,
                                                     const std::optional<StageCheckpoint>& resume) {
                                                   return stage.Run(setup.request, hooks, resume);
                                                 });
  if (setup.request.passes > 0) {
    const at::Tensor keyframes = latents;
    latents = RepeatLoop<InterpolationStage>(
        "interpolation", setup, passes_tolerance, setup.request.passes - 1,
        config.InterpolationSteps(setup.request.steps), checks, done,
        [&](InterpolationStage& stage, const StageHooks& hooks,
            const std::optional<StageCheckpoint>& resume) {
          return stage.Run(keyframes, setup.request, hooks, resume);
        });
  }
  DecodingStage stage(setup.model_directory, setup.execution);
  const auto decode = [&](int64_t first) {
    std::vector<at::Tensor> chunks;
    stage.Run(
        latents, {}, [&](int64_t, const at::Tensor& frames) { chunks.push_back(frames); }, first);
    done();
    return at::cat(chunks);
  };
  const at::Tensor want = decode(0);
  checks.Same("decoding: the same latents again", decode(0), want);
  const int64_t border = DecodeChunkLengths(latents.size(0)).front();
  if (border < latents.size(0)) {
    const at::Tensor rest = decode(border);
    checks.Same("decoding: from frame " + std::to_string(border) + " on", rest,
                want.narrow(0, border, want.size(0) - border));
  }
  return result;
}

}  // namespace kandinsky::model
