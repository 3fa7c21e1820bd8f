// What is measured without a model: prompts, the score of generators whose quality is known,
// journals, comparison tables, hashes.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "training/domain/shapes.h"
#include "training/eval/judge.h"
#include "training/eval/prompt_match.h"
#include "training/eval/result.h"
#include "training/eval/sha256.h"
#include "worker/model/error.h"

namespace kandinsky::training {
namespace {

using Json = nlohmann::ordered_json;

class EvaluationTest : public testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/kandinsky-evaluation-XXXXXX";
    ASSERT_NE(mkdtemp(name), nullptr);
    folder_ = name;
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::string folder_;
};

std::string Read(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

TEST_F(EvaluationTest, Sha256OfKnownBytes) {
  struct Case {
    std::string bytes;
    const char* want;
  };
  const Case cases[] = {
      {"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
      {"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
      {"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
       "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"},
      {std::string(1000000, 'a'),
       "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"},
  };
  for (const Case& c : cases) {
    Sha256 hash;  // in unequal parts
    const size_t cut = c.bytes.size() / 3;
    hash.Add(std::string_view(c.bytes).substr(0, cut));
    hash.Add(std::string_view(c.bytes).substr(cut));
    EXPECT_EQ(hash.Finish(), c.want) << c.bytes.size();
    WriteText(folder_ + "/bytes", c.bytes);
    EXPECT_EQ(Sha256OfFile(folder_ + "/bytes"), c.want) << c.bytes.size();
  }
  EXPECT_THROW(Sha256OfFile(folder_ + "/nothing"), model::ModelError);
}

TEST_F(EvaluationTest, PromptsAreEvenAndOfTheirSplit) {
  for (const bool held_out : {false, true}) {
    const size_t pairs = held_out ? 6 : 18;
    const auto clips = DrawPrompts({.seed = 3, .count = 504, .held_out = held_out});
    std::map<std::pair<Shape, Color>, int> seen_pairs;
    std::map<Motion, int> seen_motions;
    for (const PromptClip& clip : clips) {
      EXPECT_EQ(HeldOut(clip.spec.shape, clip.spec.color), held_out) << clip.prompt;
      ++seen_pairs[{clip.spec.shape, clip.spec.color}];
      ++seen_motions[clip.spec.motion];
      EXPECT_NE(clip.prompt.find(Name(clip.spec.color)), std::string::npos) << clip.prompt;
      EXPECT_NE(clip.prompt.find(Name(clip.spec.shape)), std::string::npos) << clip.prompt;
      EXPECT_NE(clip.prompt.find(Name(clip.spec.background)), std::string::npos) << clip.prompt;
    }
    ASSERT_EQ(seen_pairs.size(), pairs);
    for (const auto& [pair, count] : seen_pairs) EXPECT_EQ(count, 504 / pairs);
    ASSERT_EQ(seen_motions.size(), size_t{kMotions});
    for (const auto& [motion, count] : seen_motions) EXPECT_EQ(count, IsFast(motion) ? 63 : 54);
  }
}

TEST_F(EvaluationTest, PromptsFollowFromTheSeedAloneAndThePaceIsKept) {
  const auto few = DrawPrompts({.seed = 5, .count = 10});
  const auto many = DrawPrompts({.seed = 5, .count = 40});
  for (size_t i = 0; i < few.size(); ++i) {
    EXPECT_EQ(few[i].spec, many[i].spec);
    EXPECT_EQ(few[i].prompt, many[i].prompt);
  }
  const auto other = DrawPrompts({.seed = 6, .count = 10});
  int same = 0;
  for (size_t i = 0; i < few.size(); ++i) same += few[i].spec == other[i].spec;
  EXPECT_LT(same, 3);
  for (const Pace pace : {Pace::kSlow, Pace::kFast}) {
    for (const PromptClip& clip : DrawPrompts({.seed = 5, .count = 30, .pace = pace})) {
      EXPECT_EQ(IsFast(clip.spec.motion), pace == Pace::kFast) << clip.prompt;
    }
  }
}

// Records of clips that show spec i + shift instead of spec i.
std::vector<Json> Records(const PromptOptions& options, size_t shift, int frames) {
  const auto clips = DrawPrompts(options);
  std::vector<Json> records;
  for (size_t i = 0; i < clips.size(); ++i) {
    const auto rgb = RenderClip(clips[(i + shift) % clips.size()].spec, frames, 64, 64);
    records.push_back(PromptRecord(clips[i], i, 0.5, Judge(rgb.data(), frames, 64, 64)));
  }
  return records;
}

TEST_F(EvaluationTest, TrueClipsAreRightAtEveryLevel) {
  for (const bool held_out : {false, true}) {
    for (const int frames : {16, 61, 241}) {
      const std::vector<Json> records =
          Records({.seed = 1, .count = frames == 16 ? 84 : 14, .held_out = held_out}, 0, frames);
      Result result;
      SummarizePrompts(records, held_out, result);
      for (const char* attribute :
           {"color", "background", "shape", "motion", "color_and_shape", "all"}) {
        const Interval& share =
            result.figures.at((held_out ? "held-out." : "seen.") + std::string(attribute));
        EXPECT_EQ(share.value, 1) << attribute << " at " << frames << " frames";
        EXPECT_GT(share.low, 0.75);
      }
    }
  }
}

TEST_F(EvaluationTest, OtherClipsAreRightByChance) {
  Result result;
  // A neighbour of the same block of pairs has another pair, so both are never right at once except
  // across the borders of blocks.
  SummarizePrompts(Records({.seed = 2, .count = 252}, 1, 16), false, result);
  struct Case {
    const char* figure;
    double least, most;
  };
  const Case cases[] = {{"seen.color", 0.02, 0.25},        {"seen.background", 0.15, 0.42},
                        {"seen.shape", 0.2, 0.45},         {"seen.motion", 0.03, 0.25},
                        {"seen.color_and_shape", 0, 0.03}, {"seen.all", 0, 0.01}};
  for (const Case& c : cases) {
    const Interval& share = result.figures.at(c.figure);
    EXPECT_GE(share.value, c.least) << c.figure;
    EXPECT_LE(share.value, c.most) << c.figure;
    EXPECT_EQ(share.count, 252);
  }
}

TEST_F(EvaluationTest, ConfusionTablesCountEveryClip) {
  Result result;
  SummarizePrompts(Records({.seed = 2, .count = 56}, 1, 16), false, result);
  ASSERT_GE(result.report.tables.size(), 4u);
  for (const size_t table : {1, 2, 3}) {
    double sum = 0;
    for (const Table::Row& row : result.report.tables[table].rows) {
      for (const auto& cell : row.cells) sum += cell.value().value;
    }
    EXPECT_EQ(sum, 56) << result.report.tables[table].title;
  }
}

TEST_F(EvaluationTest, ColorsByBackgroundTellWhereTheWrongOnesAre) {
  std::vector<Json> records = Records({.seed = 2, .count = 252}, 0, 16);
  int64_t asked = 0;
  for (Json& record : records) {
    if (record["asked"]["color"] != "black" || record["asked"]["background"] != "gray") continue;
    record["shown"]["color"] = nullptr;
    ++asked;
  }
  ASSERT_GT(asked, 0);
  Result result;
  SummarizePrompts(records, false, result);
  const auto table = std::find_if(
      result.report.tables.begin(), result.report.tables.end(),
      [](const Table& candidate) { return candidate.title == "Colour right, by background"; });
  ASSERT_NE(table, result.report.tables.end());
  int64_t count = 0;
  for (const Table::Row& row : table->rows) {
    ASSERT_EQ(row.cells.size(), table->columns.size());
    for (size_t column = 0; column < row.cells.size(); ++column) {
      const auto& cell = row.cells[column];
      if (!cell) continue;
      const bool wrong = row.name == "black" && table->columns[column].name == "gray";
      EXPECT_EQ(cell->value, wrong ? 0 : 1) << row.name << " on " << table->columns[column].name;
      if (wrong) {
        EXPECT_EQ(cell->count, asked);
      }
      count += cell->count;
    }
  }
  EXPECT_EQ(count, 252);
}

TEST_F(EvaluationTest, NoiseIsNeverRight) {
  PromptClip clip = DrawPrompts({.count = 1})[0];
  std::vector<uint8_t> rgb(16 * 64 * 64 * 3);
  Random random(4);
  for (uint8_t& value : rgb) value = static_cast<uint8_t>(random.Below(256));
  EXPECT_FALSE(AllRight(PromptRecord(clip, 0, 1, Judge(rgb.data(), 16, 64, 64))));
}

TEST_F(EvaluationTest, AnInterruptedMeasurementGoesOn) {
  const std::string path = folder_ + "/result.json.partial";
  const Json header = {{"measure", "test"}, {"seed", 1}};
  std::vector<int64_t> measured;
  const auto measure = [&](int64_t stop) {
    return [&, stop](int64_t i) {
      if (i == stop) throw std::runtime_error("killed");
      measured.push_back(i);
      return Json{{"value", 10 * i}};
    };
  };
  {
    Journal journal(path, header);
    EXPECT_THROW(MeasureClips("test", 6, journal, false, measure(3)), std::runtime_error);
  }
  EXPECT_EQ(measured, (std::vector<int64_t>{0, 1, 2}));
  {  // killed while a line was written
    std::ofstream stream(path, std::ios::app);
    stream << "{\"clip\":3,\"rec";
  }
  measured.clear();
  Journal journal(path, header);
  const std::vector<Json> records = MeasureClips("test", 6, journal, false, measure(-1));
  EXPECT_EQ(measured, (std::vector<int64_t>{3, 4, 5}));
  ASSERT_EQ(records.size(), 6u);
  for (size_t i = 0; i < 6; ++i) EXPECT_EQ(records[i]["value"], 10 * i);
  EXPECT_EQ(Journal(path, header).size(), 6);
  EXPECT_EQ(Journal(path, {{"measure", "test"}, {"seed", 2}}).size(), 0);
}

TEST_F(EvaluationTest, ComparesModelsByTheirResults) {
  const auto write = [&](const std::string& name, const std::string& measure,
                         std::map<std::string, Interval> figures) {
    Result result;
    result.measure = measure;
    result.report.title = "a title";
    result.figures = std::move(figures);
    WriteText(folder_ + "/" + name, ToJson(result).dump());
  };
  write("one/prompts.json", "prompts", {{"seen.color", {0.975, 0.95, 0.99, 200}}});
  write("one/unseen.json", "prompts", {{"held-out.color_and_shape", {0.75, 0.7, 0.8, 120}}});
  write("one/interpolation.json", "interpolation",
        {{"first.fast.ours.ratio", {2.5, 2.25, 2.75, 40}},
         {"both.all.linear.psnr", {31, 30, 32, 40}}});
  write("two/prompts.json", "prompts", {{"seen.color", {0.5, 0.4, 0.6, 100}}});
  WriteText(folder_ + "/two/other.json", "{\"format\": \"something else\"}");
  WriteText(folder_ + "/two/broken.json", "{");

  const std::string text = ToMarkdown(CompareModels({folder_ + "/one/", folder_ + "/two"}));
  for (const char* want :
       {"| one | 97.5 % (95.0 to 99.0) |", "75.0 % (70.0 to 80.0)",
        "| two | 50.0 % (40.0 to 60.0) |", "| one, ours |", "2.50 (2.25 to 2.75)",
        "| one, linear blending |", "31.00 dB (30.00 to 32.00)"}) {
    EXPECT_NE(text.find(want), std::string::npos) << want << "\n" << text;
  }
  EXPECT_EQ(text.find("two, ours"), std::string::npos) << text;
  std::filesystem::create_directory(folder_ + "/empty");
  EXPECT_THROW(CompareModels({folder_ + "/empty"}), model::ModelError);
  EXPECT_THROW(CompareModels({folder_ + "/none"}), model::ModelError);
}

TEST_F(EvaluationTest, ResultsAreWrittenWhole) {
  Result result;
  result.measure = "prompts";
  result.report.title = "t";
  result.figures["x"] = {1, std::nan(""), INFINITY, 3};
  result.clips.push_back({{"prompt", "a red circle"}});
  WriteText(folder_ + "/deep/er/result.json", ToJson(result).dump());
  const Json json = Json::parse(Read(folder_ + "/deep/er/result.json"));
  EXPECT_EQ(json["format"], "kandinsky-eval 1");
  EXPECT_EQ(json["figures"]["x"]["value"], 1);
  EXPECT_TRUE(json["figures"]["x"]["low"].is_null());
  EXPECT_EQ(json["clips"][0]["prompt"], "a red circle");
  int files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder_ + "/deep/er")) {
    EXPECT_EQ(entry.path().filename(), "result.json");
    ++files;
  }
  EXPECT_EQ(files, 1);
}

}  // namespace
}  // namespace kandinsky::training
