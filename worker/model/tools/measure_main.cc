// kandinsky-measure: what a model does on a device: speed, memory, and the same again. docs/gpu.md
// says what deploy/gpu/check makes of it.
#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <torch/version.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <stdexcept>
#include <string>
#include <utility>

#include "worker/model/error.h"
#include "worker/model/execution.h"
#include "worker/model/model_config.h"
#include "worker/model/tools/measure.h"

namespace {

namespace fs = std::filesystem;
namespace model = kandinsky::model;
using nlohmann::json;

constexpr char kUsage[] =
    "usage: kandinsky-measure info\n"
    "       kandinsky-measure peak [--device D] [--seconds S]\n"
    "       kandinsky-measure flops --model DIR [request]\n"
    "       kandinsky-measure run --model DIR [request] [options]\n"
    "       kandinsky-measure repeats --model DIR [request] [options]\n"
    "\n"
    "Prints lines of JSON: {\"progress\": ...} while it works and {\"result\": ...} at the end.\n"
    "\n"
    "  info      versions of the libraries\n"
    "  peak      the fastest matrix products of the device\n"
    "  flops     the work of a request, counted without doing it\n"
    "  run       one request through all stages: seconds, FLOP/s, memory\n"
    "  repeats   do equal requests, resumed ones and guidance in two passes give the same?\n"
    "\n"
    "  --model DIR             model directory\n"
    "  --random-weights SEED   instead of the model's weights, which need not be there: made on "
    "the\n"
    "                          device, tensor by tensor\n"
    "  --tokenizer FILE        for a directory without a tokenizer; with random weights only\n"
    "  --level, --width, --height, --steps   the request; default: the model's\n"
    "  --seconds S             peak: for each type (default 2)\n"
    "  --passes-tolerance X    repeats: how far guidance in two passes may be (default 0.05)\n"
    "  --threads N             processor threads of an operation\n"
    "  --device, --dtype, ...  every option of kandinsky-local that says where and how it runs\n"
    "\n"
    "Exit status: 0 measured (repeats: and the same), 1 failed, 2 wrong usage.\n";

struct UsageError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

using Flags = std::map<std::string, std::string>;

std::string FlagName(const model::ExecutionFlag& flag) {
  std::string name = std::string("--") + flag.name;
  std::replace(name.begin(), name.end(), '_', '-');
  return name;
}

Flags ParseFlags(int argc, char** argv) {
  std::set<std::string> known = {
      "--model", "--random-weights", "--tokenizer",        "--level",  "--width", "--height",
      "--steps", "--seconds",        "--passes-tolerance", "--threads"};
  for (const model::ExecutionFlag& flag : model::kExecutionFlags) known.insert(FlagName(flag));
  Flags flags;
  for (int i = 2; i < argc; ++i) {
    const std::string argument = argv[i];
    const size_t equals = argument.find('=');
    std::string name = argument.substr(0, equals);
    std::replace(name.begin(), name.end(), '_', '-');
    if (known.count(name) == 0) throw UsageError("unknown argument " + argument);
    if (equals != std::string::npos) {
      flags[name] = argument.substr(equals + 1);
    } else if (i + 1 < argc) {
      flags[name] = argv[++i];
    } else {
      throw UsageError(name + " needs a value");
    }
  }
  return flags;
}

template <typename Number>
Number ParseNumber(const Flags& flags, const std::string& name, Number otherwise, Number least) {
  const auto found = flags.find(name);
  if (found == flags.end()) return otherwise;
  const std::string& text = found->second;
  Number value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || !(value >= least)) {
    throw UsageError(name + " is \"" + text + "\", must be a number of at least " +
                     std::to_string(least));
  }
  return value;
}

model::ExecutionOptions ParseExecution(const Flags& flags) {
  model::ExecutionFlagValues values;
  for (const model::ExecutionFlag& flag : model::kExecutionFlags) {
    if (const auto found = flags.find(FlagName(flag)); found != flags.end()) {
      values[flag.name] = found->second;
    }
  }
  return model::ParseExecutionOptions(values);
}

// A model.json beside a tokenizer from elsewhere, for as long as it lives.
class Assembled {
 public:
  Assembled(const std::string& directory, const std::string& tokenizer) {
    std::string path = (fs::temp_directory_path() / "kandinsky-measure-XXXXXX").string();
    if (mkdtemp(path.data()) == nullptr) throw std::runtime_error(path + " cannot be made");
    path_ = path;
    fs::copy_file(fs::path(directory) / "model.json", path_ / "model.json");
    fs::copy_file(tokenizer, path_ / model::ModelConfig::Load(directory).tokenizer);
  }
  ~Assembled() {
    std::error_code error;
    fs::remove_all(path_, error);
  }
  std::string path() const { return path_.string(); }

