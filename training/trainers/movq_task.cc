#include "training/trainers/movq_task.h"

#include <torch/nn/module.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <utility>

#include "training/core/picture.h"
#include "training/trainers/export.h"
#include "training/trainers/initialize.h"
#include "training/trainers/perceptual.h"
#include "worker/model/checkpoint/load.h"
#include "worker/model/checkpoint/tensor_source.h"
#include "worker/model/error.h"
#include "worker/model/movq.h"
#include "worker/model/vector_quantizer.h"

namespace kandinsky::training {
namespace {

using model::ModelError;

constexpr uint64_t kNoise = 1, kCrop = 2;  // uses of random numbers
constexpr int64_t kSheetImages = 12;

at::Tensor Psnr(const at::Tensor& squared_error) {  // of images in [-1, 1]
  return 10 * at::log10(4 / squared_error.clamp_min(1e-10));
}

// Judges overlapping patches of an image: three strided convolutions and one for the verdict.
class PatchDiscriminator : public torch::nn::Module {
 public:
  PatchDiscriminator(uint64_t seed, at::TensorOptions options) {
    constexpr int64_t kWidths[] = {3, 32, 64, 128, 1};
    at::NoGradGuard no_grad;
    at::Generator generator = at::detail::createCPUGenerator(seed);
    for (int i = 0; i < 4; ++i) {
      const double fan_in = static_cast<double>(kWidths[i]) * 16;
      weights_.push_back(register_parameter(
          "weight" + std::to_string(i),
          at::randn({kWidths[i + 1], kWidths[i], 4, 4}, generator, at::TensorOptions(at::kFloat))
              .div_(std::sqrt(fan_in))
              .to(options.device())));
      biases_.push_back(
          register_parameter("bias" + std::to_string(i), at::zeros({kWidths[i + 1]}, options)));
    }
  }

  // images [N, 3, H, W] -> [N, 1, h, w], positive: looks real
  at::Tensor forward(at::Tensor x) const {
    for (size_t i = 0; i < 4; ++i) {
      x = at::conv2d(x, weights_[i], biases_[i], i < 3 ? 2 : 1, 1);
      if (i < 3) x = at::leaky_relu(x, 0.2);
    }
    return x;
  }

 private:
  std::vector<at::Tensor> weights_, biases_;
};

class MovqTask : public Task {
 public:
  MovqTask(const model::ModelConfig& config, std::shared_ptr<const ClipSource> source,
           const MovqTaskOptions& options, uint64_t seed, at::Device device)
      : config_(config),
        source_(std::move(source)),
        options_(options),
        device_(device),
        movq_(config.movq, at::TensorOptions(device)) {
    InitializeMovq(movq_, seed);
    if (options_.freeze_encoder && (options_.from.empty() || options_.codebook_size > 0)) {
      throw ModelError(ModelError::Kind::kInvalidArgument,
                       "--freeze_encoder needs --from, and excludes --codebook_size");
    }
    if (!options_.from.empty()) {
      LoadModule(movq_, options_.from, config.weights.movq, device);
    }
    if (!options_.anchor.empty()) {
      anchor_ = std::make_unique<model::Movq>(config.movq, at::TensorOptions(device));
      LoadModule(*anchor_, options_.anchor, config.weights.movq, device);
      anchor_->eval();
    }
    movq_.train();
    if (options_.codebook_size > 0) {
      quantizer_ = std::make_shared<model::VectorQuantizer>(
          options_.codebook_size, config.movq.z_channels, options_.commitment);
      quantizer_->to(device);
    }
    if (options_.adversarial_weight > 0) {
      discriminator_ = std::make_shared<PatchDiscriminator>(seed + 2, at::TensorOptions(device));
    }
    if (!options_.perceptual_extractor.empty()) {
      perceptual_ = std::make_unique<PerceptualNetwork>(options_.perceptual_extractor, device);
    }
  }

  std::string name() const override { return "movq"; }

  nlohmann::json Fingerprint() const override {
    return {{"source", source_->Fingerprint()},
            {"movq", config_.movq.ToJson()},
            {"height", options_.height},
            {"width", options_.width},
            {"crop", options_.crop},
            {"crop_part", options_.crop_part},
            {"squared_weight", options_.squared_weight},
            {"gradient_weight", options_.gradient_weight},
            {"latent_noise", options_.latent_noise},
            {"range_weight", options_.range_weight},
            {"codebook_size", options_.codebook_size},
            {"commitment", options_.commitment},
            {"perceptual_weight", perceptual_ ? options_.perceptual_weight : 0},
            {"adversarial_weight", options_.adversarial_weight},
            {"adversarial_start", options_.adversarial_start},
            {"from", !options_.from.empty()},
            {"anchor_weight", anchor_ ? options_.anchor_weight : 0},
            {"freeze_encoder", options_.freeze_encoder}};
  }

