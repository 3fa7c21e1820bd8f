// kandinsky-measure's parts, and the random weights that it measures with.
#include <ATen/ATen.h>
#include <ATen/Context.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <string>

#include "worker/model/error.h"
#include "worker/model/layers.h"
#include "worker/model/model_config.h"
#include "worker/model/tools/measure.h"
#include "worker/model/weights_init.h"

namespace kandinsky::model {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

// models/tiny without its weights.
class BareModel {
 public:
  BareModel() : path_(fs::path(testing::TempDir()) / ("bare_" + std::to_string(::getpid()))) {
    fs::remove_all(path_);
    fs::create_directories(path_);
    for (const char* file : {"model.json", "spiece.model"}) {
      fs::copy(std::string(KANDINSKY_SOURCE_DIR) + "/models/tiny/" + file, path_ / file);
    }
  }
  ~BareModel() { fs::remove_all(path_); }
  std::string path() const { return path_.string(); }

 private:
  const fs::path path_;
};

MeasureSetup TinySetup(const BareModel& model, int passes) {
  MeasureSetup setup;
  setup.model_directory = model.path();
  setup.execution.random_weights = 3;
  setup.request.prompt = "a red circle";
  setup.request.seed = 1;
  setup.request.width = setup.request.height = 32;
  setup.request.steps = 3;
  setup.request.guidance_scale = 2;
  setup.request.passes = passes;
  return setup;
}

TEST(RandomWeightsTest, AGeneratorDrawsTheSameDistributions) {
  const at::Generator generator = at::globalContext().defaultGenerator(at::kCPU).clone();
  const std::map<std::string, std::vector<int64_t>> parameters = {
      {"a.weight", {64, 256}},
      {"a.bias", {4096}},
      {"norm.weight", {4096}},
      {"shared.weight", {64, 64}},
      {"q.SelfAttention.q.weight", {64, 256}}};
  for (const auto& [name, shape] : parameters) {
    const at::Tensor host = RandomParameter(name, shape, 5);
    const at::Tensor drawn = RandomParameter(name, shape, 5, generator);
    EXPECT_TRUE(at::equal(drawn, RandomParameter(name, shape, 5, generator))) << name;
    EXPECT_FALSE(at::equal(drawn, RandomParameter(name, shape, 6, generator))) << name;
    EXPECT_FALSE(at::equal(drawn, RandomParameter(name + "x", shape, 5, generator))) << name;
    const double deviation = host.std().item<double>();
    EXPECT_NEAR(drawn.std().item<double>(), deviation, 0.06 * deviation) << name;
    EXPECT_NEAR(drawn.mean().item<double>(), host.mean().item<double>(), 0.1 * deviation) << name;
  }
}

TEST(RandomWeightsTest, FillAModuleThatHasNoMemoryYet) {
  blocks::Linear linear(8, 4, true, at::TensorOptions(at::kMeta));
  const at::Tensor held = linear.weight;  // every holder must see the values
  MakeRandomWeights(linear, 5, "p.", at::kBFloat16, at::kCPU);
  EXPECT_EQ(held.device(), at::kCPU);
  EXPECT_EQ(held.scalar_type(), at::kBFloat16);
  EXPECT_TRUE(at::equal(held, RandomParameter("p.weight", {4, 8}, 5).to(at::kBFloat16)));
}

TEST(MemoryMeterTest, CountsWhatLivesAndThePeak) {
  MemoryMeter meter(at::kCPU);
  const at::Tensor kept = at::empty({1 << 20}, at::kByte);
  { const at::Tensor gone = at::empty({1 << 22}, at::kByte); }
  EXPECT_NEAR(static_cast<double>(meter.current()), 1 << 20, 4096);
  EXPECT_NEAR(static_cast<double>(meter.peak()), (1 << 20) + (1 << 22), 8192);
  meter.ResetPeak();
  EXPECT_EQ(meter.peak(), meter.current());
}

TEST(MeasureTest, ARunWithRandomWeights) {
  const BareModel model;
  for (const int passes : {0, 1}) {
    const MeasureSetup setup = TinySetup(model, passes);
    std::map<std::string, int64_t> told;
    const json run = MeasureRun(setup, [&](const std::string& stage, int64_t done, int64_t parts) {
      EXPECT_LE(done, parts);
      told[stage] = done;
    });
    EXPECT_EQ(run["frames"], passes == 0 ? 16 : 61);
    ASSERT_EQ(run["stages"].size(), passes == 0 ? 2u : 3u);
    int64_t flops = 0;
    for (const json& stage : run["stages"]) {
      EXPECT_TRUE(stage["finite"]) << stage;
      EXPECT_GT(stage["seconds"], 0) << stage;
      EXPECT_GT(stage["weights_bytes"], 1 << 20) << stage;
      EXPECT_GT(stage["peak_bytes"], stage["weights_bytes"]) << stage;
      // What ran is what was foreseen.
      EXPECT_NEAR(stage["counted_flops"].get<double>() / stage["flops"].get<double>(), 1, 0.005)
          << stage;
      flops += stage["flops"].get<int64_t>();
      EXPECT_GT(told[stage["stage"]], 0) << stage;
    }
    EXPECT_EQ(run["flops"], flops);
    EXPECT_EQ(DescribeFlops(setup)["total"], flops);
    EXPECT_EQ(run["stages"][0]["hash"], MeasureRun(setup, nullptr)["stages"][0]["hash"]);
  }
  MeasureSetup broken = TinySetup(model, 0);
  broken.execution.random_weights.reset();
  EXPECT_THROW(MeasureRun(broken, nullptr), ModelError);
}

TEST(MeasureTest, RepeatsHold) {
  const BareModel model;
  const MeasureSetup setup = TinySetup(model, 1);
  int64_t done = 0, parts = 0;
  const json checks = MeasureRepeats(
      setup, 1e-3, [&](const std::string&, int64_t d, int64_t p) { done = d, parts = p; });
  EXPECT_EQ(done, parts);
  EXPECT_EQ(checks.size(), 10u);
  for (const json& check : checks) EXPECT_TRUE(check["passed"]) << check;
}

TEST(MeasureTest, PeaksOfTheCpu) {
  const json peaks = MeasurePeaks(at::kCPU, 0.05);
  ASSERT_EQ(peaks.size(), 3u);
  for (const json& peak : peaks) {
    EXPECT_GT(peak["flops_per_second"], 1e6) << peak;
    EXPECT_GE(peak["size"], 256) << peak;
  }
}

}  // namespace
}  // namespace kandinsky::model
