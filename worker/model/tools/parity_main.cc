// kandinsky-parity: does this build compute what was recorded?
//
//   kandinsky-parity [options] CASE_DIR...     runs recorded cases (format: tests/parity/README.md)
//   kandinsky-parity [options] manifest FILE...  compares full-size modules with lists of tensors
//
// Exit status: 0 when every check holds, 1 when one fails, 2 when the arguments or a case are
// unusable.
#include <ATen/Context.h>
#include <ATen/Parallel.h>

#include <charconv>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <exception>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "worker/model/pipeline.h"
#include "worker/model/tools/parity_case.h"
#include "worker/model/tools/parity_manifest.h"
#include "worker/model/tools/parity_report.h"
#include "worker/process/processors.h"

namespace {

using kandinsky::model::ParityOptions;
using kandinsky::model::ParityReport;

constexpr int kFailed = 1;
constexpr int kUnusable = 2;

constexpr char kUsage[] =
    "usage: kandinsky-parity [options] CASE_DIR...\n"
    "       kandinsky-parity [options] manifest FILE...\n"
    "\n"
    "  --trace            compare the outputs of inner modules, too\n"
    "  --quiet            print failed checks and one line a case only\n"
    "  --device=DEVICE    cpu (default), cuda, cuda:N or auto\n"
    "  --dtype=DTYPE      float32 (default), bfloat16 or float16; cases are recorded in float32,\n"
    "                     narrow types have tolerances of their own (docs/gpu.md)\n"
    "  --threads=N        threads of the CPU backend (default 0: one a usable processor)\n"
    "  --json=FILE        one line of JSON a case: path, passed, error, checks, failures, "
    "seconds,\n"
    "                     and the worst check with the share of its tolerance that it used\n"
    "\n"
    "Exit status: 0 all checks hold, 1 a check failed, 2 unusable arguments or case.\n";

struct Arguments {
  bool manifest = false;
  bool trace = false;
  bool quiet = false;
  bool help = false;
  std::string device = "cpu";
  std::string dtype = "float32";
  int threads = 0;
  std::string json;
  std::vector<std::string> paths;
};

std::optional<Arguments> Parse(int argc, char** argv) {
  Arguments arguments;
  bool options_end = false;
  for (int i = 1; i < argc; ++i) {
    const std::string_view argument = argv[i];
    const auto value = [&](std::string_view name) -> std::optional<std::string> {
      if (!argument.starts_with(name)) return std::nullopt;
      return std::string(argument.substr(name.size()));
    };
    if (options_end || !argument.starts_with("-")) {
      if (argument == "manifest" && arguments.paths.empty() && !arguments.manifest) {
        arguments.manifest = true;
      } else {
        arguments.paths.emplace_back(argument);
      }
    } else if (argument == "--") {
      options_end = true;
    } else if (argument == "--trace") {
      arguments.trace = true;
    } else if (argument == "--quiet") {
      arguments.quiet = true;
    } else if (argument == "--help" || argument == "-h") {
      arguments.help = true;
    } else if (const auto device = value("--device=")) {
      arguments.device = *device;
    } else if (const auto dtype = value("--dtype=")) {
      arguments.dtype = *dtype;
    } else if (const auto json = value("--json=")) {
      arguments.json = *json;
    } else if (const auto threads = value("--threads=")) {
      const char* end = threads->data() + threads->size();
      const auto [rest, error] = std::from_chars(threads->data(), end, arguments.threads);
      if (error != std::errc() || rest != end || arguments.threads < 0 ||
          arguments.threads > kandinsky::kMaxThreads)
        return std::nullopt;
    } else {
      return std::nullopt;
    }
  }
  if (arguments.paths.empty() && !arguments.help) return std::nullopt;
  return arguments;
}

// One case as a line of JSON. A share of a tolerance that no number can say is null.
std::string JsonLine(const std::string& path, const ParityReport& report, const std::string& error,
                     double seconds) {
  const ParityReport::Worst& worst = report.worst();
  nlohmann::json line = {{"case", path},
                         {"passed", error.empty() && report.failures() == 0},
                         {"error", error},
                         {"checks", report.checks()},
                         {"failures", report.failures()},
                         {"seconds", seconds}};
  if (!worst.name.empty()) {
    line["worst"] = {{"name", worst.name}, {"text", worst.text}, {"holds", worst.holds}};
    line["worst"]["used"] =
        std::isfinite(worst.used) ? nlohmann::json(worst.used) : nlohmann::json();
  }
  // Names of checks may quote any text.
  return line.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

}  // namespace

int main(int argc, char** argv) {
  const std::optional<Arguments> arguments = Parse(argc, argv);
  if (!arguments) {
    std::fputs(kUsage, stderr);
    return kUnusable;
  }
  if (arguments->help) {
    std::fputs(kUsage, stdout);
    return 0;
  }
  ParityOptions options;
  options.trace = arguments->trace;
  try {
    options.placement = kandinsky::model::ParsePlacement(arguments->device, arguments->dtype);
    at::set_num_threads(kandinsky::ThreadsOrAuto(arguments->threads));
    // The recorded numbers have all bits of float32.
    at::globalContext().setAllowTF32CuDNN(false);
    at::globalContext().setAllowTF32CuBLAS(false);
  } catch (const std::exception& error) {
    std::cerr << "kandinsky-parity: " << error.what() << "\n";
    return kUnusable;
  }

  std::ofstream json;
  if (!arguments->json.empty()) {
    json.open(arguments->json, std::ios::trunc);
    if (!json) {
      std::cerr << "kandinsky-parity: " << arguments->json << " cannot be written\n";
      return kUnusable;
    }
  }
  int status = 0;
  for (const std::string& path : arguments->paths) {
    std::cout << path << "\n";
    ParityReport report(std::cout, !arguments->quiet);
    const auto start = std::chrono::steady_clock::now();
    const auto note = [&](const std::string& error) {
      if (!json.is_open()) return;
      const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
      json << JsonLine(path, report, error, elapsed.count()) << std::endl;
    };
    try {
      if (arguments->manifest) {
        kandinsky::model::CheckManifest(path, report);
      } else {
        kandinsky::model::RunParityCase(path, options, report);
      }
    } catch (const std::exception& error) {
      std::cout << "  ERROR " << std::endl;
      std::cerr << "kandinsky-parity: " << path << ": " << error.what() << "\n";
      note(error.what());
      status = kUnusable;
      continue;
    }
    note("");
    std::cout << (report.failures() == 0 ? "PASS " : "FAIL ") << path << ": "
              << report.checks() - report.failures() << " of " << report.checks() << " checks hold"
              << std::endl;
    if (report.failures() > 0) std::cout << "     worst: " << report.worst().name << std::endl;
    if (report.failures() > 0 && status == 0) status = kFailed;
  }
  return status;
}
