// Results must not depend on the number of threads: bit for bit, whatever the machine has.
#include "worker/model/reproducible.h"

#include <ATen/Parallel.h>
#include <gtest/gtest.h>
#include <torch/torch.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>
#include <tuple>
#include <vector>

#include "worker/model/json_reader.h"
#include "worker/model/pipeline.h"
#include "worker/model/weights_init.h"

namespace kandinsky::model {
namespace {

const std::string kModels = std::string(KANDINSKY_SOURCE_DIR) + "/models/";
constexpr int kOther[] = {1, 3, 5, 7, 12};

at::Tensor WithThreads(int threads, const std::function<at::Tensor()>& run) {
  const int before = at::get_num_threads();
  at::set_num_threads(threads);
  at::Tensor result = run();
  EXPECT_EQ(at::get_num_threads(), threads);  // whatever it was computed with
  at::set_num_threads(before);
  return result;
}

bool SameBits(const at::Tensor& a, const at::Tensor& b) {
  const at::Tensor x = a.contiguous(), y = b.contiguous();
  return x.sizes() == y.sizes() && x.scalar_type() == y.scalar_type() &&
         std::memcmp(x.const_data_ptr(), y.const_data_ptr(), x.nbytes()) == 0;
}

at::Tensor ChannelsLast(at::IntArrayRef shape) {
  return at::randn(shape).contiguous(shape.size() == 5 ? at::MemoryFormat::ChannelsLast3d
                                                       : at::MemoryFormat::ChannelsLast);
}

TEST(Reproducible, OperationsGiveWhatTwoThreadsGive) {
  torch::manual_seed(1);
  const at::NoGradGuard no_grad;
  struct Case {
    std::string name;
    std::function<at::Tensor()> run;
  };
  std::vector<Case> cases;
  const auto convolution = [&](at::IntArrayRef input, at::IntArrayRef kernel, int64_t stride) {
    const at::Tensor x = ChannelsLast(input), w = ChannelsLast(kernel), b = at::randn(kernel[0]);
    std::vector<int64_t> padding, strides(kernel.size() - 2, stride);
    for (size_t i = 2; i < kernel.size(); ++i) padding.push_back(stride == 1 ? kernel[i] / 2 : 0);
    cases.push_back({c10::str("convolution ", input, " ", kernel),
                     [=] { return Convolution(x, w, b, strides, padding); }});
  };
  // 1x1: another algorithm with one thread.
  convolution({2, 256, 16, 16}, {64, 256, 1, 1}, 1);
  convolution({2, 512, 8, 8}, {512, 512, 1, 1}, 1);
  convolution({1, 512, 4, 16, 16}, {256, 512, 1, 1, 1}, 1);
  convolution({1, 512, 3, 16, 16}, {512, 512, 3, 1, 1}, 1);
  // Blocks by the number of threads.
  convolution({1, 64, 33, 33}, {64, 64, 2, 2}, 1);
  convolution({4, 64, 17, 17}, {64, 64, 2, 2}, 1);
  convolution({3, 96, 20, 12}, {96, 96, 3, 3}, 1);
  convolution({2, 128, 16, 16}, {128, 128, 2, 2}, 2);
  for (const auto& [frames, channels, side] : std::vector<std::tuple<int64_t, int64_t, int64_t>>{
           {1, 128, 8}, {1, 64, 16}, {1, 32, 32}, {4, 64, 16}, {8, 64, 16}, {2, 256, 16}}) {
    const at::Tensor x = ChannelsLast({frames, channels, side, side});
    const at::Tensor w = at::randn({channels, channels, 4, 4}), b = at::randn({channels});
    cases.push_back({c10::str("transposed ", x.sizes()), [=] {
                       return TransposedConvolution(x, w, b, {2, 2}, {1, 1});
                     }});
  }
  const at::Tensor x = at::randn({2, 77, 512}), w = at::randn({256, 512});
  cases.push_back({"linear", [=] { return LinearProduct(x, w, at::Tensor()); }});
  const at::Tensor q = at::randn({2, 1, 1, 64}), k = at::randn({2, 1, 77, 64});
  const at::Tensor bias = at::randn({2, 1, 1, 77});
  // Parts of threads that are no whole vectors.
  const at::Tensor y = at::randn({3, 5, 7, 1001});
  cases.push_back({"silu", [=] { return Silu(y); }});
  cases.push_back({"gelu", [=] { return GeluTanh(y); }});
  cases.push_back({"attention of one query", [=] { return AttentionProduct(q, k, k, bias); }});

  for (const Case& c : cases) {
    const at::Tensor want = [&] {
      const ReproducibleScope scope;
      return WithThreads(2, c.run);
    }();
    for (const int threads : kOther) {
      const ReproducibleScope scope;
      EXPECT_TRUE(SameBits(WithThreads(threads, c.run), want)) << c.name << ", " << threads;
      EXPECT_TRUE(SameBits(WithThreads(threads, c.run), want)) << c.name << " again, " << threads;
    }
  }
}

// So that the test above can fail: plain ATen differs with one thread on every x86 machine.
TEST(Reproducible, NothingChangesOutsideOfAScope) {
  const at::Tensor x = ChannelsLast({2, 256, 16, 16}), w = ChannelsLast({64, 256, 1, 1});
  const auto ours = [&] { return Convolution(x, w, {}, {1, 1}, {0, 0}); };
  const auto plain = [&] { return at::conv2d(x, w); };
  for (const int threads : {1, 2, 3}) {
    EXPECT_TRUE(SameBits(WithThreads(threads, ours), WithThreads(threads, plain))) << threads;
  }
}

// models/tiny, or random weights with its config changed by `change`.
class ModelDirectory {
 public:
  explicit ModelDirectory(const std::function<void(nlohmann::json&)>& change)
      : path_(::testing::TempDir() + "/reproducible_test." + std::to_string(getpid())) {
    nlohmann::json json = ReadJsonFile(kModels + "tiny/model.json");
    change(json);
    WriteRandomModel(ModelConfig::FromJson(json), kModels + "tiny", path_, 1);
  }
  ~ModelDirectory() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  const std::string& path() const { return path_; }

