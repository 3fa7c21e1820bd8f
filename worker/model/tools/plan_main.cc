// kandinsky-plan: what a model takes before it is loaded.
//
//   kandinsky-plan memory --model DIR [options]
//
// Exit status: 0 done, 1 the model or the size cannot be planned, 2 wrong usage.
#include <algorithm>
#include <charconv>
#include <cstdio>
#include <exception>
#include <map>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "worker/model/checkpoint/tensor_source.h"
#include "worker/model/error.h"
#include "worker/model/memory_plan.h"
#include "worker/model/model_config.h"

namespace {

namespace model = kandinsky::model;
using Json = nlohmann::ordered_json;

constexpr char kUsage[] =
    "usage: kandinsky-plan memory --model DIR [options]\n"
    "\n"
    "Computes the device memory of each stage, weights and the peak of activations, by running "
    "its\n"
    "code without data; the folder needs no weights, only model.json. Prints which plan fits "
    "which\n"
    "card. GB are 10^9 bytes.\n"
    "\n"
    "  --width N, --height N   pixels (default: the model's)\n"
    "  --level NAME            low, medium, high or all (default: all)\n"
    "  --device NAME           gpu, or cpu: without what a GPU adds to the tensors (default: gpu)\n"
    "  --json                  as JSON: an object, with --level all a list of them\n"
    "  --markdown              as tables\n"
    "  and --dtype, --guidance_passes and so on as in kandinsky-worker: what to begin with\n";

const int64_t kGigabyte = 1000000000;
constexpr int64_t kCards[] = {16, 24, 48, 80, 141};  // GB

struct UsageError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct Arguments {
  std::string directory;
  int64_t width = 0, height = 0;
  std::string level = "all";
  std::string format = "text";
  model::ExecutionOptions execution;
};

Arguments Parse(int argc, char** argv) {
  if (argc < 2 || argv[1] != std::string("memory")) throw UsageError("the command is memory");
  std::map<std::string, std::string> values;
  for (int i = 2; i < argc; ++i) {
    std::string argument = argv[i];
    const size_t equals = argument.find('=');
    std::string name = argument.substr(0, equals);
    std::replace(name.begin() + std::min<size_t>(2, name.size()), name.end(), '-', '_');
    if (name.rfind("--", 0) != 0) throw UsageError("unknown argument " + argument);
    name = name.substr(2);
    if (name == "json" || name == "markdown") {
      if (equals != std::string::npos) throw UsageError("--" + name + " takes no value");
      values["format"] = name;
    } else if (equals != std::string::npos) {
      values[name] = argument.substr(equals + 1);
    } else if (i + 1 < argc) {
      values[name] = argv[++i];
    } else {
      throw UsageError("--" + name + " needs a value");
    }
  }
  Arguments arguments;
  const auto take = [&](const char* name, std::string otherwise) {
    const auto found = values.find(name);
    if (found == values.end()) return otherwise;
    otherwise = found->second;
    values.erase(found);
    return otherwise;
  };
  const auto number = [&](const char* name) {
    const std::string text = take(name, "0");
    int64_t value = -1;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc() || end != text.data() + text.size() || value < 0) {
      throw UsageError(std::string("--") + name + " is \"" + text + "\", must be a number");
    }
    return value;
  };
  arguments.directory = take("model", "");
  if (arguments.directory.empty()) throw UsageError("--model is needed");
  arguments.width = number("width");
  arguments.height = number("height");
  arguments.level = take("level", "all");
  arguments.format = take("format", "text");
  const std::string device = take("device", "gpu");
  if (device != "gpu" && device != "cpu") {
    throw UsageError("--device is \"" + device + "\", must be gpu or cpu");
  }
  values["device"] = "cpu";
  try {
    arguments.execution = model::ParseExecutionOptions(values);
  } catch (const model::ModelError& error) {
    throw UsageError(error.what());
  }
  // No card is touched: only the kind of device counts.
  if (device == "gpu") arguments.execution.placement.device = at::Device(at::kCUDA, 0);
  return arguments;
}

struct Planned {
  model::CheaperPlan plan;
  model::StageMemory memory;
};

// Of one level: all plans of each stage.
struct LevelPlans {
  std::string level;
  model::PlannedRequest request;
  std::vector<std::vector<Planned>> stages;
};

LevelPlans PlanLevel(const model::ModelConfig& config, const Arguments& arguments,
                     const model::Level& level) {
  LevelPlans plans;
  plans.level = level.name;
  plans.request = model::DefaultRequest(config);
  if (arguments.width > 0) plans.request.width = arguments.width;
  if (arguments.height > 0) plans.request.height = arguments.height;
  plans.request.passes = level.passes;
  for (const model::PlannedStage stage :
       {model::PlannedStage::kKeyframes, model::PlannedStage::kInterpolation,
        model::PlannedStage::kDecoding}) {
    if (stage == model::PlannedStage::kInterpolation && level.passes == 0) continue;
    std::vector<Planned>& planned = plans.stages.emplace_back();
    for (const model::CheaperPlan& plan : model::CheaperPlans(stage, arguments.execution)) {
      planned.push_back({plan, model::PlanStage(config, stage, plans.request, plan.execution)});
    }
  }
  return plans;
}

// The first plan that fits; nullptr: none does.
const Planned* FirstThatFits(const std::vector<Planned>& plans, int64_t bytes) {
  for (const Planned& planned : plans) {
    if (planned.memory.total_bytes() <= bytes) return &planned;
  }
  return nullptr;
}

