// The metrics of the frontend; see Metrics for the naming rules. grpc_server_* come from
// common/transport.
//
//   kandinsky_queue_depth{stage, priority, state}        waiting | delayed | running
//   kandinsky_queue_oldest_age_seconds{stage, priority}  of the oldest waiting task
//   kandinsky_workers_ready{stage}
//   kandinsky_jobs_created_total{outcome}      created | existing | queue_full | tenant_queue_full
//   |
//                                              request_id_conflict | invalid | store_error; by this
//                                              process
//   kandinsky_jobs_finished_total{outcome}     succeeded | failed | cancelled | expired; from the
//   event feed, so every
//                                              frontend counts every job: take the maximum over
//                                              frontends, not the sum
//   kandinsky_frontend_watch_streams, _generate_streams, _download_streams
//   kandinsky_redis_up, kandinsky_redis_warning{setting}
//
// The queue's gauges, too, are the same on every frontend.
#ifndef KANDINSKY_SERVICES_FRONTEND_FRONTEND_METRICS_H_
#define KANDINSKY_SERVICES_FRONTEND_FRONTEND_METRICS_H_

#include <array>
#include <map>
#include <string>
#include <vector>

#include "common/metrics/metrics.h"
#include "common/queue/task_queue.h"
#include "services/frontend/stream_reactor.h"

namespace kandinsky {

// Thread-safe.
class FrontendMetrics {
 public:
  // `metrics` must outlive it.
  explicit FrontendMetrics(Metrics& metrics);

  void JobCreated(const std::string& outcome);
  void Observe(const JobEvent& event);
  void SetQueue(const std::vector<StageQueueStats>& stats);
  void SetReadyWorkers(const std::map<Stage, int>& ready);
  void SetStreams(const StreamRegistry& streams);
  void SetStoreUp(bool up);
  // `settings` of the store that endanger jobs, by name; 0 or 1 each.
  void SetStoreWarnings(const std::map<std::string, bool>& settings);

 private:
  prometheus::Family<prometheus::Gauge>& depth_;
  prometheus::Family<prometheus::Gauge>& oldest_age_;
  prometheus::Family<prometheus::Gauge>& workers_ready_;
  prometheus::Family<prometheus::Counter>& created_;
  prometheus::Family<prometheus::Counter>& finished_;
  prometheus::Family<prometheus::Gauge>& store_warning_;
  prometheus::Gauge& store_up_;
  std::array<prometheus::Gauge*, kStreamKinds> streams_;
};

}  // namespace kandinsky

#endif  // KANDINSKY_SERVICES_FRONTEND_FRONTEND_METRICS_H_
