// What is to be seen in a clip of animated emoji: which one, on which background, how it moves over
// the frame and whether it is animated, measured from the pixels. Knows the domain
// (training/domain/emoji.h) and its pictures, and nothing of any model.
//
// How it sees:
//   background  the median colour along the border of the frame, nearest of the eight;
//   mask        what differs from the measured background: the largest connected region, and others
//               that are not specks beside it;
//   emoji       the square around the mask, scaled to 24 x 24, less the background, against all
//               pictures at 12 moments of their loop on that background, cut out the same way: the
//               one with the least squared difference, summed over the frames, each frame having
//               the moment that suits it. Nothing is too far away: there is always a nearest one;
//   motion      lines through the middle and the logarithm of the side of the mask over time;
//   animation   how much the cut-out squares deviate from their mean, against how much those of the
//               true picture do.
//
// Thread rule: const methods may be called from several threads. Memory: some 70 MB.
#ifndef KANDINSKY_TRAINING_EVAL_EMOJI_JUDGE_H_
#define KANDINSKY_TRAINING_EVAL_EMOJI_JUDGE_H_

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "training/data/emoji_art.h"
#include "training/domain/emoji.h"

namespace kandinsky::training {

struct EmojiVerdict {
  std::optional<int> emoji;  // line of emoji.tsv; none: 1 of 4 frames shows nothing
  std::optional<EmojiBackground> background;  // in at least 3 of 4 frames
  std::optional<Motion> motion;               // one of the first kEmojiMotions; needs 4 frames
  // Deviation of the cut-out squares from their mean, in levels of 255, of the clip and of the
  // picture that `emoji` names at the moments that the frames ought to show.
  double animation = 0, expected_animation = 0;
  // Whether the first is at least half of the second; means nothing for pictures that hardly move.
  bool animated = false;
};

class EmojiJudge {
 public:
  explicit EmojiJudge(std::shared_ptr<const EmojiArt> art);

  // rgb: [frames][height][width][3], evenly spaced from the first to the last moment of the clip;
  // sizes from 16 x 16.
  EmojiVerdict Judge(const uint8_t* rgb, int frames, int height, int width) const;

  const EmojiArt& art() const { return *art_; }

 private:
  static constexpr int kCell = 24;
  // [kCell][kCell][3], colour less the background's.
  using Square = std::array<int16_t, size_t{3} * kCell * kCell>;
  // What a frame shows in front of its background. Lengths in pixels.
  struct Cut {
    Square square{};
    double x = 0, y = 0, side = 0;  // of the square: middle and side
  };
  // Nothing when no more than a speck differs from `background`.
  static std::optional<Cut> CutOut(const uint8_t* rgb, int height, int width,
                                   const std::array<int, 3>& background);
  static double Deviation(const std::vector<Square>& squares);
  static std::optional<Motion> JudgeMotion(const std::vector<std::optional<Cut>>& cuts, int side);

  const std::shared_ptr<const EmojiArt> art_;
  // [background][emoji * moments + moment]
  std::array<std::vector<Square>, kEmojiBackgrounds> references_;
};

}  // namespace kandinsky::training

#endif  // KANDINSKY_TRAINING_EVAL_EMOJI_JUDGE_H_
