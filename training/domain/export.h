// Writes clips of the domain as MP4 files with captions: to look at, to share, and for trainers
// that read folders of videos (training/data/video_folder.h).
#ifndef KANDINSKY_TRAINING_DOMAIN_EXPORT_H_
#define KANDINSKY_TRAINING_DOMAIN_EXPORT_H_

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "training/domain/captions.h"
#include "training/domain/shapes.h"

namespace kandinsky::training {

// As dataset.json and options name them, in the order of the enumerations.
inline constexpr std::string_view kSplitNames[] = {"train", "held-out", "all"};
inline constexpr std::string_view kPaceNames[] = {"any", "slow", "fast"};

struct DatasetOptions {
  std::string out;  // a folder; made when missing
  int64_t count = 0;
  uint64_t seed = 0;
  // Clip number first + i becomes file number i, so that several machines can share the work,
  // each with a folder of its own.
  uint64_t first = 0;
  ClipOptions clip;
  CaptionOptions caption;
  int size = 64;       // pixels, even, 16 to 4096
  bool dense = false;  // false: 16 frames at 2 fps; true: 241 frames at 32 fps
  int quality = 95;    // of the encoder, 0 to 100
  int threads = 0;     // 0: one a core
};

// One clip as MP4 at `path`; the file appears when it is complete.
absl::Status WriteClip(const ClipSpec& clip, const DatasetOptions& options,
                       const std::string& path);

// Writes into options.out:
//   clip-00000000.mp4 …    numbered by the clip's number in the data set of the seed
//   captions.jsonl         a line a clip: {"file", "text", "mentions": ["shape", …], and what is
//   true:
//                          "shape", "color", "background", "motion"}
//   dataset.json           the options
// The same options give the same bytes. A run that was interrupted goes on where it was.
// INVALID_ARGUMENT names the option that is out of range;
// FAILED_PRECONDITION when the folder holds a data set with other options. `progress` is called
// with the number of clips that are there, from one thread at a time.
absl::Status WriteDataset(const DatasetOptions& options,
                          const std::function<void(int64_t done)>& progress = nullptr);

}  // namespace kandinsky::training

#endif  // KANDINSKY_TRAINING_DOMAIN_EXPORT_H_
