#include "training/eval/prompt_match.h"

#include <algorithm>
#include <functional>
#include <map>
#include <optional>
#include <string_view>
#include <utility>

#include "training/domain/captions.h"
#include "training/domain/random.h"

namespace kandinsky::training {
namespace {

using Json = nlohmann::ordered_json;

// Streams of the seed.
constexpr uint64_t kPairs = 0x65766131, kMotionOrder = 0x65766132, kClips = 0x65766133;

constexpr const char* kAttributes[] = {"color", "background", "shape", "motion"};
constexpr const char* kTitles[] = {"colour", "background", "shape", "motion"};

// Element i of the endless list of shuffled copies of `deck`.
template <typename T>
T Deal(std::vector<T> deck, uint64_t seed, uint64_t stream, int64_t i) {
  const auto size = static_cast<int64_t>(deck.size());
  Random random = Random::At(seed, stream, static_cast<uint64_t>(i / size));
  for (size_t k = deck.size() - 1; k > 0; --k) {
    std::swap(deck[k], deck[static_cast<size_t>(random.Below(static_cast<int>(k) + 1))]);
  }
  return deck[static_cast<size_t>(i % size)];
}

std::vector<std::pair<Shape, Color>> Pairs(bool held_out) {
  std::vector<std::pair<Shape, Color>> pairs;
  for (int shape = 0; shape < kShapes; ++shape) {
    for (int color = 0; color < kColors; ++color) {
      const std::pair pair(static_cast<Shape>(shape), static_cast<Color>(color));
      if (HeldOut(pair.first, pair.second) == held_out) pairs.push_back(pair);
    }
  }
  return pairs;
}

std::vector<Motion> Motions(Pace pace, int64_t round) {
  std::vector<Motion> motions;
  for (int motion = 0; motion < kMotions; ++motion) {
    const auto value = static_cast<Motion>(motion);
    const bool fast = IsFast(value);
    if (fast ? pace == Pace::kSlow : pace == Pace::kFast) continue;
    int times = 1;
    if (pace == Pace::kAny) {
      // The odd one of seven fast clips goes to each of the two in turn.
      const bool more = (round % 2 == 0) == (value == Motion::kBounce);
      times = fast ? (more ? 4 : 3) : 3;
    }
    motions.insert(motions.end(), static_cast<size_t>(times), value);
  }
  return motions;
}

bool Right(const Json& record, const char* attribute) {
  return record["shown"][attribute] == record["asked"][attribute];
}

// The text of a name; empty for null.
std::string Text(const Json& name) { return name.is_string() ? name.get<std::string>() : ""; }

bool IsFastName(const std::string& name) {
  return name == Name(Motion::kBounce) || name == Name(Motion::kCircle);
}

using Records = std::vector<const Json*>;

Interval Share(const Records& records, const std::function<bool(const Json&)>& right) {
  int64_t successes = 0;
  for (const Json* record : records) successes += right(*record) ? 1 : 0;
  return Proportion(successes, static_cast<int64_t>(records.size()));
}

// Rows: what was asked for; columns: what is seen.
template <typename T>
Table Confusion(const Records& records, const char* attribute, std::string title, int values) {
  Table table{.title = std::move(title), .row_title = "asked for"};
  for (int i = 0; i < values; ++i) {
    table.columns.push_back({std::string(Name(static_cast<T>(i))), "", 0});
  }
  table.columns.push_back({"unknown", "", 0});
  for (int i = 0; i < values; ++i) {
    const std::string_view asked = Name(static_cast<T>(i));
    std::vector<int64_t> counts(static_cast<size_t>(values) + 1);
    int64_t sum = 0;
    for (const Json* record : records) {
      if (Text((*record)["asked"][attribute]) != asked) continue;
      size_t column = static_cast<size_t>(values);
      for (int k = 0; k < values; ++k) {
        if (Text((*record)["shown"][attribute]) == Name(static_cast<T>(k))) {
          column = static_cast<size_t>(k);
        }
      }
      ++counts[column];
      ++sum;
    }
    if (sum == 0) continue;
    std::vector<std::optional<Interval>> cells;
    for (const int64_t count : counts) {
      const auto value = static_cast<double>(count);
      cells.push_back(Interval{value, value, value, sum});
    }
    table.Add(std::string(asked), std::move(cells));
  }
  return table;
}

// A network may miss a colour on one background alone, which few clips show and no sum does.
Table ColorsByBackground(const Records& records) {
  Table table{.title = "Colour right, by background", .row_title = "asked for"};
  for (int i = 0; i < kBackgrounds; ++i) {
    table.columns.push_back({std::string(Name(static_cast<Background>(i))), "%", 0});
  }
  for (int i = 0; i < kColors; ++i) {
    const std::string_view color = Name(static_cast<Color>(i));
    std::vector<std::optional<Interval>> cells;
    for (int k = 0; k < kBackgrounds; ++k) {
      Records part;
      for (const Json* record : records) {
        const Json& asked = (*record)["asked"];
        if (Text(asked["color"]) == color &&
            Text(asked["background"]) == Name(static_cast<Background>(k))) {
          part.push_back(record);
        }
      }
      cells.emplace_back();
      if (part.empty()) continue;
      cells.back() = Share(part, [](const Json& record) { return Right(record, "color"); });
    }
    const bool any = std::any_of(cells.begin(), cells.end(), [](const auto& cell) { return cell; });
    if (any) table.Add(std::string(color), std::move(cells));
  }
  return table;
}

}  // namespace

std::vector<PromptClip> DrawPrompts(const PromptOptions& options) {
  const auto pairs = Pairs(options.held_out);
  const auto round_size = static_cast<int64_t>(Motions(options.pace, 0).size());
  std::vector<PromptClip> clips;
  for (int64_t i = 0; i < options.count; ++i) {
    const auto [shape, color] = Deal(pairs, options.seed, kPairs, i);
    const Motion motion =
        Deal(Motions(options.pace, i / round_size), options.seed, kMotionOrder, i);
    Random random = Random::At(options.seed, kClips, static_cast<uint64_t>(i));
    PromptClip clip;
    do {
      clip.spec = SampleClip(
          random, {.split = options.held_out ? Split::kHeldOut : Split::kTrain, .motion = motion});
    } while (clip.spec.shape != shape || clip.spec.color != color);
    clip.prompt =
        Caption(clip.spec, random,
                {.russian = 0, .leave_out = 0, .capital = 0, .full_stop = 0, .plain = true})
            .text;
    clips.push_back(std::move(clip));
  }
  return clips;
}

Json PromptRecord(const PromptClip& clip, uint64_t seed, double seconds, const Verdict& verdict) {
  const auto text = [](auto value) { return std::string(Name(value)); };
  const auto name = [&](const auto& value) { return value ? Json(text(*value)) : Json(nullptr); };
  Json record;
  record["prompt"] = clip.prompt;
  record["seed"] = seed;
  record["seconds"] = seconds;
  record["asked"] = {{"shape", text(clip.spec.shape)},
                     {"color", text(clip.spec.color)},
                     {"background", text(clip.spec.background)},
                     {"motion", text(clip.spec.motion)}};
  record["shown"] = {{"shape", name(verdict.shape)},
                     {"color", name(verdict.color)},
                     {"background", name(verdict.background)},
                     {"motion", name(verdict.motion)}};
  return record;
}

bool AllRight(const Json& record) {
  return std::all_of(std::begin(kAttributes), std::end(kAttributes),
                     [&](const char* attribute) { return Right(record, attribute); });
}

void SummarizePrompts(const std::vector<Json>& records, bool held_out, Result& result) {
  Records all, slow, fast;
  std::vector<double> seconds;
  for (const Json& record : records) {
    all.push_back(&record);
    (IsFastName(Text(record["asked"]["motion"])) ? fast : slow).push_back(&record);
    seconds.push_back(record["seconds"].get<double>());
  }
  const auto both = [](const Json& record) {
    return Right(record, "color") && Right(record, "shape");
  };

  Table shares{
      .title = std::string("Attributes right, ") + (held_out ? "held-out pairs" : "seen pairs"),
      .row_title = "clips"};
  for (const char* title : kTitles) shares.columns.push_back({title, "%", 1});
  shares.columns.push_back({"colour and shape", "%", 1});
  shares.columns.push_back({"all four", "%", 1});
  const auto add = [&](const char* name, const Records& part) {
    if (part.empty()) return;
    std::vector<std::optional<Interval>> cells;
    for (const char* attribute : kAttributes) {
      cells.push_back(Share(part, [&](const Json& record) { return Right(record, attribute); }));
    }
    cells.push_back(Share(part, both));
    cells.push_back(Share(part, AllRight));
    shares.Add(name, std::move(cells));
  };
  add("all", all);
  if (!slow.empty() && !fast.empty()) {
    add("slow motion", slow);
    add("fast motion", fast);
  }
  result.report.tables.push_back(std::move(shares));
  result.report.tables.push_back(
      Confusion<Motion>(all, "motion", "Motion: clips asked for and seen", kMotions));
  result.report.tables.push_back(
      Confusion<Shape>(all, "shape", "Shape: clips asked for and seen", kShapes));
  result.report.tables.push_back(
      Confusion<Color>(all, "color", "Colour: clips asked for and seen", kColors));
  result.report.tables.push_back(ColorsByBackground(all));
  Table time{.title = "Time", .row_title = "", .columns = {{"seconds a clip", "s", 2}}};
  time.Add("generation", {Mean(seconds)});
  result.report.tables.push_back(std::move(time));

  const std::string prefix = held_out ? "held-out." : "seen.";
  for (const char* attribute : kAttributes) {
    const auto right = [&](const Json& record) { return Right(record, attribute); };
    result.figures[prefix + attribute] = Share(all, right);
    if (!slow.empty()) result.figures[prefix + "slow." + attribute] = Share(slow, right);
    if (!fast.empty()) result.figures[prefix + "fast." + attribute] = Share(fast, right);
  }
  result.figures[prefix + "color_and_shape"] = Share(all, both);
  result.figures[prefix + "all"] = Share(all, AllRight);
  result.figures[prefix + "seconds"] = Mean(seconds);
  result.clips = records;
}

}  // namespace kandinsky::training
