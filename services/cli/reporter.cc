#include "services/cli/reporter.h"

#include <google/protobuf/util/json_util.h>

#include <algorithm>
#include <cmath>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/strip.h"
#include "absl/time/time.h"

namespace kandinsky::cli {
namespace {

namespace v1 = video::v1;

std::string Lower(absl::string_view name, absl::string_view prefix) {
  absl::ConsumePrefix(&name, prefix);
  if (name == "UNSPECIFIED") return "";
  return absl::StrReplaceAll(absl::AsciiStrToLower(name), {{"_", "-"}});
}

// Tells a person once what a job's notices say: the job and its first event both carry them.
class NoticeReporter : public Reporter {
 protected:
  // Message: a job or an event.
  template <typename Message>
  void ShowNotices(const Message& message) {
    if (shown_ || message.notices().empty()) return;
    shown_ = true;
    for (const v1::Notice& notice : message.notices()) {
      OnNote(absl::StrCat("note: ", Printable(notice.message())));
    }
  }

 private:
  bool shown_ = false;
};

std::string Rounded(const google::protobuf::Duration& duration) {
  return absl::FormatDuration(absl::Seconds(duration.seconds() + (duration.nanos() >= 500000000)));
}

class JsonReporter : public Reporter {
 public:
  explicit JsonReporter(std::ostream& out) : out_(out) {}
  void OnJob(const v1::Job& job) override {
    out_ << "{\"job\":" << ToJson(job) << "}\n" << std::flush;
  }
  void OnEvent(const v1::JobEvent& event) override {
    out_ << "{\"event\":" << ToJson(event) << "}\n" << std::flush;
  }
  void OnBytes(uint64_t, uint64_t) override {}
  void OnNote(std::string_view) override {}
  void Close() override {}

 private:
  std::ostream& out_;
};

class QuietReporter : public Reporter {
 public:
  void OnJob(const v1::Job&) override {}
  void OnEvent(const v1::JobEvent&) override {}
  void OnBytes(uint64_t, uint64_t) override {}
  void OnNote(std::string_view) override {}
  void Close() override {}
};

class LineReporter : public NoticeReporter {
 public:
  explicit LineReporter(std::ostream& err) : err_(err) {}
  void OnJob(const v1::Job& job) override {
    err_ << "job " << job.id() << "\n" << std::flush;
    ShowNotices(job);
  }
  void OnEvent(const v1::JobEvent& event) override {
    ShowNotices(event);
    // Progress within a stage: every tenth of the whole job.
    const int tenth = static_cast<int>(event.fraction() * 10);
    if (event.type() == v1::JobEvent::TYPE_PROGRESS && tenth == tenth_) return;
    if (event.type() == v1::JobEvent::TYPE_PREVIEW) return;
    tenth_ = tenth;
    err_ << Describe(event) << absl::StrFormat(" (%.0f%%)", event.fraction() * 100) << "\n"
         << std::flush;
  }
  void OnBytes(uint64_t, uint64_t) override {}
  void OnNote(std::string_view note) override { err_ << note << "\n" << std::flush; }
  void Close() override {}

 private:
  std::ostream& err_;
  int tenth_ = -1;
};

class TerminalReporter : public NoticeReporter {
 public:
  TerminalReporter(std::ostream& err, int columns) : err_(err), columns_(std::max(columns, 20)) {}
  ~TerminalReporter() override { TerminalReporter::Close(); }

  void OnJob(const v1::Job& job) override {
    OnNote(absl::StrCat("job ", job.id()));
    ShowNotices(job);
  }

  void OnEvent(const v1::JobEvent& event) override {
    ShowNotices(event);
    if (event.type() == v1::JobEvent::TYPE_PREVIEW) return;
    if (event.type() == v1::JobEvent::TYPE_RETRY) OnNote(Describe(event));
    std::string text = Describe(event);
    if (event.has_eta() && !IsFinished(event.state())) {
      absl::StrAppend(&text, ", about ", Rounded(event.eta()), " left");
    }
    Draw(event.fraction(), text);
  }

  void OnBytes(uint64_t bytes, uint64_t total) override {
    if (total == 0) return;
    Draw(static_cast<double>(bytes) / static_cast<double>(total),
         absl::StrCat("download ", HumanBytes(bytes), " of ", HumanBytes(total)));
  }

  void OnNote(std::string_view note) override {
    Erase();
    err_ << note << "\n" << std::flush;
  }

  void Close() override {
    if (drawn_) err_ << "\n" << std::flush;
    drawn_ = false;
  }

 private:
  void Draw(double fraction, const std::string& text) {
    const int bar = std::clamp(columns_ - 56, 8, 40);
    std::string line = absl::StrFormat("%s %3.0f%%  %s", Bar(fraction, bar),
                                       std::clamp(fraction, 0.0, 1.0) * 100, text);
    line.resize(std::min<size_t>(line.size(), columns_ - 1));
    Erase();
    err_ << line << std::flush;
    drawn_ = true;
  }

