// Structured logs: one line per state change, as text or as JSON lines, on standard error.
//
//   Log(LogLevel::kInfo, "task claimed", {{"job", id}, {"stage", Name(stage)}, {"attempt", 2}});
//
// Thread-safe. No prompt is ever passed to Log unless the process was started with --log_prompts
// (LogPrompts()).
#ifndef KANDINSKY_COMMON_BASE_LOG_H_
#define KANDINSKY_COMMON_BASE_LOG_H_

#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <type_traits>

namespace kandinsky {

enum class LogLevel { kDebug, kInfo, kWarning, kError };

// A value of a log field, kept as JSON.
class LogValue {
 public:
  LogValue(std::string_view text);  // NOLINT: implicit on purpose
  LogValue(const std::string& text) : LogValue(std::string_view(text)) {}  // NOLINT
  LogValue(const char* text) : LogValue(std::string_view(text)) {}         // NOLINT
  LogValue(bool value) : json_(value ? "true" : "false") {}                // NOLINT
  LogValue(double value);                                                  // NOLINT
  template <typename T, typename = std::enable_if_t<std::is_integral_v<T>>>
  LogValue(T value) : json_(std::to_string(value)) {}  // NOLINT

  const std::string& json() const { return json_; }

 private:
  std::string json_;
};

struct LogField {
  std::string_view name;
  LogValue value;
};

void Log(LogLevel level, std::string_view message, std::initializer_list<LogField> fields = {});

struct LogOptions {
  std::string component;  // "frontend", "worker-keyframes", …: on every line
  bool json = false;
  LogLevel min_level = LogLevel::kInfo;
  bool log_prompts = false;
};
// Call once in main, before threads start.
void ConfigureLog(const LogOptions& options);
bool LogPrompts();

}  // namespace kandinsky

#endif  // KANDINSKY_COMMON_BASE_LOG_H_
