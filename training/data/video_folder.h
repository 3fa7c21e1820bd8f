// A folder of videos with captions as training data: any container and codec that FFmpeg knows, any
// size and frame rate.
//
// Captions, for each video:
//   captions.jsonl in the folder: a line {"file": "a/b.mp4", "text": "…"} a caption, paths relative
//   to the folder, other members ignored, several lines a video allowed; or
//   a text file of the same name (a/b.txt for a/b.mp4): each line that is not blank is a caption.
// Videos are looked for in subfolders, too.
//
// Samples are numbered without end: number n is in epoch n / size(), and every epoch has every
// video once, in an order of its own. What sample n is follows from (seed, n) alone: the video, the
// moment where it starts, which of its captions. So processes that share a batch take different
// numbers, and a run goes on where it was killed without reading what it had.
//
// Thread rule: after Open, all methods are const and may be called from several threads at once;
// each call opens the file anew.
#ifndef KANDINSKY_TRAINING_DATA_VIDEO_FOLDER_H_
#define KANDINSKY_TRAINING_DATA_VIDEO_FOLDER_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace kandinsky::training {

struct VideoFolderOptions {
  std::string folder;
  int frames = 16;  // of a sample, 1 to 4096
  double fps = 2;   // at which they are taken: the frame that is on the screen at each moment
  int height = 64;  // resized until the frame is covered, then cut from the middle; 8 to 4096
  int width = 64;
  // True: the sample starts at a random moment of the video; false: at its beginning.
  bool random_start = true;
  // True: videos without a caption are samples with an empty one; false: they are left out.
  bool without_captions = false;
  // Only every `shards`-th video, from number `shard` on, in the order of their names: for machines
  // that hold or read a part each. 0 <= shard < shards.
  int shard = 0;
  int shards = 1;
};

struct VideoSample {
  std::vector<uint8_t> rgb;  // [frames][height][width][3]
  std::string text;          // UTF-8; empty when the video has no caption
  std::string file;          // relative to the folder
  double start = 0;          // seconds into the video
};

class VideoFolder {
 public:
  // Lists the folder and looks into every file. Leaves out what is too short for a sample, what
  // cannot be decoded and what has no caption, and counts it. INVALID_ARGUMENT names the option or
  // the line of captions.jsonl that is wrong; NOT_FOUND when the folder does not exist or no video
  // remains.
  static absl::StatusOr<VideoFolder> Open(const VideoFolderOptions& options);

  // Videos that are used.
  int64_t size() const { return static_cast<int64_t>(videos_.size()); }
  struct LeftOut {
    int64_t too_short = 0;
    int64_t unreadable = 0;
    int64_t without_caption = 0;
  };
  const LeftOut& left_out() const { return left_out_; }

  // Sample number `number`. DATA_LOSS when the file turns out to be damaged or shorter than it
  // says, NOT_FOUND when it has vanished.
  absl::StatusOr<VideoSample> Get(uint64_t seed, uint64_t number) const;

  // The same, but a sample that cannot be read is replaced by another video's, at most eight times,
  // with a warning in the log: one bad file in a million does not end a run of days. Which one it
  // is follows from (seed, number), too.
  absl::StatusOr<VideoSample> GetReadable(uint64_t seed, uint64_t number) const;

 private:
  struct Video {
    std::string file;  // relative to the folder
    std::vector<std::string> captions;
    double slack = 0;  // seconds by which the start can move
  };

  // The attempt-th choice for the sample; attempt 0 is Get's.
  absl::StatusOr<VideoSample> Read(uint64_t seed, uint64_t number, int attempt) const;

  VideoFolderOptions options_;
  std::vector<Video> videos_;
  LeftOut left_out_;
};

}  // namespace kandinsky::training

#endif  // KANDINSKY_TRAINING_DATA_VIDEO_FOLDER_H_
