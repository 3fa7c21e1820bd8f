#include "services/frontend/model_catalog.h"

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "services/frontend/text.h"

namespace kandinsky {
namespace {

using nlohmann::json;

constexpr int64_t kMaxFileBytes = 1 << 20;
constexpr int64_t kMaxPixels = 1 << 16;  // of a side

// Reads fields and remembers the first complaint; what is read after it does not count.
class Reader {
 public:
  explicit Reader(std::string origin) : origin_(std::move(origin)) {}

  const json& Object(const json& parent, const std::string& name) {
    static const json kNone = json::object();
    const auto found = parent.find(name);
    if (found != parent.end() && found->is_object()) return *found;
    Complain(name, "must be an object");
    return kNone;
  }

  int64_t Int(const json& parent, const std::string& path, const char* name, int64_t min,
              int64_t max, std::optional<int64_t> otherwise = std::nullopt) {
    const auto found = parent.find(name);
    if (found == parent.end() && otherwise) return *otherwise;
    if (found != parent.end() && found->is_number_integer()) {
      const auto value = found->get<int64_t>();
      if (value >= min && value <= max) return value;
    }
    Complain(path + "." + name, absl::StrCat("must be an integer from ", min, " to ", max));
    return min;
  }

  double Number(const json& parent, const std::string& path, const char* name, double min,
                double max) {
    const auto found = parent.find(name);
    if (found != parent.end() && found->is_number()) {
      const auto value = found->get<double>();
      if (std::isfinite(value) && value >= min && value <= max) return value;
    }
    Complain(path + "." + name, absl::StrCat("must be a number from ", min, " to ", max));
    return min;
  }

  std::string String(const json& parent, const std::string& name) {
    const auto found = parent.find(name);
    if (found != parent.end() && found->is_string()) return found->get<std::string>();
    Complain(name, "must be a string");
    return "";
  }

  void Complain(const std::string& field, const std::string& why) {
    if (status_.ok()) {
      status_ = absl::InvalidArgumentError(absl::StrCat(origin_, ": ", field, " ", why));
    }
  }
  const absl::Status& status() const { return status_; }

