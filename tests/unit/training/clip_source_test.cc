#include "training/data/clip_source.h"

#include <gtest/gtest.h>

#include <array>
#include <nlohmann/json.hpp>
#include <set>
#include <string>

namespace kandinsky::training {
namespace {

constexpr ClipRequest kRequest = {.frames = 2, .spacing = 16, .height = 16, .width = 16};

TEST(ShapesSource, DescribesAClipInManyWays) {
  const auto source = MakeShapesSource(3, {});
  const Clip clip = source->Read(5, kRequest);
  const auto first = source->Redescribe(5, kRequest, 0);
  ASSERT_TRUE(first);
  EXPECT_EQ(first->caption, clip.caption);
  EXPECT_EQ(first->attributes, clip.attributes);

  const ClipSpec spec = ClipAt(3, 5, {});
  const std::array<int64_t, kAttributes> truth = {
      static_cast<int64_t>(spec.shape), static_cast<int64_t>(spec.color),
      static_cast<int64_t>(spec.background), static_cast<int64_t>(spec.motion)};
  std::set<std::string> captions;
  for (uint64_t variant = 0; variant < 100; ++variant) {
    const auto description = source->Redescribe(5, kRequest, variant);
    ASSERT_TRUE(description);
    captions.insert(description->caption);
    EXPECT_EQ(source->Redescribe(5, kRequest, variant)->caption, description->caption);
    for (size_t i = 0; i < truth.size(); ++i) {
      if (description->attributes[i] >= 0) {
        EXPECT_EQ(description->attributes[i], truth[i]) << description->caption;
      }
    }
  }
  EXPECT_GT(captions.size(), 80u);
}

TEST(ShapesSource, LeavesOutAsOftenAsItIsAsked) {
  const auto mentioned = [](double leave_out) {
    const auto source = MakeShapesSource(3, {}, leave_out);
    int count = 0;
    for (uint64_t index = 0; index < 500; ++index) {
      const auto description = source->Redescribe(index, kRequest, 1);
      for (const int64_t value : description->attributes) count += value >= 0 ? 1 : 0;
    }
    return count / 2000.0;
  };
  EXPECT_EQ(mentioned(0), 1);
  EXPECT_NEAR(mentioned(0.4), 0.6, 0.05);
  EXPECT_EQ(mentioned(1), 0.25);  // one always stays
  EXPECT_NE(MakeShapesSource(3, {}, 0.2)->Fingerprint(), MakeShapesSource(3, {})->Fingerprint());
}

TEST(ShapesSource, NamesNoColorThatHasNoName) {
  const ClipOptions options{.unnamed_colors = 0.5};
  const auto source = MakeShapesSource(3, options, 0);
  int named = 0;
  for (uint64_t index = 0; index < 200; ++index) {
    const Description description = source->Read(index, kRequest);
    const bool has_name = !ClipAt(3, index, options).unnamed_color;
    named += has_name;
    EXPECT_EQ(description.attributes[1] >= 0, has_name) << description.caption;
    EXPECT_GE(description.attributes[0], 0);
  }
  EXPECT_NEAR(named, 100, 30);
  EXPECT_NE(source->Fingerprint(), MakeShapesSource(3, {}, 0)->Fingerprint());
}

}  // namespace
}  // namespace kandinsky::training
