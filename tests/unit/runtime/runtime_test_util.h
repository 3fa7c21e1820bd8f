// A worker's parts around an engine in memory, with hooks where tests interfere.
#ifndef KANDINSKY_TESTS_UNIT_RUNTIME_RUNTIME_TEST_UTIL_H_
#define KANDINSKY_TESTS_UNIT_RUNTIME_RUNTIME_TEST_UTIL_H_

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>

#include "common/base/clock.h"
#include "common/latent/latent_source.h"
#include "common/latent/latent_store.h"
#include "common/metrics/metrics.h"
#include "common/queue/fake_queue.h"
#include "worker/runtime/claimer.h"
#include "worker/runtime/drain.h"
#include "worker/runtime/simulated_stage.h"
#include "worker/runtime/task_runner.h"
#include "worker/runtime/worker_metrics.h"

namespace kandinsky {

// Waits for a condition that another thread brings about; fails the test after 30 s.
inline bool WaitUntil(const std::function<bool()>& condition) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(30);
  while (!condition()) {
    if (std::chrono::steady_clock::now() > end) {
      ADD_FAILURE() << "waited in vain";
      return false;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return true;
}

// Fails on demand and counts renewals.
class HookedQueue : public FailingTaskQueue {
 public:
  HookedQueue(TaskQueue* queue, FailureSwitch* failures) : FailingTaskQueue(queue, failures) {}

  absl::StatusOr<LeaseVerdict> Renew(const Lease& lease,
                                     const std::optional<StageProgress>& progress) override {
    auto verdict = FailingTaskQueue::Renew(lease, progress);
    ++renewals_;
    return verdict;
  }
  // Until a renewal that began after this call has been evaluated by its keeper.
  void WaitForRenewals() {
    const int64_t before = renewals_;
    WaitUntil([&] { return renewals_ >= before + 3; });
  }

 private:
  std::atomic<int64_t> renewals_{0};
};

// The latent stores of all workers of a test, without a network.
class DirectSource : public LatentSource {
 public:
  void Register(const std::string& address, LatentStore* store) {
    const std::lock_guard<std::mutex> lock(mutex_);
    stores_[address] = store;
  }
  // From now on fetches fail with `status`; OK: as usual.
  void FailWith(absl::Status status) {
    const std::lock_guard<std::mutex> lock(mutex_);
    failure_ = std::move(status);
  }

  absl::StatusOr<HostTensor> Fetch(const RemoteLatents& latents,
                                   const std::function<bool()>& cancelled) override {
    if (cancelled()) return absl::CancelledError("cancelled");
    LatentStore* store = nullptr;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      if (!failure_.ok()) return failure_;
      store = stores_.at(latents.address);
    }
    absl::StatusOr<StoredLatents> stored = store->Get(latents.key);
    if (!stored.ok()) return stored.status();
    EXPECT_EQ(stored->crc32c, latents.crc32c);
    EXPECT_EQ(stored->tensor.shape(), latents.shape);
    return stored->tensor;
  }
  void Release(const RemoteLatents& latents) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    stores_.at(latents.address)->Release(latents.key);
  }

 private:
  std::mutex mutex_;
  std::map<std::string, LatentStore*> stores_;  // guarded by mutex_
  absl::Status failure_;                        // guarded by mutex_
};

// Full for the first `count` appends.
class FullVideoStore : public VideoStore {
 public:
  FullVideoStore(VideoStore* store, int count) : store_(store), left_(count) {}
  absl::Status Append(const std::string& job_id, int64_t generation, uint64_t offset,
                      std::string_view data) override {
    if (left_-- > 0) return absl::ResourceExhaustedError("no space");
    return store_->Append(job_id, generation, offset, data);
  }
  absl::Status Seal(const std::string& job_id, int64_t generation) override {
    return store_->Seal(job_id, generation);
  }
  absl::StatusOr<std::string> Read(const std::string& job_id, int64_t generation, uint64_t offset,
                                   uint64_t max_bytes) override {
    return store_->Read(job_id, generation, offset, max_bytes);
  }
  absl::StatusOr<uint64_t> Size(const std::string& job_id, int64_t generation) override {
    return store_->Size(job_id, generation);
  }
  absl::Status Remove(const std::string& job_id, std::optional<int64_t> keep) override {
    return store_->Remove(job_id, keep);
  }

