#include "training/trainers/extractor_task.h"

#include <ATen/CPUGeneratorImpl.h>
#include <torch/script.h>

#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "training/core/picture.h"
#include "training/domain/random.h"
#include "training/trainers/attribute_loss.h"
#include "worker/model/error.h"
#include "worker/model/text/tokenizer.h"
#include "worker/model/write_file.h"

namespace kandinsky::training {
namespace {

constexpr uint64_t kFrame = 1;  // use of random numbers
constexpr int64_t kFeatures = 64, kEmbedding = 32, kToken = 32;
constexpr int64_t kSheetColumns = 8, kSheetFrames = 64;

struct Parameter {
  const char* name;
  std::vector<int64_t> shape;
};

const std::vector<Parameter>& Trunk() {
  static const std::vector<Parameter> parameters = {
      {"conv0_weight", {24, 3, 3, 3}},  {"conv0_bias", {24}},
      {"conv1_weight", {48, 24, 3, 3}}, {"conv1_bias", {48}},
      {"conv2_weight", {64, 48, 3, 3}}, {"conv2_bias", {64}},
      {"conv3_weight", {64, 64, 3, 3}}, {"conv3_bias", {64}},
      {"frame_weight", {64, 64 * 16}},  {"frame_bias", {64}}};
  return parameters;
}

const std::vector<Parameter>& Video() {
  static const std::vector<Parameter> parameters = {
      {"time0_weight", {64, 64, 3}},          {"time0_bias", {64}},
      {"time1_weight", {64, 64, 3}},          {"time1_bias", {64}},
      {"time2_weight", {64, 64, 3}},          {"time2_bias", {64}},
      {"clip_weight", {kFeatures, 64}},       {"clip_bias", {kFeatures}},
      {"shape_weight", {kShapes, kFeatures}}, {"shape_bias", {kShapes}},
      {"color_weight", {kColors, kFeatures}}, {"color_bias", {kColors}}};
  return parameters;
}

const std::vector<Parameter>& Image() {
  static const std::vector<Parameter> parameters = {{"image_weight", {kEmbedding, 64}}};
  return parameters;
}

// The vocabulary comes first.
std::vector<Parameter> Text(int64_t vocabulary) {
  return {{"token_weight", {vocabulary, kToken}},
          {"words_weight", {64, kToken, 5}},
          {"words_bias", {64}},
          {"text_weight", {kEmbedding, 64}}};
}

constexpr char kTrunkCode[] = R"(
def layers(self, x: Tensor) -> List[Tensor]:
    a = torch.relu(torch.conv2d(x, self.conv0_weight, self.conv0_bias, [2, 2], [1, 1]))
    b = torch.relu(torch.conv2d(a, self.conv1_weight, self.conv1_bias, [2, 2], [1, 1]))
    c = torch.relu(torch.conv2d(b, self.conv2_weight, self.conv2_bias, [2, 2], [1, 1]))
    d = torch.relu(torch.conv2d(c, self.conv3_weight, self.conv3_bias, [2, 2], [1, 1]))
    return [a, b, c, d]

def frame_features(self, x: Tensor) -> Tensor:
    y = torch.flatten(torch.adaptive_avg_pool2d(self.layers(x * 2 - 1)[3], [4, 4]), 1)
    return torch.relu(torch.linear(y, self.frame_weight, self.frame_bias))
)";

constexpr char kVideoCode[] = R"(
def clip_features(self, clips: Tensor) -> Tensor:
    b = clips.size(0)
    t = clips.size(2)
    frames = torch.transpose(clips, 1, 2).reshape([b * t, 3, clips.size(3), clips.size(4)])
    f = torch.transpose(self.frame_features(frames).view([b, t, 64]), 1, 2)
    f = torch.relu(torch.conv1d(f, self.time0_weight, self.time0_bias, [2], [1]))
    f = torch.relu(torch.conv1d(f, self.time1_weight, self.time1_bias, [2], [1]))
    f = torch.relu(torch.conv1d(f, self.time2_weight, self.time2_bias, [2], [1]))
    return torch.relu(torch.linear(torch.mean(f, [2]), self.clip_weight, self.clip_bias))
)";

constexpr char kVideoForward[] = R"(
def forward(self, clips: Tensor, return_features: bool = True) -> Tensor:
    features = self.clip_features(clips)
    if return_features:
        return features
    shape = torch.softmax(torch.linear(features, self.shape_weight, self.shape_bias), 1)
    color = torch.softmax(torch.linear(features, self.color_weight, self.color_bias), 1)
    return torch.flatten(shape.unsqueeze(2) * color.unsqueeze(1), 1)
)";

constexpr char kImageCode[] = R"(
def image_embedding(self, images: Tensor) -> Tensor:
    return torch.linear(self.frame_features(images), self.image_weight)
)";

