// Planned memory of both U-Net stages beside what the fake device measures, and options of the text
// encoder on it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "tests/support/fake_device/fake_device.h"
#include "worker/model/memory_plan.h"
#include "worker/model/pipeline.h"
#include "worker/model/weights_init.h"

namespace kandinsky::model {
namespace {

using ::testing::ElementsAre;

const std::string kModels = std::string(KANDINSKY_SOURCE_DIR) + "/models/";

class MemoryOnDevice : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    fake::RegisterFakeDevice();
    directory_ =
        new std::string(::testing::TempDir() + "/memory_device_test." + std::to_string(getpid()));
    config_ = new ModelConfig(ModelConfig::Load(kModels + "tiny"));
    for (UnetConfig* unet : {&config_->keyframe_unet, &config_->interpolation_unet}) {
      unet->model_channels = 64;
      unet->init_channels = 64;
      unet->groups = 16;
      unet->head_dim = 32;
    }
    config_->interpolation_steps_max = 0;
    config_->defaults.width = config_->defaults.height = 128;
    WriteRandomModel(*config_, kModels + "tiny", *directory_, 1);
  }
  static void TearDownTestSuite() {
    std::error_code ignored;
    std::filesystem::remove_all(*directory_, ignored);
    delete directory_;
    delete config_;
  }
  void TearDown() override { fake::LimitMemory(fake::kMemoryBytes); }

  static ExecutionOptions OnDevice(at::ScalarType dtype = at::kFloat) {
    return {.placement = {fake::FakeDevice(), dtype}};
  }

