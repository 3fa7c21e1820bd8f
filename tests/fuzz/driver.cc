// Runs a fuzz target without libFuzzer: first every file of the corpus as it is, then mutations of
// them.
//
//   TARGET [--seconds=N] [--runs=N] [--seed=N] [--max-size=BYTES] FILE_OR_FOLDER...
//
// Stops at whichever of --seconds and --runs comes first. The seed decides every mutation, so a run
// that crashed can be repeated. An input that crashes the process is left in crash-<seed>-<run>;
// give it as FILE to see it again.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <string_view>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace {

using Bytes = std::vector<uint8_t>;

struct Options {
  double seconds = 10;
  int64_t runs = INT64_MAX;
  uint64_t seed = 1;
  size_t max_size = 1 << 16;
  std::vector<std::string> paths;
};

// What the signal handler saves.
const Bytes* g_input = nullptr;
char g_crash_file[64];

void SaveInput(int signal) {
  if (g_input != nullptr) {
    const int fd = ::open(g_crash_file, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    if (fd >= 0) {
      [[maybe_unused]] const ssize_t n = ::write(fd, g_input->data(), g_input->size());
      ::close(fd);
    }
    constexpr char kText[] = "crashed; the input is in ";
    [[maybe_unused]] ssize_t n = ::write(2, kText, sizeof(kText) - 1);
    n = ::write(2, g_crash_file, std::strlen(g_crash_file));
    n = ::write(2, "\n", 1);
  }
  std::signal(signal, SIG_DFL);
  std::raise(signal);
}

void RunOne(const Bytes& input, uint64_t seed, int64_t run) {
  std::snprintf(g_crash_file, sizeof(g_crash_file), "crash-%llu-%lld",
                static_cast<unsigned long long>(seed), static_cast<long long>(run));
  g_input = &input;
  LLVMFuzzerTestOneInput(input.data(), input.size());
  g_input = nullptr;
}

class Mutator {
 public:
  Mutator(uint64_t seed, size_t max_size, const std::vector<Bytes>& corpus)
      : random_(seed), max_size_(max_size), corpus_(corpus) {}

  Bytes Next() {
    Bytes input = corpus_[Below(corpus_.size())];
    for (size_t i = 1 + Below(4); i > 0; --i) Mutate(&input);
    if (input.size() > max_size_) input.resize(max_size_);
    return input;
  }

 private:
  size_t Below(size_t limit) { return limit == 0 ? 0 : random_() % limit; }

  void Mutate(Bytes* input) {
    if (input->empty()) input->push_back(static_cast<uint8_t>(Below(256)));
    const size_t at = Below(input->size());
    const size_t length = std::min(1 + Below(32), input->size() - at);
    const auto begin = input->begin() + static_cast<std::ptrdiff_t>(at);
    switch (Below(9)) {
      case 0:  // one bit
        (*input)[at] ^= 1 << Below(8);
        return;
      case 1:  // one byte
        (*input)[at] = static_cast<uint8_t>(Below(256));
        return;
      case 2: {  // a number at the edge of its type, little-endian
        constexpr uint64_t kEdges[] = {0,
                                       1,
                                       0x7f,
                                       0xff,
                                       0x7fff,
                                       0xffff,
                                       0x7fffffff,
                                       0xffffffff,
                                       0x7fffffffffffffff,
                                       ~uint64_t{0},
                                       uint64_t{1} << 32,
                                       uint64_t{1} << 62};
        const uint64_t value = kEdges[Below(std::size(kEdges))];
        const size_t width = size_t{1} << Below(4);
        for (size_t i = 0; i < width && at + i < input->size(); ++i) {
          (*input)[at + i] = static_cast<uint8_t>(value >> (8 * i));
        }
        return;
      }
      case 3:  // cut a piece out
        input->erase(begin, begin + static_cast<std::ptrdiff_t>(length));
        return;
      case 4:  // cut the end off
        input->resize(at);
        return;
      case 5: {  // a piece twice
        const Bytes piece(begin, begin + static_cast<std::ptrdiff_t>(length));
        input->insert(begin, piece.begin(), piece.end());
        return;
      }
      case 6: {  // a piece of another input, inserted
        const Bytes& other = corpus_[Below(corpus_.size())];
        if (other.empty()) return;
        const size_t from = Below(other.size());
        const size_t count = std::min(1 + Below(64), other.size() - from);
        input->insert(begin, other.begin() + static_cast<std::ptrdiff_t>(from),
                      other.begin() + static_cast<std::ptrdiff_t>(from + count));
        return;
      }
      case 7: {  // a digit of a number in text
        for (size_t i = at; i < input->size(); ++i) {
          if ((*input)[i] >= '0' && (*input)[i] <= '9') {
            (*input)[i] = static_cast<uint8_t>("0123456789-.e"[Below(13)]);
            return;
          }
        }
        return;
      }
      default: {  // the rest replaced by another input's
        const Bytes& other = corpus_[Below(corpus_.size())];
        input->resize(at);
        if (at < other.size()) {
          input->insert(input->end(), other.begin() + static_cast<std::ptrdiff_t>(at), other.end());
        }
        return;
      }
    }
  }

  std::mt19937_64 random_;
  const size_t max_size_;
  const std::vector<Bytes>& corpus_;
};

Bytes ReadFile(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return Bytes(std::istreambuf_iterator<char>(file), {});
}

bool ParseOptions(int argc, char** argv, Options* options) {
  for (int i = 1; i < argc; ++i) {
    const std::string_view argument = argv[i];
    const auto value = [&](std::string_view name) -> const char* {
      return argument.starts_with(name) ? argv[i] + name.size() : nullptr;
    };
    if (const char* seconds = value("--seconds=")) {
      options->seconds = std::atof(seconds);
    } else if (const char* runs = value("--runs=")) {
      options->runs = std::atoll(runs);
    } else if (const char* seed = value("--seed=")) {
      options->seed = std::strtoull(seed, nullptr, 10);
    } else if (const char* size = value("--max-size=")) {
      options->max_size = std::strtoull(size, nullptr, 10);
    } else if (argument.starts_with("-")) {
      return false;
    } else {
      options->paths.emplace_back(argument);
    }
  }
  return !options->paths.empty();
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  if (!ParseOptions(argc, argv, &options)) {
    std::fprintf(stderr, "usage: %s [--seconds=N] [--runs=N] [--seed=N] FILE_OR_FOLDER...\n",
                 argv[0]);
    return 2;
  }
  std::vector<std::filesystem::path> files;
  for (const std::string& path : options.paths) {
    if (std::filesystem::is_directory(path)) {
      for (const auto& entry : std::filesystem::recursive_directory_iterator(path)) {
        if (entry.is_regular_file()) files.push_back(entry.path());
      }
    } else if (std::filesystem::is_regular_file(path)) {
      files.push_back(path);
    } else {
      std::fprintf(stderr, "%s: no such corpus\n", path.c_str());
      return 2;
    }
  }
  std::sort(files.begin(), files.end());
  std::vector<Bytes> corpus;
  for (const auto& file : files) corpus.push_back(ReadFile(file));
  if (corpus.empty()) {
    std::fprintf(stderr, "the corpus is empty\n");
    return 2;
  }

  for (const int signal : {SIGSEGV, SIGBUS, SIGABRT, SIGFPE, SIGILL})
    std::signal(signal, SaveInput);
  const auto start = std::chrono::steady_clock::now();
  const auto elapsed = [&] {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  };
  int64_t run = 0;
  for (const Bytes& input : corpus) RunOne(input, options.seed, run++);
  Mutator mutator(options.seed, options.max_size, corpus);
  while (run < options.runs && elapsed() < options.seconds) {
    const Bytes input = mutator.Next();
    RunOne(input, options.seed, run++);
  }
  std::printf("%lld runs in %.1f s, seed %llu, %zu files in the corpus\n",
              static_cast<long long>(run), elapsed(), static_cast<unsigned long long>(options.seed),
              corpus.size());
  return 0;
}
