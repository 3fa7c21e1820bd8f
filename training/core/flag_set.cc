#include "training/core/flag_set.h"

#include <charconv>
#include <sstream>
#include <utility>

#include "worker/model/error.h"

namespace kandinsky::training {
namespace {

[[noreturn]] void Invalid(const std::string& message) {
  throw model::ModelError(model::ModelError::Kind::kInvalidArgument, message);
}

template <typename T>
void Set(const std::string& name, const std::string& text, T* target, const char* what) {
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) {
    Invalid("--" + name + " is \"" + text + "\", must be " + what);
  }
  *target = value;
}

void SetText(const std::string& name, const std::string& text, const FlagSet::Target& target) {
  if (const auto* out = std::get_if<std::string*>(&target)) **out = text;
  if (const auto* out = std::get_if<int64_t*>(&target)) Set(name, text, *out, "a whole number");
  if (const auto* out = std::get_if<uint64_t*>(&target)) Set(name, text, *out, "0 to 2^64-1");
  if (const auto* out = std::get_if<int*>(&target)) Set(name, text, *out, "a whole number");
  if (const auto* out = std::get_if<double*>(&target)) Set(name, text, *out, "a number");
  if (const auto* out = std::get_if<bool*>(&target)) {
    if (text != "true" && text != "false") {
      Invalid("--" + name + " is \"" + text + "\", must be true or false");
    }
    **out = text == "true";
  }
}

std::string TextOf(const FlagSet::Target& target) {
  std::ostringstream text;
  if (const auto* value = std::get_if<std::string*>(&target)) text << '"' << **value << '"';
  if (const auto* value = std::get_if<int64_t*>(&target)) text << **value;
  if (const auto* value = std::get_if<uint64_t*>(&target)) text << **value;
  if (const auto* value = std::get_if<int*>(&target)) text << **value;
  if (const auto* value = std::get_if<double*>(&target)) text << **value;
  if (const auto* value = std::get_if<bool*>(&target)) text << (**value ? "true" : "false");
  return text.str();
}

}  // namespace

void FlagSet::Add(std::string name, Target target, std::string help) {
  flags_.push_back({std::move(name), target, std::move(help)});
}

const FlagSet::Flag* FlagSet::Find(std::string_view name) const {
  for (const Flag& flag : flags_) {
    if (flag.name == name) return &flag;
  }
  return nullptr;
}

void FlagSet::Parse(const std::vector<std::string>& arguments) const {
  for (size_t i = 0; i < arguments.size(); ++i) {
    const std::string& argument = arguments[i];
    if (!argument.starts_with("--")) Invalid("unexpected argument \"" + argument + "\"");
    const size_t equals = argument.find('=');
    std::string name = argument.substr(2, equals == std::string::npos ? equals : equals - 2);
    const Flag* flag = Find(name);
    std::string negated;
    if (flag == nullptr && name.starts_with("no")) {
      negated = name.substr(2);
      flag = Find(negated);
      if (flag != nullptr && !std::holds_alternative<bool*>(flag->target)) flag = nullptr;
    }
    if (flag == nullptr) Invalid("unknown option --" + name);
    if (equals != std::string::npos) {
      if (flag->name != name) Invalid("--" + name + " takes no value");
      SetText(flag->name, argument.substr(equals + 1), flag->target);
    } else if (std::holds_alternative<bool*>(flag->target)) {
      *std::get<bool*>(flag->target) = flag->name == name;
    } else if (i + 1 < arguments.size()) {
      SetText(flag->name, arguments[++i], flag->target);
    } else {
      Invalid("--" + name + " needs a value");
    }
  }
}

std::string FlagSet::Usage() const {
  std::string usage;
  for (const Flag& flag : flags_) {
    std::string line = "  --" + flag.name;
    line.resize(std::max<size_t>(line.size() + 1, 26), ' ');
    usage += line + flag.help + " (default " + TextOf(flag.target) + ")\n";
  }
  return usage;
}

void CheckRange(const std::string& flag, double value, double least, double most,
                const std::string& limit) {
  if (value >= least && value <= most) return;
  Invalid(flag + " is " + std::to_string(value) + ", must be " + limit);
}

}  // namespace kandinsky::training
