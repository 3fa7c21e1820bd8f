// The pictures of training/domain/emoji.h, and frames drawn with them.
//
// A folder, as training/data/fetch_emoji fills it:
//   emoji.tsv       the list of emoji (training/domain/emoji.tsv)
//   webp/CODE.webp  an animated picture with alpha for each of its lines
//   art.rgba        made from these by Open when it is first used (a minute, 1 GB), and again when
//                   the list has changed: all frames at the size that training needs, decoded
//
// Thread rule: after Open, all methods are const and may be called from several threads at once.
// Memory: art.rgba is mapped, so that its pages can leave memory when others need it.
#ifndef KANDINSKY_TRAINING_DATA_EMOJI_ART_H_
#define KANDINSKY_TRAINING_DATA_EMOJI_ART_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "training/domain/emoji.h"

namespace kandinsky::training {

// Side of the pictures, in pixels: the square that everything an emoji ever shows just fits into.
inline constexpr int kArtSide = 128;

// The lines of an emoji.tsv after its first, which names the columns. INVALID_ARGUMENT names the
// line and what is wrong with it.
absl::StatusOr<std::vector<EmojiClass>> ParseEmojiList(const std::string& tsv);

class EmojiArt {
 public:
  // NOT_FOUND when the list or a picture is missing, DATA_LOSS when one is damaged,
  // INVALID_ARGUMENT for a list that cannot be read, INTERNAL when art.rgba cannot be written or
  // mapped. Several processes may do this at once.
  static absl::StatusOr<std::shared_ptr<const EmojiArt>> Open(const std::string& folder);
  ~EmojiArt();
  EmojiArt(const EmojiArt&) = delete;
  EmojiArt& operator=(const EmojiArt&) = delete;

  const std::vector<EmojiClass>& classes() const { return classes_; }
  // A checksum of the list: what decides on the data, as far as the folder does.
  uint32_t checksum() const { return checksum_; }

  // Frame 0 … kArtFrames - 1 of the loop: [kArtSide][kArtSide][4], red, green, blue and alpha,
  // colours multiplied by alpha.
  const uint8_t* Frame(int emoji, int frame) const;

  // Draws the clip at time t into rgb, [height][width][3]; around the middle between two frames of
  // the picture it shows their mixture.
  void Draw(const EmojiSpec& clip, double t, int height, int width, uint8_t* rgb) const;

 private:
  EmojiArt() = default;

  std::vector<EmojiClass> classes_;
  uint32_t checksum_ = 0;
  void* mapped_ = nullptr;
  size_t size_ = 0;
};

}  // namespace kandinsky::training

#endif  // KANDINSKY_TRAINING_DATA_EMOJI_ART_H_
