#include "training/trainers/unet_tasks.h"

#include <ATen/CPUGeneratorImpl.h>
#include <torch/nn/module.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <utility>

#include "training/core/flag_set.h"
#include "training/core/picture.h"
#include "training/trainers/attribute_loss.h"
#include "training/trainers/export.h"
#include "training/trainers/initialize.h"
#include "training/trainers/latent_pool.h"
#include "training/trainers/text_side.h"
#include "worker/model/checkpoint/load.h"
#include "worker/model/checkpoint/tensor_source.h"
#include "worker/model/denoising.h"
#include "worker/model/diffusion.h"
#include "worker/model/error.h"
#include "worker/model/interpolation.h"
#include "worker/model/mfi.h"
#include "worker/model/movq.h"
#include "worker/model/pipeline_parts.h"
#include "worker/model/unet.h"
#include "worker/model/weights_init.h"

namespace kandinsky::training {
namespace {

using model::ModelConfig;
using model::Unet;
using model::UnetConfig;

// Uses of random numbers.
constexpr uint64_t kNoise = 1, kDraws = 2, kPerturbation = 3, kTimes = 4;
// The expected error of keyframes over the timesteps.
constexpr int64_t kLogErrorPoints = 17;
constexpr int kSpacings = 5;
constexpr double kLogErrorStart = -3, kLogErrorRate = 10;
constexpr char kTextToImageFile[] = "training/text-to-image.safetensors";
constexpr char kMfiFile[] = "training/mfi.safetensors";
constexpr char kNullName[] = "null_embedding";  // in these two files
constexpr int64_t kClassTokens =
    2;  // of the context without text: the null embedding and a masked zero

template <typename Attribute>
nlohmann::json Names(const std::vector<Attribute>& values) {
  nlohmann::json names = nlohmann::json::array();
  for (const Attribute value : values) names.push_back(Name(value));
  return names;
}

// The network on single frames that `video`, one of config's two U-Nets, starts from.
UnetConfig TextToImageConfig(const ModelConfig& config, UnetConfig video) {
  video.temporal_variant = model::TemporalVariant::kNone;
  video.num_frames = 0;
  video.num_channels = video.out_channels = config.movq.z_channels;
  return video;
}

// What one trainer of a U-Net has beside the network itself.
class UnetTask : public Task {
 public:
  UnetTask(const ModelConfig& config, std::string directory,
           std::shared_ptr<const ClipSource> source, const UnetTaskOptions& options,
           at::Device device)
      : config_(config),
        directory_(std::move(directory)),
        from_(options.from.empty() ? directory_ : options.from),
        source_(std::move(source)),
        base_(options),
        device_(device),
        schedule_(model::ScheduleType::kCosine, options.schedule_steps),
        movq_(config.movq, at::TensorOptions(device)) {
    CheckRange("--timestep_shift", options.timestep_shift, 0.01, 100, "0.01 to 100");
    CheckRange("--captions", static_cast<double>(options.captions), 0, 1e9, "0 to 1000000000");
    LoadModule(movq_, from_, config.weights.movq, device);
    movq_.eval();
  }

  void Prepare(ProcessGroup& group) override {
    if (!base_.encode_ahead) return;
    const std::string own = directory_ + "/training/" + name() + "/latents.safetensors";
    pool_->Fill(group, base_.pool.empty() ? own : base_.pool, base_.threads);
  }

 protected:
  nlohmann::json BaseFingerprint() const {
    return {{"source", source_->Fingerprint()},
            {"height", base_.height},
            {"width", base_.width},
            {"clips", base_.clips},
            {"schedule_steps", base_.schedule_steps},
            {"prediction", static_cast<int>(config_.keyframe_sampling.prediction)},
            {"timestep_shift", base_.timestep_shift},
            {"unconditional", base_.unconditional},
            {"captions", base_.captions},
            {"tune", !base_.tune.empty()}};
  }

  void MakePool(const ClipRequest& request, std::vector<double> spacings) {
    pool_ =
        std::make_unique<LatentPool>(movq_, *source_, request, std::move(spacings), base_.clips);
  }

  std::vector<int64_t> LatentShape() const {
    const int64_t cell = config_.movq.downsampling();
    return {config_.movq.z_channels, base_.height / cell, base_.width / cell};
  }

  at::Tensor Decode(const at::Tensor& latents) const {  // [N, z, h, w] -> uint8 [N, H, W, 3]
    return model::ToPixels(movq_.Decode(latents.to(device_))).cpu();
  }

  // Of sample i. The timesteps of a joined batch are spread evenly, which makes the loss of small
  // batches less noisy (the low-discrepancy sampler of Kingma et al. 2021, appendix I.1).
  int64_t Timestep(const BatchKey& key, int64_t i) const {
    double u = Random::At(key.seed, kTimes, static_cast<uint64_t>(key.step)).Uniform() +
               static_cast<double>(key.first + i) / static_cast<double>(key.batch_size);
    u -= std::floor(u);
    const double shift = base_.timestep_shift, steps = static_cast<double>(schedule_.steps());
    return std::min(schedule_.steps() - 1,
                    static_cast<int64_t>(steps * shift * u / (1 + (shift - 1) * u)));
  }

