#include "worker/model/json_reader.h"

#include <fstream>
#include <sstream>

#include "worker/model/error.h"

namespace kandinsky::model {
namespace {

constexpr int kMaxDepth = 32;

[[noreturn]] void Invalid(const std::string& message) {
  throw ModelError(ModelError::Kind::kInvalidArgument, message);
}

std::string Show(const nlohmann::json& value) {
  std::string text = value.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace);
  return text.size() <= 80 ? text : text.substr(0, 77) + "...";
}

std::string Show(double value) {
  std::ostringstream text;
  text << value;
  return text.str();
}

}  // namespace

nlohmann::json ReadJsonFile(const std::string& path, int64_t max_bytes) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw ModelError(ModelError::Kind::kNotFound, path + " cannot be opened");
  std::string text(static_cast<size_t>(max_bytes) + 1, '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<size_t>(file.gcount()));
  if (static_cast<int64_t>(text.size()) > max_bytes) {
    Invalid(path + " is longer than " + std::to_string(max_bytes) + " bytes");
  }
  const auto check_depth = [&](int depth, nlohmann::json::parse_event_t, nlohmann::json&) {
    if (depth > kMaxDepth) {
      Invalid(path + " is nested deeper than " + std::to_string(kMaxDepth) + " levels");
    }
    return true;
  };
  try {
    return nlohmann::json::parse(text, check_depth);
  } catch (const nlohmann::json::exception& error) {
    Invalid(path + " is not JSON: " + error.what());
  }
}

ObjectReader::ObjectReader(const nlohmann::json& object, std::string path)
    : object_(object), path_(std::move(path)) {
  if (!object_.is_object()) Invalid(path_ + " is " + Show(object_) + ", must be an object");
}

const nlohmann::json* ObjectReader::Find(const std::string& name, bool required) {
  seen_.insert(name);
  const auto found = object_.find(name);
  if (found != object_.end()) return &*found;
  if (required) Invalid(Path(name) + " is missing");
  return nullptr;
}

bool ObjectReader::Has(const std::string& name) const { return object_.contains(name); }

void ObjectReader::Refuse(const std::string& name, const std::string& limit) const {
  const auto found = object_.find(name);
  Invalid(Path(name) + " is " + (found == object_.end() ? "missing" : Show(*found)) + ", must be " +
          limit);
}

int64_t ObjectReader::Int(const std::string& name, int64_t min, int64_t max,
                          std::optional<int64_t> otherwise) {
  const nlohmann::json* value = Find(name, !otherwise);
  if (value == nullptr) return *otherwise;
  const std::string limit = "an integer from " + std::to_string(min) + " to " + std::to_string(max);
  if (!value->is_number_integer()) Refuse(name, limit);
  if (value->is_number_unsigned() && value->get<uint64_t>() > static_cast<uint64_t>(INT64_MAX)) {
    Refuse(name, limit);
  }
  const int64_t number = value->get<int64_t>();
  if (number < min || number > max) Refuse(name, limit);
  return number;
}

double ObjectReader::Double(const std::string& name, double min, double max,
                            std::optional<double> otherwise) {
  const nlohmann::json* value = Find(name, !otherwise);
  if (value == nullptr) return *otherwise;
  const std::string limit = "a number from " + Show(min) + " to " + Show(max);
  if (!value->is_number()) Refuse(name, limit);
  const double number = value->get<double>();
  if (!(number >= min && number <= max)) Refuse(name, limit);
  return number;
}

std::optional<double> ObjectReader::OptionalDouble(const std::string& name, double min,
                                                   double max) {
  const nlohmann::json* value = Find(name, false);
  if (value == nullptr || value->is_null()) return std::nullopt;
  return Double(name, min, max);
}

bool ObjectReader::Bool(const std::string& name, std::optional<bool> otherwise) {
  const nlohmann::json* value = Find(name, !otherwise);
  if (value == nullptr) return *otherwise;
  if (!value->is_boolean()) Refuse(name, "true or false");
  return value->get<bool>();
}

std::string ObjectReader::String(const std::string& name, size_t max_bytes,
                                 std::optional<std::string> otherwise) {
  const nlohmann::json* value = Find(name, !otherwise);
  if (value == nullptr) return *otherwise;
  if (!value->is_string() || value->get_ref<const std::string&>().size() > max_bytes) {
    Refuse(name, "a string of at most " + std::to_string(max_bytes) + " bytes");
  }
  return value->get<std::string>();
}

std::string ObjectReader::Choice(const std::string& name, const std::vector<std::string>& choices,
                                 std::optional<std::string> otherwise) {
  const nlohmann::json* value = Find(name, !otherwise);
  if (value == nullptr) return *otherwise;
  std::string limit;
  for (const std::string& choice : choices) {
    if (value->is_string() && value->get_ref<const std::string&>() == choice) return choice;
    limit += (limit.empty() ? "" : " or ") + choice;
  }
  Refuse(name, limit);
}

std::vector<int64_t> ObjectReader::Ints(const std::string& name, size_t min_count, size_t max_count,
                                        int64_t min, int64_t max) {
  std::vector<int64_t> numbers;
  for (const nlohmann::json& value : Array(name, min_count, max_count)) {
    if (!value.is_number_integer() ||
        (value.is_number_unsigned() && value.get<uint64_t>() > static_cast<uint64_t>(INT64_MAX)) ||
        value.get<int64_t>() < min || value.get<int64_t>() > max) {
      Refuse(name, "a list of integers from " + std::to_string(min) + " to " + std::to_string(max));
    }
    numbers.push_back(value.get<int64_t>());
  }
  return numbers;
}

const nlohmann::json& ObjectReader::Object(const std::string& name) {
  const nlohmann::json* value = Find(name, true);
  if (!value->is_object()) Refuse(name, "an object");
  return *value;
}

const nlohmann::json& ObjectReader::Array(const std::string& name, size_t min_count,
                                          size_t max_count) {
  const nlohmann::json* value = Find(name, true);
  if (!value->is_array() || value->size() < min_count || value->size() > max_count) {
    Refuse(name, "a list of " + std::to_string(min_count) + " to " + std::to_string(max_count) +
                     " entries");
  }
  return *value;
}

void ObjectReader::Finish() const {
  for (const auto& [name, value] : object_.items()) {
    if (seen_.count(name) == 0) Invalid(Path(name.substr(0, 64)) + " is not a known field");
  }
}

}  // namespace kandinsky::model
