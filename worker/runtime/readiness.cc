#include "worker/runtime/readiness.h"

#include "common/base/log.h"

namespace kandinsky {

std::string_view Name(WorkerState state) {
  switch (state) {
    case WorkerState::kLoading:
      return "loading";
    case WorkerState::kReady:
      return "ready";
    case WorkerState::kDraining:
      return "draining";
    case WorkerState::kFailed:
      return "failed";
  }
  return "unknown";
}

void Readiness::Subscribe(Listener listener) {
  const std::lock_guard<std::mutex> lock(mutex_);
  listener(state_, reason_);
  listeners_.push_back(std::move(listener));
}

void Readiness::Set(WorkerState state, std::string reason) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const bool legal = (state_ == WorkerState::kLoading && state != WorkerState::kLoading) ||
                     (state_ != WorkerState::kDraining && state == WorkerState::kDraining);
  if (!legal) return;
  state_ = state;
  reason_ = std::move(reason);
  Log(state == WorkerState::kFailed ? LogLevel::kError : LogLevel::kInfo, "worker state changed",
      {{"state", Name(state)}, {"reason", reason_}});
  for (const Listener& listener : listeners_) listener(state_, reason_);
}

std::pair<WorkerState, std::string> Readiness::Get() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return {state_, reason_};
}

}  // namespace kandinsky
