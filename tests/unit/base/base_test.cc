#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <sstream>
#include <string>

#include "absl/time/time.h"
#include "common/base/clock.h"
#include "common/base/crc32c.h"
#include "common/base/log.h"
#include "common/config/flags.h"

namespace kandinsky {
namespace {

TEST(Crc32c, KnownValues) {
  // RFC 3720, appendix B.4, and the check value of the polynomial.
  const struct {
    std::string data;
    uint32_t want;
  } kCases[] = {
      {"", 0},
      {"123456789", 0xE3069283},
      {std::string(32, '\0'), 0x8A9136AA},
      {std::string(32, '\xff'), 0x62A8AB43},
  };
  for (const auto& test : kCases) {
    EXPECT_EQ(Crc32c(test.data), test.want);
    EXPECT_EQ(internal::ExtendCrc32cPortable(0, test.data.data(), test.data.size()), test.want);
  }
}

TEST(Crc32c, PortableEqualsHardwareAtEveryLengthAndSplit) {
  std::string data;
  uint32_t state = 1;
  for (int i = 0; i < 300; ++i)
    data += static_cast<char>((state = state * 1664525 + 1013904223) >> 24);
  for (size_t size = 0; size <= data.size(); ++size) {
    const uint32_t whole = ExtendCrc32c(0, data.data(), size);
    EXPECT_EQ(internal::ExtendCrc32cPortable(0, data.data(), size), whole);
    const size_t cut = size / 3;
    EXPECT_EQ(ExtendCrc32c(ExtendCrc32c(0, data.data(), cut), data.data() + cut, size - cut),
              whole);
  }
}

TEST(LogValue, IsJson) {
  EXPECT_EQ(LogValue("a\"b\\c\n\x01").json(), "\"a\\\"b\\\\c\\n\\u0001\"");
  EXPECT_EQ(LogValue(true).json(), "true");
  EXPECT_EQ(LogValue(-7).json(), "-7");
  EXPECT_EQ(LogValue(uint64_t{18446744073709551615ull}).json(), "18446744073709551615");
  EXPECT_EQ(LogValue(0.5).json(), "0.5");
  EXPECT_EQ(LogValue(std::numeric_limits<double>::quiet_NaN()).json(), "\"nan\"");
}

TEST(FakeClock, AdvancesOnlyWhenTold) {
  FakeClock clock;
  const absl::Time start = clock.Now();
  EXPECT_EQ(clock.Now(), start);
  clock.Advance(absl::Milliseconds(1500));
  EXPECT_EQ(clock.Now() - start, absl::Milliseconds(1500));
}

TEST(ParseHostPort, Table) {
  const struct {
    std::string value;
    std::string want;  // empty: an error
  } kCases[] = {
      {"127.0.0.1:80", "127.0.0.1:80"},
      {":0", "0.0.0.0:0"},
      {"[::1]:443", "[::1]:443"},
      {"host.example:65535", "host.example:65535"},
      {"::1:443", ""},
      {"host", ""},
      {"host:", ""},
      {"host:65536", ""},
      {"host:-1", ""},
      {"host:8o", ""},
  };
  for (const auto& test : kCases) {
    const auto got = ParseHostPort("--listen", test.value);
    if (test.want.empty()) {
      EXPECT_FALSE(got.ok()) << test.value;
      EXPECT_NE(std::string(got.status().message()).find("--listen"), std::string::npos);
    } else {
      ASSERT_TRUE(got.ok()) << got.status();
      EXPECT_EQ(got->ToString(), test.want);
    }
  }
}

TEST(SplitList, TrimsAndDropsEmpty) {
  EXPECT_EQ(SplitList(" a, b,,c ,"), (std::vector<std::string>{"a", "b", "c"}));
  EXPECT_TRUE(SplitList("").empty());
}

TEST(PortFile, HoldsWhatWasGiven) {
  const std::string path = testing::TempDir() + "/port_file_test.json";
  absl::SetFlag(&FLAGS_port_file, path);
  ASSERT_TRUE(WritePortFile("127.0.0.1:1", "127.0.0.1:2").ok());
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  EXPECT_NE(text.str().find("\"grpc\": \"127.0.0.1:1\", \"metrics\": \"127.0.0.1:2\""),
            std::string::npos);
  absl::SetFlag(&FLAGS_port_file, "/nonexistent/port.json");
  EXPECT_FALSE(WritePortFile("127.0.0.1:1", "").ok());
  absl::SetFlag(&FLAGS_port_file, "");
}

}  // namespace
}  // namespace kandinsky
