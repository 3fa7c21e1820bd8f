// What can be tuned about the job engine; the same for the real and the in-memory one. All
// processes of one deployment must use the same values.
#ifndef KANDINSKY_COMMON_QUEUE_OPTIONS_H_
#define KANDINSKY_COMMON_QUEUE_OPTIONS_H_

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "common/queue/job_store.h"

namespace kandinsky {

struct QueueOptions {
  // --- leases
  absl::Duration lease_duration = absl::Seconds(15);

  // --- retries
  // Attempts of one stage: failures, and leases that ended because their worker was lost.
  int max_attempts = 4;
  // A transient failure waits a random time between 0 and min(retry_max_delay, retry_base_delay *
  // 2^(attempt - 1)).
  absl::Duration retry_base_delay = absl::Seconds(2);
  absl::Duration retry_max_delay = absl::Minutes(2);
  // For so long a task that ran out of memory is kept from the worker that had too little; then
  // anybody may try.
  absl::Duration avoid_duration = absl::Minutes(1);
  // How often tasks of one job may be sent back a stage before the job is FAILED with INPUT_LOST.
  int max_send_backs = 16;

  // --- order
  // When the oldest batch task has waited for longer, every `batch_share`-th claim takes a batch
  // task first.
  absl::Duration batch_ageing = absl::Minutes(1);
  int batch_share = 4;

  // --- admission
  AdmissionLimits limits;
  // The service rate behind retry_after is measured over the last `rate_window`.
  absl::Duration rate_window = absl::Minutes(5);

  // --- retention of finished jobs: record, events, checkpoints and video together
  absl::Duration retention = absl::Hours(24);
  absl::Duration dead_letter_retention = absl::Hours(7 * 24);
  // Of the progress events of one job the newest so many stay readable; all other events stay.
  int max_progress_events = 512;

  // --- worker registry: a worker is forgotten after three of these without a heartbeat.
  absl::Duration heartbeat_interval = absl::Seconds(5);
};

// INVALID_ARGUMENT naming the first option that is out of range.
absl::Status Validate(const QueueOptions& options);

}  // namespace kandinsky

#endif  // KANDINSKY_COMMON_QUEUE_OPTIONS_H_