  void Erase() {
    if (drawn_) err_ << "\r\x1b[K";
    drawn_ = false;
  }

  std::ostream& err_;
  const int columns_;
  bool drawn_ = false;
};

}  // namespace

std::unique_ptr<Reporter> Reporter::Make(ReportStyle style, std::ostream& out, std::ostream& err,
                                         int columns) {
  switch (style) {
    case ReportStyle::kTerminal:
      return std::make_unique<TerminalReporter>(err, columns);
    case ReportStyle::kLines:
      return std::make_unique<LineReporter>(err);
    case ReportStyle::kJson:
      return std::make_unique<JsonReporter>(out);
    case ReportStyle::kQuiet:
      break;
  }
  return std::make_unique<QuietReporter>();
}

std::string LowerName(v1::Stage stage) { return Lower(v1::Stage_Name(stage), "STAGE_"); }
std::string LowerName(v1::JobState state) { return Lower(v1::JobState_Name(state), "JOB_STATE_"); }
std::string LowerName(v1::Level level) { return Lower(v1::Level_Name(level), "LEVEL_"); }
std::string LowerName(v1::VideoFormat format) {
  return Lower(v1::VideoFormat_Name(format), "VIDEO_FORMAT_");
}
std::string LowerName(v1::Priority priority) {
  return Lower(v1::Priority_Name(priority), "PRIORITY_");
}

bool IsFinished(v1::JobState state) {
  return state == v1::JOB_STATE_SUCCEEDED || state == v1::JOB_STATE_FAILED ||
         state == v1::JOB_STATE_CANCELLED || state == v1::JOB_STATE_EXPIRED;
}

std::string ToJson(const google::protobuf::Message& message) {
  google::protobuf::util::JsonPrintOptions options;
  options.preserve_proto_field_names = true;
  std::string json;
  const google::protobuf::Message* shown = &message;
  v1::JobEvent event;
  if (message.GetDescriptor() == v1::JobEvent::descriptor()) {
    event.CopyFrom(message);
    if (event.has_preview()) event.mutable_preview()->clear_png();
    shown = &event;
  }
  if (!google::protobuf::util::MessageToJsonString(*shown, &json, options).ok()) return "{}";
  return json;
}

std::string Printable(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    const auto c = static_cast<unsigned char>(text[i]);
    const bool c1 =
        c == 0xc2 && i + 1 < text.size() && static_cast<unsigned char>(text[i + 1]) < 0xa0;
    if (c1) ++i;
    out += c < 0x20 || c == 0x7f || c1 ? ' ' : text[i];
  }
  return out;
}

std::string HumanBytes(uint64_t bytes) {
  if (bytes < 1024) return absl::StrCat(bytes, " B");
  double value = static_cast<double>(bytes) / 1024;
  for (const char* unit : {"KiB", "MiB", "GiB"}) {
    if (value < 1024) return absl::StrFormat("%.1f %s", value, unit);
    value /= 1024;
  }
  return absl::StrFormat("%.1f TiB", value);
}

std::string Bar(double fraction, int width) {
  const int full = static_cast<int>(std::lround(std::clamp(fraction, 0.0, 1.0) * width));
  std::string bar = "[" + std::string(full, '=') + std::string(width - full, ' ') + "]";
  if (full > 0 && full < width) bar[full] = '>';
  return bar;
}

std::string Describe(const v1::JobEvent& event) {
  const std::string stage = LowerName(event.stage());
  switch (event.type()) {
    case v1::JobEvent::TYPE_STATE_CHANGED:
      if (event.has_error()) {
        return absl::StrCat(LowerName(event.state()), ": ", Printable(event.error().message()),
                            " (", event.error().reason(), ")");
      }
      return LowerName(event.state());
    case v1::JobEvent::TYPE_RETRY:
      return absl::StrCat(stage, " starts again, attempt ", event.attempt(),
                          event.has_error() ? ": " + event.error().reason() : "");
    case v1::JobEvent::TYPE_STAGE_STARTED:
      return event.attempt() > 1 ? absl::StrCat(stage, ", attempt ", event.attempt()) : stage;
    case v1::JobEvent::TYPE_STAGE_FINISHED:
      return absl::StrCat(stage, " done");
    default:
      break;
  }
  std::string text = stage;
  if (event.passes() > 1) absl::StrAppend(&text, " ", event.pass(), "/", event.passes());
  if (event.steps() > 0) {
    absl::StrAppend(&text, event.stage() == v1::STAGE_DECODING ? ", frame " : ", step ",
                    event.step(), "/", event.steps());
  }
  return text;
}

}  // namespace kandinsky::cli