 private:
  const std::string path_;
};

// What every stage of a model makes of one request.
struct Made {
  at::Tensor keyframes, preview, clip, frames;
};

Made Make(const std::string& model, int threads) {
  GenerationRequest request;
  request.prompt = "a red circle moves to the right";
  request.negative_prompt = "a blue square";
  request.seed = 3;
  request.width = 64;
  request.height = 48;
  request.steps = 3;
  request.guidance_scale = 4;
  request.interpolation_guidance_scale = 0.5;
  request.passes = 1;
  Made made;
  made.keyframes = WithThreads(threads, [&] {
    KeyframeStage stage(model);
    at::Tensor keyframes = stage.Run(request);
    made.preview = stage.Preview(keyframes);
    return keyframes;
  });
  made.clip =
      WithThreads(threads, [&] { return InterpolationStage(model).Run(made.keyframes, request); });
  made.frames = WithThreads(threads, [&] {
    std::vector<at::Tensor> chunks;
    DecodingStage(model).Run(made.clip, {}, [&](int64_t, const at::Tensor& decoded) {
      chunks.push_back(decoded.clone());
    });
    return at::cat(chunks);
  });
  return made;
}

void ExpectEqualWithAllNumbersOfThreads(const std::string& model) {
  const Made want = Make(model, 2);
  for (const int threads : {1, 3, 5}) {
    const Made made = Make(model, threads);
    EXPECT_TRUE(SameBits(made.keyframes, want.keyframes)) << threads;
    EXPECT_TRUE(SameBits(made.preview, want.preview)) << threads;
    EXPECT_TRUE(SameBits(made.clip, want.clip)) << threads;
    EXPECT_TRUE(SameBits(made.frames, want.frames)) << threads;
  }
}

TEST(Reproducible, StagesOfTheShippedModel) {
  ExpectEqualWithAllNumbersOfThreads(kModels + "tiny");
}

TEST(Reproducible, StagesWithTheVideoDecoder) {
  const ModelDirectory model([](nlohmann::json& json) { json["decoding"]["decoder"] = "video"; });
  ExpectEqualWithAllNumbersOfThreads(model.path());
}

// Channels as many as in the published networks' inner layers, where 1x1 convolutions differ.
TEST(Reproducible, StagesWithWideLayers) {
  const ModelDirectory model([](nlohmann::json& json) {
    json["keyframe_unet"]["model_channels"] = 128;
    json["keyframe_unet"]["init_channels"] = 128;
    json["keyframe_unet"]["dim_mult"] = {1, 2};
  });
  ExpectEqualWithAllNumbersOfThreads(model.path());
}

}  // namespace
}  // namespace kandinsky::model