 private:
  fs::path path_;
};

model::GenerationRequest ParseRequest(const Flags& flags, const model::ModelConfig& config) {
  const auto level_flag = flags.find("--level");
  const std::string name = level_flag == flags.end() ? config.defaults.level : level_flag->second;
  const auto level = std::find_if(config.levels.begin(), config.levels.end(),
                                  [&](const model::Level& l) { return l.name == name; });
  if (level == config.levels.end()) {
    throw UsageError("--level is \"" + name + "\", which the model does not have");
  }
  model::GenerationRequest request;
  request.prompt = "a blue square moves up on a white background";
  request.seed = 1;
  request.passes = level->passes;
  request.width = ParseNumber<int64_t>(flags, "--width", config.defaults.width, 1);
  request.height = ParseNumber<int64_t>(flags, "--height", config.defaults.height, 1);
  request.steps = ParseNumber<int64_t>(flags, "--steps", config.defaults.steps, 1);
  request.guidance_scale = config.defaults.guidance_scale;
  request.interpolation_guidance_scale = config.defaults.interpolation_guidance_scale;
  return request;
}

void Print(const json& line) {
  std::puts(line.dump(-1, ' ', false, json::error_handler_t::replace).c_str());
  std::fflush(stdout);
}

json Info() {
  return {{"libtorch", TORCH_VERSION},
          {"cuda_devices",
           at::globalContext().hasCUDA() ? at::detail::getCUDAHooks().deviceCount() : 0},
          {"threads", at::get_num_threads()},
          {"cpu", at::get_cpu_capability()},
          {"build", at::show_config()}};
}

int Run(int argc, char** argv) {
  const std::string command = argc < 2 ? "" : argv[1];
  const Flags flags = ParseFlags(argc, argv);
  if (const int threads = ParseNumber<int>(flags, "--threads", 0, 1); threads > 0) {
    at::set_num_threads(threads);
  }
  // As workers and kandinsky-parity run: the same kernels each time, products in full width.
  at::globalContext().setDeterministicCuDNN(true);
  at::globalContext().setBenchmarkCuDNN(false);
  at::globalContext().setAllowTF32CuDNN(false);
  at::globalContext().setAllowTF32CuBLAS(false);

  if (command == "info") {
    Print({{"result", Info()}});
    return 0;
  }
  model::MeasureSetup setup;
  setup.execution = ParseExecution(flags);
  if (command == "peak") {
    Print({{"result", model::MeasurePeaks(setup.execution.placement.device,
                                          ParseNumber<double>(flags, "--seconds", 2, 0.01))}});
    return 0;
  }
  if (command != "flops" && command != "run" && command != "repeats") {
    throw UsageError("the first argument must be info, peak, flops, run or repeats");
  }
  if (flags.count("--model") == 0) throw UsageError("--model is needed");
  setup.model_directory = flags.at("--model");
  if (flags.count("--random-weights") != 0) {
    setup.execution.random_weights = ParseNumber<uint64_t>(flags, "--random-weights", 0, 0);
  }
  std::optional<Assembled> assembled;
  if (const auto tokenizer = flags.find("--tokenizer"); tokenizer != flags.end()) {
    if (!setup.execution.random_weights && command != "flops") {
      throw UsageError("--tokenizer is for --random-weights");
    }
    assembled.emplace(setup.model_directory, tokenizer->second);
    setup.model_directory = assembled->path();
  }
  setup.request = ParseRequest(flags, model::ModelConfig::Load(setup.model_directory));
  const auto progress = [](const std::string& stage, int64_t done, int64_t parts) {
    Print({{"progress", {{"stage", stage}, {"done", done}, {"parts", parts}}}});
  };
  if (command == "flops") {
    Print({{"result", model::DescribeFlops(setup)}});
    return 0;
  }
  if (command == "run") {
    Print({{"result", model::MeasureRun(setup, progress)}});
    return 0;
  }
  const json checks = model::MeasureRepeats(
      setup, ParseNumber<double>(flags, "--passes-tolerance", 0.05, 0), progress);
  Print({{"result", checks}});
  const bool all = std::all_of(checks.begin(), checks.end(),
                               [](const json& check) { return check["passed"].get<bool>(); });
  return all ? 0 : 1;
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
    return Run(argc, argv);
  } catch (const UsageError& error) {
    std::fprintf(stderr, "kandinsky-measure: %s\n\n%s", error.what(), kUsage);
    return 2;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "kandinsky-measure: %s\n", error.what());
    return 1;
  }
}
