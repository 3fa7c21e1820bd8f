#include "worker/model/memory_tracker.h"

#include <c10/core/Allocator.h>

#include <algorithm>
#include <atomic>
#include <memory>

#include "worker/model/meta_kernels.h"

namespace kandinsky::model {

struct MemoryTracker::Counts {
  std::atomic<int64_t> live = 0, peak = 0, host = 0;
  std::shared_ptr<Counts> self() { return owner.lock(); }
  std::weak_ptr<Counts> owner;
};

namespace {

using Counts = MemoryTracker::Counts;

constexpr int64_t kRounding = 512;

thread_local Counts* t_counts = nullptr;
thread_local bool t_host = false;

// One storage that is alive.
struct Record {
  std::shared_ptr<Counts> counts;
  int64_t bytes;
  bool host;
};

void Release(void* context) {
  const auto* record = static_cast<Record*>(context);
  (record->host ? record->counts->host : record->counts->live) -= record->bytes;
  delete record;
}

void Nothing(void*) {}

// In place of LibTorch's allocator of the meta device, for good: without a tracker it does the
// same.
class MetaAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t bytes) override {
    const c10::Device meta(c10::kMeta);
    if (t_counts == nullptr || bytes == 0) return {nullptr, nullptr, &Nothing, meta};
    auto record = std::make_unique<Record>(
        Record{t_counts->self(),
               (static_cast<int64_t>(bytes) + kRounding - 1) / kRounding * kRounding, t_host});
    if (record->host) {
      t_counts->host += record->bytes;
    } else {
      t_counts->live += record->bytes;
      t_counts->peak = std::max(t_counts->peak.load(), t_counts->live.load());
    }
    return {nullptr, record.release(), &Release, meta};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &Nothing; }
  void copy_data(void*, const void*, std::size_t) const override {}
};

void InstallOnce() {
  static const bool done = [] {
    static MetaAllocator allocator;
    c10::SetAllocator(c10::kMeta, &allocator);
    EnsureMetaKernels();
    return true;
  }();
  static_cast<void>(done);
}

}  // namespace

MemoryTracker::MemoryTracker() : counts_(std::make_shared<Counts>()), outer_(t_counts) {
  InstallOnce();
  counts_->owner = counts_;
  t_counts = counts_.get();
}

MemoryTracker::~MemoryTracker() { t_counts = outer_; }

int64_t MemoryTracker::live_bytes() const { return counts_->live; }
int64_t MemoryTracker::peak_bytes() const { return counts_->peak; }
int64_t MemoryTracker::host_bytes() const { return counts_->host; }
void MemoryTracker::ResetPeak() { counts_->peak = counts_->live.load(); }

HostMemoryScope::HostMemoryScope() : outer_(t_host) { t_host = true; }
HostMemoryScope::~HostMemoryScope() { t_host = outer_; }

}  // namespace kandinsky::model
