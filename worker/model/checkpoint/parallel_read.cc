#include "worker/model/checkpoint/parallel_read.h"

#include <ATen/DeviceGuard.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <c10/core/Event.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <exception>
#include <limits>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>

#include "worker/model/checkpoint/shape.h"
#include "worker/model/error.h"

namespace kandinsky::model {
namespace {

constexpr int64_t kPieceBytes = 8 << 20;  // of a tensor that stays on the CPU
constexpr int64_t kAlignment = 64;
// ATen copies fewer elements than at::internal::GRAIN_SIZE on the calling thread.
constexpr int64_t kCopiedAtOnce = 16384;
static_assert(kCopiedAtOnce < at::internal::GRAIN_SIZE);
constexpr int kMostThreads = 64, kMostAutomaticThreads = 8, kLeastForDevice = 4;
constexpr int kBuffersPerThread = 2;  // one is filled while the other one travels

// Whether every value of `from` is a value of `to`.
bool Widens(at::ScalarType from, at::ScalarType to) {
  if (to == at::kFloat) return from == at::kHalf || from == at::kBFloat16;
  if (to == at::kDouble) return from == at::kHalf || from == at::kBFloat16 || from == at::kFloat;
  return false;
}

// Begins to read the pages under a piece from the disk. Without effect on those that are there.
void Prefetch(const at::Tensor& piece) {
  const auto begin = reinterpret_cast<uintptr_t>(piece.const_data_ptr());
  const auto page = static_cast<uintptr_t>(::sysconf(_SC_PAGESIZE));
  const uintptr_t first = begin / page * page;
  ::madvise(reinterpret_cast<void*>(first), begin - first + piece.nbytes(), MADV_WILLNEED);
}

// source and target of one shape, both on the CPU; the values of `target` become those of `source`.
// Never more at once than ATen would give to a team of threads.
void CopyOrConvert(const at::Tensor& source, const at::Tensor& target) {
  if (source.scalar_type() == target.scalar_type() && source.is_contiguous() &&
      target.is_contiguous()) {
    std::memcpy(target.mutable_data_ptr(), source.const_data_ptr(), source.nbytes());
  } else if (source.numel() <= kCopiedAtOnce) {
    target.copy_(source);
  } else {
    const at::IntArrayRef sizes = source.sizes();
    const int64_t axis = std::max_element(sizes.begin(), sizes.end()) - sizes.begin();
    const int64_t half = sizes[axis] / 2, rest = sizes[axis] - half;
    CopyOrConvert(source.narrow(axis, 0, half), target.narrow(axis, 0, half));
    CopyOrConvert(source.narrow(axis, half, rest), target.narrow(axis, half, rest));
  }
}

// Whether a contiguous tensor of `shape` has to be rewritten to have the axes in `order`.
bool Reorders(at::MemoryFormat order, at::IntArrayRef shape) {
  return !at::empty(shape, at::kMeta).is_contiguous(order);
}

int ChooseThreads(const ParallelReadOptions& options) {
  if (options.threads < 0 || options.threads > kMostThreads) {
    throw ModelError(ModelError::Kind::kInvalidArgument,
                     "threads is " + std::to_string(options.threads) + ", must be 0 to " +
                         std::to_string(kMostThreads));
  }
  if (options.threads > 0) return options.threads;
  const int wanted = options.device.is_cpu() ? at::get_num_threads()
                                             : std::max(kLeastForDevice, at::get_num_threads());
  const int processors = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  return std::min({wanted, processors, kMostAutomaticThreads});
}

// Page-locked buffers of one thread, taken in turn.
class Staging {
 public:
  Staging(c10::Stream stream, int64_t bytes) : stream_(stream), bytes_(bytes) {}
  // Waits for what still travels.
  ~Staging() {
    for (Buffer& buffer : buffers_) {
      try {
        if (buffer.left) buffer.left->synchronize();
      } catch (const c10::Error&) {
        // The device has failed; whoever uses it next hears of it.
      }
    }
  }
  Staging(const Staging&) = delete;
  Staging& operator=(const Staging&) = delete;

