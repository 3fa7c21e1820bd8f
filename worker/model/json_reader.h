// Strict reading of JSON objects that people write: every complaint names the field, its value and
// the limit.
#ifndef KANDINSKY_WORKER_MODEL_JSON_READER_H_
#define KANDINSKY_WORKER_MODEL_JSON_READER_H_

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <vector>

namespace kandinsky::model {

// Parses a small JSON file: at most `max_bytes` long and 32 levels deep. Throws ModelError:
// kNotFound when the file cannot be opened, kInvalidArgument when it is not JSON.
nlohmann::json ReadJsonFile(const std::string& path, int64_t max_bytes = 4 << 20);

// Reads the fields of one object. Every getter remembers its field; Finish() refuses fields that
// nobody asked for. All getters throw ModelError::kInvalidArgument, for example
//   "model.json: movq.ch is 30, must be a multiple of 32".
// The JSON value must outlive the reader.
class ObjectReader {
 public:
  // `path` is the name of the object in messages ("model.json: movq").
  ObjectReader(const nlohmann::json& object, std::string path);

  int64_t Int(const std::string& name, int64_t min, int64_t max,
              std::optional<int64_t> otherwise = std::nullopt);
  double Double(const std::string& name, double min, double max,
                std::optional<double> otherwise = std::nullopt);
  bool Bool(const std::string& name, std::optional<bool> otherwise = std::nullopt);
  std::string String(const std::string& name, size_t max_bytes,
                     std::optional<std::string> otherwise = std::nullopt);
  // One of `choices`.
  std::string Choice(const std::string& name, const std::vector<std::string>& choices,
                     std::optional<std::string> otherwise = std::nullopt);
  std::vector<int64_t> Ints(const std::string& name, size_t min_count, size_t max_count,
                            int64_t min, int64_t max);
  // null and absence read as nullopt.
  std::optional<double> OptionalDouble(const std::string& name, double min, double max);
  const nlohmann::json& Object(const std::string& name);
  const nlohmann::json& Array(const std::string& name, size_t min_count, size_t max_count);

  bool Has(const std::string& name) const;
  // The field is known but of no use here.
  void Ignore(const std::string& name) { seen_.insert(name); }
  void Finish() const;

  // Full name of a field in messages.
  std::string Path(const std::string& name) const { return path_ + "." + name; }
  [[noreturn]] void Refuse(const std::string& name, const std::string& limit) const;

 private:
  const nlohmann::json* Find(const std::string& name, bool required);

  const nlohmann::json& object_;
  const std::string path_;
  std::set<std::string> seen_;
};

}  // namespace kandinsky::model

#endif  // KANDINSKY_WORKER_MODEL_JSON_READER_H_
