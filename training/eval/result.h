// What an evaluation leaves behind: a report for people, figures by name for later comparison, and
// the clips that were measured. An evaluation that was interrupted goes on where it stopped.
//
// Errors: ModelError kInvalidArgument, kNotFound, kDataLoss.
#ifndef KANDINSKY_TRAINING_EVAL_RESULT_H_
#define KANDINSKY_TRAINING_EVAL_RESULT_H_

#include <cstdint>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "training/eval/intervals.h"
#include "training/eval/report.h"

namespace kandinsky::training {

struct Result {
  std::string measure;  // "prompts", "autoencoder", "interpolation", "features"
  Report report;
  // Under names that stay the same from version to version, such as "seen.motion". Proportions are
  // 0 to 1.
  std::map<std::string, Interval> figures;
  std::vector<nlohmann::ordered_json> clips;  // records in the order of their numbers
};

// {"format": "kandinsky-eval 1", "measure", "figures": {name: {"value", "low", "high", "count"}}},
// what ToJson(Report) has, and "clips".
nlohmann::ordered_json ToJson(const Result& result);

// Writes a file as a whole or not at all.
void WriteText(const std::string& path, const std::string& text);

// Records of the clips that are done, one a line in a file that is flushed after each.
class Journal {
 public:
  // `header` says what is measured and how; records of a file with another header are not used, and
  // the file is replaced. A line that was cut off is dropped. An empty path keeps all in memory.
  Journal(std::string path, const nlohmann::ordered_json& header);

  const nlohmann::ordered_json* Find(int64_t clip) const;  // null: not done yet
  void Add(int64_t clip, nlohmann::ordered_json record);
  int64_t size() const { return static_cast<int64_t>(records_.size()); }
  void Remove() const;  // the file, when the result is written

 private:
  const std::string path_;
  std::map<int64_t, nlohmann::ordered_json> records_;
};

// measure(i) for i in 0 … count - 1, except for clips that the journal has; all records in order.
// With `progress` a line on standard error is kept up to date.
std::vector<nlohmann::ordered_json> MeasureClips(
    const std::string& name, int64_t count, Journal& journal, bool progress,
    const std::function<nlohmann::ordered_json(int64_t clip)>& measure);

// The article's table in kind, from results of several models. Each folder holds the results (files
// *.json that ToJson wrote; others are passed over) of one model, which is a row named after the
// folder. Two tables: generation (seen and held-out prompts, FVD, IS, CLIPSIM, seconds) and
// interpolation (linear, ours, masked frame interpolation).
Report CompareModels(const std::vector<std::string>& folders);

}  // namespace kandinsky::training

#endif  // KANDINSKY_TRAINING_EVAL_RESULT_H_
