// What models/tiny shows for prompts that README and documentation name, through the stages of the
// service and judged by its pixels.
#include <gtest/gtest.h>

#include <string>

#include "training/domain/shapes.h"
#include "training/eval/generator.h"
#include "training/eval/judge_frames.h"

namespace kandinsky::training {
namespace {

TEST(ShippedModelTest, ShowsWhatPromptsAskFor) {
  struct Case {
    const char* prompt;
    Color color;
    Shape shape;
    Background background;
    Motion motion;
  };
  constexpr Case kCases[] = {
      {"a blue square moves up on a white background", Color::kBlue, Shape::kSquare,
       Background::kWhite, Motion::kUp},
      {"yellow triangle, black backdrop, moving down", Color::kYellow, Shape::kTriangle,
       Background::kBlack, Motion::kDown},
      {"оранжевый круг движется влево на сером фоне", Color::kOrange, Shape::kCircle,
       Background::kGray, Motion::kLeft},
      // The same words in another order.
      {"a black square grows on a white background", Color::kBlack, Shape::kSquare,
       Background::kWhite, Motion::kGrow},
      {"a white square grows on a black background", Color::kWhite, Shape::kSquare,
       Background::kBlack, Motion::kGrow},
  };
  GeneratorOptions options;
  options.model = KANDINSKY_SOURCE_DIR "/models/tiny";
  options.level = "low";
  ModelGenerator generator(options);
  for (const Case& c : kCases) {
    SCOPED_TRACE(c.prompt);
    const Verdict verdict = JudgeFrames(generator.Generate(c.prompt, 1));
    EXPECT_EQ(verdict.color, c.color);
    EXPECT_EQ(verdict.shape, c.shape);
    EXPECT_EQ(verdict.background, c.background);
    EXPECT_EQ(verdict.motion, c.motion);
  }
}

}  // namespace
}  // namespace kandinsky::training
