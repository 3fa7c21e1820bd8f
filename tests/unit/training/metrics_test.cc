#include "training/eval/metrics.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include "tests/unit/training/degrade.h"
#include "training/domain/shapes.h"
#include "training/eval/intervals.h"
#include "training/eval/report.h"

namespace kandinsky::training {
namespace {

using Bytes = std::vector<uint8_t>;

TEST(PsnrTest, ValuesByHand) {
  struct Case {
    Bytes a, b;
    double error, psnr;
  };
  const double infinity = std::numeric_limits<double>::infinity();
  const std::vector<Case> cases = {
      {{0, 0, 0, 0}, {0, 0, 0, 0}, 0, infinity},
      {{0, 0, 0, 0}, {255, 255, 255, 255}, 65025, 0},
      {{10, 20, 30, 40}, {11, 18, 30, 45}, 7.5, 39.3801},  // (1 + 4 + 0 + 25) / 4
      {{100}, {110}, 100, 28.1308},
  };
  for (const Case& c : cases) {
    EXPECT_DOUBLE_EQ(MeanSquaredError(c.a, c.b), c.error);
    EXPECT_DOUBLE_EQ(MeanSquaredError(c.b, c.a), c.error);
    if (std::isinf(c.psnr)) {
      EXPECT_EQ(Psnr(c.a, c.b), c.psnr);
    } else {
      EXPECT_NEAR(Psnr(c.a, c.b), c.psnr, 1e-3);
    }
  }
  EXPECT_TRUE(std::isnan(Psnr(Bytes{1, 2}, Bytes{1})));
  EXPECT_TRUE(std::isnan(Psnr(Bytes{}, Bytes{})));
}

TEST(SsimTest, FlatPicturesFollowTheFormula) {
  // Without variance, SSIM is (2 a b + C1) / (a^2 + b^2 + C1).
  const double c1 = 6.5025;
  for (const auto& [a, b] : {std::pair{100, 100}, {100, 120}, {0, 255}, {10, 5}}) {
    const Bytes x(12 * 13 * 3, a);
    const Bytes y(12 * 13 * 3, b);
    const double want = (2.0 * a * b + c1) / (a * a + b * b + c1);
    EXPECT_NEAR(Ssim(x, y, 12, 13), want, 1e-9) << a << " " << b;
  }
}

TEST(SsimTest, OneWindowByHand) {
  // One place only: the weighted moments can be written down directly.
  Random random(1);
  Bytes a(11 * 11), b(11 * 11);
  for (uint8_t& value : a) value = random.Below(256);
  for (size_t i = 0; i < b.size(); ++i) b[i] = static_cast<uint8_t>(a[i] / 2 + random.Below(100));
  double total = 0, ma = 0, mb = 0;
  std::vector<double> weights;
  for (int y = -5; y <= 5; ++y) {
    for (int x = -5; x <= 5; ++x) weights.push_back(std::exp(-(x * x + y * y) / 4.5));
  }
  for (double w : weights) total += w;
  for (size_t i = 0; i < a.size(); ++i) {
    weights[i] /= total;
    ma += weights[i] * a[i];
    mb += weights[i] * b[i];
  }
  double va = 0, vb = 0, cov = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    va += weights[i] * (a[i] - ma) * (a[i] - ma);
    vb += weights[i] * (b[i] - mb) * (b[i] - mb);
    cov += weights[i] * (a[i] - ma) * (b[i] - mb);
  }
  const double want = (2 * ma * mb + 6.5025) * (2 * cov + 58.5225) /
                      ((ma * ma + mb * mb + 6.5025) * (va + vb + 58.5225));
  EXPECT_NEAR(Ssim(a, b, 11, 11, 1), want, 1e-9);
  EXPECT_NEAR(Ssim(b, a, 11, 11, 1), want, 1e-9);
}

TEST(SsimTest, FallsWithDegradation) {
  const ClipSpec clip = ClipAt(1, 2, {});
  const Bytes truth = RenderClip(clip, 4, 64, 64);
  EXPECT_NEAR(ClipSsim(truth, truth, 4, 64, 64), 1, 1e-12);
  Bytes blurred = truth;
  AddBlur(blurred, 64, 64, 0.7);
  Bytes very_blurred = truth;
  AddBlur(very_blurred, 64, 64, 2);
  const double little = ClipSsim(truth, blurred, 4, 64, 64);
  const double much = ClipSsim(truth, very_blurred, 4, 64, 64);
  EXPECT_LT(little, 1);
  EXPECT_LT(much, little);
  EXPECT_TRUE(std::isnan(Ssim(truth, truth, 64, 64)));
  EXPECT_TRUE(std::isnan(Ssim(Bytes(300), Bytes(300), 10, 10)));
}

TEST(FlickerTest, SeesOnlyErrorsThatChange) {
  const Bytes truth = {10, 20, 30, 40, 50, 60};  // three frames of two values
  struct Case {
    Bytes clip;
    double want;
  };
  for (const Case& c : {Case{{10, 20, 30, 40, 50, 60}, 0}, Case{{13, 20, 33, 40, 53, 60}, 0},
                        Case{{12, 20, 30, 40, 52, 60}, std::sqrt(2.0)}}) {
    EXPECT_DOUBLE_EQ(Flicker(c.clip, truth, 3), c.want);
  }
  EXPECT_TRUE(std::isnan(Flicker(truth, truth, 1)));
  EXPECT_TRUE(std::isnan(Flicker(truth, truth, 4)));
}

TEST(IntervalTest, Wilson) {
  struct Case {
    int64_t successes, count;
    double value, low, high;
  };
  // Published examples and limits: 0 of 10 ends at z^2 / (n + z^2).
  for (const Case& c :
       {Case{0, 10, 0, 0, 0.27753}, Case{10, 10, 1, 0.72247, 1}, Case{5, 10, 0.5, 0.23659, 0.76341},
        Case{81, 263, 0.30798, 0.25531, 0.36625}, Case{190, 200, 0.95, 0.91042, 0.97262}}) {
    const Interval interval = Proportion(c.successes, c.count);
    EXPECT_NEAR(interval.value, c.value, 1e-4);
    EXPECT_NEAR(interval.low, c.low, 1e-4) << c.successes << " of " << c.count;
    EXPECT_NEAR(interval.high, c.high, 1e-4) << c.successes << " of " << c.count;
    EXPECT_EQ(interval.count, c.count);
  }
  EXPECT_TRUE(std::isnan(Proportion(0, 0).value));
}

TEST(IntervalTest, MeanWithStudent) {
  // Mean 3, variance 2.5; the quantile for 4 degrees of freedom is 2.776.
  const std::vector<double> five = {1, 2, 3, 4, 5};
  Interval interval = Mean(five);
  EXPECT_DOUBLE_EQ(interval.value, 3);
  EXPECT_NEAR(interval.high - 3, 2.776 * std::sqrt(2.5 / 5), 0.01);
  EXPECT_NEAR(3 - interval.low, 2.776 * std::sqrt(2.5 / 5), 0.01);
  // 2 values: 12.706 * sqrt(0.5 / 2); 11 values: 2.228.
  interval = Mean(std::vector<double>{1, 2});
  EXPECT_NEAR(interval.high - 1.5, 12.706 * 0.5, 1e-3);
  std::vector<double> eleven;
  for (int i = 0; i < 11; ++i) eleven.push_back(i);
  interval = Mean(eleven);
  EXPECT_NEAR(interval.high - 5, 2.228 * std::sqrt(11.0 / 11), 1e-3);
  EXPECT_TRUE(std::isnan(Mean({}).value));
  EXPECT_TRUE(std::isinf(Mean(std::vector<double>{7}).high));
}

TEST(IntervalTest, BootstrapAgreesWithStudent) {
  Random random(9);
  std::vector<double> values;
  for (int i = 0; i < 400; ++i) values.push_back(random.Uniform(0, 1));
  const auto mean = [&](std::span<const int64_t> chosen) {
    double sum = 0;
    for (int64_t index : chosen) sum += values[index];
    return sum / static_cast<double>(chosen.size());
  };
  const Interval bootstrap = Bootstrap(400, mean, 5);
  const Interval student = Mean(values);
  EXPECT_DOUBLE_EQ(bootstrap.value, student.value);
  EXPECT_NEAR(bootstrap.low, student.low, 0.004);
  EXPECT_NEAR(bootstrap.high, student.high, 0.004);
  EXPECT_EQ(bootstrap.low, Bootstrap(400, mean, 5).low);
  EXPECT_NE(bootstrap.low, Bootstrap(400, mean, 6).low);
  EXPECT_TRUE(std::isnan(Bootstrap(0, mean, 5).value));
}

TEST(ReportTest, FormatsCells) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const double infinity = std::numeric_limits<double>::infinity();
  struct Case {
    std::optional<Interval> cell;
    Column column;
    std::string want;
  };
  const std::vector<Case> cases = {
      {Interval{0.975, 0.951, 0.989, 200}, {"right", "%", 1}, "97.5 % (95.1 to 98.9)"},
      {Interval{36.714, 36.2, 37.219, 20}, {"psnr", "dB", 2}, "36.71 dB (36.20 to 37.22)"},
      {Interval{7, 7, 7, 1}, {"n", "", 0}, "7"},
      {Interval{1.5, -infinity, infinity, 1}, {"n", "s", 1}, "1.5 s"},
      {Interval{infinity, nan, nan, 1}, {"psnr", "dB", 1}, "∞ dB"},
      {Interval{nan, nan, nan, 0}, {"n", "", 0}, "not measured"},
      {std::nullopt, {"n", "", 0}, "not measured"},
  };
  for (const Case& c : cases) EXPECT_EQ(Format(c.cell, c.column), c.want);
}

