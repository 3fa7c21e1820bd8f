#include "common/metrics/metrics.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <string>

// Of a library that takes 256 KiB off every stack; see static_tls.cc.
char* ThreadLocalVariables();

namespace kandinsky {
namespace {

// One HTTP GET, as a scraper does it.
std::string Get(const std::string& address) {
  const int port = std::stoi(address.substr(address.rfind(':') + 1));
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in peer{};
  peer.sin_family = AF_INET;
  peer.sin_port = htons(static_cast<uint16_t>(port));
  inet_pton(AF_INET, "127.0.0.1", &peer.sin_addr);
  std::string answer;
  if (connect(fd, reinterpret_cast<sockaddr*>(&peer), sizeof(peer)) == 0) {
    const std::string request = "GET /metrics HTTP/1.0\r\n\r\n";
    if (write(fd, request.data(), request.size()) == static_cast<ssize_t>(request.size())) {
      char buffer[4096];
      ssize_t count;
      while ((count = read(fd, buffer, sizeof(buffer))) > 0) answer.append(buffer, count);
    }
  }
  close(fd);
  return answer;
}

TEST(Metrics, ServesWhatIsRegistered) {
  Metrics metrics("test");
  prometheus::BuildHistogram()
      .Name("kandinsky_test_duration_seconds")
      .Help("h")
      .Register(metrics.registry())
      .Add({{"stage", "keyframes"}}, DurationBuckets())
      .Observe(700);
  const auto address = metrics.Serve("127.0.0.1:0");
  ASSERT_TRUE(address.ok()) << address.status();
  const std::string page = Get(*address);
  for (const char* want :
       {"kandinsky_build_info{", "component=\"test\"", "version=\"0.1.0\"",
        "process_resident_memory_bytes ", "process_open_fds ",
        "kandinsky_test_duration_seconds_bucket{stage=\"keyframes\",le=\"600\"} 0",
        "kandinsky_test_duration_seconds_bucket{stage=\"keyframes\",le=\"1800\"} 1"}) {
    EXPECT_NE(page.find(want), std::string::npos) << want << " is not in\n" << page;
  }

  Metrics second("test");
  EXPECT_EQ(second.Serve(*address).status().code(), absl::StatusCode::kUnavailable);
}

TEST(Metrics, ServesBesideLibrariesWithManyThreadLocalVariables) {
  // Without this the library would not be loaded.
  ThreadLocalVariables()[0] = 1;
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  ASSERT_EQ(pthread_attr_setstacksize(&attributes, 100 << 10), 0);
  pthread_t thread{};
  ASSERT_EQ(pthread_create(
                &thread, &attributes, [](void* p) { return p; }, nullptr),
            0);
  pthread_join(thread, nullptr);
  pthread_attr_destroy(&attributes);
  Metrics metrics("test");
  const auto address = metrics.Serve("127.0.0.1:0");
  ASSERT_TRUE(address.ok()) << address.status();
  EXPECT_NE(Get(*address).find("kandinsky_build_info"), std::string::npos);
}

TEST(DurationBuckets, RiseToHalfAnHour) {
  const auto buckets = DurationBuckets();
  EXPECT_TRUE(std::is_sorted(buckets.begin(), buckets.end()));
  EXPECT_EQ(buckets.back(), 1800);
}

}  // namespace
}  // namespace kandinsky
