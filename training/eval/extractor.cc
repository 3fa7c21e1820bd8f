#include "training/eval/extractor.h"

#include <torch/script.h>

#include <algorithm>
#include <filesystem>
#include <optional>
#include <set>
#include <sstream>
#include <unordered_map>

#include "worker/model/error.h"

namespace kandinsky::training {
namespace {

using model::ModelError;

void Require(bool condition, const std::string& message) {
  if (!condition) throw ModelError(ModelError::Kind::kInvalidArgument, message);
}

std::string ShapeOf(const at::Tensor& tensor) {
  std::ostringstream text;
  text << tensor.sizes();
  return text.str();
}

torch::jit::Module LoadModule(const std::string& path, at::Device device) {
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored)) {
    throw ModelError(ModelError::Kind::kNotFound, "feature extractor " + path + ": no such file");
  }
  try {
    torch::jit::Module module = torch::jit::load(path, device);
    module.eval();
    return module;
  } catch (const c10::Error& error) {
    throw ModelError(ModelError::Kind::kDataLoss,
                     "feature extractor " + path +
                         ": not a TorchScript file: " + error.what_without_backtrace());
  }
}

std::set<std::string> ArgumentsOf(const torch::jit::Module& module) {
  std::set<std::string> names;
  for (const c10::Argument& argument :
       module.get_method("forward").function().getSchema().arguments()) {
    names.insert(argument.name());
  }
  return names;
}

// The result of forward as [B, D] float on the CPU.
at::Tensor Run(torch::jit::Module& module, const at::Tensor& input,
               const std::unordered_map<std::string, c10::IValue>& switches) {
  const c10::InferenceMode no_gradients;
  const c10::IValue result = module.get_method("forward")({input}, switches);
  Require(result.isTensor(),
          "feature extractor: want a tensor as result, got " + std::string(result.tagKind()));
  at::Tensor features = result.toTensor();
  Require(features.dim() >= 2 && features.size(0) == input.size(0),
          "feature extractor: want [" + std::to_string(input.size(0)) + ", D] as result, got " +
              ShapeOf(features));
  while (features.dim() > 2 && features.size(-1) == 1) features = features.squeeze(-1);
  Require(features.dim() == 2,
          "feature extractor: want [B, D] as result, got " + ShapeOf(features));
  return features.to(at::Device(at::kCPU), at::kFloat);
}

// frames: [N, 3, H, W] float -> [N, 3, size, size].
at::Tensor Resized(const at::Tensor& frames, Preprocessing::Resize resize, int64_t size) {
  const int64_t height = frames.size(2);
  const int64_t width = frames.size(3);
  if (resize == Preprocessing::Resize::kNone || (height == size && width == size)) return frames;
  if (resize == Preprocessing::Resize::kStretch) {
    return at::upsample_bilinear2d(frames, {size, size}, /*align_corners=*/false);
  }
  const int64_t shorter = std::min(height, width);
  const int64_t to_height = std::max(size, height * size / shorter);
  const int64_t to_width = std::max(size, width * size / shorter);
  const at::Tensor resized = at::_upsample_bicubic2d_aa(frames, {to_height, to_width},
                                                        /*align_corners=*/false)
                                 .clamp(0, 255);
  return resized.narrow(2, (to_height - size) / 2, size).narrow(3, (to_width - size) / 2, size);
}

}  // namespace

Preprocessing Preprocessing::I3d() {
  Preprocessing p;
  p.frames = 16;
  p.resize = Resize::kStretch;
  p.size = 224;
  p.scale = 2;
  p.mean = {1, 1, 1};
  p.switches = {{"rescale", true}, {"resize", true}, {"return_features", true}};
  p.switches_replace_scaling = true;
  return p;
}

Preprocessing Preprocessing::C3d() {
  Preprocessing p;
  p.frames = 16;
  p.scale = 255;
  return p;
}

Preprocessing Preprocessing::Inception(bool features) {
  Preprocessing p;
  p.video = false;
  p.scale = 255;
  p.switches = {{"return_features", features}, {"no_output_bias", !features}};
  return p;
}

Preprocessing Preprocessing::ClipImage() {
  Preprocessing p;
  p.video = false;
  p.resize = Resize::kShortSideCrop;
  p.size = 224;
  p.mean = {0.48145466, 0.4578275, 0.40821073};
  p.deviation = {0.26862954, 0.26130258, 0.27577711};
  return p;
}

