#include "worker/model/model_config.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>

#include "common/spec/vocabulary.h"
#include "worker/model/error.h"
#include "worker/model/json_reader.h"

namespace kandinsky::model {
namespace {

constexpr int64_t kMaxSide = 1 << 14;       // pixels
constexpr int64_t kMaxKeyframes = 1 << 10;  // frames of stage 1
constexpr int64_t kMaxSteps = 10000;        // denoising steps
constexpr double kMaxGuidance = 1000;
constexpr int64_t kMaxCharacters = 1 << 20;

[[noreturn]] void Invalid(const std::string& message) {
  throw ModelError(ModelError::Kind::kInvalidArgument, message);
}

bool IsName(const std::string& name) {
  return !name.empty() && name.size() <= 64 && name.front() != '.' &&
         std::all_of(name.begin(), name.end(), [](char c) {
           return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                  c == '.' || c == '_' || c == '-';
         });
}

// A relative path that stays in the model directory.
std::string ReadFileName(ObjectReader& reader, const std::string& name,
                         std::optional<std::string> otherwise = std::nullopt) {
  const std::string file = reader.String(name, 255, std::move(otherwise));
  bool safe = !file.empty() && file.front() != '/' && file.find('\0') == std::string::npos;
  for (size_t begin = 0; begin <= file.size();) {
    const size_t end = std::min(file.find('/', begin), file.size());
    if (file.compare(begin, end - begin, "..") == 0) safe = false;
    begin = end + 1;
  }
  if (!safe) reader.Refuse(name, "a relative path inside the model directory");
  return file;
}

WeightSource ReadSource(ObjectReader& weights, const std::string& name) {
  ObjectReader reader(weights.Object(name), weights.Path(name));
  WeightSource source;
  source.file = ReadFileName(reader, "file");
  source.prefix = reader.String("prefix", 255, "");
  reader.Finish();
  return source;
}

nlohmann::json SourceToJson(const WeightSource& source) {
  nlohmann::json json = {{"file", source.file}};
  if (!source.prefix.empty()) json["prefix"] = source.prefix;
  return json;
}

IntRange ReadIntRange(ObjectReader& limits, const std::string& name, int64_t min, int64_t max) {
  ObjectReader reader(limits.Object(name), limits.Path(name));
  IntRange range;
  range.min = reader.Int("min", min, max);
  range.max = reader.Int("max", range.min, max);
  reader.Finish();
  return range;
}

DoubleRange ReadDoubleRange(ObjectReader& limits, const std::string& name) {
  ObjectReader reader(limits.Object(name), limits.Path(name));
  DoubleRange range;
  range.min = reader.Double("min", 0, kMaxGuidance);
  range.max = reader.Double("max", range.min, kMaxGuidance);
  reader.Finish();
  return range;
}

IntRange ReadSide(ObjectReader& limits, const std::string& name, int64_t multiple) {
  ObjectReader reader(limits.Object(name), limits.Path(name));
  IntRange range;
  range.min = reader.Int("min", multiple, kMaxSide);
  range.max = reader.Int("max", range.min, kMaxSide);
  if (reader.Int("multiple", 1, kMaxSide) != multiple) {
    reader.Refuse("multiple", std::to_string(multiple) + ", which the networks need");
  }
  for (const char* bound : {"min", "max"}) {
    if ((bound == std::string("min") ? range.min : range.max) % multiple != 0) {
      reader.Refuse(bound, "a multiple of " + std::to_string(multiple));
    }
  }
  reader.Finish();
  return range;
}

// The fields that both loops have; the caller finishes the reader.
SamplerConfig ReadSampling(ObjectReader& reader, const std::string& prediction) {
  SamplerConfig config;
  config.type = ParseSamplerType(reader.Choice("sampler", {"ddpm", "ddim", "dpm++"}, "ddpm"));
  config.schedule = ParseScheduleType(reader.Choice("schedule", {"cosine", "linear"}, "cosine"));
  config.prediction =
      ParsePredictionType(reader.Choice("prediction", {"epsilon", "v"}, prediction));
  config.percentile = reader.OptionalDouble("percentile", 0, 1);
  config.threshold_floor =
      reader.Double("threshold_floor", kThresholdFloorMin, kThresholdFloorMax, 1.0);
  config.schedule_steps = reader.Int("schedule_steps", 0, kMaxSteps, 0);
  config.eta = reader.Double("eta", 0, 1, 0.0);
  if (config.schedule_steps == 1) reader.Refuse("schedule_steps", "0 or at least 2");
  return config;
}

nlohmann::json SamplingToJson(const SamplerConfig& config) {
  nlohmann::json json = {
      {"sampler", std::string(SamplerName(config.type))},
      {"schedule", config.schedule == ScheduleType::kCosine ? "cosine" : "linear"},
      {"schedule_steps", config.schedule_steps},
      {"prediction", config.prediction == PredictionType::kV ? "v" : "epsilon"},
      {"threshold_floor", config.threshold_floor},
      {"eta", config.eta}};
  json["percentile"] = config.percentile ? nlohmann::json(*config.percentile) : nlohmann::json();
  return json;
}

nlohmann::json RangeToJson(const IntRange& range) {
  return {{"min", range.min}, {"max", range.max}};
}

nlohmann::json RangeToJson(const DoubleRange& range) {
  return {{"min", range.min}, {"max", range.max}};
}

nlohmann::json SideToJson(const IntRange& range, int64_t multiple) {
  return {{"min", range.min}, {"max", range.max}, {"multiple", multiple}};
}

// The networks must fit each other.
void CheckNetworks(const ModelConfig& config) {
  const auto need = [](const std::string& field, int64_t value, int64_t wanted,
                       const std::string& reason) {
    if (value == wanted) return;
    Invalid("model.json: " + field + " is " + std::to_string(value) + ", must be " +
            std::to_string(wanted) + " (" + reason + ")");
  };
  const int64_t z = config.movq.z_channels;
  const UnetConfig &keyframe = config.keyframe_unet, &interpolation = config.interpolation_unet;
  if (!keyframe.keyframes()) {
    Invalid("model.json: keyframe_unet has no temporal variant, must be a keyframe generator");
  }
  if (!interpolation.interpolation()) {
    Invalid("model.json: interpolation_unet.interpolation is false, must be true");
  }
  need("movq.in_channels", config.movq.in_channels, 3, "RGB frames");
  need("movq.out_ch", config.movq.out_ch, 3, "RGB frames");
  need("keyframe_unet.num_channels", keyframe.num_channels, z, "movq.z_channels");
  need("keyframe_unet.out_channels", keyframe.out_channels, z, "movq.z_channels");
  need("keyframe_unet.context_dim", keyframe.context_dim, config.text_encoder.context_dim,
       "text_encoder.context_dim");
  need("interpolation_unet.num_channels", interpolation.num_channels, 5 * z,
       "three noisy frames and two keyframes of movq.z_channels");
  need("interpolation_unet.out_channels", interpolation.out_channels, 3 * z,
       "three frames of movq.z_channels");
  if (config.video_movq) {
    need("video_movq.z_channels", config.video_movq->z_channels, z, "movq.z_channels");
    need("video_movq.out_ch", config.video_movq->out_ch, 3, "RGB frames");
    need("video_movq levels", static_cast<int64_t>(config.video_movq->ch_mult.size()),
         static_cast<int64_t>(config.movq.ch_mult.size()), "levels of movq");
  }
}

std::vector<std::string> ReadVocabulary(ObjectReader& reader) {
  std::vector<std::string> words;
  if (!reader.Has("vocabulary")) return words;
  for (const nlohmann::json& word : reader.Array("vocabulary", 0, Vocabulary::kMaxWords)) {
    const bool text = word.is_string();
    // Four bytes a character at the most.
    if (!text || word.get_ref<const std::string&>().empty() ||
        word.get_ref<const std::string&>().size() > 4 * Vocabulary::kMaxWordCharacters) {
      reader.Refuse("vocabulary", "a list of texts of 1 to " +
                                      std::to_string(Vocabulary::kMaxWordCharacters) +
                                      " characters");
    }
    words.push_back(word.get<std::string>());
  }
  return words;
}

}  // namespace

int64_t ModelConfig::size_multiple() const {
  return movq.downsampling() *
         std::max(keyframe_unet.size_multiple(), interpolation_unet.size_multiple());
}

int64_t ModelConfig::InterpolationSteps(int64_t requested) const {
  return interpolation_steps_max > 0 ? std::min(requested, interpolation_steps_max) : requested;
}

ModelConfig ModelConfig::FromJson(const nlohmann::json& json) {
  ObjectReader reader(json, "model.json");
  ModelConfig config;
  reader.Int("format_version", 1, 1);
  config.name = reader.String("name", 64);
  if (!IsName(config.name)) {
    reader.Refuse("name", "1 to 64 characters of A-Z a-z 0-9 . _ -, not starting with a dot");
  }
  config.description = reader.String("description", 2000, "");
  config.keyframes = reader.Int("keyframes", 2, kMaxKeyframes);

  config.text_encoder =
      TextEncoderConfig::FromJson(reader.Object("text_encoder"), reader.Path("text_encoder"));
  const auto read_unet = [&](const char* name) {
    const nlohmann::json& unet = reader.Object(name);
    try {
      return UnetConfig::FromJson(unet);
    } catch (const ModelError& error) {
      Invalid(reader.Path(name) + ": " + error.what());
    }
  };
  config.keyframe_unet = read_unet("keyframe_unet");
  config.interpolation_unet = read_unet("interpolation_unet");
  config.variant = reader.String(
      "variant", 64, std::string(TemporalVariantName(config.keyframe_unet.temporal_variant)));
  config.movq = MovqConfig::FromJson(reader.Object("movq"), reader.Path("movq"));
  if (reader.Has("video_movq")) {
    config.video_movq =
        MovqConfig::FromJson(reader.Object("video_movq"), reader.Path("video_movq"));
  }
  CheckNetworks(config);

  ObjectReader keyframes(reader.Object("keyframe_sampling"), reader.Path("keyframe_sampling"));
  config.keyframe_sampling = ReadSampling(keyframes, "epsilon");
  if (keyframes.Has("temporal_guidance")) {
    ObjectReader temporal(keyframes.Object("temporal_guidance"),
                          keyframes.Path("temporal_guidance"));
    config.temporal_guidance.scale = temporal.Double("scale", 0, kMaxGuidance, 0.0);
    config.temporal_guidance.window = temporal.Int("window", 1, config.keyframes, 1);
    if (config.keyframes % config.temporal_guidance.window != 0) {
      Invalid(temporal.Path("window") + " is " + std::to_string(config.temporal_guidance.window) +
              ", must divide the " + std::to_string(config.keyframes) + " keyframes");
    }
    config.temporal_guidance.from = temporal.Int("from", 0, kMaxSteps, 0);
    config.temporal_guidance.to =
        temporal.Int("to", config.temporal_guidance.from, kMaxSteps, kMaxSteps);
    temporal.Finish();
  }
  keyframes.Finish();
  ObjectReader interpolation(reader.Object("interpolation_sampling"),
                             reader.Path("interpolation_sampling"));
  config.interpolation_sampling = ReadSampling(interpolation, "v");
  config.skip_frames = interpolation.Ints("skip_frames", 0, 8, 0, 19);
  config.interpolation_steps_max = interpolation.Int("steps_max", 0, kMaxSteps, 0);
  interpolation.Finish();

  ObjectReader decoding(reader.Object("decoding"), reader.Path("decoding"));
  config.decoder = decoding.Choice("decoder", {"image", "video"}, "image") == "video"
                       ? DecoderKind::kVideo
                       : DecoderKind::kImage;
  if (config.decoder == DecoderKind::kVideo && !config.video_movq) {
    decoding.Refuse("decoder", "image, because there is no video_movq");
  }
  config.decode_max_bytes = decoding.Int("max_bytes", 0, INT64_MAX, 0);
  decoding.Finish();

  ObjectReader limits(reader.Object("limits"), reader.Path("limits"));
  const int64_t multiple = config.size_multiple();
  config.limits.width = ReadSide(limits, "width", multiple);
  config.limits.height = ReadSide(limits, "height", multiple);
  config.limits.pixels_max =
      limits.Int("pixels_max", config.limits.width.min * config.limits.height.min,
                 kMaxSide * kMaxSide, config.limits.width.max * config.limits.height.max);
  config.limits.steps = ReadIntRange(limits, "steps", 2, kMaxSteps);
  config.limits.guidance_scale = ReadDoubleRange(limits, "guidance_scale");
  config.limits.interpolation_guidance_scale =
      ReadDoubleRange(limits, "interpolation_guidance_scale");
  config.limits.prompt_characters = ReadIntRange(limits, "prompt_characters", 0, kMaxCharacters);
  config.limits.negative_prompt_characters =
      ReadIntRange(limits, "negative_prompt_characters", 0, kMaxCharacters);
  limits.Finish();
  for (const SamplerConfig* sampling :
       {&config.keyframe_sampling, &config.interpolation_sampling}) {
    // Both loops must be able to run every step count that is allowed.
    if (sampling->schedule_steps != 0 && sampling->schedule_steps < config.limits.steps.max) {
      Invalid("model.json: limits.steps.max is " + std::to_string(config.limits.steps.max) +
              ", must be at most schedule_steps (" + std::to_string(sampling->schedule_steps) +
              ")");
    }
    if (sampling->schedule_steps == 0 && sampling->schedule == ScheduleType::kLinear &&
        config.limits.steps.min <= 20) {
      Invalid("model.json: limits.steps.min is " + std::to_string(config.limits.steps.min) +
              ", must be above 20 (the linear schedule)");
    }
  }

  const nlohmann::json& levels =
      reader.Array("levels", 1, std::min<size_t>(config.skip_frames.size(), 4) + 1);
  for (size_t i = 0; i < levels.size(); ++i) {
    const std::string path = reader.Path("levels[" + std::to_string(i) + "]");
    ObjectReader entry(levels[i], path);
    Level level;
    level.name = entry.String("name", 64);
    if (!IsName(level.name)) entry.Refuse("name", "a plain name");
    level.passes =
        static_cast<int>(entry.Int("passes", static_cast<int64_t>(i), static_cast<int64_t>(i)));
    int64_t frames = config.keyframes;
    for (size_t pass = 0; pass < i; ++pass) frames = 4 * frames - 3;
    level.frames = entry.Int("frames", frames, frames);
    const std::vector<int64_t> fps = entry.Ints("fps", 2, 2, 1, 1000);
    level.fps_numerator = fps[0];
    level.fps_denominator = fps[1];
    entry.Finish();
    for (const Level& other : config.levels) {
      if (other.name == level.name) entry.Refuse("name", "different from the other levels'");
    }
    config.levels.push_back(level);
  }

  ObjectReader defaults(reader.Object("defaults"), reader.Path("defaults"));
  config.defaults.level = defaults.String("level", 64);
  if (std::none_of(config.levels.begin(), config.levels.end(),
                   [&](const Level& level) { return level.name == config.defaults.level; })) {
    defaults.Refuse("level", "the name of one of the levels");
  }
  const auto side = [&](const char* name, const IntRange& range) {
    const int64_t value = defaults.Int(name, range.min, range.max);
    if (value % multiple != 0) defaults.Refuse(name, "a multiple of " + std::to_string(multiple));
    return value;
  };
  config.defaults.width = side("width", config.limits.width);
  config.defaults.height = side("height", config.limits.height);
  if (config.defaults.width * config.defaults.height > config.limits.pixels_max) {
    defaults.Refuse("height", "at most limits.pixels_max / width");
  }
  config.defaults.steps = defaults.Int("steps", config.limits.steps.min, config.limits.steps.max);
  config.defaults.guidance_scale = defaults.Double(
      "guidance_scale", config.limits.guidance_scale.min, config.limits.guidance_scale.max);
  config.defaults.interpolation_guidance_scale = defaults.Double(
      "interpolation_guidance_scale", config.limits.interpolation_guidance_scale.min,
      config.limits.interpolation_guidance_scale.max);
  defaults.Finish();

  config.tokenizer = ReadFileName(reader, "tokenizer", "spiece.model");
  config.vocabulary = ReadVocabulary(reader);
  ObjectReader weights(reader.Object("weights"), reader.Path("weights"));
  config.weights.text_encoder = ReadSource(weights, "text_encoder");
  config.weights.projection = ReadSource(weights, "projection");
  config.weights.keyframe_unet = ReadSource(weights, "keyframe_unet");
  config.weights.keyframe_null = ReadSource(weights, "keyframe_null");
  config.weights.interpolation_unet = ReadSource(weights, "interpolation_unet");
  config.weights.interpolation_null = ReadSource(weights, "interpolation_null");
  config.weights.movq = ReadSource(weights, "movq");
  if (config.video_movq) config.weights.video_movq = ReadSource(weights, "video_movq");
  weights.Finish();
  reader.Finish();
  return config;
}

ModelConfig ModelConfig::Load(const std::string& model_directory) {
  const std::string path = model_directory + "/model.json";
  const nlohmann::json json = ReadJsonFile(path, 1 << 20);
  try {
    return FromJson(json);
  } catch (const ModelError& error) {
    throw ModelError(error.kind(), model_directory + "/" + error.what());
  }
}

nlohmann::json ModelConfig::ToJson() const {
  nlohmann::json json;
  json["format_version"] = 1;
  json["name"] = name;
  json["description"] = description;
  json["variant"] = variant;
  json["keyframes"] = keyframes;
  json["defaults"] = {{"level", defaults.level},
                      {"width", defaults.width},
                      {"height", defaults.height},
                      {"steps", defaults.steps},
                      {"guidance_scale", defaults.guidance_scale},
                      {"interpolation_guidance_scale", defaults.interpolation_guidance_scale}};
  json["limits"] = {
      {"width", SideToJson(limits.width, size_multiple())},
      {"height", SideToJson(limits.height, size_multiple())},
      {"pixels_max", limits.pixels_max},
      {"steps", RangeToJson(limits.steps)},
      {"guidance_scale", RangeToJson(limits.guidance_scale)},
      {"interpolation_guidance_scale", RangeToJson(limits.interpolation_guidance_scale)},
      {"prompt_characters", RangeToJson(limits.prompt_characters)},
      {"negative_prompt_characters", RangeToJson(limits.negative_prompt_characters)}};
  json["levels"] = nlohmann::json::array();
  for (const Level& level : levels) {
    json["levels"].push_back({{"name", level.name},
                              {"passes", level.passes},
                              {"frames", level.frames},
                              {"fps", {level.fps_numerator, level.fps_denominator}}});
  }
  json["text_encoder"] = text_encoder.ToJson();
  json["keyframe_unet"] = keyframe_unet.ToJson();
  json["interpolation_unet"] = interpolation_unet.ToJson();
  json["movq"] = movq.ToJson();
  if (video_movq) json["video_movq"] = video_movq->ToJson();
  json["keyframe_sampling"] = SamplingToJson(keyframe_sampling);
  json["keyframe_sampling"]["temporal_guidance"] = {{"scale", temporal_guidance.scale},
                                                    {"window", temporal_guidance.window},
                                                    {"from", temporal_guidance.from},
                                                    {"to", temporal_guidance.to}};
  json["interpolation_sampling"] = SamplingToJson(interpolation_sampling);
  json["interpolation_sampling"]["skip_frames"] = skip_frames;
  json["interpolation_sampling"]["steps_max"] = interpolation_steps_max;
  json["decoding"] = {{"decoder", decoder == DecoderKind::kVideo ? "video" : "image"},
                      {"max_bytes", decode_max_bytes}};
  json["tokenizer"] = tokenizer;
  if (!vocabulary.empty()) json["vocabulary"] = vocabulary;
  json["weights"] = {{"text_encoder", SourceToJson(weights.text_encoder)},
                     {"projection", SourceToJson(weights.projection)},
                     {"keyframe_unet", SourceToJson(weights.keyframe_unet)},
                     {"keyframe_null", SourceToJson(weights.keyframe_null)},
                     {"interpolation_unet", SourceToJson(weights.interpolation_unet)},
                     {"interpolation_null", SourceToJson(weights.interpolation_null)},
                     {"movq", SourceToJson(weights.movq)}};
  if (weights.video_movq) json["weights"]["video_movq"] = SourceToJson(*weights.video_movq);
  return json;
}

}  // namespace kandinsky::model