 private:
  VideoStore* const store_;
  std::atomic<int> left_;
};

inline QueueOptions FastQueueOptions() {
  QueueOptions options;
  options.lease_duration = absl::Seconds(10);
  options.retry_base_delay = absl::ZeroDuration();
  options.retry_max_delay = absl::ZeroDuration();
  return options;
}

// What the workers of a test share. Leases, deadlines and backoff go by `clock`, which only tests
// move.
struct World {
  FakeClock clock;
  InMemoryEngine engine{FastQueueOptions(), &clock};
  FailureSwitch failures;
  HookedQueue queue{&engine, &failures};
  FailingVideoStore videos{&engine, &failures};
  DirectSource source;

  JobSpec Spec(Level level = Level::kMedium) const {
    JobSpec spec;
    spec.parameters.prompt = "a fox in the snow";
    spec.parameters.seed = 7;
    spec.parameters.level = level;
    spec.parameters.width = 64;
    spec.parameters.height = 64;
    spec.parameters.steps = 8;
    spec.parameters.guidance_scale = 5;
    spec.parameters.interpolation_guidance_scale = 0.25;
    spec.parameters.model = "tiny";
    spec.parameters.fps = 2;
    return spec;
  }
  std::string Create(const JobSpec& spec) {
    const auto created = engine.Create(spec);
    EXPECT_TRUE(created.ok() && created->outcome == CreateResult::Outcome::kCreated);
    return created->job.id;
  }
  Job Get(const std::string& id) { return *engine.Get(id); }
  std::string Video(const std::string& id) {
    return *engine.Read(id, Get(id).video_generation, 0, uint64_t{1} << 30);
  }
};

// One worker, driven by hand (RunOne) or by its claimer.
struct TestWorker {
  TestWorker(World* world, Stage stage, const std::string& id,
             SimulatedStageOptions stage_options = {}, VideoStore* videos = nullptr,
             LatentStoreOptions latent_options = {})
      : world(world),
        id(id),
        runner([&] {
          stage_options.stage = stage;
          if (!stage_options.work) stage_options.work = [](absl::Duration) {};
          return stage_options;
        }()),
        metrics(registry, stage),
        latents(*LatentStore::Open(latent_options, &world->clock)),
        drain(&world->clock) {
    world->source.Register(id, latents.get());
    TaskRunner::Parts parts;
    parts.queue = &world->queue;
    parts.videos = videos != nullptr ? videos : &world->videos;
    parts.latents = latents.get();
    parts.source = &world->source;
    parts.stage = &runner;
    parts.metrics = &metrics;
    parts.drain = &drain;
    parts.clock = &world->clock;
    parts.wall = &world->clock;
    TaskRunner::Options options;
    options.address = id;
    options.checkpoint_interval = absl::ZeroDuration();  // after every step
    options.lease.interval = absl::Milliseconds(1);
    tasks = std::make_unique<TaskRunner>(parts, options);
    claimer = std::make_unique<Claimer>(
        &world->queue, tasks.get(), &drain,
        Claimer::Options{.worker_id = id, .stage = stage, .max_wait = absl::Milliseconds(20)});
  }

  std::optional<Lease> Claim() {
    (void)world->engine.Maintain();
    auto lease = world->engine.Claim(runner.stage(), id, absl::ZeroDuration());
    EXPECT_TRUE(lease.ok()) << lease.status();
    return lease.ok() ? *std::move(lease) : std::nullopt;
  }
  // The task that waits for this worker; fails the test when there is none.
  TaskOutcome RunOne() {
    const std::optional<Lease> lease = Claim();
    if (!lease) {
      ADD_FAILURE() << id << " finds nothing to claim";
      return TaskOutcome::kLeaseLost;
    }
    return tasks->Run(*lease);
  }

  World* const world;
  const std::string id;
  SimulatedStage runner;
  Metrics registry{"test"};
  WorkerMetrics metrics;
  const std::unique_ptr<LatentStore> latents;
  Drain drain;
  std::unique_ptr<TaskRunner> tasks;
  std::unique_ptr<Claimer> claimer;
};

}  // namespace kandinsky

#endif  // KANDINSKY_TESTS_UNIT_RUNTIME_RUNTIME_TEST_UTIL_H_