  std::vector<Objective> Objectives() override {
    std::vector<NamedTensor> parameters;
    for (NamedTensor& parameter : ParametersOf(movq_)) {
      const bool trained = !options_.freeze_encoder || !IsEncoderParameter(parameter.name);
      parameter.value.set_requires_grad(trained);
      if (trained) parameters.push_back({"movq." + parameter.name, parameter.value});
    }
    if (quantizer_) {
      for (NamedTensor& one : ParametersOf(*quantizer_, "quantizer.")) parameters.push_back(one);
    }
    std::vector<Objective> objectives = {{"autoencoder", std::move(parameters), true}};
    if (discriminator_) {
      objectives.push_back({"discriminator", ParametersOf(*discriminator_), false});
    }
    return objectives;
  }

  Batch Load(const BatchKey& key) const override {
    const bool crops = Crops(key);
    std::vector<at::Tensor> images;
    std::vector<float> named;
    for (int64_t i = 0; i < key.count; ++i) {
      const Clip clip = source_->Read(
          key.Sample(i), {.frames = 1, .height = options_.height, .width = options_.width});
      at::Tensor frame = clip.frames[0];  // [H, W, 3]
      if (crops) frame = Crop(frame, clip.focus, key, i);
      images.push_back(frame);
      named.push_back(clip.attributes[kColorAttribute] >= 0 ? 1.0F : 0.0F);
    }
    const int64_t cell = config_.movq.downsampling();
    const at::Tensor x = ToNetworkInput(at::stack(images));
    return {{"images", x},
            {"named", at::tensor(named)},
            {"noise", SampleNoise(key, kNoise,
                                  {config_.movq.z_channels, x.size(2) / cell, x.size(3) / cell})}};
  }

  Losses Loss(size_t objective, const Batch& batch, const BatchKey& key) override {
    const at::Tensor images =
        batch.at("images").to(device_).contiguous(at::MemoryFormat::ChannelsLast);  // [N, 3, H, W]
    if (objective == 1) return DiscriminatorLoss(images, key);
    const at::Tensor z = movq_.Encode(images);  // [N, z, h, w]
    at::Tensor latents = z, extra = at::zeros({}, z.options());
    Losses losses;
    if (quantizer_) {
      const model::QuantizedLatents quantized = quantizer_->forward(z);
      latents = quantized.latents;
      extra = extra + quantized.loss;
      losses.values["perplexity"] = quantizer_->Perplexity(quantized.indices);
    }
    if (anchor_) {
      at::Tensor before;
      {
        at::NoGradGuard no_grad;
        before = anchor_->Encode(images);
      }
      const at::Tensor named = batch.at("named").to(device_);  // [N]
      const at::Tensor anchor = ((z - before).square().mean({1, 2, 3}) * named).mean();
      extra = extra + options_.anchor_weight * anchor;
      losses.values["anchor"] = anchor.item<double>();
    }
    latents = latents + options_.latent_noise * batch.at("noise").to(device_);
    const at::Tensor y = movq_.Decode(latents);  // [N, 3, H, W]
    const at::Tensor squared = (y - images).square().mean();
    const at::Tensor range = at::relu(z.abs() - 1).square().mean();
    losses.total = (y - images).abs().mean() + options_.squared_weight * squared +
                   options_.range_weight * range + extra;
    if (options_.gradient_weight > 0) {
      const at::Tensor error = y - images;
      losses.total = losses.total + options_.gradient_weight * (error.diff(1, 2).abs().mean() +
                                                                error.diff(1, 3).abs().mean());
    }
    if (perceptual_) {
      const at::Tensor perceptual = PerceptualLoss(y, images);
      losses.total = losses.total + options_.perceptual_weight * perceptual;
      losses.values["perceptual"] = perceptual.item<double>();
    }
    if (discriminator_) {
      reconstruction_ = y.detach();
      if (Adversarial(key)) {
        losses.total =
            losses.total - options_.adversarial_weight * discriminator_->forward(y).mean();
      }
    }
    losses.values["psnr"] = Psnr(squared.detach()).item<double>();
    losses.values["latent_deviation"] = z.detach().std().item<double>();
    return losses;
  }

