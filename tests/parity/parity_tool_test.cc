// kandinsky-parity itself: it must notice what is wrong, and tell a wrong result from a wrong call.
#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>
#include <string>

#include "worker/model/checkpoint/safetensors.h"
#include "worker/model/error.h"
#include "worker/model/tools/parity_case.h"
#include "worker/model/tools/parity_manifest.h"
#include "worker/model/tools/parity_report.h"

namespace kandinsky::model {
namespace {

namespace fs = std::filesystem;

const std::string kCases = std::string(KANDINSKY_SOURCE_DIR) + "/tests/parity/";

// Exit status of the program with these arguments.
int RunTool(const std::string& arguments) {
  const std::string command = std::string(KANDINSKY_BIN_DIR) + "/kandinsky-parity --threads=1 " +
                              arguments + " >/dev/null 2>&1";
  const int status = std::system(command.c_str());
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

// A writable copy of a recorded case.
class CaseCopy {
 public:
  explicit CaseCopy(const std::string& name)
      : path_(fs::path(testing::TempDir()) /
              ("parity_" + std::to_string(::getpid()) + "_" + name)) {
    fs::remove_all(path_);
    fs::copy(kCases + name, path_, fs::copy_options::recursive);
  }
  ~CaseCopy() { fs::remove_all(path_); }

  std::string path() const { return path_.string(); }
  void Write(const std::string& file, const std::string& text) const {
    std::ofstream(path_ / file, std::ios::trunc) << text;
  }
  // Replaces one tensor of a safetensors file.
  void Change(const std::string& file, const std::string& name, const at::Tensor& value) const {
    std::map<std::string, at::Tensor> tensors;
    {
      const SafetensorsFile source((path_ / file).string());
      for (const std::string& key : source.Names()) tensors[key] = source.Read(key);
    }
    tensors[name] = value;
    WriteSafetensors((path_ / file).string(), tensors);
  }

 private:
  const fs::path path_;
};

TEST(CompareTest, Distances) {
  const double inf = INFINITY, nan = NAN;
  struct Case {
    std::vector<double> got, want;
    Tolerance tolerance;
    int64_t outside, unequal;
  };
  const Case cases[] = {
      {{1, 2, 3}, {1, 2, 3}, {0, 0}, 0, 0},
      {{1, 2, 3}, {1, 2, 3.1}, {0, 0}, 1, 1},
      {{1, 2, 3}, {1, 2, 3.1}, {0, 0.2}, 0, 1},
      {{101}, {100}, {0.011, 0}, 0, 1},
      {{101}, {100}, {0.009, 0}, 1, 1},
      {{nan, inf, -inf}, {nan, inf, -inf}, {0, 0}, 0, 0},
      {{nan, inf, inf, 0}, {0, 0, -inf, nan}, {1e3, 1e3}, 4, 4},
  };
  for (const Case& c : cases) {
    const Difference d =
        Compare(at::tensor(c.got, at::kDouble), at::tensor(c.want, at::kDouble), c.tolerance);
    EXPECT_EQ(d.outside, c.outside) << at::tensor(c.want);
    EXPECT_EQ(d.unequal, c.unequal) << at::tensor(c.want);
  }
}

TEST(ReportTest, PixelsMayDifferByOneLevelInFewPlaces) {
  const at::Tensor want = at::zeros({1000}, at::kByte);
  struct Case {
    int64_t changed;
    int level;
    int64_t failures;
  };
  for (const Case& c : {Case{0, 0, 0}, Case{9, 1, 0}, Case{10, 1, 1}, Case{1, 2, 1}}) {
    at::Tensor got = want.clone();
    got.narrow(0, 0, c.changed).fill_(c.level);
    std::ostringstream out;
    ParityReport report(out, true);
    report.CheckPixels("pixels", got, want);
    EXPECT_EQ(report.failures(), c.failures) << out.str();
  }
}

TEST(ReportTest, ShapesMustAgree) {
  std::ostringstream out;
  ParityReport report(out, false);
  report.Check("x", at::zeros({2, 3}), at::zeros({3, 2}), {1, 1});
  EXPECT_EQ(report.failures(), 1);
  EXPECT_THAT(out.str(), testing::HasSubstr("shape [2, 3], recorded [3, 2]"));
}

TEST(ToolTest, ExitStatus) {
  const CaseCopy good("t2i_unet_a");
  EXPECT_EQ(RunTool(good.path()), 0);
  EXPECT_EQ(RunTool(""), 2);
  EXPECT_EQ(RunTool("--no-such-option " + good.path()), 2);
  EXPECT_EQ(RunTool("--dtype=int8 " + good.path()), 2);
  EXPECT_EQ(RunTool("/no/such/case"), 2);
  EXPECT_EQ(RunTool("manifest /no/such/manifest.json"), 2);
  EXPECT_EQ(RunTool("manifest " + good.path() + "/case.json"), 2);
  EXPECT_EQ(RunTool(good.path() + " /no/such/case"), 2);
}

TEST(ToolTest, ADifferentOutputFails) {
  const CaseCopy copy("t2i_unet_a");
  const SafetensorsFile outputs(copy.path() + "/outputs.safetensors");
  at::Tensor out = outputs.Read("out");
  out.view(-1)[5] += 1e-3;
  copy.Change("outputs.safetensors", "out", out);
  EXPECT_EQ(RunTool(copy.path()), 1);
}

TEST(ToolTest, ADifferentWeightFails) {
  const CaseCopy copy("t2i_unet_a");
  const SafetensorsFile weights(copy.path() + "/weights.safetensors");
  copy.Change("weights.safetensors", "in_layer.bias", weights.Read("in_layer.bias") + 0.1);
  EXPECT_EQ(RunTool(copy.path()), 1);
}

TEST(ToolTest, UnusableCases) {
  struct Broken {
    const char* file;
    const char* text;
    const char* complaint;
  };
  const Broken broken[] = {
      {"case.json", "", "case.json"},
      {"case.json", "[]", "not an object"},
      {"case.json", "{}", "component"},
      {"case.json", R"({"component": "gan", "config": {}, "tolerance": {"exact": true}})", "gan"},
      {"case.json", R"({"component": "t2i_unet", "config": {}})", "tolerance"},
      {"case.json", R"({"component": "t2i_unet", "config": [], "tolerance": {"exact": true}})",
       "config"},
      {"case.json", R"({"component": "diffusion", "config": {}, "tolerance": {"exact": true}})",
       "schedules"},
      {"weights.safetensors", "no weights", "weights.safetensors"},
      {"outputs.safetensors", "", "outputs.safetensors"},
  };
  for (const Broken& b : broken) {
    const CaseCopy copy("t2i_unet_a");
    copy.Write(b.file, b.text);
    std::ostringstream out;
    ParityReport report(out, false);
    try {
      RunParityCase(copy.path(), {}, report);
      ADD_FAILURE() << b.file << " = " << b.text << " was accepted";
    } catch (const ModelError& error) {
      EXPECT_THAT(error.what(), testing::HasSubstr(b.complaint)) << b.text;
    }
  }
}

TEST(ManifestTest, NoticesEveryKindOfDifference) {
  struct Case {
    const char* tensors;
    int64_t failures;  // the summary line is one of them
    const char* text;
  };
  const Case cases[] = {
      {R"("t5.0.weight": ["float32", [6, 4]], "t5.1.weight": ["float32", [6]], "t5.1.bias": ["float32", [6]])",
       0, "3 of 3"},
      {R"("t5.0.weight": ["float32", [6, 4]], "t5.1.weight": ["float32", [6]])", 1,
       "t5.1.bias: float32 [6] is not in the manifest"},
      {R"("t5.0.weight": ["float32", [4, 6]], "t5.1.weight": ["float32", [6]], "t5.1.bias": ["float32", [6]])",
       2, "recorded float32 [4, 6]"},
      {R"("t5.0.weight": ["float16", [6, 4]], "t5.1.weight": ["float32", [6]], "t5.1.bias": ["float32", [6]])",
       2, "recorded float16 [6, 4]"},
      {R"("x": ["float32", [1]], "t5.0.weight": ["float32", [6, 4]], "t5.1.weight": ["float32", [6]], "t5.1.bias": ["float32", [6]])",
       2, "x: missing"},
  };
  const std::string path = testing::TempDir() + "/manifest_" + std::to_string(::getpid()) + ".json";
  for (const Case& c : cases) {
    std::ofstream(path, std::ios::trunc)
        << R"({"config": {"model_dims": {"t5": 4}, "context_dim": 6}, "tensors": {)" << c.tensors
        << "}}";
    std::ostringstream out;
    ParityReport report(out, true);
    CheckManifest(path, report);
    EXPECT_EQ(report.failures(), c.failures) << out.str();
    EXPECT_THAT(out.str(), testing::HasSubstr(c.text));
  }
  fs::remove(path);
}

}  // namespace
}  // namespace kandinsky::model