  Description Describe(int64_t clip, Random& random) const {
    uint64_t variant = 0;
    if (base_.captions == 0) {
      variant = random.Next();
    } else if (base_.captions > 1) {
      variant = static_cast<uint64_t>(random.Below(static_cast<int>(base_.captions)));
    }
    return pool_->Describe(clip, variant);
  }

  // Adds noise; t [N].
  at::Tensor AddNoise(const at::Tensor& x, const at::Tensor& t, const at::Tensor& noise) const {
    return model::QSample(schedule_, x, t, noise);
  }

  // What text-to-image and keyframe networks predict: noise, or v if model.json's keyframe_sampling
  // says so.
  at::Tensor Target(const at::Tensor& x, const at::Tensor& t, const at::Tensor& noise) const {
    return config_.keyframe_sampling.prediction == model::PredictionType::kV
               ? model::VTarget(schedule_, x, t, noise)
               : noise;
  }

  at::Tensor NetworkTime(const at::Tensor& t) const { return t * schedule_.time_scale(); }

  // The text-to-image network and what belongs to it, from its file.
  void LoadTextToImage(Unet& unet, TextSide& text) const {
    LoadModule(unet, from_, {kTextToImageFile, "unet."}, device_);
    LoadModule(text.encoder().t5(), from_, config_.weights.text_encoder, device_);
    LoadModule(text.encoder().projection(), from_, {kTextToImageFile, "projections."}, device_);
    LoadNull(from_, {kTextToImageFile, kNullName}, text);
  }

  // What --tune goes on from: the network, and the null embedding that was exported with it.
  void LoadTuned(Unet& unet, const model::WeightSource& weights, const model::WeightSource& null,
                 TextSide& text) const {
    LoadModule(unet, base_.tune, weights, device_);
    LoadNull(base_.tune, null, text);
  }

  void LoadNull(const std::string& directory, const model::WeightSource& from,
                TextSide& text) const {
    const auto source = model::OpenCheckpoint(directory + "/" + from.file);
    text.null_embedding() = model::LoadNullEmbedding(
        *source, from.prefix, config_.text_encoder.context_dim, at::kFloat, device_);
  }

  const ModelConfig config_;
  const std::string directory_, from_;
  const std::shared_ptr<const ClipSource> source_;
  const UnetTaskOptions base_;
  const at::Device device_;
  const model::NoiseSchedule schedule_;
  model::Movq movq_;
  std::unique_ptr<LatentPool> pool_;
};

void CollectNull(const at::Tensor& null, const std::string& name,
                 std::map<std::string, at::Tensor>& tensors) {
  tensors[name] = null.detach().to(at::kCPU, at::kHalf);
}

class TextToImageTask : public UnetTask {
 public:
  TextToImageTask(const ModelConfig& config, const std::string& directory,
                  std::shared_ptr<const ClipSource> source, const TextToImageOptions& options,
                  uint64_t seed, at::Device device)
      : UnetTask(config, directory, std::move(source), options, device),
        options_(options),
        text_(config, directory, device),
        unet_(TextToImageConfig(
                  config, options.interpolation ? config.interpolation_unet : config.keyframe_unet),
              at::TensorOptions(device)) {
    InitializeTextEncoder(text_.encoder(), seed);
    unet_.ResetParameters(seed + 1);
    at::NoGradGuard no_grad;
    // The first prediction is zero, which is the best guess of a network that knows nothing.
    for (auto& parameter : unet_.named_parameters()) {
      if (parameter.key().starts_with("out_layer.2.")) parameter.value().zero_();
    }
    text_.null_embedding().copy_(
        at::randn(text_.null_embedding().sizes(), at::detail::createCPUGenerator(seed + 2)));
    text_.null_embedding().set_requires_grad(true);
    at::Generator generator = at::detail::createCPUGenerator(seed + 3);
    for (const int64_t values : source_->attribute_values()) {
      const at::Tensor rows = at::randn({values, unet_.config().time_embed_dim}, generator,
                                        at::TensorOptions(at::kFloat));
      heads_.push_back((rows / rows.norm(2, 1, true)).to(device));
    }
    MakePool({.frames = options.frames, .height = options.height, .width = options.width},
             {240.0 / static_cast<double>(std::max<int64_t>(options.frames, 2))});
    unet_.train();
  }

  std::string name() const override { return "text-to-image"; }

  nlohmann::json Fingerprint() const override {
    nlohmann::json json = BaseFingerprint();
    json["unet"] = unet_.config().ToJson();
    json["text_encoder"] = config_.text_encoder.ToJson();
    json["frames"] = options_.frames;
    json["attribute_weight"] = options_.attribute_weight;
    return json;
  }

