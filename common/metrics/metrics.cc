#include "common/metrics/metrics.h"

#include <dirent.h>
#include <dlfcn.h>
#include <prometheus/collectable.h>
#include <pthread.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cstdio>
#include <ctime>
#include <exception>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/version.h"

namespace kandinsky {

// The process_* metrics that Prometheus client libraries have by convention.
class Metrics::ProcessCollector : public prometheus::Collectable {
 public:
  std::vector<prometheus::MetricFamily> Collect() const override {
    std::vector<prometheus::MetricFamily> families;
    rusage usage{};
    if (getrusage(RUSAGE_SELF, &usage) == 0) {
      const auto seconds = [](const timeval& t) {
        return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_usec) * 1e-6;
      };
      Add(families, prometheus::MetricType::Counter, "process_cpu_seconds_total",
          "User and system CPU time in seconds.",
          seconds(usage.ru_utime) + seconds(usage.ru_stime));
    }
    if (std::FILE* file = std::fopen("/proc/self/statm", "r")) {
      unsigned long size = 0;      // NOLINT(google-runtime-int): what fscanf reads
      unsigned long resident = 0;  // NOLINT(google-runtime-int)
      if (std::fscanf(file, "%lu %lu", &size, &resident) == 2) {
        const auto page = static_cast<double>(sysconf(_SC_PAGESIZE));
        Add(families, prometheus::MetricType::Gauge, "process_virtual_memory_bytes",
            "Virtual memory size in bytes.", static_cast<double>(size) * page);
        Add(families, prometheus::MetricType::Gauge, "process_resident_memory_bytes",
            "Resident memory size in bytes.", static_cast<double>(resident) * page);
      }
      std::fclose(file);
    }
    if (DIR* directory = opendir("/proc/self/fd")) {
      int count = -3;  // ".", ".." and the directory itself
      while (readdir(directory) != nullptr) ++count;
      closedir(directory);
      Add(families, prometheus::MetricType::Gauge, "process_open_fds",
          "Number of open file descriptors.", count);
    }
    Add(families, prometheus::MetricType::Gauge, "process_start_time_seconds",
        "Start time of the process since the Unix epoch in seconds.",
        static_cast<double>(start_time_));
    return families;
  }

 private:
  static void Add(std::vector<prometheus::MetricFamily>& families, prometheus::MetricType type,
                  const char* name, const char* help, double value) {
    prometheus::MetricFamily family;
    family.name = name;
    family.help = help;
    family.type = type;
    prometheus::ClientMetric metric;
    if (type == prometheus::MetricType::Counter) {
      metric.counter.value = value;
    } else {
      metric.gauge.value = value;
    }
    family.metric.push_back(metric);
    families.push_back(family);
  }

  const std::time_t start_time_ = std::time(nullptr);
};

Metrics::Metrics(const std::string& component)
    : registry_(std::make_shared<prometheus::Registry>()),
      process_(std::make_shared<ProcessCollector>()) {
  prometheus::BuildGauge()
      .Name("kandinsky_build_info")
      .Help("1, labelled with what was built.")
      .Register(*registry_)
      .Add({{"component", component}, {"version", kVersion}, {"commit", BuildCommit()}})
      .Set(1);
}

Metrics::~Metrics() = default;

absl::StatusOr<std::string> Metrics::Serve(const std::string& address) {
  try {
    // Two threads: one scrape does not wait for another.
    exposer_ = std::make_unique<prometheus::Exposer>(address, 2);
  } catch (const std::exception& error) {
    return absl::UnavailableError(
        absl::StrCat("cannot serve metrics at ", address, ": ", error.what()));
  }
  exposer_->RegisterCollectable(registry_);
  exposer_->RegisterCollectable(process_);
  const std::vector<int> ports = exposer_->GetListeningPorts();
  return absl::StrCat(address.substr(0, address.rfind(':')), ":",
                      ports.empty() ? 0 : ports.front());
}

prometheus::Histogram::BucketBoundaries DurationBuckets() {
  return {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1,
          2.5,   5,      10,    20,   30,    60,   120, 300,  600, 1800};
}

}  // namespace kandinsky

// In place of libc's. The web server behind the exposer starts its threads with stacks of 100 KiB,
// and glibc takes the thread-local variables of all loaded libraries off a stack. NVIDIA's
// libraries have 190 KiB of them, so that in a CUDA build no such thread could be started. An
// executable's own functions come before a library's; see CMakeLists.txt, which exports this one.
extern "C" int pthread_attr_setstacksize(pthread_attr_t* attributes, size_t size) noexcept {
  constexpr size_t kLeast = size_t{2} << 20;
  using Function = int (*)(pthread_attr_t*, size_t);
  static const auto next =
      reinterpret_cast<Function>(dlsym(RTLD_NEXT, "pthread_attr_setstacksize"));
  return next(attributes, size < kLeast ? kLeast : size);
}