std::string Flags(const Planned& planned) {
  return planned.plan.flags.empty() ? "as it is" : planned.plan.flags;
}

std::string Cards(const std::vector<Planned>& plans, const Planned& planned) {
  std::string cards;
  for (const int64_t card : kCards) {
    if (FirstThatFits(plans, card * kGigabyte) != &planned) continue;
    cards += (cards.empty() ? "" : ", ") + std::to_string(card) + " GB";
  }
  return cards;
}

Json ToJson(const model::StageMemory& memory) {
  Json phases = Json::array();
  for (const auto& phase : memory.phases) {
    phases.push_back({{"name", phase.name}, {"peak_bytes", phase.peak_bytes}});
  }
  return {{"weights_bytes", memory.weights_bytes},
          {"host_weights_bytes", memory.host_weights_bytes},
          {"activations_bytes", memory.activations_bytes()},
          {"phases", phases},
          {"allowance_bytes", memory.allowance_bytes},
          {"total_bytes", memory.total_bytes()}};
}

Json ToJson(const model::ModelConfig& config, const Arguments& arguments, const LevelPlans& plans) {
  Json stages = Json::array();
  for (const std::vector<Planned>& stage : plans.stages) {
    Json entry = {{"stage", model::PlannedStageName(stage.front().memory.stage)}};
    entry.update(ToJson(stage.front().memory));
    for (const Planned& planned : stage) {
      Json plan = {{"flags", planned.plan.flags}, {"same_result", planned.plan.same}};
      plan.update(ToJson(planned.memory));
      entry["plans"].push_back(plan);
    }
    for (const int64_t card : kCards) {
      const Planned* fits = FirstThatFits(stage, card * kGigabyte);
      entry["cards"].push_back(
          {{"bytes", card * kGigabyte},
           {"fits", fits != nullptr},
           {"flags", fits != nullptr ? Json(fits->plan.flags) : Json(nullptr)},
           {"total_bytes", fits != nullptr ? Json(fits->memory.total_bytes()) : Json(nullptr)}});
    }
    stages.push_back(entry);
  }
  return {{"model", config.name},
          {"level", plans.level},
          {"width", plans.request.width},
          {"height", plans.request.height},
          {"dtype", kandinsky::model::DtypeName(arguments.execution.placement.dtype)},
          {"stages", stages}};
}

void Print(const LevelPlans& plans, bool markdown) {
  const char* const row =
      markdown ? "| %s | %s | %s | %s | %s | %s | %s |\n" : "%-13s %-48s %10s %12s %10s %10s  %s\n";
  std::printf(markdown ? "\n**%s, %lldx%lld**\n\n" : "\n%s, %lldx%lld\n", plans.level.c_str(),
              static_cast<long long>(plans.request.width),
              static_cast<long long>(plans.request.height));
  std::printf(row, "stage", "plan", "weights", "activations", "allowance", "total",
              "cheapest plan for");
  if (markdown) std::printf("|---|---|---|---|---|---|---|\n");
  for (const std::vector<Planned>& stage : plans.stages) {
    for (const Planned& planned : stage) {
      const model::StageMemory& memory = planned.memory;
      const std::string name(model::PlannedStageName(memory.stage));
      std::string flags = Flags(planned);
      if (markdown && !planned.plan.flags.empty()) flags = "`" + flags + "`";
      if (!planned.plan.same) flags += " (other result)";
      std::printf(
          row, name.c_str(), flags.c_str(), model::FormatGigabytes(memory.weights_bytes).c_str(),
          model::FormatGigabytes(memory.activations_bytes()).c_str(),
          model::FormatGigabytes(memory.allowance_bytes).c_str(),
          model::FormatGigabytes(memory.total_bytes()).c_str(), Cards(stage, planned).c_str());
    }
    std::string without;
    for (const int64_t card : kCards) {
      if (FirstThatFits(stage, card * kGigabyte) != nullptr) continue;
      without += (without.empty() ? "" : ", ") + std::to_string(card) + " GB";
    }
    if (!without.empty()) {
      std::printf(row, std::string(model::PlannedStageName(stage.front().memory.stage)).c_str(),
                  "no plan", "", "", "", "", without.c_str());
    }
  }
}

int Run(const Arguments& arguments) {
  const model::ModelConfig config = model::ModelConfig::Load(arguments.directory);
  std::vector<LevelPlans> levels;
  for (const model::Level& level : config.levels) {
    if (arguments.level != "all" && arguments.level != level.name) continue;
    levels.push_back(PlanLevel(config, arguments, level));
  }
  if (levels.empty()) {
    throw UsageError("--level: the model has no level \"" + arguments.level + "\"");
  }
  if (arguments.format == "json") {
    Json all = Json::array();
    for (const LevelPlans& plans : levels) all.push_back(ToJson(config, arguments, plans));
    std::printf("%s\n", (arguments.level == "all" ? all : all[0]).dump(1).c_str());
    return 0;
  }
  std::printf("%s, %s\n", config.name.c_str(),
              kandinsky::model::DtypeName(arguments.execution.placement.dtype).c_str());
  for (const LevelPlans& plans : levels) Print(plans, arguments.format == "markdown");
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  for (int i = 1; i < argc; ++i) {
    if (argv[i] == std::string("--help")) {
      std::fputs(kUsage, stdout);
      return 0;
    }
  }
  try {
    return Run(Parse(argc, argv));
  } catch (const UsageError& error) {
    std::fprintf(stderr, "kandinsky-plan: %s\n\n%s", error.what(), kUsage);
    return 2;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "kandinsky-plan: %s\n", error.what());
    return 1;
  }
}