  std::vector<Objective> Objectives() override {
    std::vector<NamedTensor> parameters = ParametersOf(unet_, "unet.");
    for (NamedTensor& one : ParametersOf(text_.encoder().t5(), "t5.")) parameters.push_back(one);
    for (NamedTensor& one : ParametersOf(text_.encoder().projection(), "projections.")) {
      parameters.push_back(one);
    }
    parameters.push_back({"null_embedding", text_.null_embedding()});
    return {{"model", std::move(parameters), true}};
  }

  Batch Load(const BatchKey& key) const override {
    std::vector<at::Tensor> latents;
    std::vector<std::string> captions;
    std::vector<int64_t> times, dropped, attributes;
    for (int64_t i = 0; i < key.count; ++i) {
      Random random = Random::At(key.seed, kDraws, key.Sample(i));
      const int64_t clip = random.Below(static_cast<int>(pool_->clips()));
      latents.push_back(pool_->Latents(clip)[random.Below(static_cast<int>(options_.frames))]);
      const Description description = Describe(clip, random);
      captions.push_back(description.caption);
      times.push_back(Timestep(key, i));
      dropped.push_back(random.Chance(base_.unconditional) ? 1 : 0);
      for (const int64_t value : description.attributes) {
        attributes.push_back(dropped.back() != 0 ? -1 : value);
      }
    }
    const TextSide::Tokens tokens = text_.Tokenize(captions);
    return {{"latents", at::stack(latents)},
            {"noise", SampleNoise(key, kNoise, LatentShape())},
            {"ids", tokens.ids},
            {"mask", tokens.mask},
            {"t", at::tensor(times)},
            {"drop", at::tensor(dropped).to(at::kBool)},
            {"attributes", at::tensor(attributes).view({-1, 4})}};
  }

  Losses Loss(size_t, const Batch& batch, const BatchKey&) override {
    const at::Tensor t = batch.at("t").to(device_), noise = batch.at("noise").to(device_);
    const at::Tensor latents = batch.at("latents").to(device_);
    const model::TextContext text =
        text_.Encode(batch.at("ids"), batch.at("mask"), batch.at("drop"));
    at::Tensor pooled;  // [N, E]
    const at::Tensor prediction =
        unet_.forward({.x = AddNoise(latents, t, noise),
                       .time = NetworkTime(t),
                       .context = text.context,
                       .context_mask = text.mask},
                      [&](const std::string& path, const at::Tensor& output) {
                        if (path == "feature_pooling") pooled = output;
                      });
    const at::Tensor denoising = (prediction - Target(latents, t, noise)).square().mean();
    Losses losses;
    losses.total = denoising;
    losses.values["denoising"] = denoising.item<double>();
    if (options_.attribute_weight > 0) {
      const at::Tensor attributes = batch.at("attributes").to(device_);
      const at::Tensor read = at::silu(pooled);  // as the norms of all blocks read it
      for (int64_t i = 0; i < kAttributes; ++i) {
        const at::Tensor loss = AttributeLoss(at::linear(read, heads_[static_cast<size_t>(i)]),
                                              attributes.select(1, i));
        losses.total = losses.total + options_.attribute_weight * loss;
        losses.values[kAttributeNames[i]] = loss.item<double>();
      }
    }
    return losses;
  }

  at::Tensor SampleSheet(uint64_t seed) override {
    std::vector<at::Tensor> latents;
    const std::vector<int64_t> shape = LatentShape();
    for (const std::string& prompt : source_->SheetPrompts()) {
      const model::EncodedPrompt encoded =
          model::EncodePrompt(text_.tokenizer(), text_.encoder(), prompt, nullptr);
      for (uint64_t i = 0; i < 2; ++i) {
        model::SamplerConfig sampling = config_.keyframe_sampling;
        sampling.steps = config_.defaults.steps;
        latents.push_back(model::SampleKeyframes(
            unet_, encoded, text_.null_embedding(), 1, shape[1], shape[2], sampling,
            {.scale = config_.defaults.guidance_scale}, model::SeededNoise(seed * 1000 + i)));
      }
    }
    return Tile(Decode(at::cat(latents)), 8);
  }

  void Export(const std::string& model_directory) override {
    std::map<std::string, at::Tensor> tensors;
    Collect(unet_, "unet.", tensors);
    Collect(text_.encoder().projection(), "projections.", tensors);
    CollectNull(text_.null_embedding(), kNullName, tensors);
    ExportModule(text_.encoder().t5(), config_.weights.text_encoder, model_directory);
    ExportTensors(tensors, model_directory + "/" + kTextToImageFile);
  }

