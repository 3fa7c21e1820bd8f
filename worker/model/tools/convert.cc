#include "worker/model/tools/convert.h"

#include <ATen/core/grad_mode.h>
#include <torch/nn/module.h>

#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "worker/model/checkpoint/load.h"
#include "worker/model/checkpoint/safetensors.h"
#include "worker/model/checkpoint/shape.h"
#include "worker/model/checkpoint/tensor_source.h"
#include "worker/model/error.h"
#include "worker/model/json_reader.h"
#include "worker/model/model_config.h"
#include "worker/model/text/tokenizer.h"
#include "worker/model/write_file.h"

namespace kandinsky::model {
namespace {

namespace fs = std::filesystem;

[[noreturn]] void Invalid(const std::string& message) {
  throw ModelError(ModelError::Kind::kInvalidArgument, message);
}

// One tensor on its way.
struct Move {
  const TensorSource* source = nullptr;
  std::string stored;
  TensorMeta meta;  // in the result
};

// Output file -> name there -> where from.
using Moves = std::map<std::string, std::map<std::string, Move>>;

std::unique_ptr<TensorSource> Open(const std::string& folder, const std::string& stem) {
  for (const char* ending :
       {".pt", ".safetensors", ".safetensors.index.json", ".bin", ".bin.index.json", ""}) {
    const std::string path = folder + "/" + stem + ending;
    std::error_code error;
    if (fs::exists(path, error)) return OpenCheckpoint(path);
  }
  throw ModelError(ModelError::Kind::kNotFound, folder + "/" + stem + ".pt: no such file");
}

class Conversion {
 public:
  Conversion(const ConvertOptions& options, const ModelConfig& config)
      : options_(options), config_(config) {}

  void Plan() {
    const at::TensorOptions meta(at::kMeta);
    const TensorSource& keyframes = Keep(Open(options_.weights, "kandinsky_video"));
    const TensorSource& interpolation =
        Keep(Open(options_.weights, "kandinsky_video_interpolation"));
    const TensorSource& movq = Keep(Open(options_.weights, "movq"));
    const TensorSource& text = Keep(OpenCheckpoint(options_.text_encoder));
    const WeightSources& to = config_.weights;

    Network("keyframe U-Net", Unet(config_.keyframe_unet, meta), keyframes, {.prefix = "unet."},
            to.keyframe_unet, options_.dtype);
    Network("projection", TextProjection(config_.text_encoder, meta), keyframes,
            {.prefix = "projections."}, to.projection, std::nullopt);
    Null(keyframes, config_.keyframe_unet.context_dim, to.keyframe_null);
    Network("interpolation U-Net", Unet(config_.interpolation_unet, meta), interpolation,
            {.prefix = "unet."}, to.interpolation_unet, options_.dtype);
    Null(interpolation, config_.interpolation_unet.context_dim, to.interpolation_null);
    Network("MoVQ", Movq(config_.movq, meta), movq, {}, to.movq, options_.dtype);
    Network("text encoder", T5Encoder(config_.text_encoder, meta), text,
            {.ignored = {"decoder.", "lm_head."},
             .aliases = {{"shared.weight", {"encoder.embed_tokens.weight"}}}},
            to.text_encoder, options_.dtype);
    if (config_.video_movq) {
      if (options_.video_movq.empty()) {
        Invalid(options_.config + " has a video_movq, so --video-movq must name its checkpoint");
      }
      Network("video MoVQ", Movq(*config_.video_movq, meta),
              Keep(OpenCheckpoint(options_.video_movq)), {}, *to.video_movq, options_.dtype);
    }
    if (!complaints_.empty()) throw ModelError(ModelError::Kind::kDataLoss, complaints_);

    const std::string tokenizer = TokenizerFile();
    const int64_t vocabulary = Tokenizer(tokenizer).vocabulary();
    if (vocabulary > config_.text_encoder.vocab_size) {
      throw ModelError(ModelError::Kind::kDataLoss,
                       tokenizer + " makes ids up to " + std::to_string(vocabulary - 1) +
                           ", the text encoder knows " +
                           std::to_string(config_.text_encoder.vocab_size));
    }
    for (const auto& [file, tensors] : moves_) RefuseExisting(file);
    RefuseExisting(config_.tokenizer);
    RefuseExisting("model.json");
  }

  void Write(std::ostream& log) const {
    for (const auto& [file, tensors] : moves_) {
      const std::string path = Prepare(file);
      std::vector<std::pair<std::string, TensorMeta>> directory;
      int64_t bytes = 0;
      for (const auto& [name, move] : tensors) {
        directory.emplace_back(name, move.meta);
        bytes += move.meta.bytes();
      }
      SafetensorsWriter writer(path, directory, {{"format", "pt"}});
      for (const auto& [name, move] : tensors) writer.Write(name, Read(move));
      writer.Finish();
      log << path << ": " << tensors.size() << " tensors, " << bytes << " bytes" << std::endl;
    }
    const std::string tokenizer = Prepare(config_.tokenizer);
    CopyFile(TokenizerFile(), tokenizer);
    log << tokenizer << std::endl;
    const std::string model = Prepare("model.json");
    WriteFile(model, config_.ToJson().dump(2) + "\n");
    log << model << std::endl;
  }

