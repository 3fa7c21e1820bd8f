// FlopCounter against operations and layers whose work is known by hand, and the networks at full
// size, which the meta device holds without memory.
#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "worker/model/flop_counter.h"
#include "worker/model/meta_kernels.h"
#include "worker/model/model_config.h"
#include "worker/model/pipeline.h"
#include "worker/model/tools/request_flops.h"

namespace kandinsky::model {
namespace {

at::Tensor Values(at::IntArrayRef shape, const at::TensorOptions& options) {
  return at::ones(shape, options);
}

Flops Count(const std::function<void()>& run) {
  const FlopCounter counter;
  run();
  return counter.flops();
}

struct Operation {
  const char* name;
  std::function<void(const at::TensorOptions&)> run;
  Flops want;
};

const std::vector<Operation>& Operations() {
  using Options = at::TensorOptions;
  static const std::vector<Operation> operations = {
      {"nothing that counts",
       [](const Options& o) {
         at::softmax(at::silu(Values({4, 8}, o)) + 1, -1).sum();
         at::layer_norm(Values({4, 8}, o), {8});
       },
       {}},
      {"[3, 4] times [4, 5]",
       [](const Options& o) {
         at::matmul(Values({3, 4}, o), Values({4, 5}, o));
       },
       {2 * 3 * 4 * 5, 0, 0}},
      {"[3, 4] times [4]",
       [](const Options& o) {
         at::matmul(Values({3, 4}, o), Values({4}, o));
       },
       {2 * 3 * 4, 0, 0}},
      {"[2, 3, 4] times [2, 4, 5]",
       [](const Options& o) {
         at::matmul(Values({2, 3, 4}, o), Values({2, 4, 5}, o));
       },
       {2 * 2 * 3 * 4 * 5, 0, 0}},
      {"[2, 1, 3, 4] times [6, 4, 5], broadcast",
       [](const Options& o) {
         at::matmul(Values({2, 1, 3, 4}, o), Values({6, 4, 5}, o));
       },
       {2 * 2 * 6 * 3 * 4 * 5, 0, 0}},
      {"a linear layer with bias",
       [](const Options& o) {
         at::linear(Values({2, 7, 16}, o), Values({24, 16}, o), Values({24}, o));
       },
       {2 * 14 * 16 * 24, 0, 0}},
      {"addmm",
       [](const Options& o) {
         at::addmm(Values({5}, o), Values({3, 4}, o), Values({4, 5}, o));
       },
       {2 * 3 * 4 * 5, 0, 0}},
      {"a 3x3 convolution that keeps the size",
       [](const Options& o) {
         at::conv2d(Values({2, 8, 10, 12}, o), Values({16, 8, 3, 3}, o), Values({16}, o), 1, 1);
       },
       {0, 2LL * 2 * 10 * 12 * 16 * 8 * 9, 0}},
      {"stride 2 over 9x9 padded by 1: 5x5",
       [](const Options& o) {
         at::conv2d(Values({1, 8, 9, 9}, o), Values({16, 8, 3, 3}, o), std::optional<at::Tensor>(),
                    2, 1);
       },
       {0, 2LL * 25 * 16 * 8 * 9, 0}},
      {"dilation 2 over 9x9 unpadded: 5x5",
       [](const Options& o) {
         at::conv2d(Values({1, 8, 9, 9}, o), Values({16, 8, 3, 3}, o), std::optional<at::Tensor>(),
                    at::IntArrayRef{1, 1}, at::IntArrayRef{0, 0}, at::IntArrayRef{2, 2});
       },
       {0, 2LL * 25 * 16 * 8 * 9, 0}},
      {"4 groups",
       [](const Options& o) {
         at::conv2d(Values({1, 8, 6, 6}, o), Values({16, 2, 1, 1}, o), std::optional<at::Tensor>(),
                    at::IntArrayRef{1, 1}, at::IntArrayRef{0, 0}, at::IntArrayRef{1, 1}, 4);
       },
       {0, 2LL * 36 * 16 * 2, 0}},
      {"2x2 transposed with stride 2: every input place meets every weight once",
       [](const Options& o) {
         at::conv_transpose2d(Values({3, 8, 6, 5}, o), Values({8, 16, 2, 2}, o), {}, 2);
       },
       {0, 2LL * 3 * 30 * 8 * 16 * 4, 0}},
      {"over time, kernel (3, 1, 1)",
       [](const Options& o) {
         at::conv3d(Values({2, 8, 5, 4, 4}, o), Values({8, 8, 3, 1, 1}, o), {}, 1,
                    at::IntArrayRef{1, 0, 0});
       },
       {0, 2LL * 2 * 5 * 16 * 8 * 8 * 3, 0}},
      {"attention of 2x3 heads, 10 queries, 20 keys, width 16",
       [](const Options& o) {
         at::scaled_dot_product_attention(Values({2, 3, 10, 16}, o), Values({2, 3, 20, 16}, o),
                                          Values({2, 3, 20, 16}, o));
       },
       {0, 0, 2LL * 6 * 10 * 20 * 32}},
      {"attention with a mask",
       [](const Options& o) {
         at::scaled_dot_product_attention(Values({2, 3, 10, 16}, o), Values({2, 3, 20, 16}, o),
                                          Values({2, 3, 20, 16}, o),
                                          at::ones({1, 1, 10, 20}, o.dtype(at::kBool)));
       },
       {0, 0, 2LL * 6 * 10 * 20 * 32}},
  };
  return operations;
}

TEST(FlopCounterTest, OperationsOnEveryDeviceAndType) {
  at::NoGradGuard no_grad;
  EnsureMetaKernels();
  for (const at::Device device : {at::kCPU, at::kMeta}) {
    for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16, at::kHalf}) {
      if (device.is_cpu() && dtype != at::kFloat) continue;  // not every processor has kernels
      for (const Operation& operation : Operations()) {
        const Flops got =
            Count([&] { operation.run(at::TensorOptions().device(device).dtype(dtype)); });
        EXPECT_EQ(got, operation.want)
            << operation.name << ", " << device << " " << dtype << ": " << got.products << " "
            << got.convolutions << " " << got.attention;
      }
    }
  }
}