 private:
  const TextToImageOptions options_;
  mutable TextSide text_;
  Unet unet_;
  std::vector<at::Tensor> heads_;  // [values, E] each, rows of length 1
};

class KeyframesTask : public UnetTask {
 public:
  KeyframesTask(const ModelConfig& config, const std::string& directory,
                std::shared_ptr<const ClipSource> source, const KeyframesOptions& options,
                uint64_t seed, at::Device device)
      : UnetTask(config, directory, std::move(source), options, device),
        options_(options),
        text_(config, directory, device),
        unet_(config.keyframe_unet, at::TensorOptions(device)) {
    CheckRange("--spatial_rate", options.spatial_rate, 0, 100, "0 to 100");
    CheckRange("--layout_weight", options.layout_weight, 0, 1e6, "0 to 1000000");
    CheckRange("--frames", static_cast<double>(options.frames), 0,
               static_cast<double>(config.keyframes), "0 to the keyframes of model.json");
    if (base_.tune.empty()) {
      Unet image(TextToImageConfig(config, config.keyframe_unet), at::TensorOptions(device));
      LoadTextToImage(image, text_);
      unet_.ResetTemporalParameters(seed);
      unet_.OpenTemporalBlocks(seed + 1);
      unet_.CopySpatialParameters(image);
    } else {
      const model::WeightSources& weights = config.weights;
      LoadTuned(unet_, weights.keyframe_unet, weights.keyframe_null, text_);
      LoadModule(text_.encoder().t5(), from_, weights.text_encoder, device);
      LoadModule(text_.encoder().projection(), base_.tune, weights.projection, device);
    }
    CheckRange("--spacing_least", options.spacing_least, 0, options.spacing, "0 to --spacing");
    std::vector<double> spacings = {options.spacing};
    if (options.spacing_least > 0) {
      spacings.clear();
      for (int i = 0; i < kSpacings; ++i) {
        spacings.push_back(
            std::lerp(options.spacing_least, options.spacing, i / (kSpacings - 1.0)));
      }
    }
    MakePool({.frames = config.keyframes, .height = options.height, .width = options.width},
             std::move(spacings));
    const UnetConfig& unet = config.keyframe_unet;
    const int64_t channels = unet.model_channels * unet.dim_mult.back();
    const int64_t cell = unet.size_multiple();
    const int64_t frames = options.frames > 0 ? options.frames : config.keyframes;
    frames_ =
        at::linspace(0, static_cast<double>(config.keyframes - 1), frames).round().to(at::kLong);
    layout_head_ =
        at::zeros({cell * cell, channels, 1, 1}, at::TensorOptions(device)).set_requires_grad(true);
    layout_bias_ = at::zeros({cell * cell}, at::TensorOptions(device)).set_requires_grad(true);
    log_error_ = at::full({kLogErrorPoints}, kLogErrorStart, at::TensorOptions(device))
                     .set_requires_grad(true);
    unet_.train();
  }

  void Prepare(ProcessGroup& group) override {
    UnetTask::Prepare(group);
    ChooseClips();
  }

  std::string name() const override { return "keyframes"; }

  nlohmann::json Fingerprint() const override {
    nlohmann::json json = BaseFingerprint();
    json["unet"] = unet_.config().ToJson();
    json["spacing"] = options_.spacing;
    json["spacing_least"] = options_.spacing_least;
    json["spatial_rate"] = options_.spatial_rate;
    json["layout_weight"] = options_.layout_weight;
    json["frames"] = frames_.size(0);
    json["colors"] = Names(options_.colors);
    json["backgrounds"] = Names(options_.backgrounds);
    json["motions"] = Names(options_.motions);
    return json;
  }

  std::vector<Objective> Objectives() override {
    std::vector<NamedTensor> parameters;
    for (NamedTensor& parameter : ParametersOf(unet_)) {
      if (!Unet::IsTemporalParameter(parameter.name)) parameter.rate = options_.spatial_rate;
      parameter.value.set_requires_grad(parameter.rate > 0);
      if (parameter.rate > 0) parameters.push_back(parameter);
    }
    parameters.push_back({"log_error", log_error_, kLogErrorRate});
    if (options_.layout_weight > 0) {
      parameters.push_back({"layout_head.weight", layout_head_});
      parameters.push_back({"layout_head.bias", layout_bias_});
    }
    return {{"unet", std::move(parameters), true}};
  }

  Batch Load(const BatchKey& key) const override {
    std::vector<at::Tensor> latents;
    std::vector<std::string> captions;
    std::vector<int64_t> times, dropped;
    for (int64_t i = 0; i < key.count; ++i) {
      Random random = Random::At(key.seed, kDraws, key.Sample(i));
      const int64_t clip =
          chosen_[static_cast<size_t>(random.Below(static_cast<int>(chosen_.size())))];
      latents.push_back(pool_->Latents(clip).index_select(0, frames_));
      captions.push_back(Describe(clip, random).caption);
      times.push_back(Timestep(key, i));
      dropped.push_back(random.Chance(base_.unconditional) ? 1 : 0);
    }
    const TextSide::Tokens tokens = text_.Tokenize(captions);
    std::vector<int64_t> shape = LatentShape();
    shape.insert(shape.begin(), frames_.size(0));
    return {{"latents", at::cat(latents)},  // [B T, z, h, w]
            {"noise", SampleNoise(key, kNoise, shape).flatten(0, 1)},
            {"ids", tokens.ids},
            {"mask", tokens.mask},
            {"t", at::tensor(times).repeat_interleave(frames_.size(0))},
            {"drop", at::tensor(dropped).to(at::kBool)}};
  }

