#include "services/cli/args.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

namespace kandinsky::cli {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

const char* NoVariables(const char*) { return nullptr; }

TEST(ArgsTest, Parses) {
  const auto args =
      Args::Parse({"--json", "generate", "--seed=18446744073709551615", "a red cube", "--level",
                   "low", "-o", "out.mp4", "--guidance_scale", "-1.5", "--timeout=90s"},
                  NoVariables);
  ASSERT_TRUE(args.ok()) << args.status();
  EXPECT_EQ(args->command(), "generate");
  EXPECT_THAT(args->positionals(), ElementsAre("a red cube"));
  EXPECT_TRUE(args->Bool("json"));
  EXPECT_EQ(args->Uint("seed"), 18446744073709551615u);
  EXPECT_EQ(args->String("level"), "low");
  EXPECT_EQ(args->String("out"), "out.mp4");
  EXPECT_EQ(args->Double("guidance-scale"), -1.5);
  EXPECT_EQ(args->Duration("timeout"), absl::Seconds(90));
  EXPECT_FALSE(args->Has("width"));
  EXPECT_EQ(args->String("server"), "127.0.0.1:50051");
  EXPECT_EQ(args->Duration("retry-for"), absl::Seconds(60));
}

TEST(ArgsTest, DoubleDashEndsFlags) {
  const auto args = Args::Parse({"generate", "--", "--not a flag"}, NoVariables);
  ASSERT_TRUE(args.ok()) << args.status();
  EXPECT_THAT(args->positionals(), ElementsAre("--not a flag"));
}

TEST(ArgsTest, Environment) {
  std::map<std::string, std::string> variables = {{"KANDINSKY_SERVER", "host:1"},
                                                  {"KANDINSKY_TENANT", "team"}};
  const auto variable = [&](const char* name) {
    const auto at = variables.find(name);
    return at == variables.end() ? nullptr : at->second.c_str();
  };
  const struct {
    std::vector<std::string> args;
    std::string server;
    std::string tenant;
  } cases[] = {
      {{"submit", "x"}, "host:1", "team"},
      {{"submit", "x", "--server=other:2", "--tenant=me"}, "other:2", "me"},
      {{"list"}, "host:1", ""},
      {{"models"}, "host:1", ""},
  };
  for (const auto& c : cases) {
    const auto args = Args::Parse(c.args, variable);
    ASSERT_TRUE(args.ok()) << args.status();
    EXPECT_EQ(args->String("server"), c.server) << c.args[0];
    EXPECT_EQ(args->String("tenant"), c.tenant) << c.args[0];
  }
}

TEST(ArgsTest, HelpAndVersion) {
  const struct {
    std::vector<std::string> args;
    std::string command;
    std::vector<std::string> positionals;
  } cases[] = {
      {{}, "help", {}},
      {{"--help"}, "help", {}},
      {{"help"}, "help", {}},
      {{"generate", "-h"}, "help", {"generate"}},
      {{"help", "watch"}, "help", {"watch"}},
      {{"--version"}, "version", {}},
      {{"version"}, "version", {}},
  };
  for (const auto& c : cases) {
    const auto args = Args::Parse(c.args, NoVariables);
    ASSERT_TRUE(args.ok()) << args.status();
    EXPECT_EQ(args->command(), c.command);
    EXPECT_EQ(args->positionals(), c.positionals);
  }
}

TEST(ArgsTest, Refusals) {
  const struct {
    std::vector<std::string> args;
    const char* want;
  } cases[] = {
      {{"make"}, "unknown command make"},
      {{"make", "--help"}, "unknown command make"},
      {{"generate", "x", "--sed=1"}, "unknown flag --sed=1"},
      {{"generate", "x", "-z"}, "unknown flag -z"},
      {{"generate", "x", "--seed"}, "needs a value"},
      {{"generate", "x", "--seed=-1"}, "--seed must be a whole number from 0"},
      {{"generate", "x", "--seed=18446744073709551616"}, "--seed must be"},
      {{"generate", "x", "--width=ten"}, "--width must be a whole number"},
      {{"generate", "x", "--width=3000000000"}, "--width must be a whole number"},
      {{"generate", "x", "--fps=fast"}, "--fps must be a number"},
      {{"generate", "x", "--timeout=10"}, "--timeout must be a duration"},
      {{"generate", "x", "--timeout=-10s"}, "--timeout must be a duration"},
      {{"generate", "x", "--level=ultra"}, "--level must be low, medium, high"},
      {{"generate", "x", "--format=avi"}, "--format must be mp4, webm, gif, fragmented-mp4"},
      {{"generate", "x", "--json=perhaps"}, "--json must be true or false"},
      {{"generate", "a", "red", "cube"}, "put a text with blanks in quotes"},
      {{"get"}, "get takes JOB"},
      {{"list", "x"}, "list takes no arguments"},
      {{"get", "x", "--seed=1"}, "--seed is not a flag of get"},
      {{"watch", "x", "--out=f"}, "--out is not a flag of watch"},
  };
  for (const auto& c : cases) {
    const auto args = Args::Parse(c.args, NoVariables);
    EXPECT_EQ(args.status().code(), absl::StatusCode::kInvalidArgument) << c.want;
    EXPECT_THAT(std::string(args.status().message()), HasSubstr(c.want));
  }
}

TEST(ArgsTest, EveryCommandHasHelp) {
  for (const char* command : {"generate", "submit", "get", "list", "watch", "cancel", "delete",
                              "download", "models", "status", "dead"}) {
    EXPECT_THAT(HelpText(command), HasSubstr(std::string("Usage: kandinsky ") + command));
    EXPECT_THAT(HelpText(""), HasSubstr(std::string("\n  ") + command + " "));
  }
  EXPECT_THAT(HelpText("make"), IsEmpty());
}

}  // namespace
}  // namespace kandinsky::cli
