#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/base/crc32c.h"
#include "common/latent/host_tensor.h"
#include "common/latent/latent_file.h"
#include "common/latent/latent_store.h"

namespace kandinsky {
namespace {

class TempDir {
 public:
  TempDir() {
    std::string pattern = std::filesystem::temp_directory_path() / "latent_test.XXXXXX";
    path_ = mkdtemp(pattern.data());
  }
  ~TempDir() { std::filesystem::remove_all(path_); }
  const std::string& path() const { return path_; }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

std::string ReadFile(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::ostringstream out;
  out << in.rdbuf();
  return out.str();
}

void WriteFile(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << bytes;
}

HostTensor Tensor(DataType dtype, std::vector<int64_t> shape, char first = 1) {
  std::string bytes(*CheckedByteSize(dtype, shape, UINT64_MAX), '\0');
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<char>(first + i * 7 + i / 256);
  return *HostTensor::Create(dtype, std::move(shape), std::move(bytes));
}

TEST(HostTensorTest, ByteSizes) {
  const struct {
    DataType dtype;
    std::vector<int64_t> shape;
    uint64_t limit;
    std::optional<uint64_t> want;  // none: INVALID_ARGUMENT
  } kCases[] = {
      {DataType::kFloat32, {}, 100, 4},
      {DataType::kFloat32, {16, 4, 8, 8}, 16384, 16384},
      {DataType::kFloat32, {16, 4, 8, 8}, 16383, std::nullopt},
      {DataType::kBFloat16, {16, 4, 8, 8}, 1 << 20, 8192},
      {DataType::kFloat16, {3, 0, 5}, 0, 0},
      {DataType::kFloat16, {-1}, 100, std::nullopt},
      {DataType::kFloat16, {0, -1}, 100, std::nullopt},
      {DataType::kFloat32, {INT64_MAX, 2}, UINT64_MAX, std::nullopt},
      {DataType::kFloat32, {int64_t{1} << 31, int64_t{1} << 31, 4}, UINT64_MAX, std::nullopt},
      {DataType::kFloat32, {1, 1, 1, 1, 1, 1, 1, 1}, 4, 4},
      {DataType::kFloat32, {1, 1, 1, 1, 1, 1, 1, 1, 1}, 4, std::nullopt},
  };
  for (const auto& c : kCases) {
    const absl::StatusOr<uint64_t> got = CheckedByteSize(c.dtype, c.shape, c.limit);
    SCOPED_TRACE(testing::PrintToString(c.shape));
    if (c.want) {
      ASSERT_TRUE(got.ok()) << got.status();
      EXPECT_EQ(*got, *c.want);
    } else {
      EXPECT_EQ(got.status().code(), absl::StatusCode::kInvalidArgument);
    }
  }
  EXPECT_FALSE(HostTensor::Create(DataType::kFloat32, {2}, std::string(7, 'x')).ok());
  EXPECT_TRUE(HostTensor::Create(DataType::kFloat32, {2}, std::string(8, 'x')).ok());
}

TEST(HostTensorTest, NamesRoundTrip) {
  for (const DataType dtype : {DataType::kFloat32, DataType::kFloat16, DataType::kBFloat16}) {
    EXPECT_EQ(ParseDataType(Name(dtype)), dtype);
  }
  EXPECT_EQ(ParseDataType("float64"), std::nullopt);
  EXPECT_EQ(ParseDataType(""), std::nullopt);
}

TEST(LatentFileTest, RoundTripsEveryTypeAndShape) {
  TempDir dir;
  const HostTensor kTensors[] = {Tensor(DataType::kFloat32, {16, 4, 8, 8}),
                                 Tensor(DataType::kBFloat16, {61, 4, 3, 5}),
                                 Tensor(DataType::kFloat16, {1}), Tensor(DataType::kFloat32, {}),
                                 Tensor(DataType::kFloat32, {0, 4})};
  for (const HostTensor& tensor : kTensors) {
    SCOPED_TRACE(testing::PrintToString(tensor.shape()));
    const std::string path = dir / "a.safetensors";
    ASSERT_TRUE(WriteLatentFile(path, {"a", tensor, Crc32c(tensor.bytes())}).ok());
    const absl::StatusOr<LatentFile> got = ReadLatentFile(path, UINT64_MAX);
    ASSERT_TRUE(got.ok()) << got.status();
    EXPECT_EQ(got->key, "a");
    EXPECT_EQ(got->tensor.dtype(), tensor.dtype());
    EXPECT_EQ(got->tensor.shape(), tensor.shape());
    EXPECT_EQ(got->tensor.bytes(), tensor.bytes());
    EXPECT_EQ(got->crc32c, Crc32c(tensor.bytes()));
  }
  EXPECT_FALSE(std::filesystem::exists(dir / "a.safetensors.tmp"));
}

TEST(LatentFileTest, EveryFlippedBitAndEveryTruncationIsDetected) {
  TempDir dir;
  const HostTensor tensor = Tensor(DataType::kFloat32, {2, 4, 2, 2});
  const std::string path = dir / "x.safetensors";
  ASSERT_TRUE(WriteLatentFile(path, {"x", tensor, Crc32c(tensor.bytes())}).ok());
  const std::string good = ReadFile(path);
  for (size_t i = 0; i < good.size(); ++i) {
    std::string bad = good;
    bad[i] = static_cast<char>(bad[i] ^ 1 << i % 8);
    WriteFile(path, bad);
    EXPECT_EQ(ReadLatentFile(path, UINT64_MAX).status().code(), absl::StatusCode::kDataLoss)
        << "byte " << i;
    WriteFile(path, good.substr(0, i));
    EXPECT_EQ(ReadLatentFile(path, UINT64_MAX).status().code(), absl::StatusCode::kDataLoss)
        << "cut at " << i;
  }
  WriteFile(path, good + "x");
  EXPECT_EQ(ReadLatentFile(path, UINT64_MAX).status().code(), absl::StatusCode::kDataLoss);
  WriteFile(path, good);
  EXPECT_TRUE(ReadLatentFile(path, UINT64_MAX).ok());
  EXPECT_EQ(ReadLatentFile(path, tensor.bytes().size() - 1).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ReadLatentFile(dir / "none", UINT64_MAX).status().code(), absl::StatusCode::kNotFound);
}

TEST(LatentFileTest, HostileHeaders) {
  TempDir dir;
  const auto file = [](uint64_t header_size, const std::string& rest) {
    std::string bytes(8, '\0');
    for (int i = 0; i < 8; ++i) bytes[i] = static_cast<char>(header_size >> (8 * i));
    return bytes + rest;
  };
  const std::string meta =
      "{\"__metadata__\":{\"key\":\"a\",\"crc32c\":\"00000000\"},\"latents\":{\"dtype\":";
  const std::string kHeaders[] = {
      "",
      "{}",
      meta,
      meta + "\"F32\",\"shape\":[",
      meta + "\"F64\",\"shape\":[1]}}",
      meta + "\"F32\",\"shape\":[99999999999999999999]}}",
      meta + "\"F32\",\"shape\":[1,]}}",
      meta + "\"F32\",\"shape\":[4611686018427387904,4611686018427387904]}}",
      meta + "\"F32\",\"shape\":[-1]}}"};
  for (const std::string& header : kHeaders) {
    WriteFile(dir / "h", file(header.size(), header));
    EXPECT_EQ(ReadLatentFile(dir / "h", UINT64_MAX).status().code(), absl::StatusCode::kDataLoss)
        << header;
  }
  for (const uint64_t size : {uint64_t{1}, uint64_t{5000}, uint64_t{1} << 40, UINT64_MAX}) {
    WriteFile(dir / "h", file(size, ""));
    EXPECT_EQ(ReadLatentFile(dir / "h", UINT64_MAX).status().code(), absl::StatusCode::kDataLoss)
        << size;
  }
}

TEST(LatentFileTest, Keys) {
  const struct {
    std::string key;
    bool want;
  } kCases[] = {{"a", true},
                {"job-1.keyframes.9F_x", true},
                {"", false},
                {".lock", false},
                {"../a", false},
                {"a/b", false},
                {"a b", false},
                {std::string(200, 'k'), true},
                {std::string(201, 'k'), false},
                {"\xc3\xa4", false},
                {std::string("a\0b", 3), false}};
  for (const auto& c : kCases) EXPECT_EQ(IsLatentKey(c.key), c.want) << c.key;
}

std::unique_ptr<LatentStore> OpenStore(const LatentStoreOptions& options, const Clock* clock) {
  absl::StatusOr<std::unique_ptr<LatentStore>> store = LatentStore::Open(options, clock);
  EXPECT_TRUE(store.ok()) << store.status();
  return store.ok() ? *std::move(store) : nullptr;
}

TEST(LatentStoreTest, ServesWhatAnEarlierProcessPut) {
  TempDir dir;
  FakeClock clock;
  const HostTensor tensor = Tensor(DataType::kFloat32, {16, 4, 8, 8});
  // The process that puts dies at once: no destructor, no flush.
  const pid_t child = fork();
  if (child == 0) {
    auto store = LatentStore::Open({dir.path()}, &clock);
    const bool ok = store.ok() && (*store)->Put("job.keyframes", tensor).ok();
    if (ok) kill(getpid(), SIGKILL);
    _exit(1);
  }
  int status = 0;
  waitpid(child, &status, 0);
  ASSERT_TRUE(WIFSIGNALED(status));
  WriteFile(dir / "half.safetensors.tmp", "half");

  const auto store = OpenStore({dir.path()}, &clock);
  ASSERT_NE(store, nullptr);
  const absl::StatusOr<StoredLatents> got = store->Get("job.keyframes");
  ASSERT_TRUE(got.ok()) << got.status();
  EXPECT_EQ(got->tensor.bytes(), tensor.bytes());
  EXPECT_EQ(got->crc32c, Crc32c(tensor.bytes()));
  EXPECT_FALSE(std::filesystem::exists(dir / "half.safetensors.tmp"));
}

TEST(LatentStoreTest, OneProcessAFolder) {
  TempDir dir;
  FakeClock clock;
  auto first = OpenStore({dir.path()}, &clock);
  EXPECT_EQ(LatentStore::Open({dir.path()}, &clock).status().code(),
            absl::StatusCode::kFailedPrecondition);
  first.reset();
  EXPECT_TRUE(LatentStore::Open({dir.path()}, &clock).ok());
}

TEST(LatentStoreTest, MemoryBudgetEvictsTheLeastRecentlyUsedButLosesNothing) {
  TempDir dir;
  FakeClock clock;
  const auto store = OpenStore({dir.path(), 2048}, &clock);  // room for two of the tensors below
  std::vector<HostTensor> tensors;
  for (int i = 0; i < 4; ++i) {
    tensors.push_back(Tensor(DataType::kFloat32, {256}, static_cast<char>(i)));
    ASSERT_TRUE(store->Put(absl::StrCat("k", i), tensors.back()).ok());
    EXPECT_LE(store->GetStats().memory_bytes, 2048u);
  }
  for (int i = 0; i < 4; ++i) {
    const auto got = store->Get(absl::StrCat("k", i));
    ASSERT_TRUE(got.ok()) << got.status();
    EXPECT_EQ(got->tensor.bytes(), tensors[i].bytes());
    EXPECT_LE(store->GetStats().memory_bytes, 2048u);
  }
  EXPECT_EQ(store->GetStats().entries, 4u);
}

TEST(LatentStoreTest, ReleaseAndTimeToLiveRemoveTheFiles) {
  TempDir dir;
  FakeClock clock;
  LatentStoreOptions options{dir.path()};
  options.time_to_live = absl::Hours(1);
  const auto store = OpenStore(options, &clock);
  ASSERT_TRUE(store->Put("a", Tensor(DataType::kFloat32, {4})).ok());
  clock.Advance(absl::Minutes(40));
  ASSERT_TRUE(store->Put("b", Tensor(DataType::kFloat32, {4})).ok());
  ASSERT_TRUE(store->Put("c", Tensor(DataType::kFloat32, {4})).ok());
  store->Release("b");
  store->Release("b");
  store->Release("never");
  clock.Advance(absl::Minutes(40));
  store->Sweep();
  EXPECT_TRUE(absl::IsNotFound(store->Get("a").status()));
  EXPECT_TRUE(absl::IsNotFound(store->Get("b").status()));
  EXPECT_TRUE(store->Get("c").ok());
  EXPECT_FALSE(std::filesystem::exists(dir / "a.safetensors"));
  EXPECT_FALSE(std::filesystem::exists(dir / "b.safetensors"));
  EXPECT_EQ(store->GetStats().memory_bytes, 16u);
}

TEST(LatentStoreTest, DamagedFileIsDataLossOnceAndThenGone) {
  TempDir dir;
  FakeClock clock;
  const HostTensor tensor = Tensor(DataType::kFloat32, {64});
  { ASSERT_TRUE(OpenStore({dir.path()}, &clock)->Put("a", tensor).ok()); }
  std::string bytes = ReadFile(dir / "a.safetensors");
  bytes.back() = static_cast<char>(bytes.back() ^ 0x10);
  WriteFile(dir / "a.safetensors", bytes);
  const auto store = OpenStore({dir.path()}, &clock);
  EXPECT_EQ(store->Get("a").status().code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(store->Get("a").status().code(), absl::StatusCode::kNotFound);
}

// A file under another name (a copied or renamed one) must not be served as if it were that key's.
TEST(LatentStoreTest, RenamedFileIsNotServed) {
  TempDir dir;
  FakeClock clock;
  { ASSERT_TRUE(OpenStore({dir.path()}, &clock)->Put("a", Tensor(DataType::kFloat32, {4})).ok()); }
  std::filesystem::rename(dir / "a.safetensors", dir / "b.safetensors");
  EXPECT_EQ(OpenStore({dir.path()}, &clock)->Get("b").status().code(), absl::StatusCode::kDataLoss);
}

// A folder that cannot be written to stands for a full disk: tensors stay in memory while the
// budget lasts, are never evicted, and then Put refuses.
TEST(LatentStoreTest, WithoutDiskKeepsInMemoryWithinTheBudget) {
  TempDir dir;
  FakeClock clock;
  const std::string folder = dir / "gone";
  const auto store = OpenStore({folder, 2048}, &clock);
  std::filesystem::remove_all(folder);
  EXPECT_TRUE(store->Put("a", Tensor(DataType::kFloat32, {256})).ok());
  EXPECT_TRUE(store->Put("b", Tensor(DataType::kFloat32, {256})).ok());
  EXPECT_FALSE(store->Put("c", Tensor(DataType::kFloat32, {256})).ok());
  EXPECT_EQ(store->GetStats().memory_only_entries, 2u);
  EXPECT_TRUE(store->Get("a").ok());
  EXPECT_TRUE(store->Get("b").ok());
  EXPECT_TRUE(absl::IsNotFound(store->Get("c").status()));
  store->Release("a");
  EXPECT_TRUE(store->Put("c", Tensor(DataType::kFloat32, {256})).ok());
}

TEST(LatentStoreTest, RefusesBadKeysAndOversizedTensors) {
  TempDir dir;
  FakeClock clock;
  LatentStoreOptions options{dir.path()};
  options.max_tensor_bytes = 16;
  const auto store = OpenStore(options, &clock);
  EXPECT_EQ(store->Put("../x", Tensor(DataType::kFloat32, {1})).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(store->Put("x", Tensor(DataType::kFloat32, {5})).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(absl::IsNotFound(store->Get("../../etc/passwd").status()));
}

TEST(LatentStoreTest, ConcurrentUse) {
  TempDir dir;
  FakeClock clock;
  const auto store = OpenStore({dir.path(), 4096}, &clock);
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 25; ++i) {
        const std::string key = absl::StrCat("k", t, "-", i);
        const HostTensor tensor = Tensor(DataType::kFloat32, {200 + t}, static_cast<char>(i));
        ASSERT_TRUE(store->Put(key, tensor).ok());
        const auto got = store->Get(key);
        ASSERT_TRUE(got.ok()) << got.status();
        EXPECT_EQ(got->tensor.bytes(), tensor.bytes());
        (void)store->Get(absl::StrCat("k", (t + 1) % 4, "-", i));
        if (i % 2 == 0) store->Release(key);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(store->GetStats().entries, 4u * 12);
}

}  // namespace
}  // namespace kandinsky
