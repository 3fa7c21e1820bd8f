#include "training/core/loop.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "training/core/distributed.h"
#include "training/core/options.h"
#include "training/core/task.h"
#include "worker/model/error.h"

namespace kandinsky::training {
namespace {

at::Tensor Random(at::IntArrayRef shape, uint64_t seed) {
  return at::randn(shape, at::detail::createCPUGenerator(seed));
}

// Squared distance of a matrix, a kernel, a flat matrix and a vector from where they should be.
class Distance : public Task {
 public:
  Distance() {
    const std::vector<std::vector<int64_t>> shapes = {{24, 40}, {20, 4, 3, 3}, {4, 64}, {40}};
    for (const std::vector<int64_t>& shape : shapes) {
      goals.push_back(Random(shape, goals.size() + 1));
      parameters.push_back(at::zeros(shape).set_requires_grad(true));
    }
  }

  std::string name() const override { return "distance"; }
  nlohmann::json Fingerprint() const override { return {}; }
  std::vector<Objective> Objectives() override {
    std::vector<NamedTensor> named;
    for (size_t i = 0; i < parameters.size(); ++i) {
      named.push_back({"parameter" + std::to_string(i), parameters[i]});
    }
    return {{"distance", std::move(named), /*average=*/false}};
  }
  Batch Load(const BatchKey& key) const override {
    return {{"noise", SampleNoise(key, 1, {24, 40})}};
  }
  Losses Loss(size_t, const Batch& batch, const BatchKey&) override {
    Losses losses;
    losses.total = at::zeros({});
    for (size_t i = 0; i < parameters.size(); ++i) {
      at::Tensor goal = goals[i];
      if (i == 0) goal = goal + noise * batch.at("noise").mean(0);
      losses.total = losses.total + (parameters[i] - goal).square().sum() / 2;
    }
    return losses;
  }
  at::Tensor SampleSheet(uint64_t) override { return at::zeros({4, 4, 3}, at::kByte); }
  void Export(const std::string&) override {}

  std::vector<at::Tensor> goals, parameters;
  double noise = 0;
};

class LoopTest : public testing::Test {
 protected:
  LoopTest() {
    options_.out = testing::TempDir() + "/loop_test";
    std::filesystem::remove_all(options_.out);
    options_.steps = 1;
    options_.batch_size = 2;
    options_.optimizer = Optimizer::kMuon;
    options_.learning_rate = 0.01;
    options_.weight_decay = 0;
    options_.warmup_steps = 0;
    options_.gradient_clip = 0;
    options_.progress = false;
  }
  ~LoopTest() override { std::filesystem::remove_all(options_.out); }

  TrainOptions options_;
  std::unique_ptr<ProcessGroup> group_ = JoinProcessGroup(at::kCPU);
};

TEST_F(LoopTest, MuonMovesMatricesInOrthogonalDirections) {
  Distance task;
  EXPECT_TRUE(Train(task, options_, *group_).finished);
  for (size_t i = 0; i < 2; ++i) {  // the matrix, and the kernel as the matrix [20, 36]
    SCOPED_TRACE(i);
    const at::Tensor goal = task.goals[i].flatten(1);
    const double size = options_.learning_rate * 0.2 * std::sqrt(static_cast<double>(goal.size(1)));
    const at::Tensor moved = task.parameters[i].detach().flatten(1) / size;
    const at::Tensor singular = at::linalg_svdvals(moved);
    EXPECT_GT(singular.min().item<double>(), 0.6);
    EXPECT_LT(singular.max().item<double>(), 1.3);
    // Towards the goal, whose polar factor is the direction that was meant.
    const auto [u, s, v] = at::linalg_svd(goal, /*full_matrices=*/false);
    const at::Tensor polar = at::mm(u, v);
    const double cosine = ((moved * polar).sum() / (moved.norm() * polar.norm())).item<double>();
    EXPECT_GT(cosine, 0.95);
  }
  for (size_t i = 2; i < 4; ++i) {  // by AdamW: each value by the learning rate
    SCOPED_TRACE(i);
    const at::Tensor wanted = task.goals[i].sign() * options_.learning_rate;
    EXPECT_TRUE(at::allclose(task.parameters[i].detach(), wanted, 1e-3, 1e-6));
  }
}

TEST_F(LoopTest, MuonGoesOnWithTheSameNumbers) {
  options_.steps = 6;
  Distance whole, stopped, resumed;
  whole.noise = stopped.noise = resumed.noise = 1;
  Train(whole, options_, *group_);
  std::filesystem::remove_all(options_.out);
  options_.stop_at = 3;
  EXPECT_FALSE(Train(stopped, options_, *group_).finished);
  options_.stop_at = 0;
  EXPECT_EQ(Train(resumed, options_, *group_).step, 6);
  for (size_t i = 0; i < whole.parameters.size(); ++i) {
    EXPECT_TRUE(at::equal(whole.parameters[i], resumed.parameters[i])) << i;
    EXPECT_FALSE(at::equal(whole.parameters[i], stopped.parameters[i])) << i;
  }
}

TEST_F(LoopTest, StateOfAnotherOptimizerIsRefused) {
  Distance task;
  options_.steps = 2;
  options_.stop_at = 1;
  Train(task, options_, *group_);
  options_.optimizer = Optimizer::kAdamW;
  EXPECT_THROW(Train(task, options_, *group_), model::ModelError);
}

TEST(OptimizerTest, Names) {
  EXPECT_EQ(ParseOptimizer("adamw"), Optimizer::kAdamW);
  EXPECT_EQ(ParseOptimizer("muon"), Optimizer::kMuon);
  EXPECT_THROW(ParseOptimizer("sgd"), model::ModelError);
}

}  // namespace
}  // namespace kandinsky::training
