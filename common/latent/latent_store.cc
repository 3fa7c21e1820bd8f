#include "common/latent/latent_store.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/crc32c.h"
#include "common/base/log.h"
#include "common/latent/latent_file.h"

namespace kandinsky {
namespace {

constexpr char kExtension[] = ".safetensors";

}  // namespace

absl::StatusOr<std::unique_ptr<LatentStore>> LatentStore::Open(const LatentStoreOptions& options,
                                                               const Clock* clock) {
  if (options.spill_dir.empty()) {
    return std::unique_ptr<LatentStore>(new LatentStore(options, clock, -1));
  }
  std::error_code error;
  std::filesystem::create_directories(options.spill_dir, error);
  if (error) {
    return absl::UnavailableError(
        absl::StrCat("cannot make folder ", options.spill_dir, ": ", error.message()));
  }
  const std::string lock_path = options.spill_dir + "/.lock";
  const int lock_fd = open(lock_path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0640);
  if (lock_fd < 0) {
    return absl::UnavailableError(
        absl::StrCat("cannot open ", lock_path, ": ", std::strerror(errno)));
  }
  auto store = std::unique_ptr<LatentStore>(new LatentStore(options, clock, lock_fd));
  // A process that was killed lets go of its files some time after it looks gone.
  const auto give_up =
      std::chrono::steady_clock::now() + absl::ToChronoNanoseconds(options.lock_wait);
  while (flock(lock_fd, LOCK_EX | LOCK_NB) != 0) {
    if (std::chrono::steady_clock::now() < give_up) {
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
      continue;
    }
    return absl::FailedPreconditionError(
        absl::StrCat("another process keeps its latents in ", options.spill_dir));
  }

  std::vector<std::filesystem::path> unfinished;
  const absl::Time now = clock->Now();
  for (std::filesystem::directory_iterator it(options.spill_dir, error), end; !error && it != end;
       it.increment(error)) {
    const std::filesystem::path& path = it->path();
    if (path.extension() == ".tmp") {
      unfinished.push_back(path);
    } else if (path.extension() == kExtension && IsLatentKey(path.stem().string())) {
      Entry& entry = store->entries_[path.stem().string()];
      entry.on_disk = true;
      entry.since = now;
    }
  }
  if (error) {
    return absl::UnavailableError(
        absl::StrCat("cannot list ", options.spill_dir, ": ", error.message()));
  }
  for (const std::filesystem::path& path : unfinished) std::filesystem::remove(path, error);
  return store;
}

LatentStore::LatentStore(const LatentStoreOptions& options, const Clock* clock, int lock_fd)
    : options_(options), clock_(clock), lock_fd_(lock_fd) {}

LatentStore::~LatentStore() {
  if (lock_fd_ >= 0) close(lock_fd_);
}

std::string LatentStore::Path(const std::string& key) const {
  return absl::StrCat(options_.spill_dir, "/", key, kExtension);
}

absl::StatusOr<uint32_t> LatentStore::Put(const std::string& key, const HostTensor& tensor) {
  if (!IsLatentKey(key)) {
    return absl::InvalidArgumentError(absl::StrCat("\"", key, "\" is no key for latents"));
  }
  const uint64_t size = tensor.bytes().size();
  if (size > options_.max_tensor_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("tensor of ", size, " bytes, more than ", options_.max_tensor_bytes));
  }
  Sweep();

  StoredLatents latents{tensor, Crc32c(tensor.bytes())};
  const uint32_t crc32c = latents.crc32c;
  absl::Status spilled;
  if (lock_fd_ >= 0) spilled = WriteLatentFile(Path(key), {key, tensor, crc32c});
  const bool on_disk = lock_fd_ >= 0 && spilled.ok();

