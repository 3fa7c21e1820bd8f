// How far pictures are from the pictures that they should be. Pictures are 8-bit,
// [height][width][3] or any other number of channels, channels last; clips are frames one after the
// other.
//
// Pure functions: any thread, no state. Spans of different or wrong length give NaN.
#ifndef KANDINSKY_TRAINING_EVAL_METRICS_H_
#define KANDINSKY_TRAINING_EVAL_METRICS_H_

#include <cstdint>
#include <span>

namespace kandinsky::training {

// Mean of the squared differences of all values, in squared levels (0 to 65025).
double MeanSquaredError(std::span<const uint8_t> a, std::span<const uint8_t> b);

// 10 log10(255^2 / mean squared error) over all values given, in dB; infinity when equal. For a
// clip, give the whole clip: averaging the decibels of its frames favours frames that are perfect.
double Psnr(std::span<const uint8_t> a, std::span<const uint8_t> b);
double PsnrOfError(double mean_squared_error);

// Structural similarity (Wang et al. 2004) of two pictures: Gaussian window of 11 x 11 with sigma
// 1.5, K1 = 0.01, K2 = 0.03, range 255, at the places where the window fits whole; computed for
// each channel and averaged over channels and places. 1 when equal. NaN below 11 x 11.
double Ssim(std::span<const uint8_t> a, std::span<const uint8_t> b, int height, int width,
            int channels = 3);
// The mean over frames.
double ClipSsim(std::span<const uint8_t> a, std::span<const uint8_t> b, int frames, int height,
                int width, int channels = 3);

// Flicker: how much the error changes from one frame to the next, root mean square, in levels. An
// error that stands still or does not exist has none. NaN for fewer than two frames.
double Flicker(std::span<const uint8_t> clip, std::span<const uint8_t> truth, int frames);

}  // namespace kandinsky::training

#endif  // KANDINSKY_TRAINING_EVAL_METRICS_H_
