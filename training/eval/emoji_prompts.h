// Does a model of animated emoji show what its prompt says? As prompt_match.h for the moving
// shapes, with the judge of emoji_judge.h.
//
// Pure functions: any thread, no state.
#ifndef KANDINSKY_TRAINING_EVAL_EMOJI_PROMPTS_H_
#define KANDINSKY_TRAINING_EVAL_EMOJI_PROMPTS_H_

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "training/domain/emoji.h"
#include "training/eval/emoji_judge.h"
#include "training/eval/result.h"

namespace kandinsky::training {

// kPlain: "a panda on a yellow background moves to the left". kSynonyms: the same with another
// name, for emoji that have one. kTyped: as training's captions are, but for what they leave out.
enum class Wording { kPlain, kSynonyms, kTyped };

struct EmojiPromptOptions {
  uint64_t seed = 1;
  int64_t count = 217;
  bool held_out = false;  // combinations that no training clip has
  double russian = 0.5;   // how many prompts are Russian
  Wording wording = Wording::kPlain;
};

struct EmojiPromptClip {
  EmojiSpec spec;
  std::string prompt;
  bool russian = false;
};

// Evenly: as many clips in a row as there are emoji have each once (with kSynonyms, each of those
// that have one in the language). Clip i does not depend on the count.
std::vector<EmojiPromptClip> DrawEmojiPrompts(const EmojiPromptOptions& options,
                                              const std::vector<EmojiClass>& classes);

// What one clip was asked to show and what it shows: {"prompt", "seed", "seconds", "russian",
// "group", "weak", "asked":
// {"emoji", "background", "motion"}, "shown": {the same; null: unknown}, "animation", "animated"}.
nlohmann::ordered_json EmojiPromptRecord(const EmojiPromptClip& clip, uint64_t seed, double seconds,
                                         const EmojiVerdict& verdict,
                                         const std::vector<EmojiClass>& classes);

// Whether emoji, background and motion are right.
bool EmojiAllRight(const nlohmann::ordered_json& record);

// Tables, figures and clips of the result. Figures begin with "emoji.seen." or "emoji.held-out.".
// Animation is counted among clips that ask for an emoji that visibly has one; it counts with the
// right emoji only.
void SummarizeEmojiPrompts(const std::vector<nlohmann::ordered_json>& records, bool held_out,
                           Result& result);

}  // namespace kandinsky::training

#endif  // KANDINSKY_TRAINING_EVAL_EMOJI_PROMPTS_H_