TEST(FlopCounterTest, BackwardPasses) {
  const auto leaf = [](at::IntArrayRef shape) { return at::randn(shape).requires_grad_(true); };
  // The gradient of both sides: as much work again for each.
  const Flops product = Count([&] { at::mm(leaf({3, 4}), leaf({4, 5})).sum().backward(); });
  EXPECT_EQ(product, (Flops{3 * 2 * 3 * 4 * 5, 0, 0}));
  const Flops convolution = Count([&] {
    at::conv2d(leaf({2, 8, 9, 9}), leaf({16, 8, 3, 3}), std::optional<at::Tensor>(), 2, 1)
        .sum()
        .backward();
  });
  EXPECT_EQ(convolution, (Flops{0, 3 * 2LL * 2 * 25 * 16 * 8 * 9, 0}));
  const Flops weights_only = Count([&] {
    at::conv2d(at::randn({2, 8, 9, 9}), leaf({16, 8, 3, 3}), std::optional<at::Tensor>(), 2, 1)
        .sum()
        .backward();
  });
  EXPECT_EQ(weights_only, (Flops{0, 2 * 2LL * 2 * 25 * 16 * 8 * 9, 0}));
  const Flops transposed = Count([&] {
    at::conv_transpose2d(leaf({3, 8, 6, 5}), leaf({8, 16, 2, 2}), {}, 2).sum().backward();
  });
  EXPECT_EQ(transposed, (Flops{0, 3 * 2LL * 3 * 30 * 8 * 16 * 4, 0}));
  const Flops attention = Count([&] {
    at::scaled_dot_product_attention(leaf({1, 2, 10, 16}), leaf({1, 2, 20, 16}),
                                     leaf({1, 2, 20, 16}))
        .sum()
        .backward();
  });
  EXPECT_EQ(attention, (Flops{0, 0, 3 * 2LL * 2 * 10 * 20 * 32}));
}

TEST(FlopCounterTest, CountsItsThreadWhileItLives) {
  const auto product = [] { at::mm(at::ones({3, 4}), at::ones({4, 5})); };
  product();
  Flops got;
  {
    const FlopCounter counter;
    EXPECT_EQ(counter.flops(), Flops{});
    product();
    std::thread(product).join();
    got = counter.flops();
    EXPECT_THROW(FlopCounter(), std::logic_error);
    product();
    EXPECT_EQ(counter.flops(), got * 2);
  }
  EXPECT_EQ(got.total(), 2 * 3 * 4 * 5);
  product();
  EXPECT_EQ(Count([] {}), Flops{});
}

// The figures of docs/model.md and docs/gpu.md, in TFLOP and PFLOP.
TEST(RequestFlopsTest, TheFullSizeModel) {
  const ModelConfig config =
      ModelConfig::Load(std::string(KANDINSKY_SOURCE_DIR) + "/models/kandinsky-video-1.0");
  GenerationRequest request;
  request.width = request.height = 512;
  request.steps = 50;
  request.guidance_scale = 5;
  request.interpolation_guidance_scale = 0.25;
  request.passes = 2;
  const RequestFlops flops = CountRequest(config, request, config.text_encoder.max_length);
  // As the published implementation computes them: 1.05 a keyframe, 1.14 a group, 7.7 a frame. Here
  // a video's keyframes share the keys and values of their text, and an enlargement with its
  // convolution is one transposed convolution with 4/9 of the work.
  EXPECT_NEAR(flops.keyframe.total() * 1e-12, 0.975, 0.005);
  EXPECT_NEAR(flops.group.total() * 1e-12, 1.137, 0.005);
  EXPECT_NEAR(flops.frame.total() * 1e-12, 6.663, 0.005);
  const double enlargements =
      2.0 * 9 * (128.0 * 128 * 1024 * 1024 + 256.0 * 256 * 512 * 512 + 512.0 * 512 * 512 * 512);
  EXPECT_NEAR((flops.frame.total() + enlargements * 5 / 9) * 1e-12, 7.7, 0.05);
  EXPECT_NEAR(flops.text.total() * 1e-12, 2.21, 0.01);
  ASSERT_EQ(flops.interpolation.size(), 2u);
  const Flops interpolation = flops.interpolation[0] + flops.interpolation[1];
  EXPECT_NEAR(flops.keyframes.total() * 1e-15, 1.561, 0.005);
  EXPECT_NEAR(interpolation.total() * 1e-15, 8.525, 0.005);
  EXPECT_NEAR(flops.decoding.total() * 1e-15, 1.606, 0.005);
  EXPECT_NEAR(flops.total().total() * 1e-15, 11.694, 0.01);
  // Guidance doubles what a step costs, and a second pass has four times the groups.
  EXPECT_NEAR(flops.keyframes.total() / (flops.keyframe.total() * 1.0), 2 * 16 * 50, 8);
  EXPECT_NEAR(flops.interpolation[1].total() / (flops.interpolation[0].total() * 1.0), 4, 0.01);
}

}  // namespace
}  // namespace kandinsky::model
