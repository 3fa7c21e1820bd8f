#include "worker/runtime/worker_metrics.h"

#include <algorithm>

namespace kandinsky {
namespace {

constexpr TaskOutcome kOutcomes[] = {
    TaskOutcome::kCompleted,   TaskOutcome::kFailedTransient, TaskOutcome::kFailedPermanent,
    TaskOutcome::kOutOfMemory, TaskOutcome::kReleased,        TaskOutcome::kSentBack,
    TaskOutcome::kCancelled,   TaskOutcome::kExpired,         TaskOutcome::kLeaseLost};
constexpr std::string_view kStates[] = {"loading", "ready", "draining", "failed"};

prometheus::Family<prometheus::Counter>& Counters(Metrics& metrics, const char* name,
                                                  const char* help) {
  return prometheus::BuildCounter().Name(name).Help(help).Register(metrics.registry());
}

prometheus::Family<prometheus::Histogram>& Histograms(Metrics& metrics, const char* name,
                                                      const char* help) {
  return prometheus::BuildHistogram().Name(name).Help(help).Register(metrics.registry());
}

}  // namespace

std::string_view Name(TaskOutcome outcome) {
  switch (outcome) {
    case TaskOutcome::kCompleted:
      return "completed";
    case TaskOutcome::kFailedTransient:
      return "failed_transient";
    case TaskOutcome::kFailedPermanent:
      return "failed_permanent";
    case TaskOutcome::kOutOfMemory:
      return "out_of_memory";
    case TaskOutcome::kReleased:
      return "released";
    case TaskOutcome::kSentBack:
      return "sent_back";
    case TaskOutcome::kCancelled:
      return "cancelled";
    case TaskOutcome::kExpired:
      return "expired";
    case TaskOutcome::kLeaseLost:
      return "lease_lost";
  }
  return "unknown";
}

WorkerMetrics::WorkerMetrics(Metrics& metrics, Stage stage)
    : stage_(Name(stage)),
      duration_(Histograms(metrics, "kandinsky_worker_stage_duration_seconds",
                           "Seconds from the claim of a task to its end, by outcome.")),
      wait_(Histograms(metrics, "kandinsky_worker_queue_wait_seconds",
                       "Seconds that a task was claimable before it was claimed.")),
      tasks_(Counters(metrics, "kandinsky_worker_tasks_total", "Tasks that ended, by outcome.")),
      ready_(prometheus::BuildGauge()
                 .Name("kandinsky_worker_ready")
                 .Help("1 for the state in which the worker is: loading, ready, draining, failed.")
                 .Register(metrics.registry())),
      step_(Histograms(metrics, "kandinsky_worker_denoising_step_seconds",
                       "Seconds of a denoising step; of a decoded frame in the decoding stage.")
                .Add({{"stage", stage_}}, DurationBuckets())),
      load_(Histograms(metrics, "kandinsky_worker_model_load_seconds",
                       "Seconds to load the stage's models.")
                .Add({{"stage", stage_}}, DurationBuckets())),
      lost_(Counters(metrics, "kandinsky_worker_leases_lost_total",
                     "Leases that ended while their task was still being worked on.")
                .Add({{"stage", stage_}})),
      reclaimed_(Counters(metrics, "kandinsky_worker_leases_reclaimed_total",
                          "Tasks that were taken over from a worker that lost them.")
                     .Add({{"stage", stage_}})),
      unreachable_(Counters(metrics, "kandinsky_worker_store_errors_total",
                            "Calls of the job store that failed because it could not be reached.")
                       .Add({{"stage", stage_}})),
      checkpoints_(
          Counters(metrics, "kandinsky_worker_checkpoints_total", "Checkpoints that were saved.")
              .Add({{"stage", stage_}})),
      checkpoint_bytes_(Counters(metrics, "kandinsky_worker_checkpoint_bytes_total",
                                 "Bytes of the checkpoints that were saved.")
                            .Add({{"stage", stage_}})),
      latent_bytes_(Counters(metrics, "kandinsky_latent_bytes_total",
                             "Bytes of latents sent to and received from other workers.")),
      latent_seconds_(Histograms(metrics, "kandinsky_latent_transfer_seconds",
                                 "Seconds of a transfer of latents, by direction.")) {
  // So that rates exist from the start.
  for (const TaskOutcome outcome : kOutcomes) {
    tasks_.Add({{"stage", stage_}, {"outcome", std::string(Name(outcome))}});
  }
  for (const char* direction : {"sent", "received"}) {
    latent_bytes_.Add({{"direction", direction}});
  }
  SetState("loading");
}

void WorkerMetrics::TaskEnded(TaskOutcome outcome, absl::Duration duration) {
  const prometheus::Labels labels = {{"stage", stage_}, {"outcome", std::string(Name(outcome))}};
  tasks_.Add(labels).Increment();
  duration_.Add(labels, DurationBuckets()).Observe(absl::ToDoubleSeconds(duration));
  if (outcome == TaskOutcome::kLeaseLost) lost_.Increment();
}

void WorkerMetrics::QueueWait(Priority priority, absl::Duration wait) {
  wait_.Add({{"stage", stage_}, {"priority", std::string(Name(priority))}}, DurationBuckets())
      .Observe(std::max(0.0, absl::ToDoubleSeconds(wait)));
}

void WorkerMetrics::LatentsReceived(uint64_t bytes, double seconds) {
  latent_bytes_.Add({{"direction", "received"}}).Increment(static_cast<double>(bytes));
  latent_seconds_.Add({{"direction", "received"}}, DurationBuckets()).Observe(seconds);
}

void WorkerMetrics::LatentsSent(uint64_t bytes, double seconds) {
  latent_bytes_.Add({{"direction", "sent"}}).Increment(static_cast<double>(bytes));
  latent_seconds_.Add({{"direction", "sent"}}, DurationBuckets()).Observe(seconds);
}

void WorkerMetrics::CheckpointSaved(uint64_t bytes) {
  checkpoints_.Increment();
  checkpoint_bytes_.Increment(static_cast<double>(bytes));
}

void WorkerMetrics::SetState(std::string_view state) {
  for (const std::string_view candidate : kStates) {
    ready_.Add({{"stage", stage_}, {"state", std::string(candidate)}})
        .Set(candidate == state ? 1 : 0);
  }
}

}  // namespace kandinsky
