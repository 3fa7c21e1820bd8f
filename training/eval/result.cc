#include "training/eval/result.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <limits>
#include <optional>
#include <utility>

#include "worker/model/error.h"
#include "worker/model/write_file.h"

namespace kandinsky::training {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;
using model::ModelError;

constexpr char kFormat[] = "kandinsky-eval 1";

Json Number(double value) { return std::isfinite(value) ? Json(value) : Json(nullptr); }

double ReadNumber(const Json& json, const char* name) {
  const auto found = json.find(name);
  return found != json.end() && found->is_number() ? found->get<double>()
                                                   : std::numeric_limits<double>::quiet_NaN();
}

std::string Time(double seconds) {
  char text[40];
  if (seconds < 100) {
    std::snprintf(text, sizeof(text), "%.1f s", seconds);
  } else {
    std::snprintf(text, sizeof(text), "%.0f min", seconds / 60);
  }
  return text;
}

// Figures of all results in a folder, under "measure.name".
std::map<std::string, Interval> ReadFigures(const std::string& folder) {
  if (!fs::is_directory(folder)) {
    throw ModelError(ModelError::Kind::kNotFound, folder + " is not a folder");
  }
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(folder)) {
    if (entry.path().extension() == ".json") files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  std::map<std::string, Interval> figures;
  for (const fs::path& file : files) {
    std::ifstream stream(file, std::ios::binary);
    const Json json = Json::parse(stream, nullptr, /*allow_exceptions=*/false);
    if (!json.is_object() || !json.contains("format") || json["format"] != kFormat) continue;
    const auto measure = json.find("measure"), list = json.find("figures");
    if (measure == json.end() || !measure->is_string() || list == json.end() ||
        !list->is_object()) {
      throw ModelError(ModelError::Kind::kDataLoss, file.string() + " is a damaged result");
    }
    for (const auto& [name, value] : list->items()) {
      Interval& figure = figures[measure->get<std::string>() + "." + name];
      figure.value = ReadNumber(value, "value");
      figure.low = ReadNumber(value, "low");
      figure.high = ReadNumber(value, "high");
      const double count = ReadNumber(value, "count");
      figure.count = std::isfinite(count) ? static_cast<int64_t>(count) : 0;
    }
  }
  if (figures.empty()) {
    throw ModelError(ModelError::Kind::kNotFound, folder + " holds no result of kandinsky-eval");
  }
  return figures;
}

}  // namespace

Json ToJson(const Result& result) {
  Json json;
  json["format"] = kFormat;
  json["measure"] = result.measure;
  json["figures"] = Json::object();
  for (const auto& [name, figure] : result.figures) {
    json["figures"][name] = {{"value", Number(figure.value)},
                             {"low", Number(figure.low)},
                             {"high", Number(figure.high)},
                             {"count", figure.count}};
  }
  json.update(ToJson(result.report));
  json["clips"] = result.clips;
  return json;
}

void WriteText(const std::string& path, const std::string& text) {
  std::error_code error;
  const fs::path folder = fs::path(path).parent_path();
  if (!folder.empty()) fs::create_directories(folder, error);
  model::WriteFile(path, text);
}

Journal::Journal(std::string path, const Json& header) : path_(std::move(path)) {
  if (path_.empty()) return;
  const std::string wanted = header.dump();
  std::string kept = wanted + "\n";
  {
    std::ifstream stream(path_, std::ios::binary);
    std::string line;
    if (std::getline(stream, line) && line == wanted) {
      while (std::getline(stream, line)) {
        Json json = Json::parse(line, nullptr, /*allow_exceptions=*/false);
        if (!json.is_object() || !json.contains("clip") || !json.contains("record")) break;
        records_[json["clip"].get<int64_t>()] = std::move(json["record"]);
        kept += line + "\n";
      }
    }
  }
  WriteText(path_, kept);
}

const Json* Journal::Find(int64_t clip) const {
  const auto found = records_.find(clip);
  return found == records_.end() ? nullptr : &found->second;
}

void Journal::Add(int64_t clip, Json record) {
  if (!path_.empty()) {
    Json line;
    line["clip"] = clip;
    line["record"] = record;
    std::ofstream stream(path_, std::ios::binary | std::ios::app);
    stream << line.dump() + "\n";
    stream.close();
    if (!stream) throw ModelError(ModelError::Kind::kDataLoss, "cannot write " + path_);
  }
  records_[clip] = std::move(record);
}

void Journal::Remove() const {
  std::error_code ignored;
  if (!path_.empty()) fs::remove(path_, ignored);
}

