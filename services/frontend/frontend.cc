#include "services/frontend/frontend.h"

#include <random>

namespace kandinsky {

uint64_t RandomSeed() {
  std::random_device device;
  const uint64_t high = device();
  const uint64_t low = device();
  return (high << 32 | (low & 0xFFFFFFFF)) >> 1;
}

std::map<Stage, int> CountReady(const std::vector<TaskQueue::WorkerInfo>& workers) {
  std::map<Stage, int> ready;
  for (const TaskQueue::WorkerInfo& worker : workers) {
    if (worker.state == "ready") ++ready[worker.stage];
  }
  return ready;
}

}  // namespace kandinsky
