// Loading into modules: what fits, what is said when it does not, and how much memory it takes.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <malloc.h>
#include <torch/nn/module.h>

#include <cstdio>
#include <fstream>
#include <map>
#include <memory>
#include <string>

#include "tests/unit/model/checkpoint_files.h"
#include "worker/model/checkpoint/load.h"
#include "worker/model/checkpoint/safetensors.h"
#include "worker/model/error.h"

namespace kandinsky::model {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using testing::TemporaryFolder;

// Parameters "a.weight" [3, 2], "a.bias" [3] and buffer "steps" (one integer).
class Small : public torch::nn::Module {
 public:
  explicit Small(const at::TensorOptions& options = {}) {
    auto child = std::make_shared<torch::nn::Module>();
    weight = child->register_parameter("weight", at::empty({3, 2}, options));
    bias = child->register_parameter("bias", at::empty({3}, options));
    register_module("a", child);
    steps = register_buffer("steps", at::zeros({1}, options.dtype(at::kLong)));
  }
  at::Tensor forward(const at::Tensor& x) const { return at::linear(x, weight, bias); }

  at::Tensor weight, bias, steps;
};

std::unique_ptr<TensorSource> Source(const TemporaryFolder& folder,
                                     const std::map<std::string, at::Tensor>& tensors) {
  WriteSafetensors(folder.Path("x.safetensors"), tensors);
  return OpenCheckpoint(folder.Path("x.safetensors"));
}

TEST(LoadIntoTest, FillsMetaAndRealModulesInAnyType) {
  const TemporaryFolder folder;
  const at::Tensor weight = at::randn({3, 2}), bias = at::randn({3}), x = at::randn({4, 2});
  const auto source = Source(folder, {{"net.a.weight", weight},
                                      {"net.a.bias", bias},
                                      {"net.steps", at::full({1}, 7, at::kLong)},
                                      {"other", at::ones({1})}});
  struct Case {
    at::DeviceType device;
    at::ScalarType built, loaded;
  };
  for (const Case& c :
       {Case{at::kMeta, at::kFloat, at::kFloat}, Case{at::kCPU, at::kFloat, at::kFloat},
        Case{at::kMeta, at::kBFloat16, at::kFloat}, Case{at::kMeta, at::kFloat, at::kBFloat16},
        Case{at::kCPU, at::kHalf, at::kDouble}}) {
    Small module(at::TensorOptions(c.device).dtype(c.built));
    LoadInto(module, *source, {.prefix = "net.", .dtype = c.loaded});
    EXPECT_TRUE(at::equal(module.weight, weight.to(c.loaded)));
    EXPECT_TRUE(at::equal(module.steps, at::full({1}, 7, at::kLong)));
    EXPECT_TRUE(module.weight.device().is_cpu());
    EXPECT_TRUE(module.weight.requires_grad());
    // The module computes and differentiates as one that was built in place.
    const at::Tensor y = module.forward(x.to(c.loaded));
    EXPECT_TRUE(at::equal(y, at::linear(x.to(c.loaded), weight.to(c.loaded), bias.to(c.loaded))));
    y.sum().backward();
    EXPECT_EQ(module.weight.grad().sizes(), module.weight.sizes());
    EXPECT_EQ(module.named_parameters()["a.weight"].data_ptr(), module.weight.data_ptr());
  }
}

TEST(LoadIntoTest, WithoutADtypeEveryParameterKeepsItsOwn) {
  const TemporaryFolder folder;
  const auto source = Source(folder, {{"a.weight", at::ones({3, 2})}, {"a.bias", at::ones({3})}});
  Small module(at::TensorOptions(at::kMeta).dtype(at::kHalf));
  LoadInto(module, *source);
  EXPECT_EQ(module.weight.scalar_type(), at::kHalf);
}

TEST(LoadIntoTest, ListsEverythingThatDoesNotFitAndChangesNothing) {
  const TemporaryFolder folder;
  const auto source = Source(folder, {{"a.weight", at::ones({2, 3})},
                                      {"extra.z", at::ones({1})},
                                      {"extra.b", at::ones({2})},
                                      {"ignored.c", at::ones({2})},
                                      {"steps", at::ones({1})}});
  Small module(at::TensorOptions(at::kCPU).dtype(at::kFloat));
  const at::Tensor before = module.weight.detach().clone();
  try {
    LoadInto(module, *source, {.ignored = {"ignored."}});
    FAIL() << "it was loaded";
  } catch (const ModelError& error) {
    EXPECT_EQ(error.kind(), ModelError::Kind::kDataLoss);
    EXPECT_EQ(error.what(), folder.Path("x.safetensors") +
                                " does not fit the model: 1 missing, 2 unexpected, 2 mis-shaped\n"
                                "  missing: a.bias [3]\n"
                                "  unexpected: extra.b [2]\n"
                                "  unexpected: extra.z [1]\n"
                                "  mis-shaped: a.weight is [2, 3], must be [3, 2]\n"
                                "  mis-shaped: steps is float32, must be int64");
  }
  EXPECT_TRUE(at::equal(module.weight, before));
}

TEST(LoadIntoTest, LongListsAreCutAndCounted) {
  const TemporaryFolder folder;
  std::map<std::string, at::Tensor> tensors = {{"a.weight", at::ones({3, 2})},
                                               {"a.bias", at::ones({3})}};
  for (int i = 0; i < 1000; ++i) tensors["x" + std::to_string(i)] = at::ones({1});
  const auto source = Source(folder, tensors);
  const std::string text = DescribeMismatch(Small(), *source);
  EXPECT_THAT(text, HasSubstr("1000 unexpected"));
  EXPECT_THAT(text, HasSubstr("unexpected: and 800 more"));
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 201);
}

