// Keeps the most recently used text contexts, so that a repeated prompt skips the text encoder.
#ifndef KANDINSKY_WORKER_MODEL_TEXT_EMBEDDING_CACHE_H_
#define KANDINSKY_WORKER_MODEL_TEXT_EMBEDDING_CACHE_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <list>
#include <map>
#include <mutex>
#include <string>
#include <tuple>

#include "worker/model/text/text_encoder.h"

namespace kandinsky::model {

// What the keyframe stage computes from a prompt. All tensors are float32 (masks bool) on the CPU.
struct EncodedPrompt {
  TextContext positive;  // [1, n, W]
  TextContext negative;  // [1, n, W]; undefined tensors without a negative prompt
};

// A bounded least-recently-used map. Thread-safe. The lock is not held while a value is computed:
// two threads that miss the same key at once both compute it, and get equal values.
class EmbeddingCache {
 public:
  struct Key {
    std::string model;
    std::string prompt;
    std::string negative_prompt;
    auto operator<=>(const Key&) const = default;
  };

  // Holds at most `max_entries` entries and `max_bytes` bytes of tensors; a value that is larger is
  // not kept.
  EmbeddingCache(size_t max_entries, int64_t max_bytes)
      : max_entries_(max_entries), max_bytes_(max_bytes) {}

  // The stored value, or compute()'s, which is stored. What compute throws is passed on and nothing
  // is stored.
  EncodedPrompt GetOrCompute(const Key& key, const std::function<EncodedPrompt()>& compute);

  size_t size() const;
  int64_t bytes() const;
  int64_t hits() const;
  int64_t misses() const;

 private:
  struct Entry {
    Key key;
    EncodedPrompt value;
    int64_t bytes = 0;
  };

  const size_t max_entries_;
  const int64_t max_bytes_;

  // Guarded by mutex_.
  mutable std::mutex mutex_;
  std::list<Entry> entries_;  // most recently used first
  std::map<Key, std::list<Entry>::iterator> index_;
  int64_t bytes_ = 0;
  int64_t hits_ = 0;
  int64_t misses_ = 0;
};

}  // namespace kandinsky::model

#endif  // KANDINSKY_WORKER_MODEL_TEXT_EMBEDDING_CACHE_H_
