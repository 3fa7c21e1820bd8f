// Pictures to the size that a model is trained on.
#ifndef KANDINSKY_TRAINING_DATA_RESIZE_H_
#define KANDINSKY_TRAINING_DATA_RESIZE_H_

#include <cstdint>
#include <vector>

namespace kandinsky::training {

// Resizes by one factor so that the picture just covers to_height x to_width, and cuts out the
// middle. Linear interpolation, with a window that widens as the picture shrinks, so that nothing
// aliases; a picture that fits already is returned as it is. Reusable for many frames of one size;
// const methods may be called from several threads.
class ResizeAndCrop {
 public:
  // All sizes > 0.
  ResizeAndCrop(int height, int width, int to_height, int to_width);

  // rgb: [height][width][3]; out: [to_height][to_width][3].
  void Apply(const uint8_t* rgb, uint8_t* out) const;

 private:
  // What one row or column of the result is made of: `weights` for inputs from `first` on.
  struct Taps {
    int first = 0;
    std::vector<float> weights;  // sum to 1
  };
  static std::vector<Taps> MakeTaps(int size, int to_size, double scale);

  int width_;
  std::vector<Taps> rows_;     // [to_height]
  std::vector<Taps> columns_;  // [to_width]
};

}  // namespace kandinsky::training

#endif  // KANDINSKY_TRAINING_DATA_RESIZE_H_
