// How many processors this process may use.
#ifndef KANDINSKY_WORKER_PROCESS_PROCESSORS_H_
#define KANDINSKY_WORKER_PROCESS_PROCESSORS_H_

#include <string>

namespace kandinsky {

// Processors of the calling thread's affinity mask (taskset, cpusets), and no more than the
// processor quota of the process' control group and the groups above it allows (cgroup v1 and v2:
// `docker run --cpus`, Kubernetes limits, systemd CPUQuota). A quota of 2.5 counts as 2: a third
// thread would be stopped again and again while the others wait for it. At least 1.
int UsableProcessors();

// The quota part alone, in processors rounded down, at least 1; 0: no limit, or nothing can be
// read. `root`: before /proc and /sys, for tests.
int ProcessorQuota(const std::string& root = "");

inline constexpr int kMaxThreads = 1024;

// What --threads N stands for: N, or for 0 UsableProcessors() (kMaxThreads at most).
int ThreadsOrAuto(int threads);

}  // namespace kandinsky

#endif  // KANDINSKY_WORKER_PROCESS_PROCESSORS_H_
