#include "worker/process/processors.h"

#include <sched.h>

#include <algorithm>
#include <fstream>
#include <sstream>
#include <string_view>
#include <thread>
#include <vector>

namespace kandinsky {
namespace {

int ProcessorsOfMask() {
  // The kernel refuses masks shorter than its own.
  for (int most = 1024; most <= 1 << 20; most *= 4) {
    cpu_set_t* mask = CPU_ALLOC(most);
    if (mask == nullptr) break;
    const size_t bytes = CPU_ALLOC_SIZE(most);
    CPU_ZERO_S(bytes, mask);
    const bool read = sched_getaffinity(0, bytes, mask) == 0;
    const int count = read ? CPU_COUNT_S(bytes, mask) : 0;
    CPU_FREE(mask);
    if (count > 0) return count;
  }
  return static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
}

std::vector<std::string> Split(const std::string& text, char separator) {
  std::vector<std::string> parts;
  std::istringstream stream(text);
  for (std::string part; std::getline(stream, part, separator);) parts.push_back(part);
  return parts;
}

bool Contains(const std::vector<std::string>& parts, std::string_view wanted) {
  return std::find(parts.begin(), parts.end(), wanted) != parts.end();
}

// A mounted control group tree, and the group of this process in it.
struct Tree {
  bool v2 = false;
  std::string mounted_group;  // the group that the mount point shows
  std::string mount_point;
  std::string group;
};

// Of the controller "cpu"; both versions may be there.
std::vector<Tree> FindTrees(const std::string& root) {
  std::string v1_group, v2_group;
  std::ifstream groups(root + "/proc/self/cgroup");  // number:controllers:group
  for (std::string line; std::getline(groups, line);) {
    const size_t first = line.find(':');
    const size_t second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    if (controllers.empty()) v2_group = line.substr(second + 1);
    if (Contains(Split(controllers, ','), "cpu")) v1_group = line.substr(second + 1);
  }
  std::vector<Tree> trees;
  std::ifstream mounts(root + "/proc/self/mountinfo");
  for (std::string line; std::getline(mounts, line);) {
    const std::vector<std::string> fields = Split(line, ' ');
    const auto dash = std::find(fields.begin(), fields.end(), "-");
    if (dash - fields.begin() < 6 || fields.end() - dash < 4) continue;
    Tree tree{dash[1] == "cgroup2", fields[3], fields[4], ""};
    if (tree.v2) {
      tree.group = v2_group;
    } else if (dash[1] == "cgroup" && Contains(Split(dash[3], ','), "cpu")) {
      tree.group = v1_group;
    }
    if (!tree.group.empty()) trees.push_back(std::move(tree));
  }
  return trees;
}

// In processors; 0: none.
double QuotaOfFolder(const std::string& folder, bool v2) {
  std::string quota;
  double period = 0;
  if (v2) {
    std::ifstream(folder + "/cpu.max") >> quota >> period;  // "max 100000" or "150000 100000"
  } else {
    std::ifstream(folder + "/cpu.cfs_quota_us") >> quota;  // -1: none
    std::ifstream(folder + "/cpu.cfs_period_us") >> period;
  }
  std::istringstream number(quota);
  double value = 0;
  return number >> value && value > 0 && period > 0 ? value / period : 0;
}

}  // namespace

int ProcessorQuota(const std::string& root) {
  double least = 0;
  for (const Tree& tree : FindTrees(root)) {
    // The group below the mount point; in a container, /proc may name it as the host sees it, and
    // then the mount point itself is the group.
    std::string below = tree.group;
    if (tree.mounted_group != "/") {
      const bool inside =
          below == tree.mounted_group || below.rfind(tree.mounted_group + "/", 0) == 0;
      below = inside ? below.substr(tree.mounted_group.size()) : "";
    }
    while (true) {
      const double quota = QuotaOfFolder(root + tree.mount_point + below, tree.v2);
      if (quota > 0) least = least > 0 ? std::min(least, quota) : quota;
      const size_t slash = below.rfind('/');
      if (slash == std::string::npos) break;
      below.resize(slash);
    }
  }
  return least > 0 ? static_cast<int>(std::clamp(least, 1.0, 1e6)) : 0;
}

int UsableProcessors() {
  const int quota = ProcessorQuota();
  const int mask = ProcessorsOfMask();
  return quota > 0 ? std::min(quota, mask) : mask;
}

int ThreadsOrAuto(int threads) {
  return threads == 0 ? std::min(UsableProcessors(), kMaxThreads) : threads;
}

}  // namespace kandinsky
