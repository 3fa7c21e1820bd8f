// Planned memory beside measured memory: the CPU's allocator is replaced by one that counts and
// that can be made to fail.
#include <c10/core/CPUAllocator.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <functional>
#include <limits>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "worker/model/error.h"
#include "worker/model/memory_plan.h"
#include "worker/model/memory_tracker.h"
#include "worker/model/pipeline.h"
#include "worker/model/weights_init.h"

namespace kandinsky::model {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

const std::string kModels = std::string(KANDINSKY_SOURCE_DIR) + "/models/";
constexpr int64_t kNoLimit = std::numeric_limits<int64_t>::max();

// LibTorch's CPU allocator, counted.
class CountingAllocator final : public c10::Allocator {
 public:
  // From the first use on, for the whole process.
  static CountingAllocator& Installed() {
    static auto* const allocator = [] {
      auto* made = new CountingAllocator(c10::GetCPUAllocator());
      c10::SetCPUAllocator(made, 100);
      return made;
    }();
    return *allocator;
  }

  c10::DataPtr allocate(size_t bytes) override {
    // As the plan and CUDA's allocator count.
    const int64_t size = (static_cast<int64_t>(bytes) + 511) / 512 * 512;
    if (bytes == 0) return {nullptr, nullptr, &Free, c10::Device(c10::kCPU)};
    if (live_ + size > limit_) {
      ++failures_;
      TORCH_CHECK_WITH(OutOfMemoryError, false, "out of memory: the test's limit");
    }
    // As LibTorch wants it, the context is the pointer itself.
    void* const pointer = base_->raw_allocate(bytes);
    const std::lock_guard lock(mutex_);
    sizes_[pointer] = size;
    live_ += size;
    peak_ = std::max(peak_.load(), live_.load());
    return {pointer, pointer, &Free, c10::Device(c10::kCPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &Free; }
  void copy_data(void* to, const void* from, size_t bytes) const override {
    default_copy_data(to, from, bytes);
  }

  int64_t live() const { return live_; }
  int64_t peak() const { return peak_; }
  int failures() const { return failures_; }
  void ResetPeak() { peak_ = live_.load(); }
  void Limit(int64_t bytes) {
    limit_ = bytes;
    failures_ = 0;
  }

 private:
  explicit CountingAllocator(c10::Allocator* base) : base_(base) {}
  static void Free(void* pointer) {
    if (pointer == nullptr) return;
    CountingAllocator& self = Installed();
    {
      const std::lock_guard lock(self.mutex_);
      const auto found = self.sizes_.find(pointer);
      self.live_ -= found->second;
      self.sizes_.erase(found);
    }
    self.base_->raw_deallocate(pointer);
  }

  c10::Allocator* const base_;
  std::mutex mutex_;
  std::map<void*, int64_t> sizes_;  // guarded by mutex_
  std::atomic<int64_t> live_ = 0, peak_ = 0, limit_ = kNoLimit;
  std::atomic<int> failures_ = 0;
};

// Mid-size: maps of some 100 kB, so that the numbers are not those of small change.
ModelConfig MidConfig() {
  ModelConfig config = ModelConfig::Load(kModels + "tiny");
  for (UnetConfig* unet : {&config.keyframe_unet, &config.interpolation_unet}) {
    unet->model_channels = 64;
    unet->init_channels = 64;
    unet->groups = 16;
    unet->head_dim = 32;
  }
  config.interpolation_steps_max = 0;
  config.defaults.width = config.defaults.height = 128;
  return config;
}

const std::string& MidModel() {
  struct Directory {
    Directory() : path(::testing::TempDir() + "/memory_test." + std::to_string(getpid())) {
      WriteRandomModel(MidConfig(), kModels + "tiny", path, 1);
    }
    ~Directory() {
      std::error_code ignored;
      std::filesystem::remove_all(path, ignored);
    }
    const std::string path;
  };
  static const Directory directory;
  return directory.path;
}

GenerationRequest Request(int passes) {
  GenerationRequest request;
  request.prompt = "a red circle on a white background moves left";
  request.negative_prompt = "a green square";
  request.seed = 7;
  request.width = request.height = 128;
  request.steps = 2;
  request.guidance_scale = 5;
  request.interpolation_guidance_scale = 0.25;
  request.passes = passes;
  return request;
}

// What `make` leaves behind and the peak above it while `run` runs, in bytes.
struct Measured {
  int64_t weights = 0, activations = 0;
};
template <typename Stage>
Measured Measure(const ExecutionOptions& execution, const std::function<void(Stage&)>& run) {
  CountingAllocator& allocator = CountingAllocator::Installed();
  at::set_num_threads(2);  // with another number, reproducible.h first tries shapes, on copies
  const int64_t before = allocator.live();
  Stage stage(MidModel(), execution);
  Measured measured;
  measured.weights = allocator.live() - before;
  allocator.ResetPeak();
  const int64_t start = allocator.live();
  run(stage);
  measured.activations = allocator.peak() - start;
  return measured;
}

void ExpectWithin(int64_t planned, int64_t measured, double tolerance, const std::string& what) {
  const double ratio = static_cast<double>(planned) / static_cast<double>(measured);
  std::printf("%-40s planned %8.3f MB, measured %8.3f MB, ratio %.3f\n", what.c_str(),
              static_cast<double>(planned) / 1e6, static_cast<double>(measured) / 1e6, ratio);
  EXPECT_NEAR(ratio, 1, tolerance) << what;
}

TEST(MemoryTracker, CountsWhatIsAliveAndThePeak) {
  const at::TensorOptions meta(at::kMeta);
  MemoryTracker tracker;
  at::Tensor a = at::empty({256}, meta);  // 1024 bytes
  EXPECT_EQ(tracker.live_bytes(), 1024);
  {
    const at::Tensor b = a + 1;
    const at::Tensor view = b.view({16, 16});
    EXPECT_EQ(tracker.live_bytes(), 2048);
  }
  EXPECT_EQ(tracker.live_bytes(), 1024);
  EXPECT_EQ(tracker.peak_bytes(), 2048);
  tracker.ResetPeak();
  EXPECT_EQ(tracker.peak_bytes(), 1024);
  const at::Tensor odd = at::empty({1}, meta);  // in steps of 512
  EXPECT_EQ(tracker.live_bytes(), 1536);
  {
    const HostMemoryScope host;
    const at::Tensor c = at::empty({1024}, meta);
    EXPECT_EQ(tracker.live_bytes(), 1536);
    EXPECT_EQ(tracker.host_bytes(), 4096);
  }
  EXPECT_EQ(tracker.host_bytes(), 0);
  {
    MemoryTracker inner;
    const at::Tensor c = at::empty({1024}, meta);
    EXPECT_EQ(inner.live_bytes(), 4096);
    a.reset();
    EXPECT_EQ(inner.live_bytes(), 4096);
  }
  EXPECT_EQ(tracker.live_bytes(), 512);
}

TEST(MemoryTracker, ForgetsStoragesThatOutliveIt) {
  at::Tensor a;
  {
    MemoryTracker tracker;
    a = at::empty({256}, at::TensorOptions(at::kMeta));
  }
  MemoryTracker tracker;
  a.reset();
  EXPECT_EQ(tracker.live_bytes(), 0);
}

TEST(MemoryPlan, IsWhatTheCpuMeasures) {
  const ModelConfig config = MidConfig();
  const at::Tensor keyframes = at::randn({16, 4, 16, 16});
  for (const int guidance_passes : {1, 2}) {
    const ExecutionOptions execution = {.guidance_passes = guidance_passes};
    const std::string passes = std::to_string(guidance_passes) + " passes";
    {
      const StageMemory plan =
          PlanStage(config, PlannedStage::kKeyframes, {128, 128, 2}, execution);
      EXPECT_EQ(plan.allowance_bytes, 0);
      const auto measured =
          Measure<KeyframeStage>(execution, [](KeyframeStage& stage) { stage.Run(Request(0)); });
      ExpectWithin(plan.weights_bytes, measured.weights, 0.02, "keyframes, weights");
      ExpectWithin(std::max(plan.phases.at(0).peak_bytes, plan.phases.at(1).peak_bytes),
                   measured.activations, 0.1, "keyframes, " + passes);
    }
    for (const int64_t window : {0, 4}) {
      ExecutionOptions windowed = execution;
      windowed.interpolation_window = window;
      const StageMemory plan =
          PlanStage(config, PlannedStage::kInterpolation, {128, 128, 1}, windowed);
      const auto measured = Measure<InterpolationStage>(
          windowed, [&](InterpolationStage& stage) { stage.Run(keyframes, Request(1)); });
      ExpectWithin(plan.weights_bytes, measured.weights, 0.02, "interpolation, weights");
      ExpectWithin(plan.activations_bytes(), measured.activations, 0.1,
                   "interpolation, " + passes + ", window " + std::to_string(window));
    }
  }
  for (const int64_t bytes : {int64_t{0}, int64_t{4000000}}) {
    const ExecutionOptions execution = {.decode_bytes = bytes};
    const StageMemory plan = PlanStage(config, PlannedStage::kDecoding, {128, 128, 0}, execution);
    const auto measured = Measure<DecodingStage>(execution, [&](DecodingStage& stage) {
      stage.Run(keyframes, {}, [](int64_t, const at::Tensor&) {});
    });
    ExpectWithin(plan.weights_bytes, measured.weights, 0.02, "decoding, weights");
    // Planned as a device computes it; the CPU's fused norms keep fewer maps.
    const double ratio =
        static_cast<double>(plan.activations_bytes()) / static_cast<double>(measured.activations);
    std::printf("decoding, bound %lld: planned over measured %.3f\n", static_cast<long long>(bytes),
                ratio);
    EXPECT_GE(ratio, 1);
    EXPECT_LE(ratio, 1.9);
  }
}

TEST(MemoryPlan, EveryOptionSavesMemory) {
  const ModelConfig config = MidConfig();
  ExecutionOptions execution;
  execution.placement.device = at::Device(at::kCUDA, 0);  // nothing touches it
  for (const PlannedStage stage :
       {PlannedStage::kKeyframes, PlannedStage::kInterpolation, PlannedStage::kDecoding}) {
    const std::vector<CheaperPlan> plans = CheaperPlans(stage, execution);
    EXPECT_EQ(plans.front().flags, "");
    // The preview of keyframes takes what it takes, and maps are so small that no bound of the
    // decoder matters.
    const auto denoising = [](const StageMemory& memory) {
      int64_t bytes = memory.weights_bytes;
      for (const StageMemory::Phase& phase : memory.phases) {
        if (phase.name == "denoising") bytes += phase.peak_bytes;
      }
      return bytes;
    };
    const StageMemory first = PlanStage(config, stage, {128, 128, 2}, execution);
    EXPECT_GE(first.allowance_bytes, kDeviceAllowanceBytes);
    for (const CheaperPlan& plan : plans) {
      const StageMemory memory = PlanStage(config, stage, {128, 128, 2}, plan.execution);
      EXPECT_LE(memory.total_bytes(), first.total_bytes());
      if (!plan.flags.empty() && stage != PlannedStage::kDecoding) {
        EXPECT_LT(denoising(memory), denoising(first))
            << PlannedStageName(stage) << " " << plan.flags;
      }
    }
  }
  execution.guidance_passes = 2;
  for (const CheaperPlan& plan : CheaperPlans(PlannedStage::kKeyframes, execution)) {
    EXPECT_THAT(plan.flags, ::testing::Not(HasSubstr("guidance")));
  }
}

TEST(MemoryPlan, OfTheFullSizeModelNeedsNoWeights) {
  const ModelConfig config = ModelConfig::Load(kModels + "kandinsky-video-1.0");
  ExecutionOptions execution;
  execution.placement = {at::Device(at::kCUDA, 0), at::kHalf};
  const PlannedRequest request = DefaultRequest(config);
  EXPECT_EQ(request.width, 512);
  EXPECT_EQ(request.passes, 2);
  // 8.6 billion parameters of the text encoder, 4 billion of the U-Net, 0.2 billion of the decoder.
  const StageMemory whole = PlanStage(config, PlannedStage::kKeyframes, request, execution);
  EXPECT_NEAR(static_cast<double>(whole.weights_bytes) / 2e9, 8.6 + 4.2, 0.7);
  EXPECT_EQ(whole.host_weights_bytes, 0);
  // A 24 GB card is served by some plan, in every stage.
  for (const PlannedStage stage :
       {PlannedStage::kKeyframes, PlannedStage::kInterpolation, PlannedStage::kDecoding}) {
    int64_t least = whole.total_bytes();
    for (const CheaperPlan& plan : CheaperPlans(stage, execution)) {
      if (!plan.same) continue;
      least = std::min(least, PlanStage(config, stage, request, plan.execution).total_bytes());
    }
    EXPECT_LT(least, 24000000000) << PlannedStageName(stage);
  }
  execution.text_encoder_device = ExecutionOptions::TextEncoderDevice::kOffload;
  const StageMemory offloaded = PlanStage(config, PlannedStage::kKeyframes, request, execution);
  EXPECT_NEAR(static_cast<double>(offloaded.host_weights_bytes) / 2e9, 8.6, 0.3);
  EXPECT_LT(offloaded.weights_bytes, whole.weights_bytes - 16000000000);
  EXPECT_THROW(PlanStage(config, PlannedStage::kKeyframes, {500, 512, 2}, execution), ModelError);
}

std::string MessageOf(const std::function<void()>& call) {
  try {
    call();
  } catch (const ModelError& error) {
    EXPECT_EQ(error.kind(), ModelError::Kind::kInvalidArgument);
    return error.what();
  }
  return "nothing was thrown";
}

TEST(CheckMemory, RefusesWhatCannotFitAndNamesTheOption) {
  const ModelConfig config = MidConfig();
  const PlannedRequest request = DefaultRequest(config);
  const auto total = [&](const ExecutionOptions& execution) {
    return PlanStage(config, PlannedStage::kInterpolation, request, execution).total_bytes();
  };
  const int64_t whole = total({}), windowed = total({.interpolation_window = 16});
  const auto load = [&](int64_t bytes) {
    return MessageOf([&] { InterpolationStage(MidModel(), {.device_memory_bytes = bytes}); });
  };
  EXPECT_EQ(load(whole), "nothing was thrown");
  EXPECT_THAT(load(whole - 1),
              AllOf(HasSubstr(FormatGigabytes(whole)), HasSubstr("--interpolation_window=16"),
                    HasSubstr(FormatGigabytes(windowed))));
  EXPECT_THAT(load(1000), HasSubstr("no option makes it fit"));
  EXPECT_EQ(load(0), "nothing was thrown");  // the CPU has no limit of its own
}

// Runs with a limit of memory between what the plan and the next cheaper one take.
TEST(Stages, AnswerOutOfMemoryOnceWithTheNextCheaperPlan) {
  CountingAllocator& allocator = CountingAllocator::Installed();
  const at::Tensor keyframes = at::randn({16, 4, 16, 16});
  const auto peak = [&](const ExecutionOptions& execution, at::Tensor* result) {
    const Measured measured = Measure<InterpolationStage>(
        execution, [&](InterpolationStage& stage) { *result = stage.Run(keyframes, Request(1)); });
    return measured.activations;
  };
  at::Tensor whole, windowed;
  const int64_t whole_peak = peak({}, &whole);
  const int64_t windowed_peak = peak({.interpolation_window = 16}, &windowed);
  ASSERT_LT(windowed_peak, whole_peak * 0.9);

  InterpolationStage stage(MidModel());
  std::vector<std::string> changes;
  StageHooks hooks;
  hooks.plan_changed = [&](const std::string& flags, const std::string& why) {
    EXPECT_THAT(why, HasSubstr("the test's limit"));
    changes.push_back(flags);
  };
  allocator.Limit(allocator.live() + (whole_peak + windowed_peak) / 2);
  const at::Tensor result = stage.Run(keyframes, Request(1), hooks);
  EXPECT_GE(allocator.failures(), 1);
  EXPECT_THAT(changes, ElementsAre("--interpolation_window=16"));
  EXPECT_TRUE(result.equal(windowed));
  EXPECT_LT((result - whole).abs().max().item<double>(), 1e-4);

  // The plan stays, so that the next request does not fail first.
  allocator.Limit(allocator.live() + (whole_peak + windowed_peak) / 2);
  EXPECT_TRUE(stage.Run(keyframes, Request(1), hooks).equal(windowed));
  EXPECT_EQ(allocator.failures(), 0);
  EXPECT_EQ(changes.size(), 1u);

  // Too little for that, too: one more plan, then the error.
  allocator.Limit(allocator.live() + windowed_peak / 8);
  EXPECT_THROW(stage.Run(keyframes, Request(1), hooks), c10::OutOfMemoryError);
  EXPECT_EQ(changes.size(), 2u);
  allocator.Limit(kNoLimit);
}

TEST(Stages, DecodingGoesOnWhereMemoryRanOut) {
  CountingAllocator& allocator = CountingAllocator::Installed();
  const at::Tensor latents = at::randn({9, 4, 16, 16});
  std::vector<at::Tensor> want, got;
  DecodingStage stage(MidModel());
  stage.Run(latents, {}, [&](int64_t, const at::Tensor& frames) { want.push_back(frames); });
  StageHooks hooks;
  int changes = 0;
  hooks.plan_changed = [&](const std::string& flags, const std::string&) {
    EXPECT_EQ(flags, "--decode_bytes=4000MB");
    allocator.Limit(kNoLimit);
    ++changes;
  };
  std::vector<int64_t> firsts;
  stage.Run(latents, hooks, [&](int64_t first, const at::Tensor& frames) {
    firsts.push_back(first);
    got.push_back(frames);
    if (first == 0) allocator.Limit(allocator.live() + 1000);
  });
  EXPECT_EQ(changes, 1);
  EXPECT_THAT(firsts, ElementsAre(0, 5));
  EXPECT_TRUE(at::cat(got).equal(at::cat(want)));
}

}  // namespace
}  // namespace kandinsky::model
