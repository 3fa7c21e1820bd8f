#include "training/core/loader.h"

#include <ATen/Parallel.h>

#include <utility>

namespace kandinsky::training {

Loader::Loader(Load load, int64_t first, int64_t last, int threads)
    : load_(std::move(load)),
      last_(last),
      ahead_(threads + 2),
      next_to_load_(first),
      next_to_give_(first) {
  for (int i = 0; i < threads; ++i) threads_.emplace_back([this] { Work(); });
}

Loader::~Loader() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void Loader::Work() {
  at::set_num_threads(1);
  at::NoGradGuard no_grad;
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [&] {
      return stop_ || next_to_load_ >= last_ || next_to_load_ < next_to_give_ + ahead_;
    });
    if (stop_ || next_to_load_ >= last_) return;
    const int64_t step = next_to_load_++;
    lock.unlock();
    Batch batch;
    std::exception_ptr failure;
    try {
      batch = load_(step);
    } catch (...) {
      failure = std::current_exception();
    }
    lock.lock();
    if (failure) {
      failed_[step] = failure;
    } else {
      ready_[step] = std::move(batch);
    }
    changed_.notify_all();
  }
}

Batch Loader::Next() {
  std::unique_lock lock(mutex_);
  const int64_t step = next_to_give_;
  changed_.wait(lock, [&] { return ready_.count(step) > 0 || failed_.count(step) > 0; });
  if (const auto failure = failed_.find(step); failure != failed_.end()) {
    std::rethrow_exception(failure->second);
  }
  Batch batch = std::move(ready_.extract(step).mapped());
  ++next_to_give_;
  lock.unlock();
  changed_.notify_all();
  return batch;
}

}  // namespace kandinsky::training
