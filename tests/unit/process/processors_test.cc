#include "worker/process/processors.h"

#include <gtest/gtest.h>
#include <sched.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <vector>

namespace kandinsky {
namespace {

// A folder with the files of a case, which stands for /.
class Root {
 public:
  explicit Root(const std::map<std::string, std::string>& files) {
    std::string pattern = testing::TempDir() + "processors-XXXXXX";
    path_ = mkdtemp(pattern.data());
    for (const auto& [name, text] : files) {
      const std::filesystem::path file = path_ + name;
      std::filesystem::create_directories(file.parent_path());
      std::ofstream(file) << text;
    }
  }
  ~Root() { std::filesystem::remove_all(path_); }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

TEST(ProcessorQuota, IsThatOfTheGroupAndThoseAbove) {
  const std::string v2 = "30 1 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n";
  const std::string v1 =
      "31 1 0:27 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n"
      "32 1 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
  const struct {
    const char* what;
    std::map<std::string, std::string> files;
    int want;
  } cases[] = {
      {"nothing can be read", {}, 0},
      {"v2 without a limit",
       {{"/proc/self/cgroup", "0::/a\n"},
        {"/proc/self/mountinfo", v2},
        {"/sys/fs/cgroup/a/cpu.max", "max 100000\n"}},
       0},
      {"v2",
       {{"/proc/self/cgroup", "0::/a/b\n"},
        {"/proc/self/mountinfo", v2},
        {"/sys/fs/cgroup/a/b/cpu.max", "300000 100000\n"}},
       3},
      {"v2, part of a processor is left out",
       {{"/proc/self/cgroup", "0::/a\n"},
        {"/proc/self/mountinfo", v2},
        {"/sys/fs/cgroup/a/cpu.max", "250000 100000\n"}},
       2},
      {"v2, less than one processor",
       {{"/proc/self/cgroup", "0::/a\n"},
        {"/proc/self/mountinfo", v2},
        {"/sys/fs/cgroup/a/cpu.max", "20000 100000\n"}},
       1},
      {"v2, a group above allows less",
       {{"/proc/self/cgroup", "0::/a/b\n"},
        {"/proc/self/mountinfo", v2},
        {"/sys/fs/cgroup/a/cpu.max", "200000 100000\n"},
        {"/sys/fs/cgroup/a/b/cpu.max", "800000 100000\n"}},
       2},
      {"v2 in a container: the mount point is the group",
       {{"/proc/self/cgroup", "0::/\n"},
        {"/proc/self/mountinfo", v2},
        {"/sys/fs/cgroup/cpu.max", "400000 100000\n"}},
       4},
      {"v2, the mount shows a group below the top",
       {{"/proc/self/cgroup", "0::/docker/x/y\n"},
        {"/proc/self/mountinfo", "30 1 0:26 /docker/x /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"},
        {"/sys/fs/cgroup/y/cpu.max", "600000 100000\n"},
        {"/sys/fs/cgroup/cpu.max", "500000 100000\n"}},
       5},
      {"v2, the group is one of the host's that is not mounted here",
       {{"/proc/self/cgroup", "0::/host/z\n"},
        {"/proc/self/mountinfo", "30 1 0:26 /docker/x /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"},
        {"/sys/fs/cgroup/cpu.max", "500000 100000\n"}},
       5},
      {"v1",
       {{"/proc/self/cgroup", "5:memory:/m\n3:cpu,cpuacct:/a\n"},
        {"/proc/self/mountinfo", v1},
        {"/sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_quota_us", "150000\n"},
        {"/sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_period_us", "50000\n"}},
       3},
      {"v1 without a limit",
       {{"/proc/self/cgroup", "3:cpu,cpuacct:/a\n"},
        {"/proc/self/mountinfo", v1},
        {"/sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_quota_us", "-1\n"},
        {"/sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_period_us", "100000\n"}},
       0},
      {"both versions, the limit in v1",
       {{"/proc/self/cgroup", "3:cpu,cpuacct:/a\n0::/b\n"},
        {"/proc/self/mountinfo", v1 + "30 1 0:26 / /sys/fs/cgroup/unified rw - cgroup2 none rw\n"},
        {"/sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_quota_us", "700000\n"},
        {"/sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_period_us", "100000\n"}},
       7},
      {"nonsense",
       {{"/proc/self/cgroup", "0\n:\n0::/a\n"},
        {"/proc/self/mountinfo", "-\n30 1 - x\n" + v2},
        {"/sys/fs/cgroup/a/cpu.max", "many few\n"}},
       0},
  };
  for (const auto& c : cases) {
    EXPECT_EQ(ProcessorQuota(Root(c.files).path()), c.want) << c.what;
  }
}

TEST(UsableProcessors, FollowTheAffinityMask) {
  cpu_set_t all;
  ASSERT_EQ(sched_getaffinity(0, sizeof(all), &all), 0);
  const int quota = ProcessorQuota();
  EXPECT_LE(UsableProcessors(), CPU_COUNT(&all));
  cpu_set_t some;
  CPU_ZERO(&some);
  int count = 0;
  for (int i = 0; i < CPU_SETSIZE; ++i) {
    if (!CPU_ISSET(i, &all)) continue;
    CPU_SET(i, &some);
    ++count;
    ASSERT_EQ(sched_setaffinity(0, sizeof(some), &some), 0);
    EXPECT_EQ(UsableProcessors(), quota > 0 ? std::min(quota, count) : count);
  }
  ASSERT_EQ(sched_setaffinity(0, sizeof(all), &all), 0);
}

TEST(ThreadsOrAuto, ZeroIsAuto) {
  EXPECT_EQ(ThreadsOrAuto(3), 3);
  EXPECT_EQ(ThreadsOrAuto(0), std::min(UsableProcessors(), kMaxThreads));
}

}  // namespace
}  // namespace kandinsky