constexpr char kTextCode[] = R"(
def text_embedding(self, tokens: Tensor) -> Tensor:
    known = tokens.ne(0).unsqueeze(1)
    words = torch.transpose(torch.embedding(self.token_weight, tokens), 1, 2) * known
    y = torch.relu(torch.conv1d(words, self.words_weight, self.words_bias, [1], [2])) * known
    return torch.linear(torch.amax(y, [2]), self.text_weight)
)";

using Parameters = std::map<std::string, at::Tensor>;

torch::jit::Module MakeModule(const char* name, const Parameters& parameters,
                              const std::vector<std::vector<Parameter>>& parts,
                              const std::string& code) {
  torch::jit::Module module(name);
  for (const std::vector<Parameter>& part : parts) {
    for (const Parameter& parameter : part) {
      module.register_parameter(parameter.name, parameters.at(parameter.name), false);
    }
  }
  module.define(code);
  return module;
}

class ExtractorTask : public Task {
 public:
  ExtractorTask(const model::ModelConfig& config, const std::string& model_directory,
                std::shared_ptr<const ClipSource> source, const ExtractorOptions& options,
                uint64_t seed, at::Device device)
      : vocabulary_(config.text_encoder.vocab_size),
        max_length_(config.text_encoder.max_length),
        source_(std::move(source)),
        options_(options),
        device_(device),
        tokenizer_(model_directory + "/" + config.tokenizer) {
    const at::Generator generator = at::detail::createCPUGenerator(seed);
    const auto add = [&](const std::string& name, const std::vector<int64_t>& shape) {
      at::Tensor value = at::zeros(shape, at::kFloat);
      if (shape.size() > 1) {
        const double fan_in = static_cast<double>(value.numel()) / static_cast<double>(shape[0]);
        value.normal_(0, std::sqrt((name == "token_weight" ? fan_in : 2.0) / fan_in), generator);
      }
      parameters_[name] = value.to(device).set_requires_grad(true);
    };
    for (const auto& part : {Trunk(), Video(), Image(), Text(vocabulary_)}) {
      for (const Parameter& parameter : part) add(parameter.name, parameter.shape);
    }
    const AttributeCounts values = source_->attribute_values();
    for (size_t i = 2; i < kAttributes; ++i) {  // only needed while training
      add(std::string(kAttributeNames[i]) + "_weight", {values[i], kFeatures});
      add(std::string(kAttributeNames[i]) + "_bias", {values[i]});
    }
    parameters_["log_scale"] =
        at::full({}, std::log(10.0), at::TensorOptions(device)).set_requires_grad(true);
    // The code runs operation by operation as it stands, so autograd sees each.
    torch::jit::setGraphExecutorOptimize(false);
    network_ = MakeModule("Network", parameters_, {Trunk(), Video(), Image(), Text(vocabulary_)},
                          std::string(kTrunkCode) + kVideoCode + kImageCode + kTextCode);
  }

  std::string name() const override { return "extractor"; }

  nlohmann::json Fingerprint() const override {
    return {{"source", source_->Fingerprint()},
            {"vocabulary", vocabulary_},
            {"height", options_.height},
            {"width", options_.width},
            {"frames", options_.frames},
            {"spacing", options_.spacing},
            {"contrast_weight", options_.contrast_weight}};
  }

  std::vector<Objective> Objectives() override {
    Objective objective{.name = "network", .parameters = {}};
    for (const auto& [name, value] : parameters_) objective.parameters.push_back({name, value});
    return {objective};
  }

  Batch Load(const BatchKey& key) const override {
    std::vector<at::Tensor> clips, frames, tokens;
    std::vector<int64_t> attributes;
    for (int64_t i = 0; i < key.count; ++i) {
      const Clip clip = source_->Read(key.Sample(i), Request());
      Random random = Random::At(key.seed, kFrame, key.Sample(i));
      clips.push_back(clip.frames);
      frames.push_back(clip.frames[random.Below(static_cast<int>(options_.frames))]);
      tokens.push_back(Tokens(clip.caption));
      attributes.insert(attributes.end(), clip.attributes.begin(), clip.attributes.end());
    }
    return {{"clips", at::stack(clips)},    // [B, T, H, W, 3]
            {"frames", at::stack(frames)},  // [B, H, W, 3]
            {"tokens", at::stack(tokens)},  // [B, L]
            {"attributes", at::tensor(attributes).view({-1, 4})}};
  }

  Losses Loss(size_t, const Batch& batch, const BatchKey&) override {
    const at::Tensor clips = batch.at("clips").to(device_).permute({0, 4, 1, 2, 3}) / 255.0F;
    const at::Tensor features = Call("clip_features", clips);  // [B, D]
    const at::Tensor attributes = batch.at("attributes").to(device_);
    Losses losses;
    losses.total = at::zeros({}, features.options());
    for (int64_t i = 0; i < kAttributes; ++i) {
      const std::string name = kAttributeNames[i];
      const at::Tensor wanted = attributes.select(1, i), known = wanted.ge(0);
      const at::Tensor logits =
          at::linear(features, parameters_.at(name + "_weight"), parameters_.at(name + "_bias"));
      losses.total = losses.total + AttributeLoss(logits, wanted);
      losses.values[name + "_right"] = (logits.argmax(1).eq(wanted).sum().to(at::kFloat) /
                                        known.sum().clamp_min(1).to(at::kFloat))
                                           .item<double>();
    }
    const at::Tensor logits = parameters_.at("log_scale").exp() *
                              at::matmul(EmbedImages(batch.at("frames")),
                                         EmbedTokens(batch.at("tokens")).t());  // [B, B]
    const at::Tensor own = at::arange(logits.size(0), at::TensorOptions(device_).dtype(at::kLong));
    const at::Tensor contrast =
        (at::cross_entropy_loss(logits, own) + at::cross_entropy_loss(logits.t(), own)) / 2;
    losses.total = losses.total + options_.contrast_weight * contrast;
    losses.values["contrast"] = contrast.item<double>();
    return losses;
  }

