#include "services/cli/args.h"

#include <algorithm>
#include <limits>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"

namespace kandinsky::cli {
namespace {

enum class Type { kString, kBool, kInt32, kUint64, kDouble, kDuration };

// Which commands know a flag.
enum Group : unsigned {
  kAll = 1u << 0,       // every command
  kRequest = 1u << 1,   // generate, submit
  kWait = 1u << 2,      // generate, watch, download
  kFile = 1u << 3,      // generate, download
  kGenerate = 1u << 4,  // generate alone
  kList = 1u << 5,
  kStatus = 1u << 6,
  kDead = 1u << 7,
  kPreview = 1u << 8,  // generate, watch
  kSubmit = 1u << 9,
};

struct Flag {
  std::string_view name;
  std::string_view short_name;
  Type type;
  unsigned groups;
  std::string_view value;    // placeholder in the help; choices as a|b|c
  std::string_view initial;  // default
  std::string_view help;
  const char* variable = nullptr;
};

constexpr Flag kFlags[] = {
    {"level", "", Type::kString, kRequest, "low|medium|high", "",
     "16 frames at 2 fps, 61 at 7.5 or 241 at 30 (default: high)"},
    {"seed", "", Type::kUint64, kRequest, "N", "",
     "same request and seed: same video (default: random)"},
    {"width", "", Type::kInt32, kRequest, "PIXELS", "", "default: the model's"},
    {"height", "", Type::kInt32, kRequest, "PIXELS", "", "default: the model's"},
    {"steps", "", Type::kInt32, kRequest, "N", "",
     "denoising steps of each loop (default: the model's)"},
    {"guidance-scale", "", Type::kDouble, kRequest, "W", "",
     "of the keyframes (default: the model's)"},
    {"interpolation-guidance-scale", "", Type::kDouble, kRequest, "W", "",
     "of the interpolation (default: the model's)"},
    {"negative-prompt", "", Type::kString, kRequest, "TEXT", "", "what the video should not show"},
    {"prompt-file", "", Type::kString, kRequest, "FILE", "",
     "read the prompt from a file, - for standard input"},
    {"model", "", Type::kString, kRequest, "NAME", "",
     "default: the server's; a directory with --local"},
    {"format", "", Type::kString, kRequest, "mp4|webm|gif|fragmented-mp4", "", "default: mp4"},
    {"fps", "", Type::kDouble, kRequest, "FPS", "",
     "frames per second of the file (default: the level's)"},
    {"request-id", "", Type::kString, kRequest, "ID", "",
     "idempotency key: the same id gives the same job"},
    {"priority", "", Type::kString, kRequest, "interactive|batch", "",
     "default: interactive for generate, batch for submit"},
    {"tenant", "", Type::kString, kRequest | kList, "NAME", "",
     "whose job it is; list: only this tenant's (environment: KANDINSKY_TENANT)",
     "KANDINSKY_TENANT"},
    {"timeout", "", Type::kDuration, kRequest | kWait | kStatus, "DURATION", "",
     "the job's time to be done (generate, submit), or how long to wait, like 90s or 10m"},
    {"cancel-on-disconnect", "", Type::kBool, kGenerate, "", "false",
     "cancel the job when this command is interrupted or loses its connection"},
    {"out", "o", Type::kString, kFile, "FILE", "",
     "where the video goes (default: JOB.mp4), - for standard output"},
    {"preview", "", Type::kString, kPreview, "FILE", "",
     "write the picture of the keyframes there (PNG)"},
    {"retry-for", "", Type::kDuration, kWait, "DURATION", "60s",
     "keep trying to reconnect for so long after the last sign of life"},
    {"local", "", Type::kBool, kGenerate, "", "false",
     "run all stages in one process, without a server; --model is a directory"},
    {"device", "", Type::kString, kGenerate, "auto|cpu|cuda:N", "", "with --local"},
    {"dtype", "", Type::kString, kGenerate, "float32|bfloat16|float16", "", "with --local"},
    {"threads", "", Type::kInt32, kGenerate, "N", "", "with --local"},
    {"state", "", Type::kString, kList, "STATE,…", "", "only jobs in these states"},
    {"limit", "", Type::kInt32, kList | kDead, "N", "50", "at most so many, 0 for all"},
    {"wait", "", Type::kBool, kStatus, "", "false",
     "wait until the server is healthy and every stage has a ready worker"},
    {"health", "", Type::kBool, kStatus, "", "false",
     "only ask grpc.health.v1, for health checks of containers; works with workers, too"},
    {"all", "", Type::kBool, kDead, "", "false", "retry or purge every dead letter"},
    {"server", "", Type::kString, kAll, "HOST:PORT", "127.0.0.1:50051",
     "the frontend (environment: KANDINSKY_SERVER)", "KANDINSKY_SERVER"},
    {"json", "", Type::kBool, kAll, "", "false", "JSON lines on standard output"},
    {"quiet", "q", Type::kBool, kAll, "", "false", "no progress on standard error"},
    {"rpc-timeout", "", Type::kDuration, kAll, "DURATION", "20s", "of every short call"},
    {"tls", "", Type::kBool, kAll, "", "false", "use TLS; implied by the flags below"},
    {"tls-ca", "", Type::kString, kAll, "FILE", "",
     "certificate authorities, PEM (default: the system's)"},
    {"tls-cert", "", Type::kString, kAll, "FILE", "", "this client's certificate, PEM"},
    {"tls-key", "", Type::kString, kAll, "FILE", "", "this client's key, PEM"},
    {"tls-server-name", "", Type::kString, kAll, "NAME", "",
     "expect this name in the server's certificate"},
    {"help", "h", Type::kBool, kAll, "", "false", "show help and exit"},
    {"version", "", Type::kBool, kAll, "", "false", "show the version and exit"},
};

struct Command {
  std::string_view name;
  std::string_view arguments;
  size_t min_positionals;
  size_t max_positionals;
  unsigned groups;
  std::string_view summary;
  std::string_view details = "";
};

constexpr Command kCommands[] = {
    {"generate", "PROMPT", 0, 1, kRequest | kWait | kFile | kGenerate | kPreview,
     "make a video, wait for it and save it",
     "A broken connection is resumed: events after the last one seen, bytes after the last one "
     "saved.\n"
     "Ctrl-C stops waiting; the job goes on and `kandinsky download JOB` fetches it later, unless\n"
     "--cancel-on-disconnect was given: then the job is cancelled. A second Ctrl-C leaves at "
     "once.\n"},
    {"submit", "PROMPT", 0, 1, kRequest | kSubmit, "create a job and print its id"},
    {"get", "JOB", 1, 1, 0, "show a job"},
    {"list", "", 0, 0, kList, "list jobs, newest first"},
    {"watch", "JOB", 1, 1, kWait | kPreview,
     "follow a job until it is finished; exits like the job"},
    {"cancel", "JOB", 1, 1, 0, "cancel a job"},
    {"delete", "JOB", 1, 1, 0, "remove a finished job and its video"},
    {"download", "JOB", 1, 1, kWait | kFile, "save a job's video; waits for one that is being made",
     "Bytes go to FILE.part, which becomes FILE when size and checksum are right. A FILE.part of "
     "an\n"
     "earlier try is continued.\n"},
    {"models", "", 0, 0, 0, "list models with their limits and defaults"},
    {"status", "", 0, 0, kStatus, "show the server's health, version, workers and queues"},
    {"dead", "list|show|retry|purge [JOB]", 1, 2, kDead,
     "jobs that failed for good: look, run again, forget"},
    {"help", "[COMMAND]", 0, 1, 0, "show help"},
    {"version", "", 0, 0, 0, "show the version"},
};

const Command* FindCommand(std::string_view name) {
  for (const Command& command : kCommands) {
    if (command.name == name) return &command;
  }
  return nullptr;
}

// name: with or without dashes replaced by underscores; short: one letter.
const Flag* FindFlag(std::string_view name, bool short_name) {
  for (const Flag& flag : kFlags) {
    if ((short_name ? flag.short_name : flag.name) == name) return &flag;
  }
  return nullptr;
}

const Flag& KnownFlag(std::string_view name) { return *FindFlag(name, false); }

absl::string_view Absl(std::string_view text) { return {text.data(), text.size()}; }

std::vector<std::string> Choices(const Flag& flag) {
  if (flag.value.find('|') == std::string_view::npos || flag.name == "device") return {};
  return absl::StrSplit(Absl(flag.value), '|');
}

// Empty when `value` is fine.
std::string Complaint(const Flag& flag, const std::string& value) {
  int32_t int32_value;
  uint64_t uint64_value;
  double double_value;
  bool bool_value;
  absl::Duration duration;
  switch (flag.type) {
    case Type::kString: {
      const std::vector<std::string> choices = Choices(flag);
      if (choices.empty() || std::find(choices.begin(), choices.end(), value) != choices.end()) {
        return "";
      }
      return absl::StrCat("must be ", absl::StrJoin(choices, ", "));
    }
    case Type::kBool:
      return absl::SimpleAtob(value, &bool_value) ? "" : "must be true or false";
    case Type::kInt32:
      return absl::SimpleAtoi(value, &int32_value) ? "" : "must be a whole number";
    case Type::kUint64:
      return absl::SimpleAtoi(value, &uint64_value) ? ""
                                                    : "must be a whole number from 0 to 2^64-1";
    case Type::kDouble:
      return absl::SimpleAtod(value, &double_value) ? "" : "must be a number";
    case Type::kDuration:
      return absl::ParseDuration(value, &duration) && duration >= absl::ZeroDuration()
                 ? ""
                 : "must be a duration like 90s, 10m or 1h";
  }
  return "";
}

}  // namespace

absl::StatusOr<Args> Args::Parse(const std::vector<std::string>& args,
                                 const std::function<const char*(const char*)>& environment) {
  Args parsed;
  std::vector<std::string> words;
  std::vector<const Flag*> given;
  bool flags_ended = false;
  for (size_t i = 0; i < args.size(); ++i) {
    const std::string& arg = args[i];
    if (flags_ended || arg.size() < 2 || arg[0] != '-') {
      words.push_back(arg);
      continue;
    }
    if (arg == "--") {
      flags_ended = true;
      continue;
    }
    const bool is_short = arg[1] != '-';
    std::string name = arg.substr(is_short ? 1 : 2);
    std::optional<std::string> value;
    if (const size_t equals = name.find('='); equals != std::string::npos) {
      value = name.substr(equals + 1);
      name.resize(equals);
    }
    std::replace(name.begin(), name.end(), '_', '-');
    const Flag* flag = FindFlag(name, is_short);
    if (flag == nullptr) return absl::InvalidArgumentError(absl::StrCat("unknown flag ", arg));
    if (!value && flag->type == Type::kBool) value = "true";
    if (!value) {
      if (i + 1 == args.size()) {
        return absl::InvalidArgumentError(absl::StrCat("flag ", arg, " needs a value"));
      }
      value = args[++i];
    }
    if (const std::string complaint = Complaint(*flag, *value); !complaint.empty()) {
      return absl::InvalidArgumentError(
          absl::StrCat("--", Absl(flag->name), " ", complaint, ", not \"", *value, "\""));
    }
    parsed.values_[std::string(flag->name)] = *value;
    given.push_back(flag);
  }

  if (parsed.Bool("version")) {
    parsed.command_ = "version";
    return parsed;
  }
  if (words.empty() || parsed.Bool("help")) {
    parsed.command_ = "help";
    if (!words.empty()) parsed.positionals_ = {words[0]};
    if (!words.empty() && FindCommand(words[0]) == nullptr) {
      return absl::InvalidArgumentError(absl::StrCat("unknown command ", words[0]));
    }
    return parsed;
  }
  const Command* command = FindCommand(words[0]);
  if (command == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat("unknown command ", words[0]));
  }
  parsed.command_ = words[0];
  parsed.positionals_.assign(words.begin() + 1, words.end());
  for (const Flag* flag : given) {
    if ((flag->groups & (command->groups | kAll)) == 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("--", Absl(flag->name), " is not a flag of ", Absl(command->name)));
    }
  }
  const size_t count = parsed.positionals_.size();
  if (count < command->min_positionals || count > command->max_positionals) {
    const std::string want = command->arguments.empty()
                                 ? "takes no arguments"
                                 : absl::StrCat("takes ", Absl(command->arguments));
    return absl::InvalidArgumentError(
        absl::StrCat(Absl(command->name), " ", want,
                     count > command->max_positionals && command->max_positionals > 0
                         ? "; put a text with blanks in quotes"
                         : ""));
  }
  for (const Flag& flag : kFlags) {
    if (flag.variable == nullptr || parsed.Has(flag.name)) continue;
    if ((flag.groups & (command->groups | kAll)) == 0) continue;
    const char* value = environment(flag.variable);
    if (value == nullptr || *value == '\0') continue;
    // An environment is shared by many commands: it never narrows a list.
    if (command->name == "list" && (flag.groups & kAll) == 0) continue;
    parsed.values_[std::string(flag.name)] = value;
  }
  return parsed;
}