  // source [n] on the CPU, contiguous -> target [n] on the device, on the way as `dtype`.
  void Send(const at::Tensor& source, at::ScalarType dtype, const at::Tensor& target) {
    Buffer& buffer = buffers_[next_];
    next_ = (next_ + 1) % buffers_.size();
    if (buffer.left) {
      buffer.left->synchronize();
    } else {
      buffer.memory = at::empty({bytes_}, at::TensorOptions(at::kByte).pinned_memory(true));
      buffer.left.emplace(stream_.device_type());
    }
    const int64_t size = source.numel() * static_cast<int64_t>(c10::elementSize(dtype));
    const at::Tensor staged = buffer.memory.narrow(0, 0, size).view(dtype);  // [n]
    CopyOrConvert(source, staged);
    if (dtype == target.scalar_type()) {
      target.copy_(staged, /*non_blocking=*/true);
    } else {
      const at::Tensor arrived = at::empty({source.numel()}, target.options().dtype(dtype));
      arrived.copy_(staged, /*non_blocking=*/true);
      target.copy_(arrived);
    }
    buffer.left->record(stream_);
  }

 private:
  struct Buffer {
    at::Tensor memory;               // uint8 [bytes_], page-locked
    std::optional<c10::Event> left;  // after the last copy out of it
  };
  const c10::Stream stream_;
  const int64_t bytes_;
  std::array<Buffer, kBuffersPerThread> buffers_;
  size_t next_ = 0;
};

class Reader {
 public:
  Reader(const TensorSource& source, const std::vector<ReadJob>& jobs,
         const ParallelReadOptions& options,
         const std::function<void(size_t, const at::Tensor&)>& take)
      : source_(source),
        jobs_(jobs),
        take_(take),
        device_(options.device),
        threads_(ChooseThreads(options)),
        piece_bytes_(device_.is_cpu() ? kPieceBytes
                                      : options.staging_bytes / (threads_ * kBuffersPerThread) /
                                            kAlignment * kAlignment) {
    if (!device_.is_cpu()) {
      if (options.staging_bytes < threads_ * int64_t{4096}) {
        throw ModelError(ModelError::Kind::kInvalidArgument,
                         "staging_bytes is " + std::to_string(options.staging_bytes) +
                             ", must be at least " + std::to_string(threads_ * int64_t{4096}));
      }
      stream_ = c10::impl::VirtualGuardImpl(device_.type()).getStream(device_);
    }
  }

  void Run() {
    std::vector<std::thread> helpers;
    try {
      for (int i = 1; i < threads_; ++i) helpers.emplace_back([this] { Work(); });
    } catch (const std::system_error&) {
      // Fewer threads do, too.
    }
    Work();
    for (std::thread& helper : helpers) helper.join();
    if (error_) std::rethrow_exception(error_);
  }

 private:
  // A job that has been begun. Pieces are ranges of the first axis of `from` and `to`, which is the
  // only one unless axes change their order on the way.
  struct Open {
    size_t job = 0;
    at::Tensor from;                   // over the mapped file
    at::Tensor to;                     // on the device
    at::Tensor result;                 // `to` in the job's shape
    at::ScalarType sent = at::kFloat;  // the type in which a piece goes to the device
    int64_t row_bytes = 0;             // of `from`, or of what is sent, along the first axis
    int64_t next = 0;                  // first row that no thread has taken yet; guarded by mutex_
    int64_t left = 0;                  // rows that have not arrived yet; guarded by mutex_
  };
  struct Piece {
    std::shared_ptr<Open> open;
    int64_t first = 0, count = 0;  // rows
  };

  void Work() {
    const at::NoGradGuard no_grad;
    std::optional<c10::DeviceGuard> guard;
    std::optional<Staging> staging;
    size_t job = jobs_.size();
    try {
      if (stream_) {
        guard.emplace(device_);
        c10::impl::VirtualGuardImpl(device_.type()).exchangeStream(*stream_);
        staging.emplace(*stream_, piece_bytes_);
      }
      while (std::optional<Piece> piece = Next(&job)) {
        job = piece->open->job;
        Move(*piece, staging ? &*staging : nullptr);
        Arrived(*piece);
      }
    } catch (...) {
      const std::lock_guard<std::mutex> lock(mutex_);
      if (!error_ || job < failed_job_) {
        error_ = std::current_exception();
        failed_job_ = job;
      }
    }
  }