std::vector<Json> MeasureClips(const std::string& name, int64_t count, Journal& journal,
                               bool progress, const std::function<Json(int64_t clip)>& measure) {
  const bool terminal = isatty(STDERR_FILENO) != 0;
  const auto start = std::chrono::steady_clock::now();
  auto said = start - std::chrono::hours(1);
  int64_t measured = 0;
  std::vector<Json> records;
  for (int64_t i = 0; i < count; ++i) {
    if (journal.Find(i) == nullptr) {
      journal.Add(i, measure(i));
      ++measured;
    }
    records.push_back(*journal.Find(i));
    const auto now = std::chrono::steady_clock::now();
    const int64_t done = i + 1;
    const bool last = done == count;
    if (!progress || (!last && now - said < std::chrono::seconds(terminal ? 1 : 30))) continue;
    said = now;
    const double each = measured == 0 ? 0
                                      : std::chrono::duration<double>(now - start).count() /
                                            static_cast<double>(measured);
    std::fprintf(stderr, "%s%s: %lld of %lld clips, %s a clip, %s left%s", terminal ? "\r" : "",
                 name.c_str(), static_cast<long long>(done), static_cast<long long>(count),
                 Time(each).c_str(), Time(each * static_cast<double>(count - done)).c_str(),
                 terminal ? "\x1b[K" : "\n");
  }
  if (progress && terminal) std::fputc('\n', stderr);
  return records;
}

Report CompareModels(const std::vector<std::string>& folders) {
  struct Source {
    Column column;
    const char* figure;
  };
  const Source generation[] = {
      {{"colour", "%", 1}, "prompts.seen.color"},
      {{"background", "%", 1}, "prompts.seen.background"},
      {{"shape", "%", 1}, "prompts.seen.shape"},
      {{"motion", "%", 1}, "prompts.seen.motion"},
      {{"held out: colour and shape", "%", 1}, "prompts.held-out.color_and_shape"},
      {{"held out: motion", "%", 1}, "prompts.held-out.motion"},
      {{"FVD", "", 1}, "features.fvd"},
      {{"IS", "", 2}, "features.is"},
      {{"CLIPSIM", "", 4}, "features.clipsim"},
      {{"time a clip", "s", 2}, "prompts.seen.seconds"},
  };
  const Source interpolation[] = {
      {{"squared latent error, fast, first pass", "", 5}, "first.fast.%s.error"},
      {{"linear / this, fast, first pass", "", 2}, "first.fast.%s.ratio"},
      {{"squared latent error, all, first pass", "", 5}, "first.all.%s.error"},
      {{"squared latent error, all, both passes", "", 5}, "both.all.%s.error"},
      {{"PSNR, all, both passes", "dB", 2}, "both.all.%s.psnr"},
      {{"flicker, all, both passes", "", 3}, "both.all.%s.flicker"},
      {{"time a clip", "s", 2}, "both.all.%s.seconds"},
  };
  const std::pair<const char*, const char*> methods[] = {
      {"linear", "linear blending"}, {"ours", "ours"}, {"mfi", "masked frame interpolation"}};

  Report report;
  report.title = "Models compared";
  Table first{.title = "Generation", .row_title = "model"};
  for (const Source& source : generation) first.columns.push_back(source.column);
  Table second{.title = "Interpolation", .row_title = "model, method"};
  for (const Source& source : interpolation) second.columns.push_back(source.column);
  for (const std::string& folder : folders) {
    const std::map<std::string, Interval> figures = ReadFigures(folder);
    const auto find = [&](const std::string& name) -> std::optional<Interval> {
      const auto found = figures.find(name);
      if (found == figures.end()) return std::nullopt;
      return found->second;
    };
    fs::path path = fs::path(folder).lexically_normal();
    if (path.filename().empty()) path = path.parent_path();
    const std::string name = path.filename().string();
    const auto add = [&](Table& table, const std::string& row, const auto& sources,
                         const char* method) {
      std::vector<std::optional<Interval>> cells;
      bool any = false;
      for (const Source& source : sources) {
        std::string figure = source.figure;
        if (method != nullptr) {
          figure = "interpolation." + figure.replace(figure.find("%s"), 2, method);
        }
        cells.push_back(find(figure));
        any = any || cells.back();
      }
      if (any) table.Add(row, std::move(cells));
    };
    add(first, name, generation, nullptr);
    for (const auto& [method, title] : methods) {
      add(second, name + ", " + title, interpolation, method);
    }
  }
  for (Table* table : {&first, &second}) {
    if (!table->rows.empty()) report.tables.push_back(std::move(*table));
  }
  return report;
}

}  // namespace kandinsky::training