std::string Args::String(std::string_view flag) const {
  const auto at = values_.find(std::string(flag));
  return at != values_.end() ? at->second : std::string(KnownFlag(flag).initial);
}

bool Args::Bool(std::string_view flag) const {
  bool value = false;
  return absl::SimpleAtob(String(flag), &value) && value;
}

int64_t Args::Int(std::string_view flag) const {
  int64_t value = 0;
  (void)absl::SimpleAtoi(String(flag), &value);
  return value;
}

uint64_t Args::Uint(std::string_view flag) const {
  uint64_t value = 0;
  (void)absl::SimpleAtoi(String(flag), &value);
  return value;
}

double Args::Double(std::string_view flag) const {
  double value = 0;
  (void)absl::SimpleAtod(String(flag), &value);
  return value;
}

absl::Duration Args::Duration(std::string_view flag) const {
  absl::Duration value = absl::ZeroDuration();
  (void)absl::ParseDuration(String(flag), &value);
  return value;
}

std::string HelpText(std::string_view name) {
  std::string text;
  const auto add_flags = [&](auto belongs) {
    for (const Flag& flag : kFlags) {
      if (!belongs(flag)) continue;
      std::string left = absl::StrCat("  --", Absl(flag.name));
      if (!flag.value.empty()) absl::StrAppend(&left, " ", Absl(flag.value));
      if (!flag.short_name.empty()) absl::StrAppend(&left, ", -", Absl(flag.short_name));
      absl::StrAppend(
          &text, left,
          left.size() < 34 ? std::string(34 - left.size(), ' ') : "\n" + std::string(34, ' '),
          Absl(flag.help));
      if (!flag.initial.empty() && flag.type != Type::kBool) {
        absl::StrAppend(&text, " (default: ", Absl(flag.initial), ")");
      }
      absl::StrAppend(&text, "\n");
    }
  };
  if (name.empty() || name == "help") {
    text =
        "Text to video: the command line of Kandinsky Video Service.\n\nUsage: kandinsky COMMAND "
        "[FLAGS]\n\nCommands:\n";
    for (const Command& command : kCommands) {
      std::string left = absl::StrCat("  ", Absl(command.name), " ", Absl(command.arguments));
      left.resize(std::max<size_t>(left.size() + 1, 38), ' ');
      absl::StrAppend(&text, left, Absl(command.summary), "\n");
    }
    absl::StrAppend(&text, "\nFlags of every command:\n");
    add_flags([](const Flag& flag) { return flag.groups == kAll; });
    absl::StrAppend(&text,
                    "\nExit codes: 0 done; 1 the job failed, or another error; 2 wrong usage or "
                    "invalid request; 3 not found;\n"
                    "4 server unavailable or time is up; 5 the job was cancelled; 6 the queue is "
                    "full; 130 interrupted.\n");
    return text;
  }
  const Command* command = FindCommand(name);
  if (command == nullptr) return "";
  text = absl::StrCat("Usage: kandinsky ", Absl(command->name), " ", Absl(command->arguments),
                      command->arguments.empty() ? "" : " ", "[FLAGS]\n\n", Absl(command->summary),
                      "\n");
  if (!command->details.empty()) absl::StrAppend(&text, "\n", Absl(command->details));
  absl::StrAppend(&text, "\nFlags:\n");
  add_flags([&](const Flag& flag) { return (flag.groups & (command->groups | kAll)) != 0; });
  return text;
}

}  // namespace kandinsky::cli
