// kandinsky-convert: writes a model directory from the published checkpoint files.
//
//   kandinsky-convert --weights=DIR --text-encoder=DIR --config=model.json --out=DIR [options]
//
// Exit status: 0 when the directory is complete, 1 when the files are unusable, 2 for wrong
// arguments.
#include <cstdio>
#include <exception>
#include <iostream>
#include <optional>
#include <string>
#include <string_view>

#include "worker/model/checkpoint/tensor_source.h"
#include "worker/model/tools/convert.h"

namespace {

using kandinsky::model::ConvertOptions;

constexpr char kUsage[] =
    "usage: kandinsky-convert --weights DIR --text-encoder DIR --config FILE --out DIR [options]\n"
    "\n"
    "  --weights DIR        folder with kandinsky_video.pt, kandinsky_video_interpolation.pt, "
    "movq.pt\n"
    "  --text-encoder DIR   text encoder in Hugging Face layout, with spiece.model\n"
    "  --config FILE        model.json of the result (default: OUT/model.json)\n"
    "  --out DIR            the model directory to write\n"
    "  --video-movq FILE    checkpoint of the video decoder, if the config has one\n"
    "  --dtype DTYPE        float32, float16 or bfloat16; default: as stored\n"
    "  --overwrite          replace files that are already there\n";

struct Parsed {
  ConvertOptions options;
  bool help = false;
};

std::optional<Parsed> Parse(int argc, char** argv) {
  Parsed parsed;
  ConvertOptions& options = parsed.options;
  std::string dtype;
  const struct {
    std::string_view name;
    std::string* value;
  } flags[] = {{"--weights", &options.weights},
               {"--text-encoder", &options.text_encoder},
               {"--config", &options.config},
               {"--out", &options.out},
               {"--dtype", &dtype},
               {"--video-movq", &options.video_movq}};
  for (int i = 1; i < argc; ++i) {
    const std::string_view argument = argv[i];
    bool known = false;
    if (argument == "--help" || argument == "-h") {
      parsed.help = true;
      return parsed;
    }
    if (argument == "--overwrite") {
      options.overwrite = true;
      continue;
    }
    for (const auto& flag : flags) {
      if (argument == flag.name && i + 1 < argc) {
        *flag.value = argv[++i];
        known = true;
      } else if (argument.starts_with(flag.name) && argument.size() > flag.name.size() &&
                 argument[flag.name.size()] == '=') {
        *flag.value = argument.substr(flag.name.size() + 1);
        known = true;
      }
    }
    if (!known) {
      std::fprintf(stderr, "kandinsky-convert: unknown or incomplete argument %s\n", argv[i]);
      return std::nullopt;
    }
  }
  if (!dtype.empty()) {
    if (dtype != "float32" && dtype != "float16" && dtype != "bfloat16") {
      std::fprintf(stderr, "kandinsky-convert: --dtype is %s\n", dtype.c_str());
      return std::nullopt;
    }
    options.dtype = kandinsky::model::ParseDtype(dtype);
  }
  if (options.weights.empty() || options.text_encoder.empty() || options.out.empty()) {
    return std::nullopt;
  }
  if (options.config.empty()) options.config = options.out + "/model.json";
  return parsed;
}

}  // namespace

int main(int argc, char** argv) {
  const std::optional<Parsed> parsed = Parse(argc, argv);
  if (!parsed) {
    std::fputs(kUsage, stderr);
    return 2;
  }
  if (parsed->help) {
    std::fputs(kUsage, stdout);
    return 0;
  }
  try {
    kandinsky::model::Convert(parsed->options, std::cout);
  } catch (const std::exception& error) {
    std::cerr << "kandinsky-convert: " << error.what() << "\n";
    return 1;
  }
  return 0;
}
