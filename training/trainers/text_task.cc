#include "training/trainers/text_task.h"

#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "training/core/flag_set.h"
#include "training/trainers/attribute_loss.h"
#include "training/trainers/export.h"
#include "training/trainers/initialize.h"
#include "training/trainers/text_side.h"

namespace kandinsky::training {
namespace {

constexpr double kHeadRate = 30;  // heads start from nothing, the encoder does not
constexpr int64_t kSheetCaptions = 16, kSheetCell = 12;  // rows; pixels

class TextTask : public Task {
 public:
  TextTask(const model::ModelConfig& config, const std::string& model_directory,
           std::shared_ptr<const ClipSource> source, const TextTaskOptions& options,
           at::Device device)
      : config_(config),
        source_(std::move(source)),
        options_(options),
        device_(device),
        text_(config, model_directory, device),
        anchor_(config.text_encoder, at::TensorOptions(device)) {
    CheckRange("--anchor_weight", options.anchor_weight, 0, 1e6, "0 to 1000000");
    const std::string& from = options.from.empty() ? model_directory : options.from;
    for (model::TextEncoder* encoder : {&text_.encoder(), &anchor_}) {
      LoadModule(encoder->t5(), from, config.weights.text_encoder, device);
      LoadModule(encoder->projection(), from, config.weights.projection, device);
    }
    const int64_t width = config.text_encoder.context_dim;
    const at::TensorOptions on(device);
    for (const int64_t values : source_->attribute_values()) {
      heads_.push_back({at::zeros({values, width}, on).set_requires_grad(true),
                        at::zeros({values}, on).set_requires_grad(true)});
    }
  }

  std::string name() const override { return "text"; }

  nlohmann::json Fingerprint() const override {
    return {{"source", source_->Fingerprint()},
            {"text_encoder", config_.text_encoder.ToJson()},
            {"anchor_weight", options_.anchor_weight}};
  }

  std::vector<Objective> Objectives() override {
    std::vector<NamedTensor> parameters = ParametersOf(text_.encoder().t5(), "t5.");
    for (NamedTensor& parameter : parameters) parameter.value.set_requires_grad(true);
    for (size_t i = 0; i < heads_.size(); ++i) {
      const std::string head = std::string(kAttributeNames[i]) + "_head.";
      parameters.push_back({head + "weight", heads_[i].weight, kHeadRate});
      parameters.push_back({head + "bias", heads_[i].bias, kHeadRate});
    }
    return {{"encoder", std::move(parameters), true}};
  }

  Batch Load(const BatchKey& key) const override {
    std::vector<Description> descriptions;
    for (int64_t i = 0; i < key.count; ++i) descriptions.push_back(Describe(key.Sample(i)));
    return ToBatch(descriptions);
  }

  Losses Loss(size_t, const Batch& batch, const BatchKey&) override {
    const at::Tensor& ids = batch.at("ids");
    const at::Tensor& mask = batch.at("mask");
    const model::TextContext text = text_.encoder().Encode(ids, mask);
    const std::vector<at::Tensor> logits = Read(text);
    const at::Tensor attributes = batch.at("attributes").to(device_);
    Losses losses;
    losses.total = at::zeros({}, at::TensorOptions(device_));
    for (int64_t i = 0; i < kAttributes; ++i) {
      const at::Tensor loss =
          AttributeLoss(logits[static_cast<size_t>(i)], attributes.select(1, i));
      losses.total = losses.total + loss;
      losses.values[kAttributeNames[i]] = loss.item<double>();
    }
    if (options_.anchor_weight > 0) {
      at::Tensor before;
      {
        at::NoGradGuard no_grad;
        before = anchor_.Encode(ids, mask).context;
      }
      const at::Tensor anchor = MeanOfVisible((text.context - before).square(), text.mask).mean();
      losses.total = losses.total + options_.anchor_weight * anchor;
      losses.values["anchor"] = anchor.item<double>();
    }
    return losses;
  }

