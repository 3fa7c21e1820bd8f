#include "common/queue/identity.h"

#include <algorithm>
#include <charconv>
#include <random>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/base/crc32c.h"

namespace kandinsky {
namespace {

constexpr char kAlphabet[] = "0123456789abcdefghjkmnpqrstvwxyz";
constexpr size_t kIdLength = 26;

uint64_t Random64() {
  thread_local std::random_device device;
  return static_cast<uint64_t>(device()) << 32 | device();
}

class Fnv128 {
 public:
  void Add(std::string_view text) {
    AddBytes(text);
    AddInt(text.size());
  }
  void AddInt(uint64_t value) {
    char bytes[8];
    for (int i = 0; i < 8; ++i) bytes[i] = static_cast<char>(value >> (8 * i));
    AddBytes({bytes, 8});
  }
  void AddDouble(double value) {
    uint64_t bits;
    static_assert(sizeof(bits) == sizeof(value));
    __builtin_memcpy(&bits, &value, sizeof(bits));
    AddInt(bits);
  }
  std::string Hex() const {
    return absl::StrCat(absl::Hex(static_cast<uint64_t>(hash_ >> 64), absl::kZeroPad16),
                        absl::Hex(static_cast<uint64_t>(hash_), absl::kZeroPad16));
  }

 private:
  void AddBytes(std::string_view bytes) {
    constexpr unsigned __int128 kPrime = (static_cast<unsigned __int128>(1) << 88) + 0x13b;
    for (char c : bytes) {
      hash_ ^= static_cast<unsigned char>(c);
      hash_ *= kPrime;
    }
  }
  unsigned __int128 hash_ =
      static_cast<unsigned __int128>(0x6c62272e07bb0142ULL) << 64 | 0x62b821756295c58dULL;
};

std::string FilterText(const JobFilter& filter) {
  std::vector<int> states;
  for (JobState state : filter.states) states.push_back(static_cast<int>(state));
  std::sort(states.begin(), states.end());
  states.erase(std::unique(states.begin(), states.end()), states.end());
  std::string text;
  for (int state : states) absl::StrAppend(&text, state, ",");
  return absl::StrCat(text, "/", filter.tenant);
}

uint32_t TokenChecksum(const JobFilter& filter, const std::string& body) {
  return Crc32c(absl::StrCat("kandinsky page token 1\n", FilterText(filter), "\n", body));
}

}  // namespace

std::string NewJobId(absl::Time now) {
  uint64_t millis = static_cast<uint64_t>(std::max<int64_t>(0, absl::ToUnixMillis(now)));
  unsigned __int128 bits = static_cast<unsigned __int128>(millis & 0xffffffffffffULL) << 80 |
                           static_cast<unsigned __int128>(Random64() & 0xffff) << 64 | Random64();
  std::string id(kIdLength, '0');
  for (size_t i = kIdLength; i-- > 0; bits >>= 5) id[i] = kAlphabet[static_cast<int>(bits & 31)];
  return id;
}

bool IsJobId(std::string_view id) {
  return id.size() == kIdLength && id.find_first_not_of(kAlphabet) == std::string_view::npos;
}

std::string PayloadDigest(const JobSpec& spec) {
  if (!spec.payload_digest.empty()) return spec.payload_digest;
  const GenerationParameters& p = spec.parameters;
  Fnv128 hash;
  hash.Add(spec.tenant);
  hash.AddInt(static_cast<uint64_t>(spec.priority));
  hash.AddInt(static_cast<uint64_t>(absl::ToInt64Microseconds(spec.timeout)));
  hash.Add(p.prompt);
  hash.Add(p.negative_prompt);
  hash.AddInt(p.seed);
  hash.AddInt(static_cast<uint64_t>(p.level));
  hash.AddInt(static_cast<uint64_t>(p.width));
  hash.AddInt(static_cast<uint64_t>(p.height));
  hash.AddInt(static_cast<uint64_t>(p.steps));
  hash.AddDouble(p.guidance_scale);
  hash.AddDouble(p.interpolation_guidance_scale);
  hash.Add(p.model);
  hash.AddInt(static_cast<uint64_t>(p.format));
  hash.AddDouble(p.fps);
  return hash.Hex();
}

std::string EncodePageToken(const JobFilter& filter, const PagePosition& position) {
  std::string body = absl::StrCat(position.create_us, ".", position.job_id);
  std::string text =
      absl::StrCat(body, ".", absl::Hex(TokenChecksum(filter, body), absl::kZeroPad8));
  return absl::WebSafeBase64Escape(text);
}

absl::StatusOr<PagePosition> DecodePageToken(const JobFilter& filter, const std::string& token) {
  const absl::Status bad = absl::InvalidArgumentError("not a page token of this list");
  std::string text;
  if (token.size() > 200 || !absl::WebSafeBase64Unescape(token, &text)) return bad;
  std::vector<std::string> parts = absl::StrSplit(text, '.');
  PagePosition position;
  if (parts.size() != 3 || !absl::SimpleAtoi(parts[0], &position.create_us) ||
      position.create_us < 0 || !IsJobId(parts[1])) {
    return bad;
  }
  position.job_id = parts[1];
  // Compared as text: every position has exactly one token.
  if (EncodePageToken(filter, position) != token) return bad;
  return position;
}

}  // namespace kandinsky
