// Feature extractors as TorchScript files: whoever has the published I3D, C3D, Inception or CLIP
// gives their files, and the figures follow the published protocols; the extractor of the shipped
// domain is plugged in the same way.
//
// A file is what torch.jit.save wrote. What its forward is given:
//   video extractors   [B, 3, T, H, W] float
//   image extractors   [B, 3, H, W] float, all frames of all clips as one batch
//   text encoders      [B, L] int64, token ids
// and what it has to return: one tensor [B, D] (or [B, D, 1, 1, …]), features, embeddings or
// probabilities as the metric needs them.
//
// Errors: model::ModelError kNotFound for a file that is not there, kDataLoss for one that is no
// TorchScript, kInvalidArgument for clips that do not fit and for results that are no [B, D].
#ifndef KANDINSKY_TRAINING_EVAL_EXTRACTOR_H_
#define KANDINSKY_TRAINING_EVAL_EXTRACTOR_H_

#include <ATen/ATen.h>

#include <array>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace kandinsky::training {

// How clips become what the network was trained on. Applied in this order.
struct Preprocessing {
  bool video = true;  // false: frame by frame
  // Video only: the first so many frames of each clip, which has to have them; 0: all.
  int frames = 0;

  enum class Resize {
    kNone,
    kStretch,        // bilinear, to size x size, without regard to the aspect
    kShortSideCrop,  // bicubic with anti-aliasing, the shorter side to size; then the middle
  };
  Resize resize = Resize::kNone;
  int size = 0;

  // value = (level / 255 * scale - mean) / deviation, for each channel.
  double scale = 1;
  std::array<double, 3> mean{0, 0, 0};
  std::array<double, 3> deviation{1, 1, 1};

  // Named arguments that published files take, with the values that the protocols give. Those that
  // a file's forward does not have are left out.
  std::vector<std::pair<std::string, bool>> switches;
  // When the file's forward has all switches, it resizes and scales by itself: it gets levels from
  // 0 to 255 at their size.
  bool switches_replace_scaling = false;

  // FVD as in StyleGAN-V: I3D of Kinetics-400, 16 frames. The published file is called with
  // rescale, resize and return_features; any other gets 224 x 224 (stretched) in -1 to 1.
  static Preprocessing I3d();
  // IS of videos as in TGAN and StyleGAN-V: C3D fine-tuned on UCF-101, the first 16 frames, levels
  // 0 to 255; the published file resizes by itself and returns probabilities.
  static Preprocessing C3d();
  // IS and FID of pictures: Inception, levels 0 to 255; called with return_features = features and
  // no_output_bias = !features, as StyleGAN3 does.
  static Preprocessing Inception(bool features);
  // CLIP's image encoder: 224 x 224, its mean and deviation.
  static Preprocessing ClipImage();
};

// Thread rule: as the module; one thread at a time.
class FeatureExtractor {
 public:
  static FeatureExtractor Load(const std::string& path, const Preprocessing& preprocessing,
                               at::Device device = at::kCPU);
  FeatureExtractor(FeatureExtractor&&) noexcept;
  FeatureExtractor& operator=(FeatureExtractor&&) noexcept;
  ~FeatureExtractor();

  // clips: [B, T, H, W, 3] uint8 on any device. Returns float on the CPU: [B, D] for video
  // extractors, [B, T, D] for image extractors.
  at::Tensor Extract(const at::Tensor& clips);

  // What the network is given for these clips: [B, 3, T, H, W] or [B * T, 3, H, W].
  at::Tensor Prepare(const at::Tensor& clips) const;

 private:
  struct Impl;
  explicit FeatureExtractor(std::unique_ptr<Impl> impl);

  std::unique_ptr<Impl> impl_;
};

// Thread rule: as the module; one thread at a time.
class TextExtractor {
 public:
  static TextExtractor Load(const std::string& path, at::Device device = at::kCPU);
  TextExtractor(TextExtractor&&) noexcept;
  TextExtractor& operator=(TextExtractor&&) noexcept;
  ~TextExtractor();

  // tokens: [B, L] int64, for CLIP [B, 77] with start, end and padding. Returns [B, D] float on the
  // CPU.
  at::Tensor Extract(const at::Tensor& tokens);

 private:
  struct Impl;
  explicit TextExtractor(std::unique_ptr<Impl> impl);

  std::unique_ptr<Impl> impl_;
};

}  // namespace kandinsky::training

#endif  // KANDINSKY_TRAINING_EVAL_EXTRACTOR_H_
