// Options of execution.h: how they are read, and what each does to a result.
#include "worker/model/execution.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>
#include <unistd.h>

#include <filesystem>
#include <string>
#include <vector>

#include "worker/model/error.h"
#include "worker/model/pipeline.h"
#include "worker/model/weights_init.h"

namespace kandinsky::model {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

const std::string kModels = std::string(KANDINSKY_SOURCE_DIR) + "/models/";

// A model directory with random weights, made once and removed at the end.
const std::string& Model() {
  struct Directory {
    Directory() : path(::testing::TempDir() + "/execution_test." + std::to_string(getpid())) {
      WriteRandomModel(ModelConfig::Load(kModels + "tiny"), kModels + "tiny", path, 1);
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
  request.prompt = "a red car, рыжий кот";
  request.seed = 7;
  request.width = 32;
  request.height = 48;
  request.steps = 3;
  request.guidance_scale = 5;
  request.interpolation_guidance_scale = 0.25;
  request.passes = passes;
  return request;
}

std::string ErrorOf(const ExecutionFlagValues& values) {
  try {
    ParseExecutionOptions(values);
  } catch (const ModelError& error) {
    EXPECT_EQ(error.kind(), ModelError::Kind::kInvalidArgument);
    return error.what();
  }
  return "";
}

TEST(ExecutionOptions, DefaultsOfFlagsAreThoseOfTheStruct) {
  const ExecutionOptions parsed = ParseExecutionOptions({{"device", "cpu"}});
  const ExecutionOptions plain;
  EXPECT_EQ(parsed.placement.device, plain.placement.device);
  EXPECT_EQ(parsed.placement.dtype, plain.placement.dtype);
  EXPECT_EQ(parsed.guidance_passes, plain.guidance_passes);
  EXPECT_EQ(parsed.decode_bytes, plain.decode_bytes);
  EXPECT_EQ(parsed.second_device, plain.second_device);
  EXPECT_EQ(parsed.cuda_graphs, plain.cuda_graphs);
  EXPECT_EQ(parsed.cudnn_autotune, plain.cudnn_autotune);
  EXPECT_EQ(parsed.text_encoder_device, plain.text_encoder_device);
  EXPECT_EQ(parsed.text_encoder_weights, plain.text_encoder_weights);
  EXPECT_EQ(parsed.interpolation_window, plain.interpolation_window);
  EXPECT_EQ(parsed.device_memory_bytes, plain.device_memory_bytes);
}

TEST(ExecutionOptions, AreReadAndChecked) {
  const ExecutionOptions options = ParseExecutionOptions({{"device", "cpu"},
                                                          {"dtype", "bfloat16"},
                                                          {"guidance_passes", "2"},
                                                          {"text_encoder_device", "offload"},
                                                          {"text_encoder_weights", "int8"},
                                                          {"interpolation_window", "8"},
                                                          {"device_memory_bytes", "24GB"},
                                                          {"decode_bytes", "1.5GiB"}});
  EXPECT_EQ(options.placement.dtype, at::kBFloat16);
  EXPECT_EQ(options.guidance_passes, 2);
  EXPECT_EQ(options.decode_bytes, 1610612736);
  EXPECT_EQ(options.text_encoder_device, ExecutionOptions::TextEncoderDevice::kOffload);
  EXPECT_EQ(options.text_encoder_weights, ExecutionOptions::TextEncoderWeights::kInt8);
  EXPECT_EQ(options.interpolation_window, 8);
  EXPECT_EQ(options.device_memory_bytes, 24000000000);
  for (const auto& [name, value] :
       std::vector<std::pair<std::string, std::string>>{{"device", "quantum"},
                                                        {"dtype", "int3"},
                                                        {"guidance_passes", "3"},
                                                        {"guidance_passes", "two"},
                                                        {"text_encoder_device", "gpu"},
                                                        {"text_encoder_weights", "int4"},
                                                        {"interpolation_window", "-1"},
                                                        {"device_memory_bytes", "much"},
                                                        {"decode_bytes", "-1"},
                                                        {"cuda_graphs", "yes"},
                                                        {"cudnn_autotune", "auto"}}) {
    ExecutionFlagValues values = {{"device", "cpu"}};
    values[name] = value;
    EXPECT_THAT(ErrorOf(values),
                AllOf(HasSubstr(name), HasSubstr("\"" + value + "\""), HasSubstr("must be")))
        << name;
  }
  EXPECT_THAT(ErrorOf({{"colour", "red"}}), HasSubstr("colour"));
  ExecutionOptions bad;
  bad.guidance_passes = 0;
  EXPECT_THROW(KeyframeStage(Model(), bad), ModelError);
}

TEST(ExecutionOptions, TwoDevices) {
  ExecutionOptions options = ParseExecutionOptions({{"device", "cpu,cpu"}});
  EXPECT_EQ(options.placement.device, at::kCPU);
  ASSERT_TRUE(options.second_device.has_value());
  EXPECT_EQ(*options.second_device, at::kCPU);
  for (const char* device :
       {"auto,cpu", "cpu,auto", "cpu,", ",cpu", "cpu,cpu,cpu", "cpu,cuda:99"}) {
    EXPECT_THAT(ErrorOf({{"device", device}}), HasSubstr("device is")) << device;
  }
  options.second_device = at::Device(at::kMeta);
  EXPECT_THROW(ValidateExecutionOptions(options), ModelError);
}

TEST(ExecutionOptions, AutotuningIsForTheProcess) {
  ExecutionOptions options;
  options.cudnn_autotune = true;
  ApplyToProcess(options);
  EXPECT_TRUE(at::globalContext().benchmarkCuDNN());
  EXPECT_TRUE(at::globalContext().deterministicCuDNN());
  ApplyToProcess({});
  EXPECT_FALSE(at::globalContext().benchmarkCuDNN());
  EXPECT_TRUE(at::globalContext().deterministicCuDNN());
}

TEST(ExecutionOptions, ASecondDeviceGivesTheBitsOfTwoPasses) {
  const ExecutionOptions passes = {.guidance_passes = 2}, devices = {.second_device = at::kCPU};
  const at::Tensor keyframes = KeyframeStage(Model(), passes).Run(Request(1));
  EXPECT_TRUE(at::equal(KeyframeStage(Model(), devices).Run(Request(1)), keyframes));
  EXPECT_TRUE(at::equal(InterpolationStage(Model(), devices).Run(keyframes, Request(1)),
                        InterpolationStage(Model(), passes).Run(keyframes, Request(1))));
}

TEST(ParseBytes, KnowsUnits) {
  EXPECT_EQ(ParseBytes("x", "0"), 0);
  EXPECT_EQ(ParseBytes("x", "1500"), 1500);
  EXPECT_EQ(ParseBytes("x", "24GB"), 24000000000);
  EXPECT_EQ(ParseBytes("x", "0.5 KiB"), 512);
  EXPECT_EQ(ParseBytes("x", "2TiB"), int64_t{2} << 40);
  for (const char* text : {"", "GB", "1.5", "1XB", "1G", "-1", "nan", "1e30GB", "2000TB", "1 2"}) {
    EXPECT_THROW(ParseBytes("x", text), ModelError) << text;
  }
}

TEST(ExecutionOptions, GuidanceInTwoPassesGivesTheSame) {
  const ExecutionOptions two = {.guidance_passes = 2};
  const at::Tensor keyframes = KeyframeStage(Model()).Run(Request(1));
  EXPECT_LT((KeyframeStage(Model(), two).Run(Request(1)) - keyframes).abs().max().item<double>(),
            1e-4);
  const at::Tensor clip = InterpolationStage(Model()).Run(keyframes, Request(1));
  EXPECT_LT((InterpolationStage(Model(), two).Run(keyframes, Request(1)) - clip)
                .abs()
                .max()
                .item<double>(),
            1e-4);
}

TEST(ExecutionOptions, TextIsPlacedByBothOptions) {
  using Device = ExecutionOptions::TextEncoderDevice;
  using Weights = ExecutionOptions::TextEncoderWeights;
  const at::Device gpu(at::kCUDA, 0), cpu(at::kCPU);  // nothing touches it
  const auto place = [&](Device device, Weights weights, at::ScalarType dtype = at::kHalf) {
    return PlaceText({.placement = {gpu, dtype},
                      .text_encoder_device = device,
                      .text_encoder_weights = weights});
  };
  const auto expect = [](const TextPlacement& got, at::Device kept, at::ScalarType kept_dtype,
                         at::Device computed, at::ScalarType computed_dtype, bool fetched) {
    EXPECT_EQ(got.kept, kept);
    EXPECT_EQ(got.kept_dtype, kept_dtype);
    EXPECT_EQ(got.computed, computed);
    EXPECT_EQ(got.computed_dtype, computed_dtype);
    EXPECT_EQ(got.fetched, fetched);
  };
  expect(place(Device::kSame, Weights::kSame), gpu, at::kHalf, gpu, at::kHalf, false);
  expect(place(Device::kCpu, Weights::kSame), cpu, at::kHalf, cpu, at::kFloat, false);
  expect(place(Device::kOffload, Weights::kSame), cpu, at::kHalf, gpu, at::kHalf, true);
  expect(place(Device::kSame, Weights::kBfloat16), gpu, at::kBFloat16, gpu, at::kBFloat16, false);
  expect(place(Device::kSame, Weights::kBfloat16, at::kFloat), gpu, at::kBFloat16, gpu, at::kFloat,
         false);
  expect(place(Device::kOffload, Weights::kInt8), cpu, at::kHalf, gpu, at::kHalf, true);
  EXPECT_TRUE(place(Device::kOffload, Weights::kInt8).int8);
  expect(PlaceText({.text_encoder_device = Device::kOffload}), cpu, at::kFloat, cpu, at::kFloat,
         false);
}

TEST(ExecutionOptions, TextEncoderWeightsChangeKeyframesALittle) {
  using Weights = ExecutionOptions::TextEncoderWeights;
  const at::Tensor keyframes = KeyframeStage(Model()).Run(Request(0));
  for (const Weights weights : {Weights::kBfloat16, Weights::kInt8}) {
    const at::Tensor other =
        KeyframeStage(Model(), {.text_encoder_weights = weights}).Run(Request(0));
    const double error =
        ((other - keyframes).pow(2).mean() / keyframes.pow(2).mean()).sqrt().item<double>();
    EXPECT_GT(error, 0);
    EXPECT_LT(error, 0.1);
  }
  const ExecutionOptions offload = {.text_encoder_device =
                                        ExecutionOptions::TextEncoderDevice::kOffload};
  EXPECT_TRUE(KeyframeStage(Model(), offload).Run(Request(0)).equal(keyframes));
}

TEST(ExecutionOptions, WindowsOfGroupsGiveTheWhole) {
  const at::Tensor keyframes = KeyframeStage(Model()).Run(Request(1));
  const at::Tensor clip = InterpolationStage(Model()).Run(keyframes, Request(1));
  for (const int passes : {1, 2}) {
    for (const int64_t window : {1, 4, 7, 14, 15, 100}) {
      const ExecutionOptions options = {.interpolation_window = window, .guidance_passes = passes};
      const double difference =
          (InterpolationStage(Model(), options).Run(keyframes, Request(1)) - clip)
              .abs()
              .max()
              .item<double>();
      std::printf("window %lld, %d passes: %g\n", static_cast<long long>(window), passes,
                  difference);
      EXPECT_LT(difference, 1e-4) << window;
    }
  }
}

TEST(ExecutionOptions, DecodingInLessMemoryGivesTheSame) {
  const at::Tensor latents = at::randn({5, 4, 6, 4});
  const auto decode = [&](const ExecutionOptions& options) {
    std::vector<at::Tensor> chunks;
    DecodingStage(Model(), options).Run(latents, {}, [&](int64_t, const at::Tensor& frames) {
      chunks.push_back(frames.to(at::kInt));
    });
    return at::cat(chunks);
  };
  const at::Tensor whole = decode({});
  for (const int64_t bytes : {int64_t{20000}, int64_t{400000}}) {
    EXPECT_LE((decode({.decode_bytes = bytes}) - whole).abs().max().item<int>(), 1) << bytes;
  }
}

}  // namespace
}  // namespace kandinsky::model