  Losses Loss(size_t, const Batch& batch, const BatchKey&) override {
    const at::Tensor t = batch.at("t").to(device_), noise = batch.at("noise").to(device_);
    const at::Tensor latents = batch.at("latents").to(device_);
    model::TextContext text;
    {
      at::NoGradGuard no_grad;
      text = text_.Encode(batch.at("ids"), batch.at("mask"), batch.at("drop"));
    }
    const at::Tensor positions =
        model::TemporalPositions(config_.keyframes).index_select(0, frames_).to(device_);
    const std::string coarsest = "down_samples." + std::to_string(unet_.config().levels() - 1);
    at::Tensor features;  // [B T, C, h / cell, w / cell]
    const at::Tensor prediction =
        unet_.forward({.x = AddNoise(latents, t, noise),
                       .time = NetworkTime(t),
                       .context = text.context,
                       .context_mask = text.mask,
                       .frames = frames_.size(0),
                       .temporal_positions = positions},
                      [&](const std::string& path, const at::Tensor& output) {
                        if (path == coarsest) features = output;
                      });
    const at::Tensor errors = (prediction - Target(latents, t, noise))
                                  .square()
                                  .reshape({-1, frames_.size(0) * latents[0].numel()})
                                  .mean(1);  // [B]
    const at::Tensor expected = LogError(t.slice(0, 0, t.size(0), frames_.size(0)));
    Losses losses;
    losses.total = (errors * (-expected).exp() + expected).mean();
    losses.values["denoising"] = errors.mean().item<double>();
    if (options_.layout_weight > 0) {
      const at::Tensor layout = at::pixel_shuffle(
          at::conv2d(at::layer_norm(features.movedim(1, -1), {features.size(1)}).movedim(-1, 1),
                     layout_head_, layout_bias_),
          unet_.config().size_multiple());  // [B T, 1, h, w]
      const at::Tensor error = (layout.squeeze(1) - Layout(latents)).square().mean();
      losses.total = losses.total + options_.layout_weight * error;
      losses.values["layout"] = error.item<double>();
    }
    return losses;
  }

  at::Tensor SampleSheet(uint64_t seed) override {
    std::vector<at::Tensor> frames;
    const std::vector<int64_t> shape = LatentShape();
    for (const std::string& prompt : source_->SheetPrompts()) {
      const model::EncodedPrompt encoded =
          model::EncodePrompt(text_.tokenizer(), text_.encoder(), prompt, nullptr);
      model::SamplerConfig sampling = config_.keyframe_sampling;
      sampling.steps = config_.defaults.steps;
      frames.push_back(Decode(model::SampleKeyframes(
          unet_, encoded, text_.null_embedding(), config_.keyframes, shape[1], shape[2], sampling,
          {.scale = config_.defaults.guidance_scale, .temporal = config_.temporal_guidance},
          model::SeededNoise(seed))));
    }
    return Tile(at::cat(frames), config_.keyframes, 1);
  }

  void Export(const std::string& model_directory) override {
    // Parts may share a file.
    std::map<std::string, std::map<std::string, at::Tensor>> files;
    const model::WeightSources& weights = config_.weights;
    Collect(unet_, weights.keyframe_unet.prefix, files[weights.keyframe_unet.file]);
    Collect(text_.encoder().projection(), weights.projection.prefix,
            files[weights.projection.file]);
    CollectNull(text_.null_embedding(), weights.keyframe_null.prefix,
                files[weights.keyframe_null.file]);
    for (const auto& [file, tensors] : files) ExportTensors(tensors, model_directory + "/" + file);
    if (ModelConfig::Load(model_directory).ToJson() != config_.ToJson()) {
      model::WriteModelJson(config_, model_directory);  // the variant of these weights
    }
  }

 private:
  // The clips that options_ allows.
  void ChooseClips() {
    for (int64_t clip = 0; clip < pool_->clips(); ++clip) {
      const Description description = pool_->Describe(clip, 0);
      const auto says_one = [&](const auto& wanted, size_t attribute) {
        return wanted.empty() || std::any_of(wanted.begin(), wanted.end(), [&](auto value) {
                 return description.attributes[attribute] == static_cast<int64_t>(value);
               });
      };
      if (says_one(options_.colors, kColorAttribute) &&
          says_one(options_.backgrounds, kBackgroundAttribute) &&
          says_one(options_.motions, kMotionAttribute)) {
        chosen_.push_back(clip);
      }
    }
    if (chosen_.empty()) {
      throw model::ModelError(model::ModelError::Kind::kInvalidArgument,
                              "--colors, --backgrounds and --motions leave none of the " +
                                  std::to_string(pool_->clips()) + " clips");
    }
  }

  // [B T, z, h, w] -> [B T, h, w]: the distance of each place from what most of its clip looks like
  // (the median of each channel), the largest of the clip being 1.
  at::Tensor Layout(const at::Tensor& latents) const {
    const at::Tensor clips = latents.unflatten(0, {-1, frames_.size(0)}).movedim(2, 1);
    const at::Tensor background = std::get<0>(clips.flatten(2).median(2));  // [B, z]
    const at::Tensor distance =
        (clips - background.unflatten(1, {-1, 1, 1, 1})).square().sum(1).sqrt();  // [B, T, h, w]
    return (distance / distance.amax({1, 2, 3}, true).clamp_min(1e-6)).flatten(0, 1);
  }

