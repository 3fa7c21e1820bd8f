// What is to be seen in a clip of the domain: colour, background, shape and motion, measured from
// the pixels. Knows the domain's definitions (training/domain/shapes.h), not how its clips are
// drawn and nothing of any model, so that it can judge generated clips.
//
// How it sees:
//   background  the median colour along the border of the frame, nearest of the four;
//   mask        what differs from the measured background, largest connected region; how much of
//               each pixel it covers follows from the two colours;
//   colour      the median inside the mask, nearest of the eight;
//   shape       angular harmonics of the mask about its centroid (a triangle has the third, a
//   square
//               the fourth, a circle none; blur leaves them as they are), then the overlap with the
//               ideal shape of that area at that place;
//   motion      the path of the centroid and the area over time.
// It is not lenient: what is in between, split in pieces, ragged, faint or different from frame to
// frame is unknown, and unknown is never right. Motion must reach two thirds of the least that the
// domain has (0.3 of the frame for left, right, up, down; twice the area for growing).
//
// Pure functions: any thread, no state, no failure; also no panic over noise or empty frames.
#ifndef KANDINSKY_TRAINING_EVAL_JUDGE_H_
#define KANDINSKY_TRAINING_EVAL_JUDGE_H_

#include <array>
#include <cstdint>
#include <optional>
#include <vector>

#include "training/domain/shapes.h"

namespace kandinsky::training {

// What one frame shows. Attributes without a value are unknown.
struct Sight {
  std::optional<Shape> shape;
  std::optional<Color> color;
  std::optional<Background> background;

  // The measurements behind it. Lengths in units of the shorter side of the frame, areas in its
  // square; the origin is the middle of the frame.
  bool found = false;  // a mask that is large enough; false: the rest of the numbers is zero
  Point centroid;
  double area = 0;
  std::array<double, 3> color_rgb{};       // median inside the mask
  std::array<double, 3> background_rgb{};  // median along the border; set even without a mask
  // |sum of a z^n| / (sum of a |z|^n) for n = 2, 3, 4, with a the coverage of a pixel and z its
  // place as a complex number relative to the centroid.
  std::array<double, 3> harmonics{};
  double overlap = 0;  // intersection over union with the ideal shape
};

// What a clip shows. An attribute of a frame counts for the clip when at least 3 of 4 frames show
// it.
struct Verdict {
  std::optional<Shape> shape;
  std::optional<Color> color;
  std::optional<Background> background;
  std::optional<Motion> motion;
  std::vector<Sight> frames;
};

// rgb: [height][width][3]. Sizes from 16 x 16; smaller ones show nothing.
Sight JudgeFrame(const uint8_t* rgb, int height, int width);

// rgb: [frames][height][width][3], evenly spaced over the clip. Fewer than 4 frames show no motion.
Verdict Judge(const uint8_t* rgb, int frames, int height, int width);

// Motion from what the frames show; for clips that were judged frame by frame.
std::optional<Motion> JudgeMotion(const std::vector<Sight>& frames);

}  // namespace kandinsky::training

#endif  // KANDINSKY_TRAINING_EVAL_JUDGE_H_
