#include "worker/model/tools/parity_case.h"

#include <ATen/core/grad_mode.h>
#include <torch/nn/module.h>

#include <algorithm>
#include <deque>
#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>
#include <vector>

#include "worker/model/checkpoint/load.h"
#include "worker/model/checkpoint/shape.h"
#include "worker/model/checkpoint/tensor_source.h"
#include "worker/model/denoising.h"
#include "worker/model/diffusion.h"
#include "worker/model/error.h"
#include "worker/model/interpolation.h"
#include "worker/model/json_reader.h"
#include "worker/model/movq.h"
#include "worker/model/pipeline_parts.h"
#include "worker/model/sampler.h"
#include "worker/model/text/text_encoder.h"
#include "worker/model/text/tokenizer.h"
#include "worker/model/tools/parity_tolerance.h"
#include "worker/model/tools/recorded_noise.h"
#include "worker/model/unet.h"

namespace kandinsky::model {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr int64_t kMaxJsonBytes = int64_t{256} << 20;

// A case directory: its parameters and lazily opened tensor files.
class Case {
 public:
  explicit Case(const std::string& directory) : directory_(directory) {
    std::error_code error;
    if (!fs::is_directory(directory, error)) {
      throw ModelError(ModelError::Kind::kNotFound, directory + ": not a directory");
    }
    parameters_ = ReadJsonFile(directory + "/case.json", kMaxJsonBytes);
    if (!parameters_.is_object()) Bad("is not an object");
  }

  [[noreturn]] void Bad(const std::string& what) const {
    throw ModelError(ModelError::Kind::kDataLoss, directory_ + "/case.json: " + what);
  }

  std::string Path(const std::string& name) const { return directory_ + "/" + name; }

  // The checkpoint called `stem`, whatever its format.
  std::unique_ptr<TensorSource> Open(const std::string& stem) const {
    for (const char* ending :
         {".safetensors", ".safetensors.index.json", ".bin.index.json", ".pt", ".bin", ""}) {
      std::error_code error;
      if (fs::exists(Path(stem + ending), error)) return OpenCheckpoint(Path(stem + ending));
    }
    throw ModelError(ModelError::Kind::kNotFound, Path(stem) + ".safetensors: no such file");
  }

  bool Has(const char* name) const { return parameters_.contains(name); }
  const json& Field(const char* name) const {
    if (!parameters_.contains(name)) Bad("needs \"" + std::string(name) + "\"");
    return parameters_[name];
  }
  const json& Config() const { return Field("config"); }

  std::string String(const char* name) const {
    if (!Field(name).is_string()) Bad("\"" + std::string(name) + "\" must be a string");
    return Field(name).get<std::string>();
  }
  int64_t Int(const char* name, int64_t least, std::optional<int64_t> otherwise = {}) const {
    if (otherwise && !Has(name)) return *otherwise;
    const json& value = Field(name);
    if (!value.is_number_integer() || value.get<int64_t>() < least) {
      Bad("\"" + std::string(name) + "\" must be an integer of at least " + std::to_string(least));
    }
    return value.get<int64_t>();
  }
  double Double(const char* name) const {
    if (!Field(name).is_number()) Bad("\"" + std::string(name) + "\" must be a number");
    return Field(name).get<double>();
  }
  bool Bool(const char* name, bool otherwise) const {
    if (!Has(name)) return otherwise;
    if (!Field(name).is_boolean()) Bad("\"" + std::string(name) + "\" must be true or false");
    return Field(name).get<bool>();
  }

  Tolerance tolerance() const {
    const json& value = Field("tolerance");
    if (!value.is_object()) Bad("\"tolerance\" must be an object");
    if (value.value("exact", false)) return {};
    const auto number = [&](const char* name) {
      if (!value.contains(name) || !value[name].is_number() || value[name].get<double>() < 0) {
        Bad("\"tolerance\" needs \"" + std::string(name) + "\"");
      }
      return value[name].get<double>();
    };
    return {number("rtol"), number("atol")};
  }

