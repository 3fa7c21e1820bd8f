// kandinsky-plan itself: what it prints for the full-size model, and wrong calls.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <array>
#include <cstdint>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <string>

namespace kandinsky {
namespace {

using ::testing::HasSubstr;
using Json = nlohmann::json;

struct Result {
  int status = -1;
  std::string output;  // standard output and errors
};

Result RunTool(const std::string& arguments) {
  const std::string command =
      std::string(KANDINSKY_BIN_DIR) + "/kandinsky-plan " + arguments + " 2>&1";
  Result result;
  FILE* const pipe = popen(command.c_str(), "r");
  if (pipe == nullptr) return result;
  std::array<char, 4096> buffer;
  size_t count = 0;
  while ((count = std::fread(buffer.data(), 1, buffer.size(), pipe)) > 0) {
    result.output.append(buffer.data(), count);
  }
  const int status = pclose(pipe);
  result.status = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  return result;
}

const std::string kFull =
    std::string("memory --model ") + KANDINSKY_SOURCE_DIR + "/models/kandinsky-video-1.0 ";
const std::string kTiny = std::string("memory --model ") + KANDINSKY_SOURCE_DIR + "/models/tiny ";

TEST(PlanTool, TellsWhichPlanServesWhichCard) {
  const Result result = RunTool(kFull + "--dtype float16 --level high --json");
  ASSERT_EQ(result.status, 0) << result.output;
  const Json plan = Json::parse(result.output);
  EXPECT_EQ(plan.at("model"), "kandinsky-video-1.0");
  EXPECT_EQ(plan.at("width"), 512);
  ASSERT_EQ(plan.at("stages").size(), 3u);
  for (const Json& stage : plan.at("stages")) {
    EXPECT_EQ(stage.at("total_bytes").get<int64_t>(),
              stage.at("weights_bytes").get<int64_t>() +
                  stage.at("activations_bytes").get<int64_t>() +
                  stage.at("allowance_bytes").get<int64_t>());
    EXPECT_EQ(stage.at("plans").at(0).at("total_bytes"), stage.at("total_bytes"));
    ASSERT_EQ(stage.at("cards").size(), 5u);
    for (const Json& card : stage.at("cards")) {
      if (card.at("bytes") >= 24000000000) {
        ASSERT_TRUE(card.at("fits").get<bool>()) << stage.at("stage") << card;
        EXPECT_LE(card.at("total_bytes"), card.at("bytes"));
      }
    }
    EXPECT_EQ(stage.at("cards").at(4).at("flags"), "");  // 141 GB: everything as it is
  }
}

TEST(PlanTool, PlansEveryLevelAndStartsWithTheOptionsGiven) {
  const Result result =
      RunTool(kTiny + "--json --guidance-passes=2 --width 96 --height=64 --device cpu");
  ASSERT_EQ(result.status, 0) << result.output;
  const Json plans = Json::parse(result.output);
  ASSERT_EQ(plans.size(), 3u);
  EXPECT_EQ(plans.at(0).at("stages").size(), 2u);  // low: nothing to interpolate
  EXPECT_EQ(plans.at(2).at("width"), 96);
  EXPECT_EQ(plans.at(2).at("stages").at(0).at("allowance_bytes"), 0);
  EXPECT_LT(plans.at(1).at("stages").at(1).at("total_bytes"),
            plans.at(2).at("stages").at(1).at("total_bytes"));
  const Json whole = Json::parse(RunTool(kTiny + "--json --level high --device cpu").output);
  const Json two =
      Json::parse(RunTool(kTiny + "--json --level high --device cpu --guidance_passes 2").output);
  EXPECT_LT(two.at("stages").at(1).at("activations_bytes"),
            whole.at("stages").at(1).at("activations_bytes"));
  EXPECT_THAT(RunTool(kTiny + "--markdown").output, HasSubstr("| keyframes | as it is |"));
}

TEST(PlanTool, TellsWrongCallsFromWrongModels) {
  EXPECT_EQ(RunTool("").status, 2);
  EXPECT_EQ(RunTool("memory").status, 2);
  EXPECT_EQ(RunTool(kTiny + "--width many").status, 2);
  EXPECT_EQ(RunTool(kTiny + "--level silly").status, 2);
  EXPECT_EQ(RunTool(kTiny + "--device cuda:0").status, 2);
  EXPECT_EQ(RunTool(kTiny + "--colour red").status, 2);
  const Result odd = RunTool(kTiny + "--width 65");
  EXPECT_EQ(odd.status, 1);
  EXPECT_THAT(odd.output, HasSubstr("width is 65, must be a multiple of"));
  EXPECT_EQ(RunTool("memory --model /nowhere").status, 1);
  EXPECT_EQ(RunTool("--help").status, 0);
}

}  // namespace
}  // namespace kandinsky