  static GenerationRequest Request(int passes) {
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

  struct Measured {
    int64_t weights = 0, activations = 0;
  };
  template <typename Stage>
  static Measured Measure(const ExecutionOptions& execution,
                          const std::function<void(Stage&)>& run) {
    const int64_t before = fake::ReadCounters().live_bytes;
    Stage stage(*directory_, execution);
    Measured measured;
    measured.weights = fake::ReadCounters().live_bytes - before;
    fake::ResetPeaks();
    const int64_t start = fake::ReadCounters().live_bytes;
    run(stage);
    measured.activations = fake::ReadCounters().peak_bytes - start;
    return measured;
  }

  static void Compare(const StageMemory& plan, int64_t planned, const Measured& measured,
                      const std::string& what) {
    const auto ratio = [&](const char* part, int64_t expected, int64_t got, double tolerance) {
      const double value = static_cast<double>(expected) / static_cast<double>(got);
      std::printf("%-48s %-11s planned %8.3f MB, measured %8.3f MB, ratio %.3f\n", what.c_str(),
                  part, static_cast<double>(expected) / 1e6, static_cast<double>(got) / 1e6, value);
      EXPECT_NEAR(value, 1, tolerance) << what << " " << part;
    };
    ratio("weights", plan.weights_bytes, measured.weights, 0.02);
    ratio("activations", planned, measured.activations, 0.1);
  }

  static std::string* directory_;
  static ModelConfig* config_;
};

std::string* MemoryOnDevice::directory_ = nullptr;
ModelConfig* MemoryOnDevice::config_ = nullptr;

TEST_F(MemoryOnDevice, PlanIsWhatTheDeviceMeasures) {
  const at::Tensor keyframes = at::randn({16, 4, 16, 16});
  for (const at::ScalarType dtype : {at::kFloat, at::kHalf}) {
    const std::string type = c10::toString(dtype);
    for (const int passes : dtype == at::kFloat ? std::vector<int>{1, 2} : std::vector<int>{1}) {
      ExecutionOptions execution = OnDevice(dtype);
      execution.guidance_passes = passes;
      {
        const StageMemory plan =
            PlanStage(*config_, PlannedStage::kKeyframes, {128, 128, 2}, execution);
        EXPECT_GT(plan.allowance_bytes, 0);
        Compare(
            plan, std::max(plan.phases.at(0).peak_bytes, plan.phases.at(1).peak_bytes),
            Measure<KeyframeStage>(execution, [](KeyframeStage& stage) { stage.Run(Request(0)); }),
            "keyframes, " + type + ", passes " + std::to_string(passes));
      }
      for (const int64_t window :
           passes == 1 ? std::vector<int64_t>{0} : std::vector<int64_t>{0, 4}) {
        execution.interpolation_window = window;
        const StageMemory plan =
            PlanStage(*config_, PlannedStage::kInterpolation, {128, 128, 1}, execution);
        Compare(
            plan, plan.activations_bytes(),
            Measure<InterpolationStage>(
                execution, [&](InterpolationStage& stage) { stage.Run(keyframes, Request(1)); }),
            "interpolation, " + type + ", passes " + std::to_string(passes) + ", window " +
                std::to_string(window));
      }
    }
  }
}

TEST_F(MemoryOnDevice, PlanOfDecodingIsWhatTheDeviceMeasures) {
  const at::Tensor latents = at::randn({16, 4, 16, 16});
  for (const int64_t bytes : {int64_t{0}, int64_t{8000000}, int64_t{1000000}}) {
    ExecutionOptions execution = OnDevice();
    execution.decode_bytes = bytes;
    const StageMemory plan = PlanStage(*config_, PlannedStage::kDecoding, {128, 128, 0}, execution);
    Compare(plan, plan.activations_bytes(),
            Measure<DecodingStage>(execution,
                                   [&](DecodingStage& stage) {
                                     stage.Run(latents, {}, [](int64_t, const at::Tensor&) {});
                                   }),
            "decoding, bound " + std::to_string(bytes));
  }
}

TEST_F(MemoryOnDevice, OffloadedTextGivesTheSameAndItsWeightsStayOnTheHost) {
  const at::Tensor same = KeyframeStage(*directory_, OnDevice()).Run(Request(0));
  ExecutionOptions offload = OnDevice();
  offload.text_encoder_device = ExecutionOptions::TextEncoderDevice::kOffload;
  const StageMemory plan = PlanStage(*config_, PlannedStage::kKeyframes, {128, 128, 0}, offload);
  EXPECT_GT(plan.host_weights_bytes, 0);
  at::Tensor got;
  const Measured measured =
      Measure<KeyframeStage>(offload, [&](KeyframeStage& stage) { got = stage.Run(Request(0)); });
  EXPECT_TRUE(got.equal(same));
  Compare(plan, std::max(plan.phases.at(0).peak_bytes, plan.phases.at(1).peak_bytes), measured,
          "keyframes, offload");
  ExecutionOptions cpu = OnDevice();
  cpu.text_encoder_device = ExecutionOptions::TextEncoderDevice::kCpu;
  EXPECT_LT((KeyframeStage(*directory_, cpu).Run(Request(0)) - same).abs().max().item<double>(),
            1e-3);
  ExecutionOptions quantized = OnDevice();
  quantized.text_encoder_weights = ExecutionOptions::TextEncoderWeights::kInt8;
  const at::Tensor on_device = KeyframeStage(*directory_, quantized).Run(Request(0));
  quantized.text_encoder_device = ExecutionOptions::TextEncoderDevice::kOffload;
  EXPECT_TRUE(KeyframeStage(*directory_, quantized).Run(Request(0)).equal(on_device));
}

TEST_F(MemoryOnDevice, RunningOutIsAnsweredWithTheNextCheaperPlan) {
  const at::Tensor keyframes = at::randn({16, 4, 16, 16});
  at::Tensor want;
  const ExecutionOptions execution = OnDevice();
  const int64_t whole = Measure<InterpolationStage>(execution, [&](InterpolationStage& stage) {
                          want = stage.Run(keyframes, Request(1));
                        }).activations;
  InterpolationStage stage(*directory_, execution);
  std::vector<std::string> changes;
  StageHooks hooks;
  hooks.plan_changed = [&](const std::string& flags, const std::string&) {
    changes.push_back(flags);
  };
  fake::LimitMemory(fake::ReadCounters().live_bytes + whole * 9 / 10);
  const at::Tensor got = stage.Run(keyframes, Request(1), hooks);
  EXPECT_THAT(changes, ElementsAre("--interpolation_window=16"));
  EXPECT_LT((got - want).abs().max().item<double>(), 1e-4);
}

}  // namespace
}  // namespace kandinsky::model
