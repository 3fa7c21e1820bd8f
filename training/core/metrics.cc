#include "training/core/metrics.h"

#include "common/metrics/metrics.h"
#include "worker/model/error.h"

namespace kandinsky::training {

struct TrainingMetrics::Impl {
  explicit Impl(const std::string& task) : labels({{"task", task}}), metrics("train") {
    auto& registry = metrics.registry();
    const auto counter = [&](const char* name, const char* help) {
      return &prometheus::BuildCounter().Name(name).Help(help).Register(registry).Add(labels);
    };
    const auto gauge = [&](const char* name, const char* help) {
      return &prometheus::BuildGauge().Name(name).Help(help).Register(registry).Add(labels);
    };
    steps = counter("kandinsky_training_steps_total", "Finished training steps of this process.");
    samples = counter("kandinsky_training_samples_total",
                      "Samples that all processes together have learned from.");
    waited = counter("kandinsky_training_data_wait_seconds_total",
                     "Time in which the training waited for its data.");
    step = gauge("kandinsky_training_step", "Number of the last step, over all resumed runs.");
    learning_rate = gauge("kandinsky_training_learning_rate", "Learning rate of the last step.");
    gradient_norm = gauge("kandinsky_training_gradient_norm",
                          "Norm of the last gradient of the first objective, before clipping.");
    loss = &prometheus::BuildGauge()
                .Name("kandinsky_training_loss")
                .Help("Losses and other figures of the last step.")
                .Register(registry);
    seconds = &prometheus::BuildHistogram()
                   .Name("kandinsky_training_step_seconds")
                   .Help("Wall time of a training step.")
                   .Register(registry)
                   .Add(labels, DurationBuckets());
  }

  const prometheus::Labels labels;
  Metrics metrics;
  prometheus::Counter *steps, *samples, *waited;
  prometheus::Gauge *step, *learning_rate, *gradient_norm;
  prometheus::Family<prometheus::Gauge>* loss;
  prometheus::Histogram* seconds;
  std::string address;
};

TrainingMetrics::TrainingMetrics(const std::string& task, const std::string& listen) {
  if (listen.empty()) return;
  impl_ = std::make_unique<Impl>(task);
  auto address = impl_->metrics.Serve(listen);
  if (!address.ok()) {
    throw model::ModelError(
        model::ModelError::Kind::kInvalidArgument,
        "--metrics_listen is " + listen + ": " + std::string(address.status().message()));
  }
  impl_->address = *address;
}

TrainingMetrics::~TrainingMetrics() = default;

const std::string& TrainingMetrics::address() const {
  static const std::string none;
  return impl_ ? impl_->address : none;
}

void TrainingMetrics::Report(const StepReport& report) {
  if (!impl_) return;
  impl_->steps->Increment();
  impl_->samples->Increment(static_cast<double>(report.samples));
  impl_->waited->Increment(report.wait_seconds);
  impl_->step->Set(static_cast<double>(report.step));
  impl_->learning_rate->Set(report.learning_rate);
  impl_->gradient_norm->Set(report.gradient_norm);
  impl_->seconds->Observe(report.seconds);
  for (const auto& [kind, value] : report.values) {
    prometheus::Labels labels = impl_->labels;
    labels["kind"] = kind;
    impl_->loss->Add(labels).Set(value);
  }
}

}  // namespace kandinsky::training