  // The next piece of a tensor that has been begun, or the first of the next tensor. `job`: what
  // was about to begin, should this throw.
  std::optional<Piece> Next(size_t* job) {
    const std::lock_guard<std::mutex> lock(mutex_);
    while (!error_ && (current_ || next_job_ < jobs_.size())) {
      if (!current_) {
        *job = next_job_;
        current_ = Begin(next_job_++);
        if (current_->left == 0) {
          take_(current_->job, current_->result);
          current_.reset();
          continue;
        }
      }
      Open& open = *current_;
      const int64_t most = std::max<int64_t>(1, piece_bytes_ / open.row_bytes);
      Piece piece = {current_, open.next, std::min(most, open.from.size(0) - open.next)};
      open.next += piece.count;
      if (open.next == open.from.size(0)) current_.reset();
      return piece;
    }
    return std::nullopt;
  }

  std::shared_ptr<Open> Begin(size_t index) const {
    const ReadJob& job = jobs_[index];
    const TensorMeta* meta = source_.Find(job.name);
    if (meta == nullptr) {
      throw ModelError(ModelError::Kind::kNotFound,
                       source_.path() + ": no tensor " + Quote(job.name));
    }
    const at::ScalarType target = c10::isFloatingType(meta->dtype) && c10::isFloatingType(job.dtype)
                                      ? job.dtype
                                      : meta->dtype;
    auto open = std::make_shared<Open>();
    open->job = index;
    open->from = source_.View(job.name);
    auto options = at::TensorOptions(device_).dtype(target);
    // A device reorders axes by itself, when all has arrived.
    const bool reorders = !stream_ && Reorders(job.order, meta->shape);
    if (reorders) options = options.memory_format(job.order);
    open->result = open->to = at::empty(meta->shape, options);
    if (!reorders) {
      open->from = open->from.contiguous().view({-1});
      open->to = open->to.view({-1});
    }
    open->sent = stream_ && Widens(meta->dtype, target) ? meta->dtype : target;
    open->left = open->from.size(0);
    if (open->from.numel() == 0) {
      open->left = 0;
    } else {
      open->row_bytes = open->from.numel() / open->left *
                        static_cast<int64_t>(c10::elementSize(stream_ ? open->sent : meta->dtype));
    }
    return open;
  }

  void Move(const Piece& piece, Staging* staging) const {
    const at::Tensor from = piece.open->from.narrow(0, piece.first, piece.count);
    const at::Tensor to = piece.open->to.narrow(0, piece.first, piece.count);
    if (from.is_contiguous()) Prefetch(from);
    if (staging != nullptr) {
      staging->Send(from, piece.open->sent, to);
    } else {
      CopyOrConvert(from, to);
    }
  }

  void Arrived(const Piece& piece) {
    Open& open = *piece.open;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      open.left -= piece.count;
      if (open.left > 0) return;
    }
    // This was the last piece, so nobody else looks at `open` any more.
    const ReadJob& job = jobs_[open.job];
    open.from.reset();
    source_.Release(job.name);
    if (stream_ && Reorders(job.order, open.result.sizes())) {
      open.result = open.result.contiguous(job.order);
    }
    const std::lock_guard<std::mutex> lock(mutex_);
    take_(open.job, open.result);
  }

  const TensorSource& source_;
  const std::vector<ReadJob>& jobs_;
  const std::function<void(size_t, const at::Tensor&)>& take_;
  const at::Device device_;
  const int threads_;
  const int64_t piece_bytes_;
  std::optional<c10::Stream> stream_;  // of the calling thread; none on the CPU

  std::mutex mutex_;
  size_t next_job_ = 0;            // guarded by mutex_
  std::shared_ptr<Open> current_;  // pieces of it are to be had; guarded by mutex_
  std::exception_ptr error_;       // guarded by mutex_
  size_t failed_job_ = 0;          // guarded by mutex_
};

}  // namespace

void ReadTensors(const TensorSource& source, const std::vector<ReadJob>& jobs,
                 const ParallelReadOptions& options,
                 const std::function<void(size_t job, const at::Tensor& tensor)>& take) {
  Reader(source, jobs, options, take).Run();
}

}  // namespace kandinsky::model