struct FeatureExtractor::Impl {
  torch::jit::Module module;
  Preprocessing preprocessing;
  at::Device device;
  std::unordered_map<std::string, c10::IValue> switches;  // those that forward has
  bool scales_itself = false;
};

FeatureExtractor::FeatureExtractor(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
FeatureExtractor::FeatureExtractor(FeatureExtractor&&) noexcept = default;
FeatureExtractor& FeatureExtractor::operator=(FeatureExtractor&&) noexcept = default;
FeatureExtractor::~FeatureExtractor() = default;

FeatureExtractor FeatureExtractor::Load(const std::string& path, const Preprocessing& preprocessing,
                                        at::Device device) {
  Require(preprocessing.resize == Preprocessing::Resize::kNone || preprocessing.size > 0,
          "preprocessing: resizing needs a size");
  auto impl =
      std::make_unique<Impl>(Impl{LoadModule(path, device), preprocessing, device, {}, false});
  const std::set<std::string> arguments = ArgumentsOf(impl->module);
  for (const auto& [name, value] : preprocessing.switches) {
    if (arguments.contains(name)) impl->switches.emplace(name, value);
  }
  impl->scales_itself = preprocessing.switches_replace_scaling &&
                        impl->switches.size() == preprocessing.switches.size();
  // Half of the published switches would scale twice or not at all.
  if (preprocessing.switches_replace_scaling && !impl->scales_itself) {
    impl->switches.erase("rescale");
    impl->switches.erase("resize");
  }
  return FeatureExtractor(std::move(impl));
}

at::Tensor FeatureExtractor::Prepare(const at::Tensor& clips) const {
  const Preprocessing& p = impl_->preprocessing;
  Require(clips.dim() == 5 && clips.size(4) == 3 && clips.scalar_type() == at::kByte,
          "clips: want [B, T, H, W, 3] of uint8, got " + ShapeOf(clips));
  Require(clips.numel() > 0, "clips: none given");
  at::Tensor chosen = clips;
  if (p.video && p.frames > 0) {
    Require(clips.size(1) >= p.frames, "clips: want at least " + std::to_string(p.frames) +
                                           " frames, got " + std::to_string(clips.size(1)));
    chosen = clips.narrow(1, 0, p.frames);
  }
  const int64_t batch = chosen.size(0);
  const int64_t time = chosen.size(1);
  at::Tensor frames = chosen.to(impl_->device)
                          .to(at::kFloat)
                          .reshape({batch * time, chosen.size(2), chosen.size(3), 3})
                          .permute({0, 3, 1, 2})
                          .contiguous();  // [B * T, 3, H, W]
  if (!impl_->scales_itself) {
    frames = Resized(frames, p.resize, p.size);
    const auto row = [&](const std::array<double, 3>& values) {
      return at::tensor(at::ArrayRef<double>(values.data(), 3), frames.options())
          .view({1, 3, 1, 1});
    };
    frames = (frames * (p.scale / 255) - row(p.mean)) / row(p.deviation);
  }
  if (!p.video) return frames;
  return frames.view({batch, time, 3, frames.size(2), frames.size(3)})
      .permute({0, 2, 1, 3, 4})
      .contiguous();  // [B, 3, T, H, W]
}

at::Tensor FeatureExtractor::Extract(const at::Tensor& clips) {
  const at::Tensor features = Run(impl_->module, Prepare(clips), impl_->switches);
  if (impl_->preprocessing.video) return features;
  return features.view({clips.size(0), clips.size(1), features.size(1)});
}

struct TextExtractor::Impl {
  torch::jit::Module module;
  at::Device device;
};

TextExtractor::TextExtractor(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
TextExtractor::TextExtractor(TextExtractor&&) noexcept = default;
TextExtractor& TextExtractor::operator=(TextExtractor&&) noexcept = default;
TextExtractor::~TextExtractor() = default;

TextExtractor TextExtractor::Load(const std::string& path, at::Device device) {
  return TextExtractor(std::make_unique<Impl>(Impl{LoadModule(path, device), device}));
}

at::Tensor TextExtractor::Extract(const at::Tensor& tokens) {
  Require(tokens.dim() == 2 && tokens.numel() > 0 && tokens.scalar_type() == at::kLong,
          "tokens: want [B, L] of int64, got " + ShapeOf(tokens));
  return Run(impl_->module, tokens.to(impl_->device), {});
}

}  // namespace kandinsky::training
