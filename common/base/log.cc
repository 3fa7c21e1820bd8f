#include "common/base/log.h"

#include <cmath>
#include <cstdio>
#include <memory>

#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "spdlog/sinks/stdout_sinks.h"
#include "spdlog/spdlog.h"

namespace kandinsky {
namespace {

std::string Quote(std::string_view text) {
  std::string quoted = "\"";
  for (const char c : text) {
    switch (c) {
      case '"':
        quoted += "\\\"";
        break;
      case '\\':
        quoted += "\\\\";
        break;
      case '\n':
        quoted += "\\n";
        break;
      case '\r':
        quoted += "\\r";
        break;
      case '\t':
        quoted += "\\t";
        break;
      default:
        if (static_cast<unsigned char>(c) < 0x20) {
          quoted += absl::StrFormat("\\u%04x", static_cast<unsigned>(c));
        } else {
          quoted += c;
        }
    }
  }
  quoted += '"';
  return quoted;
}

struct State {
  LogOptions options;
  std::shared_ptr<spdlog::logger> logger;

  State() : logger(spdlog::stderr_logger_mt("kandinsky")) {
    logger->set_pattern("%v");
    logger->set_level(spdlog::level::trace);
    logger->flush_on(spdlog::level::trace);
  }
};

// Never destroyed: threads may log while the process leaves.
State& Global() {
  static State* state = new State;
  return *state;
}

const char* LevelName(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug:
      return "debug";
    case LogLevel::kInfo:
      return "info";
    case LogLevel::kWarning:
      return "warning";
    case LogLevel::kError:
      return "error";
  }
  return "info";
}

}  // namespace

LogValue::LogValue(std::string_view text) : json_(Quote(text)) {}
LogValue::LogValue(double value)
    : json_(std::isfinite(value) ? absl::StrFormat("%.6g", value) : Quote(std::to_string(value))) {}

void ConfigureLog(const LogOptions& options) { Global().options = options; }
bool LogPrompts() { return Global().options.log_prompts; }

void Log(LogLevel level, std::string_view message, std::initializer_list<LogField> fields) {
  State& state = Global();
  if (level < state.options.min_level) return;
  const std::string time =
      absl::FormatTime("%Y-%m-%dT%H:%M:%E3SZ", absl::Now(), absl::UTCTimeZone());
  std::string line;
  if (state.options.json) {
    line = "{\"time\":\"" + time + "\",\"level\":\"" + LevelName(level) +
           "\",\"component\":" + Quote(state.options.component) + ",\"message\":" + Quote(message);
    for (const LogField& field : fields) line += "," + Quote(field.name) + ":" + field.value.json();
    line += "}";
  } else {
    line =
        time + " " + LevelName(level) + " " + state.options.component + ": " + std::string(message);
    for (const LogField& field : fields) {
      line += " " + std::string(field.name) + "=" + field.value.json();
    }
  }
  state.logger->log(spdlog::level::info, spdlog::string_view_t(line.data(), line.size()));
}

}  // namespace kandinsky
