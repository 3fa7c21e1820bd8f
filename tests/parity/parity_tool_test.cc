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
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "worker/model/checkpoint/safetensors.h"
#include "worker/model/error.h"
#include "worker/model/tools/parity_case.h"
#include "worker/model/tools/parity_manifest.h"
#include "worker/model/tools/parity_report.h"
#include "worker/model/tools/parity_tolerance.h"

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

TEST(CompareTest, TheTensorAsAWhole) {
  // An element near 0 that is far off relative to itself is within; the rms and the peak decide.
  const at::Tensor want = at::tensor({3.0, -4.0, 0.0, 0.0}, at::kDouble);  // rms 2.5, largest 4
  struct Case {
    std::vector<double> got;
    double rms, peak, used;
  };
  const double inf = INFINITY;
  const Case cases[] = {
      {{3, -4, 0, 0}, 0.1, 0.1, 0},
      {{3, -4, 0, 0.2}, 0.1, 0.1, 0.5},    // rms 0.1 of 2.5, peak 0.2 of 4
      {{3, -4, 0, 0.2}, 0.1, 0.04, 1.25},  // peak
      {{3, -4, 0, 0.2}, 0.02, 0.1, 2},     // rms
      {{3, -4, 0, inf}, 1, 1, inf},
  };
  for (const Case& c : cases) {
    const Difference d =
        Compare(at::tensor(c.got, at::kDouble), want, {.rms = c.rms, .peak = c.peak});
    if (std::isinf(c.used)) {
      EXPECT_EQ(d.worst, c.used);
    } else {
      EXPECT_NEAR(d.worst, c.used, 1e-12);
    }
    EXPECT_EQ(d.outside, c.used > 1 ? 4 : 0);
  }
}

TEST(ReportTest, NarrowPixelsAreJudgedOnAverage) {
  const at::Tensor want = at::zeros({100}, at::kByte);
  for (const auto& [level, failures] : {std::pair{6, 0}, std::pair{7, 1}}) {
    std::ostringstream out;
    ParityReport report(out, true);
    report.CheckPixels("pixels", want + level, want, {.rms = 0.1, .peak = 0.1});  // 6.4 levels
    EXPECT_EQ(report.failures(), failures) << out.str();
  }
}

TEST(ReportTest, TheWorstCheckIsKnown) {
  std::ostringstream out;
  ParityReport report(out, false);
  EXPECT_EQ(report.worst().name, "");
  const at::Tensor one = at::ones({2});
  report.Check("near", one + 0.5, one, {.atol = 1});
  report.Check("nearer", one + 0.25, one, {.atol = 1});
  EXPECT_EQ(report.worst().name, "near");
  EXPECT_NEAR(report.worst().used, 0.5, 1e-6);
  report.Check("far", one + 2, one, {.atol = 1});
  report.CheckTrue("wrong", false, "");
  report.Check("near again", one + 0.75, one, {.atol = 1});
  EXPECT_EQ(report.worst().name, "wrong");
  EXPECT_FALSE(report.worst().holds);
}

TEST(ToleranceTest, OfDevicesAndTypes) {
  const Tolerance recorded = {.rtol = 1e-4, .atol = 1e-5};
  const auto tolerance = [&](const char* component, at::Device device, at::ScalarType dtype) {
    return ToleranceFor(component, {device, dtype}, recorded);
  };
  EXPECT_EQ(tolerance("movq", at::kCPU, at::kFloat).rtol, 1e-4);
  EXPECT_EQ(tolerance("movq", at::kCUDA, at::kFloat).rtol, 4e-4);
  EXPECT_EQ(tolerance("movq", at::kCUDA, at::kFloat).rms, 0);
  const double half = tolerance("movq", at::kCUDA, at::kHalf).rms;
  EXPECT_GT(half, 0);
  EXPECT_GT(tolerance("movq", at::kCPU, at::kBFloat16).rms, 4 * half);
  // Computed in full width wherever the networks run.
  EXPECT_EQ(tolerance("tokenizer", at::kCUDA, at::kHalf).rtol, 1e-4);
  EXPECT_EQ(tolerance("diffusion", at::kCUDA, at::kBFloat16).rms, 0);
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
  EXPECT_EQ(RunTool("--json=/no/such/folder/lines.json " + good.path()), 2);
}

TEST(ToolTest, LinesOfJson) {
  const CaseCopy good("t2i_unet_a"), bad("movq_a");
  bad.Write("case.json", "{}");
  const std::string path = testing::TempDir() + "/lines_" + std::to_string(::getpid()) + ".json";
  EXPECT_EQ(RunTool("--json=" + path + " " + good.path() + " " + bad.path()), 2);
  std::ifstream file(path);
  std::vector<nlohmann::json> lines;
  for (std::string line; std::getline(file, line);) lines.push_back(nlohmann::json::parse(line));
  ASSERT_EQ(lines.size(), 2u);
  EXPECT_EQ(lines[0]["case"], good.path());
  EXPECT_EQ(lines[0]["passed"], true);
  EXPECT_EQ(lines[0]["checks"], 1);
  EXPECT_EQ(lines[0]["worst"]["name"], "out");
  EXPECT_LE(lines[0]["worst"]["used"], 1);
  EXPECT_EQ(lines[1]["passed"], false);
  EXPECT_THAT(lines[1]["error"].get<std::string>(), testing::HasSubstr("component"));
  fs::remove(path);
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