  // Above a frame of each of eight clips, below the nearest of 64 frames to its caption.
  at::Tensor SampleSheet(uint64_t seed) override {
    std::vector<at::Tensor> frames, tokens;
    for (int64_t i = 0; i < kSheetFrames; ++i) {
      ClipRequest request = Request();
      request.frames = 1;
      request.motion = false;
      const Clip clip = source_->Read(kUnseen + (seed << 8) + static_cast<uint64_t>(i), request);
      frames.push_back(clip.frames[0]);
      tokens.push_back(Tokens(clip.caption));
    }
    const at::Tensor pictures = at::stack(frames);
    const at::Tensor nearest =
        at::matmul(EmbedTokens(at::stack(tokens)), EmbedImages(pictures).t()).argmax(1);
    return Tile(at::cat({pictures, pictures.index_select(0, nearest.cpu())})
                    .view({2, kSheetFrames, options_.height, options_.width, 3})
                    .narrow(1, 0, kSheetColumns)
                    .flatten(0, 1),
                kSheetColumns);
  }

  void Export(const std::string& model_directory) override {
    Parameters plain;
    for (const auto& [name, value] : parameters_) {
      plain[name] = value.detach().to(at::kCPU, /*non_blocking=*/false, /*copy=*/true);
    }
    const std::string folder = model_directory + "/extractors/", trunk = kTrunkCode;
    std::filesystem::create_directories(folder);
    const auto save = [&](const std::string& file, const torch::jit::Module& module) {
      std::ostringstream stream;
      module.save(stream);
      model::WriteFile(folder + file, stream.str());
    };
    save("video.pt",
         MakeModule("Video", plain, {Trunk(), Video()}, trunk + kVideoCode + kVideoForward));
    save("image.pt", MakeModule("Image", plain, {Trunk(), Image()},
                                trunk + kImageCode +
                                    "\ndef forward(self, images: Tensor) -> Tensor:\n"
                                    "    return self.image_embedding(images)\n"));
    save("text.pt",
         MakeModule("Text", plain, {Text(vocabulary_)},
                    std::string(kTextCode) + "\ndef forward(self, tokens: Tensor) -> Tensor:\n"
                                             "    return self.text_embedding(tokens)\n"));
    save("perceptual.pt",
         MakeModule("Perceptual", plain, {Trunk()},
                    trunk + "\ndef forward(self, images: Tensor) -> List[Tensor]:\n"
                            "    return self.layers(images)\n"));
  }

 private:
  ClipRequest Request() const {
    return {.frames = options_.frames,
            .spacing = options_.spacing,
            .height = options_.height,
            .width = options_.width};
  }

  at::Tensor Tokens(const std::string& text) const {  // [L]
    return at::tensor(tokenizer_.EncodePadded(text, max_length_).ids, at::kLong);
  }

  at::Tensor Call(const char* method, const at::Tensor& input) {
    return network_.get_method(method)({input}).toTensor();
  }

  static at::Tensor Unit(const at::Tensor& x) {  // [N, D], rows of length 1
    return x / x.norm(2, {1}, /*keepdim=*/true).clamp_min(1e-6);
  }
  at::Tensor EmbedImages(const at::Tensor& pixels) {  // uint8 [N, H, W, 3]
    return Unit(Call("image_embedding", pixels.to(device_).permute({0, 3, 1, 2}) / 255.0F));
  }
  at::Tensor EmbedTokens(const at::Tensor& tokens) {
    return Unit(Call("text_embedding", tokens.to(device_)));
  }

  const int64_t vocabulary_, max_length_;
  const std::shared_ptr<const ClipSource> source_;
  const ExtractorOptions options_;
  const at::Device device_;
  const model::Tokenizer tokenizer_;
  Parameters parameters_;
  torch::jit::Module network_;
};

}  // namespace

std::unique_ptr<Task> MakeExtractorTask(const model::ModelConfig& config,
                                        const std::string& model_directory,
                                        std::shared_ptr<const ClipSource> source,
                                        const ExtractorOptions& options, uint64_t seed,
                                        at::Device device) {
  return std::make_unique<ExtractorTask>(config, model_directory, std::move(source), options, seed,
                                         device);
}

}  // namespace kandinsky::training