 private:
  const TensorSource& Keep(std::unique_ptr<TensorSource> source) {
    sources_.push_back(std::move(source));
    return *sources_.back();
  }

  std::string TokenizerFile() const { return options_.text_encoder + "/spiece.model"; }

  void Add(const WeightSource& to, const std::string& name, Move move) {
    if (!to.file.ends_with(".safetensors")) {
      Invalid(options_.config + ": weights file " + Quote(to.file) +
              " must end in .safetensors to be written");
    }
    if (!moves_[to.file].emplace(name, std::move(move)).second) {
      Invalid(options_.config + ": two networks would write tensor " + Quote(name) + " of " +
              to.file);
    }
  }

  void Network(const std::string& what, const torch::nn::Module& module, const TensorSource& source,
               const LoadOptions& load, const WeightSource& to,
               std::optional<at::ScalarType> dtype) {
    const std::string mismatch = DescribeMismatch(module, source, load);
    if (!mismatch.empty()) {
      complaints_ += (complaints_.empty() ? "" : "\n") + what + ": " + mismatch;
      return;
    }
    for (const auto& [name, stored] : MatchTensors(module, source, load)) {
      TensorMeta meta = *source.Find(stored);
      if (dtype && c10::isFloatingType(meta.dtype)) meta.dtype = *dtype;
      Add(to, to.prefix + name, {&source, stored, meta});
    }
  }

  void Null(const TensorSource& source, int64_t width, const WeightSource& to) {
    constexpr char kName[] = "null_embedding";
    try {
      const at::ScalarType dtype = LoadNullEmbedding(source, kName, width).scalar_type();
      Add(to, to.prefix, {&source, kName, {dtype, {width}}});
    } catch (const ModelError& error) {
      complaints_ += (complaints_.empty() ? "" : "\n") + std::string(error.what());
    }
  }

  static at::Tensor Read(const Move& move) {
    const at::Tensor tensor = move.source->Read(move.stored);
    const at::Tensor converted = tensor.to(move.meta.dtype).reshape(move.meta.shape);
    const bool narrowed = move.meta.dtype == at::kHalf && tensor.scalar_type() != at::kHalf;
    if (narrowed &&
        tensor.isfinite().logical_and(converted.isfinite().logical_not()).any().item<bool>()) {
      throw ModelError(ModelError::Kind::kDataLoss,
                       move.source->path() + ": tensor " + Quote(move.stored) +
                           " has values beyond float16; convert to bfloat16 or float32");
    }
    return converted;
  }

  void RefuseExisting(const std::string& file) const {
    std::error_code error;
    const std::string path = options_.out + "/" + file;
    if (options_.overwrite || !fs::exists(path, error)) return;
    if (fs::equivalent(path, options_.config, error))
      return;  // a config that waits for its weights
    Invalid(path + " is already there; --overwrite replaces it");
  }

  std::string Prepare(const std::string& file) const {
    const std::string path = options_.out + "/" + file;
    std::error_code error;
    fs::create_directories(fs::path(path).parent_path(), error);
    if (error) {
      throw ModelError(ModelError::Kind::kDataLoss,
                       path + ": cannot make its directory: " + error.message());
    }
    return path;
  }

  static void CopyFile(const std::string& from, const std::string& to) {
    const std::string temporary = to + ".tmp";
    std::error_code error;
    if (fs::copy_file(from, temporary, fs::copy_options::overwrite_existing, error)) {
      fs::rename(temporary, to, error);
    }
    if (!error) return;
    std::error_code ignored;
    fs::remove(temporary, ignored);
    throw ModelError(ModelError::Kind::kDataLoss, to + ": cannot write");
  }

  const ConvertOptions& options_;
  const ModelConfig& config_;
  std::vector<std::unique_ptr<TensorSource>> sources_;
  Moves moves_;
  std::string complaints_;
};

}  // namespace

void Convert(const ConvertOptions& options, std::ostream& log) {
  at::NoGradGuard no_grad;
  ModelConfig config;
  try {
    config = ModelConfig::FromJson(ReadJsonFile(options.config, 1 << 20));
  } catch (const ModelError& error) {
    throw ModelError(error.kind(), options.config + ": " + error.what());
  }
  Conversion conversion(options, config);
  conversion.Plan();
  conversion.Write(log);
}

}  // namespace kandinsky::model
