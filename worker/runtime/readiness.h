// The state in which a worker is, told to everybody who wants to know: metrics, health service,
// worker registry.
#ifndef KANDINSKY_WORKER_RUNTIME_READINESS_H_
#define KANDINSKY_WORKER_RUNTIME_READINESS_H_

#include <functional>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace kandinsky {

// LOADING -> READY -> DRAINING, or LOADING -> FAILED (-> DRAINING).
enum class WorkerState { kLoading, kReady, kDraining, kFailed };
std::string_view Name(WorkerState state);  // "loading", "ready", "draining", "failed"

// Thread-safe. Listeners are called in the order of the changes, from the thread that makes them.
class Readiness {
 public:
  using Listener = std::function<void(WorkerState state, const std::string& reason)>;

  // Calls `listener` with the present state, too. Listeners must not call back.
  void Subscribe(Listener listener);
  // `reason`: of kFailed. A change that the diagram above does not have is ignored.
  void Set(WorkerState state, std::string reason = "");
  std::pair<WorkerState, std::string> Get() const;

 private:
  mutable std::mutex mutex_;
  WorkerState state_ = WorkerState::kLoading;  // guarded by mutex_
  std::string reason_;                         // guarded by mutex_
  std::vector<Listener> listeners_;            // guarded by mutex_
};

}  // namespace kandinsky

#endif  // KANDINSKY_WORKER_RUNTIME_READINESS_H_