  const std::lock_guard<std::mutex> lock(mutex_);
  const bool room = MakeRoom(size);
  if (!on_disk && !room) {
    if (!spilled.ok()) return spilled;
    return absl::ResourceExhaustedError(
        absl::StrCat("no room for ", size, " bytes of latents in memory"));
  }
  if (!on_disk && lock_fd_ >= 0) {
    Log(LogLevel::kWarning, "latents are kept in memory only",
        {{"key", key}, {"why", std::string(spilled.message())}});
  }
  Entry& entry = entries_[key];
  if (entry.in_memory) DropFromMemory(entry);
  entry.on_disk = on_disk;
  entry.since = clock_->Now();
  if (room) KeepInMemory(key, entry, std::move(latents));
  return crc32c;
}

absl::StatusOr<StoredLatents> LatentStore::Get(const std::string& key) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto it = entries_.find(key);
    if (it == entries_.end()) return absl::NotFoundError(absl::StrCat("no latents ", key));
    Entry& entry = it->second;
    if (entry.in_memory) {
      recent_.splice(recent_.begin(), recent_, entry.recent);
      return entry.latents;
    }
  }
  absl::StatusOr<LatentFile> file = ReadLatentFile(Path(key), options_.max_tensor_bytes);
  if (file.ok() && file->key != key) {
    file = absl::DataLossError(absl::StrCat(Path(key), " holds latents of another key"));
  }

  const std::lock_guard<std::mutex> lock(mutex_);
  const auto it = entries_.find(key);
  if (!file.ok()) {
    if (absl::IsUnavailable(file.status())) return file.status();
    Log(LogLevel::kError, "latents are lost",
        {{"key", key}, {"why", std::string(file.status().message())}});
    if (it != entries_.end() && !it->second.in_memory) Erase(it);
    return file.status();
  }
  StoredLatents latents{std::move(file->tensor), file->crc32c};
  if (it != entries_.end() && !it->second.in_memory && MakeRoom(latents.tensor.bytes().size())) {
    KeepInMemory(key, it->second, latents);
  }
  return latents;
}

void LatentStore::Release(const std::string& key) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto it = entries_.find(key);
  if (it != entries_.end()) Erase(it);
}

void LatentStore::Sweep() {
  const std::lock_guard<std::mutex> lock(mutex_);
  SweepLocked();
}

LatentStore::Stats LatentStore::GetStats() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  Stats stats{entries_.size(), memory_used_, 0};
  for (const auto& [key, entry] : entries_) stats.memory_only_entries += entry.on_disk ? 0 : 1;
  return stats;
}

void LatentStore::KeepInMemory(const std::string& key, Entry& entry, StoredLatents latents) {
  memory_used_ += latents.tensor.bytes().size();
  entry.latents = std::move(latents);
  entry.in_memory = true;
  recent_.push_front(key);
  entry.recent = recent_.begin();
}

void LatentStore::DropFromMemory(Entry& entry) {
  memory_used_ -= entry.latents.tensor.bytes().size();
  entry.latents = StoredLatents();
  entry.in_memory = false;
  recent_.erase(entry.recent);
}

// Drops the least recently used tensors that are on disk too. False when that is not enough.
bool LatentStore::MakeRoom(uint64_t bytes) {
  if (bytes > options_.memory_bytes) return false;
  auto it = recent_.end();
  while (memory_used_ + bytes > options_.memory_bytes && it != recent_.begin()) {
    --it;
    Entry& entry = entries_.at(*it);
    if (!entry.on_disk) continue;
    const auto next = std::next(it);
    DropFromMemory(entry);
    it = next;
  }
  return memory_used_ + bytes <= options_.memory_bytes;
}

void LatentStore::Erase(std::unordered_map<std::string, Entry>::iterator it) {
  if (it->second.in_memory) DropFromMemory(it->second);
  if (it->second.on_disk) unlink(Path(it->first).c_str());
  entries_.erase(it);
}

void LatentStore::SweepLocked() {
  const absl::Time oldest = clock_->Now() - options_.time_to_live;
  for (auto it = entries_.begin(); it != entries_.end();) {
    const auto next = std::next(it);
    if (it->second.since < oldest) Erase(it);
    it = next;
  }
}

}  // namespace kandinsky