  // Logarithm of the error that is expected at timesteps t [B], from a line through log_error_.
  at::Tensor LogError(const at::Tensor& t) const {
    const at::Tensor position = t.to(at::kFloat) * (static_cast<double>(log_error_.size(0) - 1) /
                                                    static_cast<double>(schedule_.steps()));
    const at::Tensor left = position.floor();
    const at::Tensor index = left.to(at::kLong);
    return at::lerp(log_error_.index_select(0, index), log_error_.index_select(0, index + 1),
                    position - left);
  }

  const KeyframesOptions options_;
  mutable TextSide text_;
  Unet unet_;
  at::Tensor frames_;            // which keyframes of a clip: int64 [F]
  std::vector<int64_t> chosen_;  // clips of the pool
  at::Tensor log_error_;         // at timesteps 0, T/16, .. T
  // Off the coarsest features, for all places that one of them covers: [cell^2, C, 1, 1], [cell^2].
  at::Tensor layout_head_, layout_bias_;
};

class InterpolationTask : public UnetTask {
 public:
  InterpolationTask(const ModelConfig& config, const std::string& directory,
                    std::shared_ptr<const ClipSource> source, const InterpolationOptions& options,
                    uint64_t seed, at::Device device)
      : UnetTask(config, directory, std::move(source), options, device),
        options_(options),
        text_(config, directory, device),
        unet_(options.mfi ? model::MfiUnetConfig(config.keyframe_unet) : config.interpolation_unet,
              at::TensorOptions(device)) {
    if (options.groups < 1 || options.skip_least < 1 || options.skip_most < options.skip_least ||
        options.skip_most > 19 || options.perturbation_most < 0 ||
        options.perturbation_most >= options.schedule_steps) {
      throw model::ModelError(
          model::ModelError::Kind::kInvalidArgument,
          "--groups must be 1 or more, --skip_least and --skip_most 1 to 19 and in order, "
          "--perturbation_most 0 to schedule_steps - 1");
    }
    if (base_.tune.empty()) {
      Unet image(
          TextToImageConfig(config, options.mfi ? config.keyframe_unet : config.interpolation_unet),
          at::TensorOptions(device));
      LoadTextToImage(image, text_);
      unet_.ResetTemporalParameters(seed);
      unet_.CopySpatialParameters(image);
    } else if (options.mfi) {
      LoadTuned(unet_, {kMfiFile, "unet."}, {kMfiFile, kNullName}, text_);
    } else {
      LoadTuned(unet_, config.weights.interpolation_unet, config.weights.interpolation_null, text_);
    }
    std::vector<double> spacings;
    if (options.served_skips) {
      for (const int64_t skip : config.skip_frames) spacings.push_back(static_cast<double>(skip));
      if (spacings.empty() || *std::min_element(spacings.begin(), spacings.end()) < 1) {
        throw model::ModelError(
            model::ModelError::Kind::kInvalidArgument,
            "--served_skips: interpolation_sampling.skip_frames of model.json must have numbers, "
            "all of them 1 or more");
      }
    } else {
      for (int64_t skip = options.skip_least; skip <= options.skip_most; ++skip) {
        spacings.push_back(static_cast<double>(skip));
      }
    }
    MakePool({.frames = 4 * options.groups + 1, .height = options.height, .width = options.width},
             std::move(spacings));
    unet_.train();
  }

  std::string name() const override { return options_.mfi ? "mfi" : "interpolation"; }

  nlohmann::json Fingerprint() const override {
    nlohmann::json json = BaseFingerprint();
    json["unet"] = unet_.config().ToJson();
    json["groups"] = options_.groups;
    json["skip_least"] = options_.skip_least;
    json["skip_most"] = options_.skip_most;
    // Their numbers, so that a state made under another model.json is refused.
    json["served_skips"] = options_.served_skips ? config_.skip_frames : std::vector<int64_t>();
    json["perturbation_most"] = options_.perturbation_most;
    return json;
  }

  std::vector<Objective> Objectives() override {
    for (at::Tensor& parameter : unet_.parameters()) parameter.set_requires_grad(true);
    return {{"unet", ParametersOf(unet_), true}};
  }