  at::Tensor SampleSheet(uint64_t seed) override {
    std::vector<at::Tensor> images;
    for (int64_t i = 0; i < kSheetImages; ++i) {
      images.push_back(source_
                           ->Read(kUnseen + static_cast<uint64_t>(i) + (seed << 8),
                                  {.frames = 1, .height = options_.height, .width = options_.width})
                           .frames[0]);
    }
    const at::Tensor pixels = at::stack(images);  // [N, H, W, 3]
    const at::Tensor decoded =
        model::ToPixels(movq_.Decode(movq_.Encode(ToNetworkInput(pixels).to(device_))));
    return Tile(at::cat({pixels, decoded.cpu()}), kSheetImages);
  }

  void Export(const std::string& model_directory) override {
    ExportModule(movq_, config_.weights.movq, model_directory);
  }

 private:
  bool Crops(const BatchKey& key) const {
    return options_.crop > 0 &&
           static_cast<double>(key.step) < options_.crop_part * static_cast<double>(key.steps);
  }

  bool Adversarial(const BatchKey& key) const {
    return static_cast<double>(key.step) >=
           options_.adversarial_start * static_cast<double>(key.steps);
  }

  // A square of the frame [H, W, 3] that has the focus in it, anywhere.
  at::Tensor Crop(const at::Tensor& frame, const at::Tensor& focus, const BatchKey& key,
                  int64_t i) const {
    Random random = Random::At(key.seed, kCrop, key.Sample(i));
    at::Tensor crop = frame;
    for (const int64_t axis : {0, 1}) {
      const int64_t size = frame.size(axis);
      const double middle = focus.defined() ? focus[0][1 - axis].item<double>()
                                            : random.Uniform() * static_cast<double>(size);
      const double shift = random.Uniform(-0.5, 0.5) * static_cast<double>(options_.crop);
      const int64_t start =
          std::clamp<int64_t>(std::llround(middle + shift - static_cast<double>(options_.crop) / 2),
                              0, size - options_.crop);
      crop = crop.narrow(axis, start, options_.crop);
    }
    return crop;
  }

  at::Tensor PerceptualLoss(const at::Tensor& y, const at::Tensor& images) {
    std::vector<at::Tensor> wanted;
    {
      at::NoGradGuard no_grad;
      wanted = perceptual_->Activations(images);
    }
    const std::vector<at::Tensor> given = perceptual_->Activations(y);
    at::Tensor loss = at::zeros({}, y.options());
    for (size_t i = 0; i < given.size(); ++i) {
      loss = loss + (given[i] - wanted[i]).square().mean();
    }
    return loss;
  }

  Losses DiscriminatorLoss(const at::Tensor& images, const BatchKey& key) {
    const at::Tensor real = at::relu(1 - discriminator_->forward(images)).mean();
    const at::Tensor fake = at::relu(1 + discriminator_->forward(reconstruction_)).mean();
    Losses losses;
    // Until it takes part it does not learn, either.
    losses.total = (Adversarial(key) ? 0.5 : 0.0) * (real + fake);
    return losses;
  }

  const model::ModelConfig config_;
  const std::shared_ptr<const ClipSource> source_;
  const MovqTaskOptions options_;
  const at::Device device_;
  model::Movq movq_;
  std::unique_ptr<model::Movq> anchor_;
  std::shared_ptr<model::VectorQuantizer> quantizer_;
  std::shared_ptr<PatchDiscriminator> discriminator_;
  std::unique_ptr<PerceptualNetwork> perceptual_;
  at::Tensor reconstruction_;  // [N, 3, H, W] of the step, for the discriminator
};

class DecoderTask : public Task {
 public:
  DecoderTask(const model::ModelConfig& config, const std::string& model_directory,
              std::shared_ptr<const ClipSource> source, const DecoderTaskOptions& options,
              uint64_t seed, at::Device device)
      : config_(config),
        source_(std::move(source)),
        options_(options),
        device_(device),
        encoder_(config.movq, at::TensorOptions(device)),
        movq_(config.video_movq.value(), at::TensorOptions(device)) {
    LoadModule(encoder_, model_directory, config.weights.movq, device);
    encoder_.eval();
    at::NoGradGuard no_grad;
    InitializeTemporal(movq_, seed);
    const auto image = encoder_.named_parameters();
    for (auto& parameter : movq_.named_parameters()) {
      if (const at::Tensor* found = image.find(parameter.key())) parameter.value().copy_(*found);
    }
    movq_.train();
  }

  std::string name() const override { return "decoder"; }

