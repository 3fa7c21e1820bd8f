// Prometheus metrics of one process.
//
// Names: kandinsky_<component>_<thing>_<unit>[_total], base units, bounded labels (stage, outcome,
// reason, priority), never an id or a prompt. Components make their families from registry() with
// prometheus-cpp's builders:
//
//   auto& family =
//   prometheus::BuildCounter().Name("kandinsky_worker_tasks_total").Help("…").Register(metrics.registry());
//   family.Add({{"stage", "keyframes"}, {"outcome", "completed"}}).Increment();
//
// Family::Add returns the same metric for the same labels and takes a lock: keep the reference on
// hot paths.
#ifndef KANDINSKY_COMMON_METRICS_METRICS_H_
#define KANDINSKY_COMMON_METRICS_METRICS_H_

#include <prometheus/counter.h>
#include <prometheus/exposer.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace kandinsky {

// Thread-safe.
class Metrics {
 public:
  // Registers kandinsky_build_info{component, version, commit} and the usual process_* metrics.
  explicit Metrics(const std::string& component);
  ~Metrics();
  Metrics(const Metrics&) = delete;
  Metrics& operator=(const Metrics&) = delete;

  prometheus::Registry& registry() { return *registry_; }

  // Serves GET /metrics at `address` ("host:port", port 0 picks one) until destruction and returns
  // the address in use. UNAVAILABLE when the address cannot be bound.
  absl::StatusOr<std::string> Serve(const std::string& address);

 private:
  class ProcessCollector;

  const std::shared_ptr<prometheus::Registry> registry_;
  const std::shared_ptr<ProcessCollector> process_;
  std::unique_ptr<prometheus::Exposer> exposer_;
};

// Upper bounds in seconds for what takes from milliseconds to half an hour: 1 ms to 1,800 s.
prometheus::Histogram::BucketBoundaries DurationBuckets();

}  // namespace kandinsky

#endif  // KANDINSKY_COMMON_METRICS_METRICS_H_