TEST(LoadIntoTest, OtherNamesOfATensor) {
  const TemporaryFolder folder;
  const at::Tensor own = at::full({3}, 1.0), other = at::full({3}, 2.0);
  struct Case {
    std::map<std::string, at::Tensor> biases;
    double want;  // 0: an error
  };
  for (const Case& c : {Case{{{"a.bias", own}}, 1}, Case{{{"tied", other}}, 2},
                        Case{{{"a.bias", own}, {"tied", other}}, 1}, Case{{}, 0}}) {
    std::map<std::string, at::Tensor> tensors = c.biases;
    tensors["a.weight"] = at::ones({3, 2});
    const auto source = Source(folder, tensors);
    Small module;
    const LoadOptions options = {.aliases = {{"a.bias", {"tied"}}}};
    if (c.want == 0) {
      EXPECT_THROW(LoadInto(module, *source, options), ModelError);
    } else {
      LoadInto(module, *source, options);
      EXPECT_EQ(module.bias[0].item<double>(), c.want);
    }
  }
}

TEST(LoadNullEmbeddingTest, TakesBothShapes) {
  const TemporaryFolder folder;
  const at::Tensor value = at::randn({4}).to(at::kHalf);
  const auto source = Source(folder, {{"flat", value},
                                      {"row", value.view({1, 4})},
                                      {"two", at::ones({2, 4})},
                                      {"integer", at::ones({4}, at::kLong)}});
  for (const char* name : {"flat", "row"}) {
    EXPECT_TRUE(at::equal(LoadNullEmbedding(*source, name, 4), value.to(at::kFloat))) << name;
  }
  EXPECT_THROW(LoadNullEmbedding(*source, "flat", 5), ModelError);
  EXPECT_THROW(LoadNullEmbedding(*source, "two", 4), ModelError);
  EXPECT_THROW(LoadNullEmbedding(*source, "integer", 4), ModelError);
  EXPECT_THROW(LoadNullEmbedding(*source, "none", 4), ModelError);
}

// ---- memory ----

constexpr int64_t kMiB = 1 << 20;
constexpr int kTensors = 48;
constexpr int64_t kTensorBytes = 4 * kMiB;

// One line of /proc/self/status, in bytes.
int64_t Status(const std::string& key) {
  std::ifstream file("/proc/self/status");
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with(key + ":")) return std::stoll(line.substr(key.size() + 1)) * 1024;
  }
  return -1;
}

// Highest resident memory, file pages included, while `work` runs, above that before it.
template <typename Work>
int64_t PeakGrowth(const Work& work) {
  ::malloc_trim(0);
  std::ofstream("/proc/self/clear_refs") << "5";  // VmHWM starts again from here
  const int64_t before = Status("VmRSS");
  work();
  return Status("VmHWM") - before;
}

class Big : public torch::nn::Module {
 public:
  explicit Big(const at::TensorOptions& options) {
    for (int i = 0; i < kTensors; ++i) {
      register_parameter("p" + std::to_string(i), at::empty({kTensorBytes / 4}, options));
    }
  }
};

class MemoryTest : public ::testing::Test {
 protected:
  MemoryTest() : path_(folder_.Path("big.safetensors")) {
    std::vector<std::pair<std::string, TensorMeta>> names;
    for (int i = 0; i < kTensors; ++i) {
      names.emplace_back("p" + std::to_string(i), TensorMeta{at::kFloat, {kTensorBytes / 4}});
    }
    SafetensorsWriter writer(path_, names);
    for (const auto& [name, meta] : names) writer.Write(name, at::ones(meta.shape));
    writer.Finish();
  }

  TemporaryFolder folder_;
  const std::string path_;
};

// The file has 192 MiB. Two tensors' worth is what the one in hand takes in the file and converted;
// the rest of the allowance is for the allocator.
constexpr int64_t kAllowance = 2 * kTensorBytes + 12 * kMiB;

TEST_F(MemoryTest, LoadingTakesTheModelAndOneTensor) {
  Big module(at::TensorOptions(at::kMeta).dtype(at::kFloat));
  const int64_t model = kTensors * kTensorBytes / 2;  // in bfloat16
  const int64_t peak =
      PeakGrowth([&] { LoadInto(module, *OpenCheckpoint(path_), {.dtype = at::kBFloat16}); });
  RecordProperty("peak_mib", static_cast<int>(peak / kMiB));
  EXPECT_GE(peak, model);  // the measurement sees something
  EXPECT_LE(peak, model + kAllowance);
}

TEST_F(MemoryTest, CopyingAFileTakesOneTensor) {
  const int64_t peak = PeakGrowth([&] {
    const auto source = OpenCheckpoint(path_);
    std::vector<std::pair<std::string, TensorMeta>> names;
    for (const std::string& name : source->Names()) names.emplace_back(name, *source->Find(name));
    SafetensorsWriter writer(folder_.Path("copy.safetensors"), names);
    for (const auto& [name, meta] : names) writer.Write(name, source->Read(name));
    writer.Finish();
  });
  RecordProperty("peak_mib", static_cast<int>(peak / kMiB));
  EXPECT_LE(peak, kAllowance);
}

TEST_F(MemoryTest, OpeningTakesAlmostNothing) {
  std::unique_ptr<TensorSource> source;
  EXPECT_LE(PeakGrowth([&] { source = OpenCheckpoint(path_); }), kMiB);
}

}  // namespace
}  // namespace kandinsky::model
