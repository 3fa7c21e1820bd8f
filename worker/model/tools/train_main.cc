// kandinsky-train: makes weights. So far `init`, which writes random ones.
#include <charconv>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <map>
#include <string>
#include <vector>

#include "worker/model/error.h"
#include "worker/model/model_config.h"
#include "worker/model/weights_init.h"

namespace {

constexpr char kUsage[] =
    "usage: kandinsky-train init --preset DIR --out DIR [--seed N]\n"
    "\n"
    "Writes a model directory with random float16 weights for a preset (a directory with "
    "model.json\n"
    "and a tokenizer, such as models/tiny). Equal presets and seeds give equal files.\n"
    "\n"
    "  --preset DIR  the preset to read\n"
    "  --out DIR     the model directory to write; existing files are replaced\n"
    "  --seed N      0 to 2^64-1 (default 0)\n"
    "\n"
    "Exit status: 0 done, 1 failed, 2 wrong usage.\n";

int WrongUsage(const std::string& message) {
  std::fprintf(stderr, "kandinsky-train: %s\n\n%s", message.c_str(), kUsage);
  return 2;
}

// "--name value" and "--name=value" of the known names, or the complaint.
std::string ParseFlags(const std::vector<std::string>& arguments,
                       std::map<std::string, std::string>& flags) {
  for (size_t i = 0; i < arguments.size(); ++i) {
    const std::string& argument = arguments[i];
    const size_t equals = argument.find('=');
    const std::string name = argument.substr(0, equals);
    if (flags.count(name) == 0) return "unknown argument " + argument;
    if (equals != std::string::npos) {
      flags[name] = argument.substr(equals + 1);
    } else if (i + 1 < arguments.size()) {
      flags[name] = arguments[++i];
    } else {
      return name + " needs a value";
    }
  }
  return "";
}

int Init(const std::vector<std::string>& arguments) {
  std::map<std::string, std::string> flags = {{"--preset", ""}, {"--out", ""}, {"--seed", "0"}};
  if (const std::string complaint = ParseFlags(arguments, flags); !complaint.empty()) {
    return WrongUsage(complaint);
  }
  if (flags["--preset"].empty() || flags["--out"].empty()) {
    return WrongUsage("--preset and --out are needed");
  }
  const std::string& text = flags["--seed"];
  uint64_t seed = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), seed);
  if (error != std::errc() || end != text.data() + text.size()) {
    return WrongUsage("--seed is \"" + text + "\", must be a number from 0 to 2^64-1");
  }
  const auto config = kandinsky::model::ModelConfig::Load(flags["--preset"]);
  kandinsky::model::WriteRandomModel(config, flags["--preset"], flags["--out"], seed);
  std::printf("%s\n", flags["--out"].c_str());
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  const std::vector<std::string> arguments(argv + 1, argv + argc);
  if (arguments.empty()) return WrongUsage("no command");
  if (arguments[0] == "--help" || arguments[0] == "help" ||
      (arguments.size() > 1 && arguments[1] == "--help")) {
    std::fputs(kUsage, stdout);
    return 0;
  }
  if (arguments[0] != "init") return WrongUsage("unknown command " + arguments[0]);
  try {
    return Init({arguments.begin() + 1, arguments.end()});
  } catch (const std::exception& error) {
    std::fprintf(stderr, "kandinsky-train: %s\n", error.what());
    return 1;
  }
}
