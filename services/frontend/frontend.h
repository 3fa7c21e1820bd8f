// What the calls of one frontend process share: the engine, the models, the threads that block, the
// event hub.
#ifndef KANDINSKY_SERVICES_FRONTEND_FRONTEND_H_
#define KANDINSKY_SERVICES_FRONTEND_FRONTEND_H_

#include <cstdint>
#include <functional>

#include "absl/time/time.h"
#include "common/queue/job_store.h"
#include "common/queue/task_queue.h"
#include "common/queue/video_store.h"
#include "services/frontend/canceller.h"
#include "services/frontend/event_hub.h"
#include "services/frontend/frontend_metrics.h"
#include "services/frontend/model_catalog.h"
#include "services/frontend/stream_reactor.h"
#include "services/frontend/validation.h"
#include "services/frontend/work_pool.h"

namespace kandinsky {

// Uniform in 0 to 2^63 - 1, from the system's random source. Thread-safe.
uint64_t RandomSeed();

struct FrontendSettings {
  TimeoutLimits timeouts;
  AdmissionLimits admission;                   // told by GetServerInfo; the engine enforces them
  absl::Duration retention = absl::Hours(24);  // the same
  WorkPool::Options pool;
  size_t max_streams = 50000;
  std::function<uint64_t()> choose_seed = RandomSeed;
};

// The parts of the engine; must outlive the frontend.
struct Engine {
  JobStore* jobs = nullptr;
  TaskQueue* queue = nullptr;
  VideoStore* videos = nullptr;
  EventFeed* feed = nullptr;
};

// Thread-safe. Owned by the server (server.h), which also fixes the order in which the parts stop.
struct Frontend {
  Frontend(const Engine& engine_parts, ModelCatalog models, FrontendSettings all_settings,
           Metrics& registry)
      : settings(std::move(all_settings)),
        engine(engine_parts),
        catalog(std::move(models)),
        metrics(registry),
        streams(settings.max_streams),
        pool(settings.pool),
        canceller(engine.jobs, &pool),
        hub(engine.feed, [this](const JobEvent& event) { metrics.Observe(event); }) {}

  const FrontendSettings settings;
  const Engine engine;
  const ModelCatalog catalog;
  const absl::Time start_time = absl::Now();
  FrontendMetrics metrics;
  StreamRegistry streams;
  WorkPool pool;
  Canceller canceller;
  EventHub hub;
};

// Ready workers per stage.
std::map<Stage, int> CountReady(const std::vector<TaskQueue::WorkerInfo>& workers);

}  // namespace kandinsky

#endif  // KANDINSKY_SERVICES_FRONTEND_FRONTEND_H_
