#include "worker/model/text/embedding_cache.h"

#include <utility>

namespace kandinsky::model {
namespace {

int64_t Bytes(const EncodedPrompt& value) {
  int64_t bytes = 0;
  for (const at::Tensor* tensor : {&value.positive.context, &value.positive.mask,
                                   &value.negative.context, &value.negative.mask}) {
    if (tensor->defined()) bytes += static_cast<int64_t>(tensor->nbytes());
  }
  return bytes;
}

}  // namespace

EncodedPrompt EmbeddingCache::GetOrCompute(const Key& key,
                                           const std::function<EncodedPrompt()>& compute) {
  {
    std::lock_guard lock(mutex_);
    if (const auto found = index_.find(key); found != index_.end()) {
      entries_.splice(entries_.begin(), entries_, found->second);
      ++hits_;
      return entries_.front().value;
    }
    ++misses_;
  }
  EncodedPrompt value = compute();
  const int64_t bytes = Bytes(value);
  std::lock_guard lock(mutex_);
  if (bytes > max_bytes_ || max_entries_ == 0 || index_.count(key) > 0) return value;
  entries_.push_front({key, value, bytes});
  index_[key] = entries_.begin();
  bytes_ += bytes;
  while (entries_.size() > max_entries_ || bytes_ > max_bytes_) {
    bytes_ -= entries_.back().bytes;
    index_.erase(entries_.back().key);
    entries_.pop_back();
  }
  return value;
}

size_t EmbeddingCache::size() const {
  std::lock_guard lock(mutex_);
  return entries_.size();
}

int64_t EmbeddingCache::bytes() const {
  std::lock_guard lock(mutex_);
  return bytes_;
}

int64_t EmbeddingCache::hits() const {
  std::lock_guard lock(mutex_);
  return hits_;
}

int64_t EmbeddingCache::misses() const {
  std::lock_guard lock(mutex_);
  return misses_;
}

}  // namespace kandinsky::model