TEST(ReportTest, WritesMarkdownAndJson) {
  Report report;
  report.title = "Prompts";
  report.settings = {{"seed", "7"}, {"model", "models/tiny"}};
  Table table{.title = "Right attributes",
              .row_title = "split",
              .columns = {{"colour", "%", 1}, {"a|b", "", 2}}};
  table.Add("seen", {Interval{0.5, 0.25, 0.75, 10}});
  table.Add("held out", {std::nullopt, Interval{1, 0.5, 1.5, 20}, Interval{3, 3, 3, 3}});
  report.tables.push_back(table);
  report.notes = {"One run."};
  EXPECT_EQ(ToMarkdown(report),
            "# Prompts\n"
            "\n"
            "* seed: 7\n"
            "* model: models/tiny\n"
            "\n"
            "## Right attributes\n"
            "\n"
            "| split | colour | a\\|b |\n"
            "|---|---|---|\n"
            "| seen | 50.0 % (25.0 to 75.0) | not measured |\n"
            "| held out | not measured | 1.00 (0.50 to 1.50) |\n"
            "\n"
            "10 to 20 observations a cell; in brackets, 95 % confidence intervals.\n"
            "\n"
            "* One run.\n");
  const nlohmann::ordered_json json = ToJson(report);
  EXPECT_EQ(json["settings"]["seed"], "7");
  EXPECT_EQ(json["tables"][0]["rows"][0]["cells"][0]["low"], 0.25);
  EXPECT_TRUE(json["tables"][0]["rows"][0]["cells"][1].is_null());
  EXPECT_EQ(json["tables"][0]["rows"][1]["cells"].size(), 2u);
  EXPECT_EQ(json["tables"][0]["columns"][1]["name"], "a|b");
  EXPECT_EQ(nlohmann::ordered_json::parse(json.dump()), json);
}

}  // namespace
}  // namespace kandinsky::training
