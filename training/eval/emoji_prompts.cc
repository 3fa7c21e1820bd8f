#include "training/eval/emoji_prompts.h"

#include <algorithm>
#include <functional>
#include <map>
#include <optional>
#include <utility>

#include "training/domain/random.h"

namespace kandinsky::training {
namespace {

using Json = nlohmann::ordered_json;
using Records = std::vector<const Json*>;

constexpr uint64_t kWords = 0x656d6f31;  // stream of the seed

bool Right(const Json& record, const char* attribute) {
  return record["shown"][attribute] == record["asked"][attribute];
}
// Noise is animated, too: only the right emoji counts.
bool Animated(const Json& record) {
  return record["animated"].get<bool>() && Right(record, "emoji");
}

std::optional<Interval> Share(const Records& records,
                              const std::function<bool(const Json&)>& right) {
  if (records.empty()) return std::nullopt;
  const auto count = std::count_if(records.begin(), records.end(),
                                   [&](const Json* record) { return right(*record); });
  return Proportion(count, static_cast<int64_t>(records.size()));
}

Records Only(const Records& records, const std::function<bool(const Json&)>& wanted) {
  Records some;
  for (const Json* record : records) {
    if (wanted(*record)) some.push_back(record);
  }
  return some;
}

struct Measure {
  const char* name;   // of the figure
  const char* title;  // of the column
  std::function<std::optional<Interval>(const Records&)> share;
};

const std::vector<Measure>& Measures() {
  const auto of = [](const char* attribute) {
    return [attribute](const Records& records) {
      return Share(records, [&](const Json& record) { return Right(record, attribute); });
    };
  };
  static const auto* const measures = new std::vector<Measure>{
      {"emoji", "emoji", of("emoji")},
      {"background", "background", of("background")},
      {"motion", "motion", of("motion")},
      {"all", "all three", [](const Records& records) { return Share(records, EmojiAllRight); }},
      {"animated", "animated", [](const Records& records) {
         return Share(Only(records, [](const Json& record) { return !record["weak"].get<bool>(); }),
                      Animated);
       }}};
  return *measures;
}

void AddRow(Table& table, const std::string& title, const Records& records) {
  if (records.empty()) return;
  std::vector<std::optional<Interval>> cells;
  for (const Measure& measure : Measures()) cells.push_back(measure.share(records));
  table.Add(title, std::move(cells));
}

Table MakeTable(std::string title, std::string rows) {
  Table table{.title = std::move(title), .row_title = std::move(rows)};
  for (const Measure& measure : Measures()) table.columns.push_back({measure.title, "%", 1});
  return table;
}

// The rows of a table by what `key` gives for a record.
void AddRows(Table& table, const Records& records,
             const std::function<std::string(const Json&)>& key) {
  std::map<std::string, Records> parts;
  for (const Json* record : records) parts[key(*record)].push_back(record);
  for (const auto& [title, part] : parts) AddRow(table, title, part);
}

}  // namespace

std::vector<EmojiPromptClip> DrawEmojiPrompts(const EmojiPromptOptions& options,
                                              const std::vector<EmojiClass>& classes) {
  const EmojiClipOptions clips{.split = options.held_out ? Split::kHeldOut : Split::kTrain};
  std::vector<EmojiPromptClip> prompts;
  const auto any = std::any_of(classes.begin(), classes.end(), [](const EmojiClass& emoji) {
    return !emoji.english_synonyms.empty() && !emoji.russian_synonyms.empty();
  });
  if (options.wording == Wording::kSynonyms && !any) return prompts;
  for (uint64_t i = 0; static_cast<int64_t>(prompts.size()) < options.count; ++i) {
    EmojiPromptClip clip{.spec =
                             EmojiClipAt(options.seed, i, static_cast<int>(classes.size()), clips)};
    Random random = Random::At(options.seed, kWords, i);
    EmojiClass emoji = classes[static_cast<size_t>(clip.spec.emoji)];
    clip.russian = random.Chance(options.russian);
    if (options.wording == Wording::kSynonyms) {
      const auto& synonyms = clip.russian ? emoji.russian_synonyms : emoji.english_synonyms;
      if (synonyms.empty()) continue;
      (clip.russian ? emoji.russian : emoji.english) =
          synonyms[static_cast<size_t>(random.Below(static_cast<int>(synonyms.size())))];
    }
    clip.prompt = EmojiCaption(clip.spec, emoji, random,
                               {.russian = clip.russian ? 1.0 : 0.0,
                                .leave_out = 0,
                                .plain = options.wording != Wording::kTyped})
                      .text;
    prompts.push_back(std::move(clip));
  }
  return prompts;
}

Json EmojiPromptRecord(const EmojiPromptClip& clip, uint64_t seed, double seconds,
                       const EmojiVerdict& verdict, const std::vector<EmojiClass>& classes) {
  const EmojiClass& emoji = classes[static_cast<size_t>(clip.spec.emoji)];
  const auto name = [](const auto& value) {
    return value ? Json(std::string(Name(*value))) : Json(nullptr);
  };
  Json record;
  record["prompt"] = clip.prompt;
  record["seed"] = seed;
  record["seconds"] = seconds;
  record["russian"] = clip.russian;
  record["group"] = emoji.group;
  record["weak"] = emoji.weak;
  record["asked"] = {{"emoji", emoji.english},
                     {"background", std::string(Name(clip.spec.background))},
                     {"motion", std::string(Name(clip.spec.motion))}};
  record["shown"] = {
      {"emoji",
       verdict.emoji ? Json(classes[static_cast<size_t>(*verdict.emoji)].english) : Json(nullptr)},
      {"background", name(verdict.background)},
      {"motion", name(verdict.motion)}};
  record["animation"] = verdict.animation;
  record["animated"] = verdict.animated;
  return record;
}

bool EmojiAllRight(const Json& record) {
  return Right(record, "emoji") && Right(record, "background") && Right(record, "motion");
}

void SummarizeEmojiPrompts(const std::vector<Json>& records, bool held_out, Result& result) {
  Records all;
  std::vector<double> seconds;
  for (const Json& record : records) {
    all.push_back(&record);
    seconds.push_back(record["seconds"].get<double>());
  }
  const Records russian =
      Only(all, [](const Json& record) { return record["russian"].get<bool>(); });
  const Records english =
      Only(all, [](const Json& record) { return !record["russian"].get<bool>(); });
  Table shares = MakeTable(
      std::string("Right, ") + (held_out ? "held-out" : "seen") + " combinations", "clips");
  AddRow(shares, "all", all);
  AddRow(shares, "English", english);
  AddRow(shares, "Russian", russian);
  result.report.tables.push_back(std::move(shares));
  const auto asked = [](const char* attribute) {
    return
        [attribute](const Json& record) { return record["asked"][attribute].get<std::string>(); };
  };
  Table groups = MakeTable("By group", "group");
  AddRows(groups, all, [](const Json& record) { return record["group"].get<std::string>(); });
  Table backgrounds = MakeTable("By background asked for", "background");
  AddRows(backgrounds, all, asked("background"));
  Table motions = MakeTable("By motion asked for", "motion");
  AddRows(motions, all, asked("motion"));
  Table wrong = MakeTable("Emoji that are not always right", "emoji");
  AddRows(wrong,
          Only(all,
               [&](const Json& record) {
                 return std::any_of(all.begin(), all.end(), [&](const Json* other) {
                   return (*other)["asked"]["emoji"] == record["asked"]["emoji"] &&
                          !Right(*other, "emoji");
                 });
               }),
          asked("emoji"));
  for (Table* table : {&groups, &backgrounds, &motions, &wrong}) {
    result.report.tables.push_back(std::move(*table));
  }
  Table time{.title = "Time", .row_title = "", .columns = {{"seconds a clip", "s", 2}}};
  time.Add("generation", {Mean(seconds)});
  result.report.tables.push_back(std::move(time));

  const std::string prefix = held_out ? "emoji.held-out." : "emoji.seen.";
  const std::pair<const char*, const Records*> parts[] = {
      {"", &all}, {"english.", &english}, {"russian.", &russian}};
  for (const auto& [part, some] : parts) {
    for (const Measure& measure : Measures()) {
      const auto share = measure.share(*some);
      if (share) result.figures[prefix + part + measure.name] = *share;
    }
  }
  result.figures[prefix + "seconds"] = Mean(seconds);
  result.clips = records;
}

}  // namespace kandinsky::training
