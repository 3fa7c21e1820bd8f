// Batches ahead of the training, on threads of their own.
#ifndef KANDINSKY_TRAINING_CORE_LOADER_H_
#define KANDINSKY_TRAINING_CORE_LOADER_H_

#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <map>
#include <mutex>
#include <thread>
#include <vector>

#include "training/core/task.h"

namespace kandinsky::training {

// Loads steps first, first + 1, … < last with `threads` threads, at most `threads` + 2 steps ahead.
// Next from one thread.
class Loader {
 public:
  using Load = std::function<Batch(int64_t step)>;  // called from several threads at once

  Loader(Load load, int64_t first, int64_t last, int threads);
  ~Loader();  // ends the threads; batches that nobody asked for are lost
  Loader(const Loader&) = delete;
  Loader& operator=(const Loader&) = delete;

  // The batch of the next step, in order. Throws what its loading threw.
  Batch Next();

 private:
  void Work();

  const Load load_;
  const int64_t last_;
  const int64_t ahead_;

  std::mutex mutex_;  // guards what follows
  std::condition_variable changed_;
  bool stop_ = false;
  int64_t next_to_load_;
  int64_t next_to_give_;
  std::map<int64_t, Batch> ready_;
  std::map<int64_t, std::exception_ptr> failed_;

  std::vector<std::thread> threads_;
};

}  // namespace kandinsky::training

#endif  // KANDINSKY_TRAINING_CORE_LOADER_H_