  // A row a caption: the probabilities of all shapes, colours, backgrounds and motions, and below
  // them in red what the caption says.
  at::Tensor SampleSheet(uint64_t seed) override {
    std::vector<Description> descriptions;
    for (int64_t i = 0; i < kSheetCaptions; ++i) {
      descriptions.push_back(Describe(kUnseen + (seed << 8) + static_cast<uint64_t>(i)));
    }
    const Batch batch = ToBatch(descriptions);
    const std::vector<at::Tensor> logits =
        Read(text_.encoder().Encode(batch.at("ids"), batch.at("mask")));
    std::vector<at::Tensor> read, said;
    for (int64_t i = 0; i < kAttributes; ++i) {
      const at::Tensor values = at::arange(heads_[static_cast<size_t>(i)].bias.size(0), at::kLong);
      read.push_back(logits[static_cast<size_t>(i)].softmax(1).cpu());
      said.push_back(batch.at("attributes").select(1, i).unsqueeze(1).eq(values).to(at::kFloat));
    }
    const at::Tensor above = at::cat(read, 1), below = at::cat(said, 1);
    const at::Tensor nothing = at::zeros_like(below);
    const at::Tensor rows =
        at::stack({at::stack({above, above, above}, -1), at::stack({below, nothing, nothing}, -1)},
                  1)
            .flatten(0, 1);  // [2 N, values, 3]
    return (rows * 255)
        .round()
        .to(at::kByte)
        .repeat_interleave(kSheetCell, 0)
        .repeat_interleave(kSheetCell, 1);
  }

  void Export(const std::string& model_directory) override {
    ExportModule(text_.encoder().t5(), config_.weights.text_encoder, model_directory);
  }

 private:
  struct Head {
    at::Tensor weight, bias;  // [values, W], [values]
  };

  Description Describe(uint64_t index) const {
    return source_->Redescribe(index, {}, /*variant=*/0).value();
  }

  Batch ToBatch(const std::vector<Description>& descriptions) const {
    std::vector<std::string> captions;
    std::vector<int64_t> attributes;
    for (const Description& description : descriptions) {
      captions.push_back(description.caption);
      attributes.insert(attributes.end(), description.attributes.begin(),
                        description.attributes.end());
    }
    const TextSide::Tokens tokens = text_.Tokenize(captions);
    return {{"ids", tokens.ids},
            {"mask", tokens.mask},
            {"attributes", at::tensor(attributes).view({-1, kAttributes})}};
  }

  // rows [B, n, W], mask [B, n] -> [B, W]; zero where nothing is visible.
  static at::Tensor MeanOfVisible(const at::Tensor& rows, const at::Tensor& mask) {
    const at::Tensor visible = mask.to(at::kFloat).unsqueeze(2);
    return (rows * visible).sum(1) / visible.sum(1).clamp_min(1);
  }

  // The logits [B, values] of each attribute.
  std::vector<at::Tensor> Read(const model::TextContext& text) const {
    const at::Tensor mean = MeanOfVisible(text.context, text.mask);
    std::vector<at::Tensor> logits;
    for (const Head& head : heads_) {
      logits.push_back(at::linear(mean, head.weight, head.bias));
    }
    return logits;
  }

  const model::ModelConfig config_;
  const std::shared_ptr<const ClipSource> source_;
  const TextTaskOptions options_;
  const at::Device device_;
  TextSide text_;
  model::TextEncoder anchor_;
  std::vector<Head> heads_;  // one an attribute
};

}  // namespace

std::unique_ptr<Task> MakeTextTask(const model::ModelConfig& config,
                                   const std::string& model_directory,
                                   std::shared_ptr<const ClipSource> source,
                                   const TextTaskOptions& options, at::Device device) {
  return std::make_unique<TextTask>(config, model_directory, std::move(source), options, device);
}

}  // namespace kandinsky::training