  nlohmann::json Fingerprint() const override {
    return {{"source", source_->Fingerprint()},
            {"movq", config_.video_movq->ToJson()},
            {"height", options_.height},
            {"width", options_.width},
            {"frames", options_.frames},
            {"spacing", options_.spacing},
            {"squared_weight", options_.squared_weight},
            {"latent_noise", options_.latent_noise},
            {"temporal_only", options_.temporal_only}};
  }

  std::vector<Objective> Objectives() override {
    std::vector<NamedTensor> parameters;
    for (NamedTensor& parameter : ParametersOf(movq_)) {
      const bool encoder = IsEncoderParameter(parameter.name);
      const bool temporal = parameter.name.find("temporal") != std::string::npos;
      const bool trained = !encoder && (temporal || !options_.temporal_only);
      parameter.value.set_requires_grad(trained);
      if (trained) parameters.push_back(parameter);
    }
    return {{"decoder", std::move(parameters), true}};
  }

  Batch Load(const BatchKey& key) const override {
    std::vector<at::Tensor> clips;
    for (int64_t i = 0; i < key.count; ++i) {
      clips.push_back(source_->Read(key.Sample(i), Request()).frames);
    }
    const int64_t cell = config_.movq.downsampling();
    return {{"images", ToNetworkInput(at::cat(clips))},
            {"noise", SampleNoise(key, kNoise,
                                  {options_.frames, config_.movq.z_channels, options_.height / cell,
                                   options_.width / cell})
                          .flatten(0, 1)}};
  }

  Losses Loss(size_t, const Batch& batch, const BatchKey&) override {
    const at::Tensor images = batch.at("images").to(device_).contiguous(
        at::MemoryFormat::ChannelsLast);  // [B T, 3, H, W]
    at::Tensor z;
    {
      at::NoGradGuard no_grad;
      z = encoder_.Encode(images) + options_.latent_noise * batch.at("noise").to(device_);
    }
    const at::Tensor y = movq_.Decode(z, {}, options_.frames);
    const at::Tensor squared = (y - images).square().mean();
    Losses losses;
    losses.total = (y - images).abs().mean() + options_.squared_weight * squared;
    losses.values["psnr"] = Psnr(squared.detach()).item<double>();
    return losses;
  }

  at::Tensor SampleSheet(uint64_t seed) override {
    const at::Tensor pixels =
        source_->Read(kUnseen + (seed << 8), Request()).frames;  // [T, H, W, 3]
    const at::Tensor z = encoder_.Encode(ToNetworkInput(pixels).to(device_));
    return Tile(at::cat({pixels, model::ToPixels(encoder_.Decode(z)).cpu(),
                         model::ToPixels(movq_.Decode(z, {}, options_.frames)).cpu()}),
                options_.frames);
  }

  void Export(const std::string& model_directory) override {
    // The encoder is that of the image autoencoder, whose file has it.
    const model::WeightSource& to = config_.weights.video_movq.value();
    std::map<std::string, at::Tensor> tensors;
    for (const NamedTensor& parameter : ParametersOf(movq_)) {
      if (!IsEncoderParameter(parameter.name)) {
        tensors[to.prefix + parameter.name] = parameter.value.detach().to(at::kCPU, at::kHalf);
      }
    }
    ExportTensors(tensors, model_directory + "/" + to.file);
  }

 private:
  ClipRequest Request() const {
    return {.frames = options_.frames,
            .spacing = options_.spacing,
            .height = options_.height,
            .width = options_.width};
  }

  const model::ModelConfig config_;
  const std::shared_ptr<const ClipSource> source_;
  const DecoderTaskOptions options_;
  const at::Device device_;
  model::Movq encoder_;  // the image autoencoder
  model::Movq movq_;
};

}  // namespace

std::unique_ptr<Task> MakeMovqTask(const model::ModelConfig& config,
                                   std::shared_ptr<const ClipSource> source,
                                   const MovqTaskOptions& options, uint64_t seed,
                                   at::Device device) {
  return std::make_unique<MovqTask>(config, std::move(source), options, seed, device);
}

std::unique_ptr<Task> MakeDecoderTask(const model::ModelConfig& config,
                                      const std::string& model_directory,
                                      std::shared_ptr<const ClipSource> source,
                                      const DecoderTaskOptions& options, uint64_t seed,
                                      at::Device device) {
  if (!config.video_movq || !config.weights.video_movq) {
    throw ModelError(
        ModelError::Kind::kInvalidArgument,
        "model.json has no \"video_movq\" and weights for it, which the decoder needs");
  }
  return std::make_unique<DecoderTask>(config, model_directory, std::move(source), options, seed,
                                       device);
}

}  // namespace kandinsky::training
