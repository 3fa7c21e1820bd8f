// Sentences about clips, in English and Russian: many templates and synonyms, attributes sometimes
// left out.
#ifndef KANDINSKY_TRAINING_DOMAIN_CAPTIONS_H_
#define KANDINSKY_TRAINING_DOMAIN_CAPTIONS_H_

#include <cstdint>
#include <string>

#include "training/domain/random.h"
#include "training/domain/shapes.h"

namespace kandinsky::training {

struct CaptionOptions {
  // How many captions are Russian.
  double russian = 0.25;
  // How often an attribute is left out, each on its own; at least one always stays. A colour that
  // has no name is never mentioned, a mixed one by the plainest words for both.
  double leave_out = 0.1;
  // False: a caption of a single frame, which never mentions motion.
  bool motion = true;
  // How often the caption begins with a capital letter, and how often it ends with a full stop.
  double capital = 0.15;
  double full_stop = 0.15;
  // True: one template a language and the plainest words, "a red circle moves to the right on a
  // white background". Nothing is drawn but the language and what is left out.
  bool plain = false;
};

// The flags tell what the text mentions, `color` one of the eight alone. Any value is right for
// what it does not mention.
struct Captioned {
  std::string text;  // UTF-8
  bool shape = false;
  bool color = false;
  bool background = false;
  bool motion = false;
};

Captioned Caption(const ClipSpec& clip, Random& random, const CaptionOptions& options);

// The caption of clip number `index`, so that a data set is a function of its seed. `variant`
// numbers different captions of the same clip, for example by epoch.
Captioned CaptionAt(uint64_t seed, uint64_t index, const ClipSpec& clip,
                    const CaptionOptions& options, uint64_t variant = 0);

}  // namespace kandinsky::training

#endif  // KANDINSKY_TRAINING_DOMAIN_CAPTIONS_H_