  Batch Load(const BatchKey& key) const override {
    std::vector<at::Tensor> latents;
    std::vector<int64_t> times, dropped, skips, perturbations;
    for (int64_t i = 0; i < key.count; ++i) {
      Random random = Random::At(key.seed, kDraws, key.Sample(i));
      const int64_t clip = random.Below(static_cast<int>(pool_->clips()));
      at::Tensor frames = pool_->Latents(clip);  // [4 G + 1, z, h, w]
      if (random.Chance(0.5)) frames = frames.flip(0);
      latents.push_back(frames);
      times.push_back(Timestep(key, i));
      dropped.push_back(random.Chance(base_.unconditional) ? 1 : 0);
      skips.push_back(std::llround(pool_->Spacing(clip)));
      perturbations.push_back(random.Below(static_cast<int>(options_.perturbation_most + 1)));
    }
    std::vector<int64_t> shape = LatentShape();
    shape.insert(shape.begin(), options_.groups + 1);
    const at::Tensor given_noise = SampleNoise(key, kPerturbation, shape);
    shape[0] = options_.groups * (options_.mfi ? model::kMfiFrames : model::kFramesPerGroup);
    return {{"latents", at::stack(latents)},  // [B, 4 G + 1, z, h, w]
            {"noise", SampleNoise(key, kNoise, shape)},
            {"given_noise", given_noise},  // [B, G + 1, z, h, w]
            {"t", at::tensor(times)},
            {"drop", at::tensor(dropped).to(at::kBool)},
            {"skip", at::tensor(skips)},
            {"perturbation", at::tensor(perturbations)}};
  }

  Losses Loss(size_t, const Batch& batch, const BatchKey&) override {
    const at::Tensor frames = batch.at("latents").to(device_);  // [B, 4 G + 1, z, h, w]
    const at::Tensor keep =
        batch.at("drop").logical_not().to(device_, at::kFloat).view({-1, 1, 1, 1, 1});
    const at::Tensor keyframes = frames.slice(1, 0, frames.size(1), 4);  // [B, G + 1, z, h, w]
    // Keyframes as a generator would give them: not quite right. Level 0 is the frames themselves.
    const at::Tensor level = batch.at("perturbation").to(device_);
    const at::Tensor noisy =
        AddNoise(keyframes, (level - 1).clamp_min(0), batch.at("given_noise").to(device_));
    const at::Tensor given = at::where(level.gt(0).view({-1, 1, 1, 1, 1}), noisy, keyframes) * keep;
    return options_.mfi ? MfiLoss(batch, frames, given, keep)
                        : GroupLoss(batch, frames, given, level);
  }

  at::Tensor SampleSheet(uint64_t seed) override {
    std::vector<at::Tensor> pictures;
    for (uint64_t i = 0; i < 3; ++i) {
      const Clip clip = source_->Read(kUnseen + (seed << 8) + i, {.frames = 4 * options_.groups + 1,
                                                                  .spacing = i == 0 ? 1.0 : 4.0,
                                                                  .height = base_.height,
                                                                  .width = base_.width});
      const at::Tensor truth =
          movq_.Encode(ToNetworkInput(clip.frames).to(device_)).to(at::kFloat).cpu();
      const at::Tensor video = truth.slice(0, 0, truth.size(0), 4);
      pictures.push_back(clip.frames);
      pictures.push_back(Decode(Sample(video, i == 0 ? 1 : 4, seed)));
    }
    return Tile(at::cat(pictures), 4 * options_.groups + 1, 1);
  }

  void Export(const std::string& model_directory) override {
    const model::WeightSources& weights = config_.weights;
    std::map<std::string, std::map<std::string, at::Tensor>> files;
    if (options_.mfi) {
      auto& tensors = files[kMfiFile];
      Collect(unet_, "unet.", tensors);
      CollectNull(text_.null_embedding(), kNullName, tensors);
    } else {
      Collect(unet_, weights.interpolation_unet.prefix, files[weights.interpolation_unet.file]);
      CollectNull(text_.null_embedding(), weights.interpolation_null.prefix,
                  files[weights.interpolation_null.file]);
    }
    for (const auto& [file, tensors] : files) ExportTensors(tensors, model_directory + "/" + file);
  }

 private:
  // v prediction of the three frames of each group. given [B, G + 1, z, h, w], level [B].
  Losses GroupLoss(const Batch& batch, const at::Tensor& frames, const at::Tensor& given,
                   const at::Tensor& level) {
    const int64_t groups = options_.groups, b = frames.size(0);
    const at::Tensor noise = batch.at("noise")
                                 .to(device_)
                                 .unflatten(1, {groups, model::kFramesPerGroup})
                                 .flatten(2, 3)
                                 .flatten(0, 1);  // [B G, 3 z, h, w]
    const at::Tensor target = frames.narrow(1, 0, 4 * groups)
                                  .unflatten(1, {groups, 4})
                                  .narrow(2, 1, model::kFramesPerGroup)
                                  .flatten(2, 3)
                                  .flatten(0, 1);                              // [B G, 3 z, h, w]
    const at::Tensor t = batch.at("t").to(device_).repeat_interleave(groups);  // [B G]
    const at::Tensor left = given.narrow(1, 0, groups).flatten(0, 1);
    const at::Tensor right = given.narrow(1, 1, groups).flatten(0, 1);
    const at::Tensor prediction =
        unet_.forward({.x = at::cat({left, AddNoise(target, t, noise), right}, 1),
                       .time = NetworkTime(t),
                       .context = Null().context.expand({b, -1, -1}),
                       .context_mask = Null().mask.expand({b, -1}),
                       .frames = groups,
                       .skip_frames = batch.at("skip").to(device_).repeat_interleave(groups),
                       .perturbation = level.repeat_interleave(groups).to(at::kFloat)});
    const at::Tensor v = model::VTarget(schedule_, target, t, noise);
    Losses losses;
    losses.total = (prediction - v).square().mean();
    // The error of x_0 that follows: v = sqrt(alpha_bar) noise - sqrt(1 - alpha_bar) x_0.
    const at::Tensor weight =
        (1 - schedule_.alphas_cumprod.to(device_).index_select(0, t)).view({-1, 1, 1, 1});
    losses.values["x0_error"] = ((prediction.detach() - v).square() * weight).mean().item<double>();
    return losses;
  }

