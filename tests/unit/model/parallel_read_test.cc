// Reading with several threads: the same values and the same order in memory as one tensor after
// the other, no more in hand than promised, and errors.
#include <ATen/Parallel.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <map>
#include <memory>
#include <set>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "tests/unit/model/checkpoint_files.h"
#include "worker/model/checkpoint/parallel_read.h"
#include "worker/model/checkpoint/safetensors.h"
#include "worker/model/error.h"

namespace kandinsky::model {
namespace {

using ::testing::HasSubstr;
using testing::TemporaryFolder;

const std::string kTestData = KANDINSKY_SOURCE_DIR "/tests/unit/model/testdata/";

// Shapes that differ in how they are cut: none and one element, one piece, several pieces (a piece
// has 8 MiB), and convolutions, of which the 1x1 one need not be rewritten to be channels-last.
std::map<std::string, at::Tensor> Tensors() {
  at::manual_seed(7);
  std::map<std::string, at::Tensor> tensors = {
      {"empty", at::empty({0, 3})},
      {"scalar", at::full({}, 0.1)},
      {"row", at::randn({257})},
      {"long", at::randn({3, 1 << 20})},
      {"conv", at::randn({33, 17, 3, 3})},
      {"large conv", at::randn({520, 515, 3, 3})},
      {"point conv", at::randn({32, 16, 1, 1})},
      {"steps", at::arange(1000, at::kLong)},
      {"mask", at::arange(100) % 3 == 0},
  };
  // What conversions might treat differently.
  tensors["special"] = at::tensor({0.0, -0.0, 1e-45, 65504.0, 65520.0, 1e30, -1e38, 1.00390625,
                                   1.01171875, INFINITY, -INFINITY, 3.0e-8},
                                  at::kFloat);
  return tensors;
}

std::vector<ReadJob> Jobs(const TensorSource& source, at::ScalarType dtype,
                          at::MemoryFormat order) {
  std::vector<ReadJob> jobs;
  for (const std::string& name : source.Names()) {
    jobs.push_back(
        {name, dtype, source.Find(name)->shape.size() == 4 ? order : at::MemoryFormat::Contiguous});
  }
  return jobs;
}

// All threads of this process.
int Tasks() {
  int count = 0;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/task")) {
    count += entry.exists() ? 1 : 0;
  }
  return count;
}

TEST(ReadTensorsTest, EqualsReadingOneByOneInEveryTypeAndOrder) {
  const TemporaryFolder folder;
  for (const at::ScalarType stored : {at::kFloat, at::kHalf, at::kBFloat16, at::kDouble}) {
    std::map<std::string, at::Tensor> tensors = Tensors();
    for (auto& [name, tensor] : tensors) {
      if (tensor.is_floating_point()) tensor = tensor.to(stored);
    }
    const std::string path = folder.Path(DtypeName(stored) + ".safetensors");
    WriteSafetensors(path, tensors);
    const auto source = OpenCheckpoint(path);
    for (const at::ScalarType dtype : {at::kFloat, at::kHalf, at::kBFloat16}) {
      for (const at::MemoryFormat order :
           {at::MemoryFormat::Contiguous, at::MemoryFormat::ChannelsLast}) {
        for (const int threads : {1, 2, 5}) {
          const std::vector<ReadJob> jobs = Jobs(*source, dtype, order);
          std::set<size_t> taken;
          ReadTensors(*source, jobs, {.threads = threads}, [&](size_t i, const at::Tensor& tensor) {
            const at::Tensor want = source->Read(jobs[i].name, dtype).contiguous(jobs[i].order);
            EXPECT_EQ(tensor.scalar_type(), want.scalar_type()) << jobs[i].name;
            EXPECT_EQ(tensor.strides(), want.strides()) << jobs[i].name;
            EXPECT_TRUE(at::equal(tensor, want)) << jobs[i].name;
            EXPECT_TRUE(taken.insert(i).second) << jobs[i].name;
          });
          EXPECT_EQ(taken.size(), jobs.size());
        }
      }
    }
  }
}

TEST(ReadTensorsTest, ReadsTorchFilesWhateverTheirStrides) {
  const auto source = OpenCheckpoint(kTestData + "zoo.pt");
  const std::vector<ReadJob> jobs = Jobs(*source, at::kHalf, at::MemoryFormat::Contiguous);
  size_t taken = 0;
  ReadTensors(*source, jobs, {.threads = 3}, [&](size_t i, const at::Tensor& tensor) {
    ++taken;
    EXPECT_TRUE(tensor.is_contiguous()) << jobs[i].name;
    EXPECT_TRUE(at::equal(tensor, source->Read(jobs[i].name, at::kHalf))) << jobs[i].name;
  });
  EXPECT_EQ(taken, jobs.size());
}

TEST(ReadTensorsTest, NoThreadOutlivesItAndNoneStartsATeam) {
  const TemporaryFolder folder;
  WriteSafetensors(folder.Path("x.safetensors"), Tensors());
  const auto source = OpenCheckpoint(folder.Path("x.safetensors"));
  const std::vector<ReadJob> jobs = Jobs(*source, at::kBFloat16, at::MemoryFormat::ChannelsLast);
  const int before = Tasks();
  int most = 0;
  ReadTensors(*source, jobs, {.threads = 3},
              [&](size_t, const at::Tensor&) { most = std::max(most, Tasks()); });
  EXPECT_LE(most, before + 2);  // the caller is the third
  EXPECT_EQ(Tasks(), before);
}

TEST(ReadTensorsTest, AnUnknownNameEndsIt) {
  const TemporaryFolder folder;
  WriteSafetensors(folder.Path("x.safetensors"), Tensors());
  const auto source = OpenCheckpoint(folder.Path("x.safetensors"));
  for (const int threads : {1, 4}) {
    std::vector<ReadJob> jobs = Jobs(*source, at::kFloat, at::MemoryFormat::Contiguous);
    jobs.insert(jobs.begin() + 2, {"nobody", at::kFloat});
    try {
      ReadTensors(*source, jobs, {.threads = threads}, [](size_t, const at::Tensor&) {});
      FAIL() << threads;
    } catch (const ModelError& error) {
      EXPECT_EQ(error.kind(), ModelError::Kind::kNotFound);
      EXPECT_THAT(error.what(), HasSubstr("no tensor \"nobody\""));
    }
  }
}

TEST(ReadTensorsTest, AnErrorOfTheCallerEndsItAndComesBack) {
  const TemporaryFolder folder;
  WriteSafetensors(folder.Path("x.safetensors"), Tensors());
  const auto source = OpenCheckpoint(folder.Path("x.safetensors"));
  const std::vector<ReadJob> jobs = Jobs(*source, at::kFloat, at::MemoryFormat::Contiguous);
  for (const int threads : {1, 4}) {
    int calls = 0;
    EXPECT_THROW(ReadTensors(*source, jobs, {.threads = threads},
                             [&](size_t, const at::Tensor&) {
                               ++calls;
                               throw std::runtime_error("enough");
                             }),
                 std::runtime_error);
    EXPECT_LE(calls, threads);
  }
}

TEST(ReadTensorsTest, RefusesOptionsOutOfRange) {
  const TemporaryFolder folder;
  WriteSafetensors(folder.Path("x.safetensors"), {{"a", at::ones({1})}});
  const auto source = OpenCheckpoint(folder.Path("x.safetensors"));
  for (const int threads : {-1, 65}) {
    EXPECT_THROW(
        ReadTensors(*source, {{"a", at::kFloat}}, {.threads = threads}, [](size_t, const auto&) {}),
        ModelError);
  }
}

}  // namespace
}  // namespace kandinsky::model