  SamplerConfig Sampling(bool v_prediction) const {
    SamplerConfig config;
    config.type = SamplerType::kDdpm;
    config.schedule = ParseScheduleType(String("schedule"));
    config.steps = Int("steps", 2);
    config.prediction = v_prediction ? PredictionType::kV : PredictionType::kEpsilon;
    config.percentile = Percentile(Field("percentile"));
    return config;
  }

  std::optional<double> Percentile(const json& value) const {
    if (value.is_null()) return std::nullopt;
    if (!value.is_number()) Bad("a percentile must be a number or null");
    return value.get<double>();
  }

 private:
  const std::string directory_;
  json parameters_;
};

struct Run {
  const Case& parameters;
  const ParityOptions& options;
  ParityReport& report;
  Tolerance tolerance;
};

at::Tensor Optional(const TensorSource& source, const std::string& name) {
  return source.Find(name) == nullptr ? at::Tensor() : source.Read(name);
}

template <typename Module>
std::shared_ptr<Module> Loaded(std::shared_ptr<Module> module, const TensorSource& source,
                               const ParityOptions& options, LoadOptions load = {}) {
  if (!load.dtype) load.dtype = options.placement.dtype;
  load.device = options.placement.device;
  LoadInto(*module, source, load);
  module->eval();
  return module;
}

at::TensorOptions Meta(const ParityOptions& options) {
  return at::TensorOptions(at::kMeta).dtype(options.placement.dtype);
}

std::shared_ptr<Unet> LoadUnet(const UnetConfig& config, const TensorSource& source,
                               const ParityOptions& options, const std::string& prefix = "") {
  return Loaded(std::make_shared<Unet>(config, Meta(options)), source, options, {.prefix = prefix});
}

// ---- inner modules ----

// Collects what a network reports and compares it with trace.safetensors, name by name; a module
// that runs several times is compared run by run.
class Trace {
 public:
  explicit Trace(const Run& run) : run_(run) {
    wanted_ = run.options.trace && fs::exists(run.parameters.Path("trace.safetensors"));
  }

  TraceSink sink() {
    if (!wanted_) return nullptr;
    return [this](const std::string& path, const at::Tensor& output) {
      got_[path].push_back(output.detach().to(at::kCPU, at::kFloat).clone());
    };
  }

  void Compare() {
    if (!wanted_) return;
    const auto recorded = run_.parameters.Open("trace");
    for (const std::string& name : recorded->Names()) {  // "007.module.path", so in order
      const std::string path = name.substr(std::min(name.size(), name.find('.') + 1));
      std::deque<at::Tensor>& outputs = got_[path];
      if (outputs.empty()) {
        run_.report.CheckTrue("trace " + name, false, "the network did not report it");
        continue;
      }
      // The tolerance is meant for outputs. Inside, rounding is relative to the largest values that
      // were summed, so the largest one of the tensor stands for all.
      const at::Tensor want = recorded->Read(name);
      const double largest = want.numel() == 0 ? 0 : want.abs().max().item<double>();
      run_.report.Check("trace " + name, outputs.front(), want,
                        run_.tolerance.rms > 0
                            ? run_.tolerance
                            : Tolerance{0, run_.tolerance.atol + run_.tolerance.rtol * largest});
      outputs.pop_front();
    }
  }

