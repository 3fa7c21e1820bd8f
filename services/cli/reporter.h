// What the user sees of a job while it runs: a progress bar on a terminal, lines elsewhere, JSON
// lines with --json.
#ifndef KANDINSKY_SERVICES_CLI_REPORTER_H_
#define KANDINSKY_SERVICES_CLI_REPORTER_H_

#include <cstdint>
#include <memory>
#include <ostream>
#include <string>
#include <string_view>

#include "kandinsky/video/v1/video_service.pb.h"

namespace kandinsky::cli {

enum class ReportStyle {
  kTerminal,  // one line that is drawn again
  kLines,     // a line per change of state, stage or attempt
  kJson,      // {"job": …}, {"event": …}, {"video": …} on `out`
  kQuiet,
};

class Reporter {
 public:
  // People's lines go to `err`, JSON to `out`. columns: width of the terminal.
  static std::unique_ptr<Reporter> Make(ReportStyle style, std::ostream& out, std::ostream& err,
                                        int columns);
  virtual ~Reporter() = default;
  virtual void OnJob(const video::v1::Job& job) = 0;
  virtual void OnEvent(const video::v1::JobEvent& event) = 0;
  // Bytes saved so far; total 0: not known yet.
  virtual void OnBytes(uint64_t bytes, uint64_t total) = 0;
  // Something worth a line, such as a lost connection.
  virtual void OnNote(std::string_view note) = 0;
  // Leaves the terminal in order; nothing comes after it.
  virtual void Close() = 0;
};

// --- Shared with the commands.

// "keyframes", "succeeded", "high", "fragmented-mp4"; "" for UNSPECIFIED.
std::string LowerName(video::v1::Stage stage);
std::string LowerName(video::v1::JobState state);
std::string LowerName(video::v1::Level level);
std::string LowerName(video::v1::VideoFormat format);
std::string LowerName(video::v1::Priority priority);
bool IsFinished(video::v1::JobState state);

// One line of JSON with the field names of the proto, no line feed. Bytes of a preview are left
// out.
std::string ToJson(const google::protobuf::Message& message);
// `text` without characters that could steer a terminal.
std::string Printable(std::string_view text);
// "3.2 MiB".
std::string HumanBytes(uint64_t bytes);
// The bar itself, for 0 <= fraction <= 1: "[=====>    ]".
std::string Bar(double fraction, int width);
// The line of a running job, without bar: "interpolation 2/2, step 12/50".
std::string Describe(const video::v1::JobEvent& event);

}  // namespace kandinsky::cli

#endif  // KANDINSKY_SERVICES_CLI_REPORTER_H_
