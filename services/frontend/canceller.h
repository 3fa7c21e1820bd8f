// Cancels the jobs of clients that went away, and keeps trying for a while when the store is away,
// too.
#ifndef KANDINSKY_SERVICES_FRONTEND_CANCELLER_H_
#define KANDINSKY_SERVICES_FRONTEND_CANCELLER_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/time/time.h"
#include "common/queue/job_store.h"
#include "services/frontend/mutex.h"
#include "services/frontend/work_pool.h"

namespace kandinsky {

// Thread-safe. `store` and `pool` must outlive it, and the pool must be stopped before it goes.
class Canceller {
 public:
  Canceller(JobStore* store, WorkPool* pool) : store_(store), pool_(pool) {}

  // Does not block.
  void Cancel(const std::string& job_id);
  // Tries again what failed; called by the timer of the process.
  void Tick();

 private:
  struct Request {
    std::string job_id;
    absl::Time since;
  };
  void Submit(Request request);

  JobStore* const store_;
  WorkPool* const pool_;

  Mutex mutex_;
  std::vector<Request> failed_ ABSL_GUARDED_BY(mutex_);
};

// Joins the two halves of cancel_on_disconnect, which come in either order: the job has an id, the
// client is gone. Thread-safe.
class DisconnectWatch {
 public:
  // `canceller` must outlive it.
  explicit DisconnectWatch(Canceller* canceller) : canceller_(canceller) {}
  void OnJob(const std::string& job_id);
  void OnDisconnect();

 private:
  Canceller* const canceller_;

  Mutex mutex_;
  std::string job_id_ ABSL_GUARDED_BY(mutex_);
  bool disconnected_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace kandinsky

#endif  // KANDINSKY_SERVICES_FRONTEND_CANCELLER_H_