 private:
  const Run& run_;
  bool wanted_ = false;
  std::map<std::string, std::deque<at::Tensor>> got_;
};

// ---- components ----

void RunUnet(const Run& run) {
  const UnetConfig config = UnetConfig::FromJson(run.parameters.Config(), "config");
  const auto unet = LoadUnet(config, *run.parameters.Open("weights"), run.options);
  const auto inputs = run.parameters.Open("inputs");
  const at::Device device = run.options.placement.device;
  UnetInput input;
  input.x = inputs->Read("x", std::nullopt, device);
  input.time = inputs->Read("time", std::nullopt, device);
  input.context = inputs->Read("context", std::nullopt, device);
  input.context_mask = Optional(*inputs, "context_mask");
  input.temporal_positions = Optional(*inputs, "temporal_positions");
  input.skip_frames = Optional(*inputs, "skip_frames");
  if (config.interpolation()) {
    input.frames = run.parameters.Int("num_temporal_groups", 1, input.x.size(0));
  }
  Trace trace(run);
  const at::Tensor out = unet->forward(input, trace.sink());
  run.report.Check("out", out, run.parameters.Open("outputs")->Read("out"), run.tolerance);
  trace.Compare();
}

void RunDiffusion(const Run& run) {
  const auto inputs = run.parameters.Open("inputs");
  const auto outputs = run.parameters.Open("outputs");
  std::map<std::string, at::Tensor> computed;
  const json& config = run.parameters.Config();
  if (!config.is_object() || !config.contains("schedules") || !config["schedules"].is_object()) {
    run.parameters.Bad("\"config\" needs the object \"schedules\"");
  }
  const auto schedule_of = [&](const json& value, const std::string& path) {
    ObjectReader reader(value, path);
    return NoiseSchedule(ParseScheduleType(reader.String("schedule", 64)),
                         reader.Int("steps", 2, 1 << 24));
  };
  for (const auto& [name, value] : config["schedules"].items()) {
    const NoiseSchedule schedule = schedule_of(value, "schedules." + name);
    for (const auto& [tensor_name, tensor] : schedule.Tensors()) {
      computed[name + "." + tensor_name] = tensor;
    }
    if (value.contains("time_scale")) {
      run.report.CheckEqual(
          name + ".time_scale", schedule.time_scale(),
          ObjectReader(value, "schedules." + name).Int("time_scale", 0, INT64_MAX));
    }
  }
  if (config.contains("tested")) {
    const json& tested = config["tested"];
    const NoiseSchedule schedule = schedule_of(tested, "tested");
    const at::Tensor t = inputs->Read("t");
    const at::Tensor x_start = inputs->Read("x_start");
    if (tested.contains("percentiles") && tested["percentiles"].is_object()) {
      for (const auto& [name, value] : tested["percentiles"].items()) {
        computed["process_x_start." + name] = ProcessX0(x_start, run.parameters.Percentile(value));
      }
    }
    if (inputs->Find("noise") != nullptr) {
      computed["q_sample"] = QSample(schedule, x_start, t, inputs->Read("noise"));
    }
    if (inputs->Find("x_t") != nullptr) {
      const Posterior posterior = QPosterior(schedule, x_start, inputs->Read("x_t"), t);
      computed["q_posterior.mean"] = posterior.mean;
      computed["q_posterior.variance"] = posterior.variance;
      computed["q_posterior.log_variance"] = posterior.log_variance;
    }
  }
  for (const std::string& name : outputs->Names()) {
    const auto found = computed.find(name);
    if (found == computed.end()) {
      run.report.CheckTrue(name, false, "nothing of this name was computed");
    } else {
      run.report.Check(name, found->second, outputs->Read(name), run.tolerance);
    }
  }
}

// The tolerance of the latent after `step` of `steps` steps. That of narrow types is for the end:
// each step before it has half of the next one's, but no less than a quarter of the last one's.
Tolerance StepTolerance(const Tolerance& last, int64_t step, int64_t steps) {
  if (last.rms == 0) return last;
  const double share =
      1.0 / static_cast<double>(int64_t{1} << std::clamp<int64_t>(steps - step, 0, 2));
  return {.rms = last.rms * share, .peak = last.peak * share};
}

// Runs a loop step by step and checks the latent after each.
at::Tensor RunLoop(const Run& run, const DenoisingLoop& loop, at::IntArrayRef shape,
                   const TensorSource& outputs, const std::string& prefix) {
  const at::Tensor recorded = Optional(outputs, prefix + "x_t");
  DenoisingLoop::Hooks hooks;
  hooks.step = [&](const LoopState& state, double) {
    const int64_t step = state.next_step - 1;
    if (!recorded.defined()) return;
    const std::string name = prefix + "x_t[" + std::to_string(step) + "]";
    if (step >= recorded.size(0)) {
      run.report.CheckTrue(name, false, "was not recorded");
    } else {
      run.report.Check(name, state.x, recorded.select(0, step),
                       StepTolerance(run.tolerance, step + 1, recorded.size(0)));
    }
  };
  return loop.Run(loop.Start(shape), hooks);
}

void RunKeyframeSampling(const Run& run) {
  const UnetConfig config = UnetConfig::FromJson(run.parameters.Config(), "config");
  const auto unet = LoadUnet(config, *run.parameters.Open("weights"), run.options);
  const auto inputs = run.parameters.Open("inputs");
  const auto outputs = run.parameters.Open("outputs");
  const at::Tensor initial = inputs->Read("initial_noise");
  RecordedNoise noise;
  noise.Add(NoiseStage::kKeyframes, 0, initial, inputs->Read("noise"));

  const TextCondition conditional = {inputs->Read("context"), inputs->Read("context_mask")};
  const TextCondition unconditional =
      inputs->Find("negative_context") != nullptr
          ? TextCondition{inputs->Read("negative_context"), inputs->Read("negative_context_mask")}
          : NullCondition(LoadNullEmbedding(*inputs, "null_embedding", config.context_dim),
                          conditional.context.size(1));
  const Sampler sampler(run.parameters.Sampling(run.parameters.Bool("v_prediction", false)));
  const DenoisingLoop loop(sampler,
                           MakeKeyframeDenoiser(*unet, conditional, unconditional,
                                                {.scale = run.parameters.Double("guidance_scale")},
                                                Optional(*inputs, "temporal_positions")),
                           noise, NoiseStage::kKeyframes, 0, run.options.placement.device);
  const at::Tensor final_x = RunLoop(run, loop, initial.sizes(), *outputs, "");
  if (outputs->Find("final") != nullptr) {
    run.report.Check("final", final_x, outputs->Read("final"), run.tolerance);
  }
}

void RunInterpolationSampling(const Run& run) {
  const UnetConfig config = UnetConfig::FromJson(run.parameters.Config(), "config");
  const auto unet = LoadUnet(config, *run.parameters.Open("weights"), run.options);
  const auto inputs = run.parameters.Open("inputs");
  const auto outputs = run.parameters.Open("outputs");
  const at::Device device = run.options.placement.device;
  const at::Tensor null_embedding =
      LoadNullEmbedding(*inputs, "null_embedding", config.context_dim, at::kFloat, device);
  const Sampler sampler(run.parameters.Sampling(run.parameters.Bool("v_prediction", true)));
  at::Tensor video = inputs->Read("base_frames", at::kFloat, device);
  const json& stages = run.parameters.Field("stages");
  if (!stages.is_array()) run.parameters.Bad("\"stages\" must be a list");
  int pass = 0;
  for (const json& value : stages) {
    ObjectReader stage(value, "stages");
    const std::string prefix = stage.String("name", 64) + ".";
    const at::Tensor initial = inputs->Read(prefix + "initial_noise");
    RecordedNoise noise;
    noise.Add(NoiseStage::kInterpolation, pass, initial, inputs->Read(prefix + "noise"));
    const DenoisingLoop loop(
        sampler,
        MakeInterpolationDenoiser(*unet, video, null_embedding, stage.Int("skip_frames", 0, 19),
                                  {.scale = run.parameters.Double("guidance_scale")}),
        noise, NoiseStage::kInterpolation, pass, device);
    const at::Tensor groups = RunLoop(run, loop, initial.sizes(), *outputs, prefix);
    video = MergeGroups(video, groups);
    run.report.Check(prefix + "groups", groups, outputs->Read(prefix + "groups"), run.tolerance);
    run.report.Check(prefix + "video", video, outputs->Read(prefix + "video"), run.tolerance);
    ++pass;
  }
}

at::Tensor DecodeInChunks(const Movq& movq, at::Device device, const at::Tensor& latents) {
  std::vector<at::Tensor> chunks;
  DecodeChunks(movq, device, latents, {}, nullptr, [&](int64_t, const at::Tensor& decoded) {
    chunks.push_back(decoded.to(at::kCPU, at::kFloat));
  });
  return at::cat(chunks);
}

// Outputs say by their names what they are made of: encoded<x> of input image<x>, decoded<x> of
// latent<x> as one clip, decoded<x>_chunked of latent<x> in the pipeline's chunks, and
// decoded_frame<i> of frame i of latent alone.
void RunMovq(const Run& run) {
  const MovqConfig config = MovqConfig::FromJson(run.parameters.Config(), "config");
  const auto movq = Loaded(std::make_shared<Movq>(config, Meta(run.options)),
                           *run.parameters.Open("weights"), run.options);
  const auto inputs = run.parameters.Open("inputs");
  const auto outputs = run.parameters.Open("outputs");
  const Placement& placement = run.options.placement;
  for (const std::string& name : outputs->Names()) {
    constexpr std::string_view kEncoded = "encoded", kDecoded = "decoded", kChunked = "_chunked",
                               kFrame = "decoded_frame";
    at::Tensor got;
    if (name.starts_with(kEncoded)) {
      got = movq->Encode(
          inputs->Read("image" + name.substr(kEncoded.size()), placement.dtype, placement.device));
    } else if (name.starts_with(kFrame) &&
               inputs->Find("latent" + name.substr(kDecoded.size())) == nullptr) {
      const at::Tensor latent = inputs->Read("latent", std::nullopt, placement.device);
      const std::string digits = name.substr(kFrame.size());
      const bool number =
          !digits.empty() && digits.size() < 10 &&
          std::all_of(digits.begin(), digits.end(), [](char c) { return c >= '0' && c <= '9'; });
      const int64_t index = number ? std::stoll(digits) : -1;
      if (index < 0 || index >= latent.size(0)) {
        throw ModelError(ModelError::Kind::kDataLoss,
                         outputs->path() + ": output " + Quote(name) + " is of no frame");
      }
      got = movq->Decode(latent.narrow(0, index, 1));
    } else if (name.starts_with(kDecoded)) {
      std::string rest = name.substr(kDecoded.size());
      const bool chunked = rest.ends_with(kChunked);
      if (chunked) rest.resize(rest.size() - kChunked.size());
      const at::Tensor latent = inputs->Read("latent" + rest, std::nullopt, placement.device);
      got = chunked ? DecodeInChunks(*movq, placement.device, latent) : movq->Decode(latent);
    } else {
      run.report.CheckTrue(name, false, "not a known output of a MoVQ");
      continue;
    }
    run.report.Check(name, got, outputs->Read(name), run.tolerance);
  }
}

LoadOptions T5Load() {
  return {.ignored = {"decoder.", "lm_head."},
          .aliases = {{"shared.weight", {"encoder.embed_tokens.weight"}}}};
}

void RunTextEncoder(const Run& run) {
  const TextEncoderConfig config = TextEncoderConfig::FromJson(run.parameters.Config(), "config");
  const auto weights = run.parameters.Open("weights");
  const auto projections = run.parameters.Open("projections");
  const auto load = [&](at::ScalarType dtype) {
    ParityOptions options = run.options;
    options.placement.dtype = dtype;
    auto encoder = std::make_unique<TextEncoder>(config, Meta(options));
    LoadOptions t5 = T5Load();
    t5.dtype = dtype;
    t5.device = options.placement.device;
    LoadInto(encoder->t5(), *weights, t5);
    LoadInto(encoder->projection(), *projections,
             {.dtype = at::kFloat, .device = options.placement.device});
    return encoder;
  };
  const auto encoder = load(run.options.placement.dtype);
  const auto inputs = run.parameters.Open("inputs");
  const auto outputs = run.parameters.Open("outputs");
  const at::Device device = run.options.placement.device;
  for (const std::string& name : outputs->Names()) {
    const size_t dot = name.rfind('.');
    const std::string prompt = dot == std::string::npos ? "" : name.substr(0, dot + 1);
    const std::string what = name.substr(prompt.size());
    const at::Tensor ids = inputs->Read(prompt + "input_ids", std::nullopt, device);
    const at::Tensor mask = inputs->Read(prompt + "attention_mask", std::nullopt, device);
    const at::Tensor want = outputs->Read(name);
    if (what == "last_hidden_state") {
      run.report.Check(name, encoder->t5().forward(ids, mask), want, run.tolerance);
    } else if (what == "context") {
      run.report.Check(name, encoder->Encode(ids, mask).context, want, run.tolerance);
    } else if (what == "context_mask") {
      run.report.Check(name, encoder->Encode(ids, mask).mask, want, {});
    } else if (what == "context_fp16_reference") {
      const at::Tensor got = load(at::kHalf)->Encode(ids, mask).context;
      if (got.sizes() != want.sizes()) {
        run.report.Check(name, got, want, {});
      } else {
        run.report.Inform(name + ": max abs " +
                          std::to_string(Compare(got, want, {}).max_absolute) +
                          " in float16 on both sides, for information");
      }
    } else {
      run.report.CheckTrue(name, false, "not a known output of a text encoder");
    }
  }
}

std::vector<int64_t> Integers(const json& value, const std::string& path) {
  if (!value.is_array()) throw ModelError(ModelError::Kind::kDataLoss, path + " must be a list");
  std::vector<int64_t> numbers;
  for (const json& item : value) {
    if (!item.is_number_integer()) {
      throw ModelError(ModelError::Kind::kDataLoss, path + " must be a list of integers");
    }
    numbers.push_back(item.get<int64_t>());
  }
  return numbers;
}

// A list of objects, each of which is given to `use` with its name for messages.
void ForEachObject(const std::string& path,
                   const std::function<void(const json&, const std::string&)>& use) {
  const json list = ReadJsonFile(path, kMaxJsonBytes);
  if (!list.is_array()) throw ModelError(ModelError::Kind::kDataLoss, path + " must be a list");
  for (size_t i = 0; i < list.size(); ++i) {
    const std::string name = path + "[" + std::to_string(i) + "]";
    if (!list[i].is_object()) {
      throw ModelError(ModelError::Kind::kDataLoss, name + " must be an object");
    }
    use(list[i], name);
  }
}

void RunTokenizer(const Run& run) {
  ObjectReader config(run.parameters.Config(), "config");
  const int64_t length = config.Int("max_length", 2, 1 << 20);
  const Tokenizer tokenizer(run.parameters.Path("tokenizer/spiece.model"),
                            config.Int("extra_ids", 0, 10000, Tokenizer::kExtraIds));
  if (config.Has("sentencepiece_pieces")) {
    run.report.CheckEqual("pieces", tokenizer.pieces(),
                          config.Int("sentencepiece_pieces", 0, INT64_MAX));
  }
  const auto check = [&](const std::string& name, const std::vector<int64_t>& got,
                         const json& want) {
    run.report.Check(name, at::tensor(got, at::kLong), at::tensor(Integers(want, name), at::kLong),
                     {});
  };
  std::error_code error;
  if (fs::exists(run.parameters.Path("strings.json"), error)) {
    ForEachObject(
        run.parameters.Path("strings.json"), [&](const json& item, const std::string& name) {
          ObjectReader reader(item, name);
          const std::string text = reader.String("text", kMaxJsonBytes);
          const std::string label = "ids of " + Quote(text);
          check(label, tokenizer.EncodeTruncated(text, length), reader.Array("ids", 0, 1 << 20));
          if (reader.Has("untruncated_length")) {
            run.report.CheckEqual("length of " + Quote(text),
                                  static_cast<int64_t>(tokenizer.Encode(text).size()),
                                  reader.Int("untruncated_length", 0, INT64_MAX));
          }
        });
  }
  if (fs::exists(run.parameters.Path("pairs.json"), error)) {
    ForEachObject(
        run.parameters.Path("pairs.json"), [&](const json& item, const std::string& name) {
          ObjectReader reader(item, name);
          const std::string text = reader.String("text", kMaxJsonBytes);
          const TokenSequence positive = tokenizer.EncodePadded(text, length);
          ObjectReader wanted(reader.Object("positive"), name + ".positive");
          check(name + ".positive.input_ids", positive.ids, wanted.Array("input_ids", 0, 1 << 20));
          check(name + ".positive.attention_mask", positive.mask,
                wanted.Array("attention_mask", 0, 1 << 20));
          if (!item.contains("negative") || item["negative"].is_null()) return;
          const TokenSequence negative =
              tokenizer.EncodeNegative(reader.String("negative_text", kMaxJsonBytes), positive);
          ObjectReader wanted_negative(reader.Object("negative"), name + ".negative");
          check(name + ".negative.input_ids", negative.ids,
                wanted_negative.Array("input_ids", 0, 1 << 20));
          check(name + ".negative.attention_mask", negative.mask,
                wanted_negative.Array("attention_mask", 0, 1 << 20));
        });
  }
}

// The case's own numbers; what it leaves out is taken from the encoder's config.json.
TextEncoderConfig PipelineTextConfig(const Case& parameters, const json& config) {
  json merged = json::object();
  std::error_code error;
  if (const std::string path = parameters.Path("text_encoder/config.json");
      fs::exists(path, error)) {
    const json published = ReadJsonFile(path, kMaxJsonBytes);
    const json known = TextEncoderConfig().ToJson();
    for (const auto& [name, value] : known.items()) {
      if (published.contains(name)) merged[name] = published[name];
    }
  }
  merged.update(config);
  return TextEncoderConfig::FromJson(merged, "config.text_encoder");
}

// How many <extra_id_n> the tokenizer has, by its config where there is one.
int64_t PipelineExtraIds(const Case& parameters) {
  const std::string path = parameters.Path("text_encoder/tokenizer_config.json");
  std::error_code error;
  if (!fs::exists(path, error)) return Tokenizer::kExtraIds;
  const json config = ReadJsonFile(path, kMaxJsonBytes);
  return ObjectReader(config, path).Int("extra_ids", 0, 10000, Tokenizer::kExtraIds);
}

void RunPipeline(const Run& run) {
  const Case& parameters = run.parameters;
  const Placement& placement = run.options.placement;
  const auto inputs = parameters.Open("inputs");
  const auto outputs = parameters.Open("outputs");
  ObjectReader config(parameters.Config(), "config");
  const std::string fps = parameters.String("fps");
  const std::vector<std::string> levels = {"low", "medium", "high"};
  const auto level = std::find(levels.begin(), levels.end(), fps);
  if (level == levels.end()) parameters.Bad("\"fps\" must be low, medium or high");
  const int passes = static_cast<int>(level - levels.begin());
  const auto check = [&](const std::string& name, const at::Tensor& got) {
    if (outputs->Find(name) == nullptr) return;
    run.report.Check(name, got, outputs->Read(name), run.tolerance);
  };

  RecordedNoise noise;
  noise.Add(NoiseStage::kKeyframes, 0, inputs->Read("keyframes.initial_noise"),
            inputs->Read("keyframes.noise"));
  for (int pass = 0; pass < passes; ++pass) {
    noise.Add(NoiseStage::kInterpolation, pass, inputs->Read(levels[pass + 1] + ".initial_noise"),
              inputs->Read(levels[pass + 1] + ".noise"));
  }

  // Text.
  const auto keyframe_weights = parameters.Open("weights/kandinsky_video");
  EncodedPrompt prompt;
  {
    const TextEncoderConfig text = PipelineTextConfig(parameters, config.Object("text_encoder"));
    TextEncoder encoder(text, Meta(run.options));
    LoadOptions t5 = T5Load();
    t5.dtype = placement.dtype;
    t5.device = placement.device;
    LoadInto(encoder.t5(), *parameters.Open("text_encoder"), t5);
    LoadInto(encoder.projection(), *keyframe_weights,
             {.prefix = "projections.", .dtype = at::kFloat, .device = placement.device});
    const Tokenizer tokenizer(parameters.Path("text_encoder/spiece.model"),
                              PipelineExtraIds(parameters));
    std::optional<std::string> negative;
    if (parameters.Has("negative_prompt") && !parameters.Field("negative_prompt").is_null()) {
      negative = parameters.String("negative_prompt");
    }
    prompt = EncodePrompt(tokenizer, encoder, parameters.String("prompt"),
                          negative ? &*negative : nullptr);
    check("context", prompt.positive.context);
    check("context_mask", prompt.positive.mask);
    if (negative) {
      check("negative_context", prompt.negative.context);
      check("negative_context_mask", prompt.negative.mask);
    }
  }

  // Keyframes.
  at::Tensor video;  // [T, 4, h, w]
  {
    const UnetConfig unet_config =
        UnetConfig::FromJson(config.Object("keyframe_unet"), "config.keyframe_unet");
    const auto unet = LoadUnet(unet_config, *keyframe_weights, run.options, "unet.");
    const at::Tensor initial = inputs->Read("keyframes.initial_noise");
    if (initial.dim() != 4) parameters.Bad("keyframes.initial_noise must have four axes");
    video = SampleKeyframes(
        *unet, prompt,
        LoadNullEmbedding(*keyframe_weights, "null_embedding", unet_config.context_dim),
        initial.size(0), initial.size(2), initial.size(3), parameters.Sampling(false),
        {.scale = parameters.Double("guidance_scale")}, noise);
    check("keyframes", video);
  }

  // Interpolation.
  if (passes > 0) {
    const UnetConfig unet_config =
        UnetConfig::FromJson(config.Object("interpolation_unet"), "config.interpolation_unet");
    const auto weights = parameters.Open("weights/kandinsky_video_interpolation");
    const auto unet = LoadUnet(unet_config, *weights, run.options, "unet.");
    const at::Tensor null_embedding =
        LoadNullEmbedding(*weights, "null_embedding", unet_config.context_dim);
    for (int pass = 0; pass < passes; ++pass) {
      const std::string& name = levels[pass + 1];
      ObjectReader skips(parameters.Field("skip_frames"), "skip_frames");
      const at::Tensor groups =
          SampleGroups(*unet, video, null_embedding,
                       {.pass = pass, .passes = passes, .skip_frames = skips.Int(name, 0, 19)},
                       parameters.Sampling(true),
                       {.scale = parameters.Double("interpolation_guidance_scale")}, noise);
      video = MergeGroups(video, groups);
      check(name + ".groups", groups);
      check(name, video);
    }
  }

  // Decoding.
  const MovqConfig movq_config = MovqConfig::FromJson(config.Object("movq"), "config.movq");
  const auto movq = Loaded(std::make_shared<Movq>(movq_config, Meta(run.options)),
                           *parameters.Open("weights/movq"), run.options);
  if (parameters.Has("decode_chunks")) {
    run.report.CheckTrue("decode_chunks",
                         DecodeChunkLengths(video.size(0)) ==
                             Integers(parameters.Field("decode_chunks"), "decode_chunks"),
                         c10::str(at::IntArrayRef(DecodeChunkLengths(video.size(0)))));
  }
  const at::Tensor decoded = DecodeInChunks(*movq, placement.device, video);
  check("decoded", decoded);
  if (outputs->Find("frames_uint8") != nullptr) {
    run.report.CheckPixels("frames_uint8", ToPixels(decoded).permute({0, 3, 1, 2}),
                           outputs->Read("frames_uint8"), run.tolerance);
  }
}

}  // namespace

void RunParityCase(const std::string& directory, const ParityOptions& options,
                   ParityReport& report) {
  static const std::map<std::string, void (*)(const Run&)> kComponents = {
      {"diffusion", RunDiffusion},
      {"t2i_unet", RunUnet},
      {"keyframe_unet", RunUnet},
      {"interpolation_unet", RunUnet},
      {"keyframe_sampling", RunKeyframeSampling},
      {"interpolation_sampling", RunInterpolationSampling},
      {"movq", RunMovq},
      {"video_movq", RunMovq},
      {"text_encoder", RunTextEncoder},
      {"tokenizer", RunTokenizer},
      {"pipeline", RunPipeline},
  };
  at::NoGradGuard no_grad;
  const Case parameters(directory);
  const std::string component = parameters.String("component");
  const auto found = kComponents.find(component);
  if (found == kComponents.end()) {
    parameters.Bad("component " + Quote(component) + " is not known");
  }
  const int64_t before = report.checks();
  found->second({parameters, options, report,
                 ToleranceFor(component, options.placement, parameters.tolerance())});
  if (report.checks() == before) parameters.Bad("holds nothing to compare");
}

}  // namespace kandinsky::model