 private:
  const std::string origin_;
  absl::Status status_;
};

IntLimits ReadSide(Reader& reader, const json& limits, const json& defaults, const char* side,
                   int64_t& multiple) {
  const json& range = reader.Object(limits, side);
  const std::string path = absl::StrCat("limits.", side);
  IntLimits result;
  result.min = reader.Int(range, path, "min", 1, kMaxPixels);
  result.max = reader.Int(range, path, "max", result.min, kMaxPixels);
  multiple = reader.Int(range, path, "multiple", 1, kMaxPixels, 1);
  result.default_value = reader.Int(defaults, "defaults", side, result.min, result.max);
  if (result.default_value % multiple != 0) {
    reader.Complain(absl::StrCat("defaults.", side),
                    absl::StrCat("must be a multiple of ", multiple));
  }
  return result;
}

DoubleLimits ReadScale(Reader& reader, const json& limits, const json& defaults, const char* name) {
  const json& range = reader.Object(limits, name);
  const std::string path = absl::StrCat("limits.", name);
  DoubleLimits result;
  result.min = reader.Number(range, path, "min", -1e6, 1e6);
  result.max = reader.Number(range, path, "max", result.min, 1e6);
  result.default_value = reader.Number(defaults, "defaults", name, result.min, result.max);
  return result;
}

std::vector<LevelLimits> ReadLevels(Reader& reader, const json& model) {
  std::vector<LevelLimits> levels;
  const auto found = model.find("levels");
  if (found == model.end() || !found->is_array() || found->empty() || found->size() > 3) {
    reader.Complain("levels", "must be an array of 1 to 3 levels");
    return levels;
  }
  for (const json& entry : *found) {
    const std::string path = absl::StrCat("levels[", levels.size(), "]");
    if (!entry.is_object()) {
      reader.Complain(path, "must be an object");
      break;
    }
    LevelLimits level;
    const std::optional<Level> name = ParseLevel(reader.String(entry, "name"));
    if (!name) reader.Complain(path + ".name", "must be low, medium or high");
    level.level = name.value_or(Level::kLow);
    level.frames = reader.Int(entry, path, "frames", 1, 1 << 20);
    const auto fps = entry.find("fps");
    if (fps != entry.end() && fps->is_array() && fps->size() == 2 && (*fps)[0].is_number() &&
        (*fps)[1].is_number() && (*fps)[1].get<double>() > 0) {
      level.fps = (*fps)[0].get<double>() / (*fps)[1].get<double>();
    }
    if (!(level.fps >= 0.5 && level.fps <= 120)) {
      reader.Complain(path + ".fps", "must be a fraction [n, d] from 0.5 to 120");
    }
    levels.push_back(level);
  }
  return levels;
}

std::vector<std::string> ReadVocabulary(Reader& reader, const json& model) {
  std::vector<std::string> entries;
  const auto found = model.find("vocabulary");
  if (found == model.end()) return entries;
  if (!found->is_array() || found->size() > Vocabulary::kMaxWords) {
    reader.Complain("vocabulary",
                    absl::StrCat("must be an array of at most ", Vocabulary::kMaxWords, " words"));
    return entries;
  }
  for (const json& entry : *found) {
    const std::string text = entry.is_string() ? entry.get<std::string>() : "";
    const std::optional<TextProperties> properties = InspectText(text);
    if (!properties || properties->blank ||
        properties->characters > static_cast<int64_t>(Vocabulary::kMaxWordCharacters)) {
      reader.Complain(absl::StrCat("vocabulary[", entries.size(), "]"),
                      absl::StrCat("must be a text of 1 to ", Vocabulary::kMaxWordCharacters,
                                   " characters, not only blanks"));
      break;
    }
    entries.push_back(text);
  }
  return entries;
}

}  // namespace

const LevelLimits* ModelInfo::FindLevel(Level level) const {
  for (const LevelLimits& candidate : levels) {
    if (candidate.level == level) return &candidate;
  }
  return nullptr;
}

absl::StatusOr<ModelInfo> ModelCatalog::Parse(const std::string& text, const std::string& origin) {
  const json model = json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!model.is_object()) {
    return absl::InvalidArgumentError(absl::StrCat(origin, ": is not a JSON object"));
  }
  Reader reader(origin);
  const json& limits = reader.Object(model, "limits");
  const json& defaults = reader.Object(model, "defaults");
  ModelInfo info;
  info.name = reader.String(model, "name");
  if (!IsIdentifier(info.name, "._-", 64)) {
    reader.Complain("name", "must be 1 to 64 characters of [A-Za-z0-9._-]");
  }
  if (model.contains("description")) info.description = reader.String(model, "description");
  int64_t width_multiple = 1;
  int64_t height_multiple = 1;
  info.width = ReadSide(reader, limits, defaults, "width", width_multiple);
  info.height = ReadSide(reader, limits, defaults, "height", height_multiple);
  info.size_multiple = std::lcm(width_multiple, height_multiple);
  info.pixels_max = reader.Int(limits, "limits", "pixels_max", 1, kMaxPixels * kMaxPixels,
                               info.width.max * info.height.max);
  const json& steps = reader.Object(limits, "steps");
  info.steps.min = reader.Int(steps, "limits.steps", "min", 1, 100000);
  info.steps.max = reader.Int(steps, "limits.steps", "max", info.steps.min, 100000);
  info.steps.default_value =
      reader.Int(defaults, "defaults", "steps", info.steps.min, info.steps.max);
  info.guidance_scale = ReadScale(reader, limits, defaults, "guidance_scale");
  info.interpolation_guidance_scale =
      ReadScale(reader, limits, defaults, "interpolation_guidance_scale");
  info.prompt_characters_max = reader.Int(reader.Object(limits, "prompt_characters"),
                                          "limits.prompt_characters", "max", 1, 2000);
  info.negative_prompt_characters_max =
      reader.Int(reader.Object(limits, "negative_prompt_characters"),
                 "limits.negative_prompt_characters", "max", 0, 2000);
  info.levels = ReadLevels(reader, model);
  const std::optional<Level> level = ParseLevel(reader.String(defaults, "level"));
  if (!level || info.FindLevel(*level) == nullptr) {
    reader.Complain("defaults.level", "must be the name of one of the levels");
  }
  info.default_level = level.value_or(Level::kHigh);
  info.vocabulary_entries = ReadVocabulary(reader, model);
  info.vocabulary = Vocabulary(info.vocabulary_entries);
  if (!reader.status().ok()) return reader.status();
  return info;
}

absl::StatusOr<ModelCatalog> ModelCatalog::Load(const std::vector<std::string>& directories) {
  if (directories.empty()) {
    return absl::InvalidArgumentError("no model directory: name at least one in --model_dirs");
  }
  std::vector<ModelInfo> models;
  for (const std::string& directory : directories) {
    const std::string path = directory + "/model.json";
    std::ifstream file(path, std::ios::binary);
    std::string text(kMaxFileBytes + 1, '\0');
    file.read(text.data(), static_cast<std::streamsize>(text.size()));
    text.resize(static_cast<size_t>(file.gcount()));
    if (!file.is_open() || file.bad() || text.empty()) {
      return absl::NotFoundError(absl::StrCat("cannot read ", path));
    }
    if (text.size() > kMaxFileBytes) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, ": is larger than ", kMaxFileBytes, " bytes"));
    }
    absl::StatusOr<ModelInfo> model = Parse(text, path);
    if (!model.ok()) return model.status();
    for (const ModelInfo& other : models) {
      if (other.name == model->name) {
        return absl::InvalidArgumentError(
            absl::StrCat(path, ": two model directories are named ", model->name));
      }
    }
    models.push_back(*std::move(model));
  }
  return ModelCatalog(std::move(models));
}

const ModelInfo* ModelCatalog::Find(std::string_view name) const {
  if (name.empty()) return models_.empty() ? nullptr : &models_.front();
  for (const ModelInfo& model : models_) {
    if (model.name == name) return &model;
  }
  return nullptr;
}

}  // namespace kandinsky