  // Prediction of the three inner frames of sequences of five.
  Losses MfiLoss(const Batch& batch, const at::Tensor& frames, const at::Tensor& given,
                 const at::Tensor& keep) {
    const int64_t groups = options_.groups, b = frames.size(0);
    std::vector<at::Tensor> sequences, conditions;
    for (int64_t i = 0; i < b; ++i) {
      at::Tensor condition = model::MfiCondition(given[i]);  // [G 5, z + 1, h, w]
      conditions.push_back(condition * keep[i]);
      for (int64_t group = 0; group < groups; ++group) {
        sequences.push_back(frames[i].narrow(0, 4 * group, model::kMfiFrames));
      }
    }
    const at::Tensor x = at::cat(sequences);  // [B G 5, z, h, w]
    const at::Tensor noise = batch.at("noise").to(device_).flatten(0, 1);
    const at::Tensor t = batch.at("t").to(device_).repeat_interleave(groups * model::kMfiFrames);
    const at::Tensor prediction =
        unet_.forward({.x = at::cat({AddNoise(x, t, noise), at::cat(conditions)}, 1),
                       .time = NetworkTime(t),
                       .context = Null().context.expand({b * groups, -1, -1}),
                       .context_mask = Null().mask.expand({b * groups, -1}),
                       .frames = model::kMfiFrames});
    const at::Tensor error =
        (prediction - Target(x, t, noise)).square().unflatten(0, {-1, model::kMfiFrames});
    return {error.narrow(1, 1, model::kMfiFrames - 2).mean(), {}};
  }

  // video [T, z, h, w] -> [4 T - 3, z, h, w]
  at::Tensor Sample(const at::Tensor& video, int64_t skip, uint64_t seed) {
    const model::SeededNoise noise(seed);
    if (!options_.mfi) {
      model::SamplerConfig sampling = config_.interpolation_sampling;
      sampling.steps = config_.InterpolationSteps(config_.defaults.steps);
      return model::MergeGroups(
          video,
          model::SampleGroups(unet_, video, text_.null_embedding(),
                              {.pass = 0, .passes = 1, .skip_frames = skip}, sampling,
                              {.scale = config_.defaults.interpolation_guidance_scale}, noise));
    }
    model::SamplerConfig sampling = config_.keyframe_sampling;
    sampling.steps = config_.InterpolationSteps(config_.defaults.steps);
    const model::Sampler sampler(sampling);
    const model::DenoisingLoop loop(
        sampler,
        model::MakeMfiDenoiser(unet_, video, text_.null_embedding(),
                               {.scale = config_.defaults.interpolation_guidance_scale}),
        noise, model::NoiseStage::kInterpolation, 0, device_);
    std::vector<int64_t> shape = LatentShape();
    shape.insert(shape.begin(), (video.size(0) - 1) * model::kMfiFrames);
    return model::MergeMfi(video, loop.Run(loop.Start(shape)).cpu());
  }

  // [1, 2, W] and [1, 2]: no text.
  model::TextContext Null() const {
    const model::TextCondition none = model::NullCondition(text_.null_embedding(), kClassTokens);
    return {none.context, none.mask};
  }

  const InterpolationOptions options_;
  mutable TextSide text_;
  Unet unet_;
};

}  // namespace

std::unique_ptr<Task> MakeTextToImageTask(const ModelConfig& config,
                                          const std::string& model_directory,
                                          std::shared_ptr<const ClipSource> source,
                                          const TextToImageOptions& options, uint64_t seed,
                                          at::Device device) {
  return std::make_unique<TextToImageTask>(config, model_directory, std::move(source), options,
                                           seed, device);
}

std::unique_ptr<Task> MakeKeyframesTask(const ModelConfig& config,
                                        const std::string& model_directory,
                                        std::shared_ptr<const ClipSource> source,
                                        const KeyframesOptions& options, uint64_t seed,
                                        at::Device device) {
  return std::make_unique<KeyframesTask>(config, model_directory, std::move(source), options, seed,
                                         device);
}

std::unique_ptr<Task> MakeInterpolationTask(const ModelConfig& config,
                                            const std::string& model_directory,
                                            std::shared_ptr<const ClipSource> source,
                                            const InterpolationOptions& options, uint64_t seed,
                                            at::Device device) {
  return std::make_unique<InterpolationTask>(config, model_directory, std::move(source), options,
                                             seed, device);
}

}  // namespace kandinsky::training
