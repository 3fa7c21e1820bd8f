// Does a model show what its prompt says? Prompts are drawn from the domain; what a clip shows is
// judged from its pixels (judge.h).
//
// Pure functions: any thread, no state.
#ifndef KANDINSKY_TRAINING_EVAL_PROMPT_MATCH_H_
#define KANDINSKY_TRAINING_EVAL_PROMPT_MATCH_H_

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "training/domain/shapes.h"
#include "training/eval/judge.h"
#include "training/eval/result.h"

namespace kandinsky::training {

struct PromptOptions {
  uint64_t seed = 1;
  int64_t count = 200;
  bool held_out = false;  // the six pairs that no training clip has, instead of the eighteen others
  Pace pace = Pace::kAny;  // kAny: a quarter is fast, as in training
};

// A clip that the prompt describes completely, in plain English.
struct PromptClip {
  ClipSpec spec;
  std::string prompt;
};

// Evenly: any 18 (held out: 6) clips in a row from a multiple of it have each pair of shape and
// colour once; motions are as even as the count allows (of each 28 clips, each of the seven slow
// ones three times, and the two fast ones seven times in all); backgrounds are drawn. Clip i does
// not depend on the count.
std::vector<PromptClip> DrawPrompts(const PromptOptions& options);

// What one clip was asked to show and what it shows: {"prompt", "seed", "seconds", "asked":
// {"shape", "color", "background", "motion"}, "shown": {the same; null: unknown}}.
nlohmann::ordered_json PromptRecord(const PromptClip& clip, uint64_t seed, double seconds,
                                    const Verdict& verdict);

// Whether all four attributes are right.
bool AllRight(const nlohmann::ordered_json& record);

// Tables, figures and clips of the result. Figures begin with "seen." or "held-out.".
void SummarizePrompts(const std::vector<nlohmann::ordered_json>& records, bool held_out,
                      Result& result);

}  // namespace kandinsky::training

#endif  // KANDINSKY_TRAINING_EVAL_PROMPT_MATCH_H_
