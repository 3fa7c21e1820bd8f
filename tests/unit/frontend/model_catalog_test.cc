#include "services/frontend/model_catalog.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <fstream>

#include "tests/unit/frontend/test_frontend.h"

namespace kandinsky {
namespace {

using ::testing::HasSubstr;

TEST(ModelCatalog, ReadsLimitsAndDefaults) {
  const auto model = ModelCatalog::Parse(kTinyModel, "model.json");
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ(model->name, "tiny");
  EXPECT_EQ(model->width.min, 32);
  EXPECT_EQ(model->width.max, 256);
  EXPECT_EQ(model->width.default_value, 64);
  EXPECT_EQ(model->height.default_value, 48);
  EXPECT_EQ(model->size_multiple, 8);
  EXPECT_EQ(model->pixels_max, 32768);
  EXPECT_EQ(model->steps.max, 100);
  EXPECT_EQ(model->guidance_scale.default_value, 5.0);
  EXPECT_EQ(model->interpolation_guidance_scale.max, 5.0);
  ASSERT_NE(model->FindLevel(Level::kMedium), nullptr);
  EXPECT_EQ(model->FindLevel(Level::kMedium)->frames, 61);
  EXPECT_EQ(model->FindLevel(Level::kMedium)->fps, 7.5);
}

// Replaces the only occurrence of `from`.
std::string With(const std::string& from, const std::string& to) {
  std::string text = kTinyModel;
  const size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return text.replace(at, from.size(), to);
}

TEST(ModelCatalog, RefusesBadFilesByName) {
  struct Case {
    std::string json;
    std::string want;
  };
  const Case cases[] = {
      {"", "is not a JSON object"},
      {"[1]", "is not a JSON object"},
      {"{", "is not a JSON object"},
      {With("\"name\": \"tiny\"", "\"name\": \"ti ny\""), "name"},
      {With("\"width\": 64", "\"width\": 63"), "defaults.width must be a multiple of 8"},
      {With("\"width\": 64", "\"width\": 512"), "defaults.width must be an integer from 32 to 256"},
      {With("\"steps\": 50", "\"steps\": 50.5"), "defaults.steps"},
      {With("\"min\": 2, \"max\": 100", "\"min\": 200, \"max\": 100"), "limits.steps.max"},
      {With("\"guidance_scale\": 5.0", "\"guidance_scale\": \"5\""), "defaults.guidance_scale"},
      {With("\"level\": \"high\"", "\"level\": \"ultra\""), "defaults.level"},
      {With("\"fps\": [15, 2]", "\"fps\": [15, 0]"), "levels[1].fps"},
      {With("\"frames\": 241", "\"frames\": -1"), "levels[2].frames"},
      {With("\"max\": 2000}, \"neg", "\"max\": 9000}, \"neg"), "limits.prompt_characters.max"},
      {With("\"keyframes\": 16", "\"vocabulary\": \"panda\""), "vocabulary must be an array"},
      {With("\"keyframes\": 16", "\"vocabulary\": [\"panda\", 7]"), "vocabulary[1]"},
      {With("\"keyframes\": 16", "\"vocabulary\": [\" \"]"), "vocabulary[0]"},
  };
  for (const Case& c : cases) {
    const auto model = ModelCatalog::Parse(c.json, "model.json");
    ASSERT_FALSE(model.ok()) << c.want;
    EXPECT_EQ(model.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(model.status().message()), HasSubstr(c.want));
    EXPECT_THAT(std::string(model.status().message()), HasSubstr("model.json"));
  }
}

TEST(ModelCatalog, LoadsDirectoriesAndTheFirstIsTheDefault) {
  std::string root = (std::filesystem::temp_directory_path() / "catalog.XXXXXX").string();
  ASSERT_NE(mkdtemp(root.data()), nullptr);
  for (const std::string name : {"one", "two"}) {
    std::filesystem::create_directory(root + "/" + name);
    std::ofstream(root + "/" + name + "/model.json") << With("\"tiny\"", "\"" + name + "\"");
  }
  const auto catalog = ModelCatalog::Load({root + "/two", root + "/one"});
  ASSERT_TRUE(catalog.ok()) << catalog.status();
  EXPECT_EQ(catalog->Find("")->name, "two");
  EXPECT_EQ(catalog->Find("one")->name, "one");
  EXPECT_EQ(catalog->Find("three"), nullptr);

  EXPECT_EQ(ModelCatalog::Load({}).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ModelCatalog::Load({root + "/none"}).status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(ModelCatalog::Load({root + "/one", root + "/one"}).status().message()),
              HasSubstr("two model directories are named one"));
  std::filesystem::remove_all(root);
}

}  // namespace
}  // namespace kandinsky
