// Any bytes may be given to the checkpoint readers: they read tensors or throw ModelError, nothing
// else, and never ask for memory that the file's size does not explain.
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <new>
#include <string>
#include <string_view>

#include "worker/model/checkpoint/index.h"
#include "worker/model/checkpoint/mapped_file.h"
#include "worker/model/checkpoint/pickle.h"
#include "worker/model/checkpoint/tensor_source.h"
#include "worker/model/error.h"

namespace {

// Largest single allocation that the input explains. The readers' own structures need some tens of
// bytes for a byte of a file (a value on the pickle machine's stack, in a vector that doubles); a
// number taken from the file needs much more.
thread_local size_t allocation_limit = SIZE_MAX;

void* Allocate(size_t size) {
  if (size > allocation_limit) {
    std::fprintf(stderr, "allocation of %zu bytes, at most %zu are explained by the input\n", size,
                 allocation_limit);
    allocation_limit = SIZE_MAX;
    std::abort();
  }
  void* memory = std::malloc(size == 0 ? 1 : size);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}

struct LimitScope {
  explicit LimitScope(size_t limit) { allocation_limit = limit; }
  ~LimitScope() { allocation_limit = SIZE_MAX; }
};

// The input as a file, without a disk.
class MemoryFile {
 public:
  MemoryFile(const uint8_t* data, size_t size) : fd_(::memfd_create("input", MFD_CLOEXEC)) {
    if (fd_ < 0 || ::write(fd_, data, size) != static_cast<ssize_t>(size)) std::abort();
  }
  ~MemoryFile() { ::close(fd_); }
  std::string path() const { return "/proc/self/fd/" + std::to_string(fd_); }

 private:
  const int fd_;
};

template <typename Function>
void MayThrowModelError(const Function& function) {
  try {
    function();
  } catch (const kandinsky::model::ModelError&) {
  }
}

}  // namespace

void* operator new(size_t size) { return Allocate(size); }
void* operator new[](size_t size) { return Allocate(size); }
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }
void operator delete[](void* memory, size_t) noexcept { std::free(memory); }

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace kandinsky::model;
  const MemoryFile file(data, size);
  const std::string path = file.path();
  const LimitScope limit((1 << 16) + 64 * size);
  MayThrowModelError([&] {
    const std::unique_ptr<TensorSource> source = OpenCheckpoint(path);
    for (const std::string& name : source->Names()) {
      // Reading allocates exactly this.
      if (source->Find(name)->bytes() > static_cast<int64_t>(size)) std::abort();
      source->Read(name);
    }
  });
  MayThrowModelError([&] { ShardedSource::ParseIndex(*MappedFile::Open(path)); });
  MayThrowModelError([&] {
    ReadTensorPickle("input", std::string_view(reinterpret_cast<const char*>(data), size));
  });
  return 0;
}
