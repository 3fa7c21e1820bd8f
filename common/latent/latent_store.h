// Where a worker keeps the latents that it made until the next stage has used them.
//
// Every tensor is on disk (safetensors, see latent_file.h) before Put returns, and the most
// recently used ones are in memory too. A store that is opened on the folder of a process that died
// serves what that process had put. When the disk is full, tensors are kept in memory alone as long
// as `memory_bytes` allows; they are lost with the process, which costs work, never a wrong result
// (the consumer sends its task back one stage).
//
// Thread rule: all methods may be called from any thread; Put and Get may wait for the disk.
#ifndef KANDINSKY_COMMON_LATENT_LATENT_STORE_H_
#define KANDINSKY_COMMON_LATENT_LATENT_STORE_H_

#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/base/clock.h"
#include "common/latent/host_tensor.h"

namespace kandinsky {

struct LatentStoreOptions {
  // Made when missing; belongs to one process at a time. Empty: memory only.
  std::string spill_dir;
  // Bytes of tensors held in memory.
  uint64_t memory_bytes = uint64_t{1} << 30;
  // Larger tensors are refused.
  uint64_t max_tensor_bytes = uint64_t{1} << 32;
  // Latents that nobody released are dropped this long after they were put or found. Longer than
  // any job may run.
  absl::Duration time_to_live = absl::Hours(25);
  // How long Open waits for another process to leave the folder.
  absl::Duration lock_wait = absl::ZeroDuration();
};

struct StoredLatents {
  HostTensor tensor;
  uint32_t crc32c = 0;  // of tensor.bytes()
};

class LatentStore {
 public:
  // Reads the names (not the contents) of what lies in the folder and removes unfinished files.
  // FAILED_PRECONDITION when another process holds the folder; UNAVAILABLE or RESOURCE_EXHAUSTED
  // when it cannot be used.
  static absl::StatusOr<std::unique_ptr<LatentStore>> Open(const LatentStoreOptions& options,
                                                           const Clock* clock);
  ~LatentStore();
  LatentStore(const LatentStore&) = delete;
  LatentStore& operator=(const LatentStore&) = delete;

  // Keeps `tensor` under `key` (see IsLatentKey) in place of what was there and returns its
  // CRC-32C. RESOURCE_EXHAUSTED: neither disk nor memory has room; nothing was kept.
  absl::StatusOr<uint32_t> Put(const std::string& key, const HostTensor& tensor);

  // NOT_FOUND: never put, released or too old. DATA_LOSS: the file was damaged; it is gone now.
  absl::StatusOr<StoredLatents> Get(const std::string& key);

  // Idempotent.
  void Release(const std::string& key);

  // Drops what is older than time_to_live. Put does it too.
  void Sweep();

  struct Stats {
    uint64_t entries = 0;
    uint64_t memory_bytes = 0;         // held in memory now
    uint64_t memory_only_entries = 0;  // for which the disk had no room
  };
  Stats GetStats() const;

 private:
  struct Entry {
    StoredLatents latents;  // valid when in_memory
    bool in_memory = false;
    bool on_disk = false;
    absl::Time since = absl::InfinitePast();
    std::list<std::string>::iterator recent;  // valid when in_memory
  };

  LatentStore(const LatentStoreOptions& options, const Clock* clock, int lock_fd);
  std::string Path(const std::string& key) const;
  void KeepInMemory(const std::string& key, Entry& entry, StoredLatents latents);
  void DropFromMemory(Entry& entry);
  bool MakeRoom(uint64_t bytes);
  void Erase(std::unordered_map<std::string, Entry>::iterator it);
  void SweepLocked();

  const LatentStoreOptions options_;
  const Clock* const clock_;
  const int lock_fd_;  // holds the folder's lock; -1: memory only

  mutable std::mutex mutex_;
  std::unordered_map<std::string, Entry> entries_;  // guarded by mutex_
  std::list<std::string> recent_;  // keys in memory, most recently used first; guarded by mutex_
  uint64_t memory_used_ = 0;       // guarded by mutex_
};

}  // namespace kandinsky

#endif  // KANDINSKY_COMMON_LATENT_LATENT_STORE_H_
