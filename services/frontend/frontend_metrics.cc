#include "services/frontend/frontend_metrics.h"

namespace kandinsky {
namespace {

std::string Label(std::string_view name) { return std::string(name); }

prometheus::Family<prometheus::Gauge>& Gauge(Metrics& metrics, const char* name, const char* help) {
  return prometheus::BuildGauge().Name(name).Help(help).Register(metrics.registry());
}

prometheus::Family<prometheus::Counter>& Counter(Metrics& metrics, const char* name,
                                                 const char* help) {
  return prometheus::BuildCounter().Name(name).Help(help).Register(metrics.registry());
}

}  // namespace

FrontendMetrics::FrontendMetrics(Metrics& metrics)
    : depth_(Gauge(metrics, "kandinsky_queue_depth", "Tasks by stage, priority and state.")),
      oldest_age_(Gauge(metrics, "kandinsky_queue_oldest_age_seconds",
                        "Age of the oldest waiting task in seconds.")),
      workers_ready_(
          Gauge(metrics, "kandinsky_workers_ready", "Workers that are READY, by stage.")),
      created_(Counter(metrics, "kandinsky_jobs_created_total",
                       "Requests for a job by what became of them.")),
      finished_(Counter(metrics, "kandinsky_jobs_finished_total",
                        "Finished jobs of the whole deployment by outcome.")),
      store_warning_(Gauge(metrics, "kandinsky_redis_warning",
                           "1 when a setting of the Redis server endangers jobs.")),
      store_up_(Gauge(metrics, "kandinsky_redis_up", "1 when the store answers.").Add({})),
      streams_(
          {&Gauge(metrics, "kandinsky_frontend_watch_streams", "Open WatchJob streams.").Add({}),
           &Gauge(metrics, "kandinsky_frontend_generate_streams", "Open GenerateVideo streams.")
                .Add({}),
           &Gauge(metrics, "kandinsky_frontend_download_streams", "Open DownloadVideo streams.")
                .Add({})}) {
  // What may be counted exists from the start, so that rates see the first one.
  for (const char* outcome : {"created", "existing", "queue_full", "tenant_queue_full",
                              "request_id_conflict", "invalid", "store_error"}) {
    created_.Add({{"outcome", outcome}});
  }
  for (const JobState state :
       {JobState::kSucceeded, JobState::kFailed, JobState::kCancelled, JobState::kExpired}) {
    finished_.Add({{"outcome", Label(Name(state))}});
  }
  SetReadyWorkers({});
}

void FrontendMetrics::JobCreated(const std::string& outcome) {
  created_.Add({{"outcome", outcome}}).Increment();
}

void FrontendMetrics::Observe(const JobEvent& event) {
  if (event.type == JobEvent::Type::kStateChanged && IsFinished(event.state)) {
    finished_.Add({{"outcome", Label(Name(event.state))}}).Increment();
  }
}

void FrontendMetrics::SetQueue(const std::vector<StageQueueStats>& stats) {
  for (const StageQueueStats& entry : stats) {
    const auto set = [&](const char* state, int64_t value) {
      depth_
          .Add({{"stage", Label(Name(entry.stage))},
                {"priority", Label(Name(entry.priority))},
                {"state", state}})
          .Set(static_cast<double>(value));
    };
    set("waiting", entry.waiting);
    set("delayed", entry.delayed);
    set("running", entry.running);
    oldest_age_
        .Add({{"stage", Label(Name(entry.stage))}, {"priority", Label(Name(entry.priority))}})
        .Set(absl::ToDoubleSeconds(entry.oldest_age));
  }
}

void FrontendMetrics::SetReadyWorkers(const std::map<Stage, int>& ready) {
  for (const Stage stage : kStages) {
    const auto found = ready.find(stage);
    workers_ready_.Add({{"stage", Label(Name(stage))}})
        .Set(found == ready.end() ? 0 : found->second);
  }
}

void FrontendMetrics::SetStreams(const StreamRegistry& streams) {
  for (const StreamKind kind : {StreamKind::kWatch, StreamKind::kGenerate, StreamKind::kDownload}) {
    streams_[static_cast<size_t>(kind)]->Set(static_cast<double>(streams.Count(kind)));
  }
}

void FrontendMetrics::SetStoreUp(bool up) { store_up_.Set(up ? 1 : 0); }

void FrontendMetrics::SetStoreWarnings(const std::map<std::string, bool>& settings) {
  for (const auto& [setting, bad] : settings) {
    store_warning_.Add({{"setting", setting}}).Set(bad ? 1 : 0);
  }
}

}  // namespace kandinsky
