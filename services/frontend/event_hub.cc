#include "services/frontend/event_hub.h"

#include <algorithm>

#include "common/base/log.h"
#include "services/frontend/convert.h"

namespace kandinsky {

EncodedEvent::EncodedEvent(const JobEvent& event)
    : sequence(event.sequence),
      id(event.id),
      type(event.type),
      state(event.state),
      stage(event.stage),
      bytes(ToProto(event).SerializeAsString()) {}

EventHub::EventHub(EventFeed* feed, std::function<void(const JobEvent&)> observe)
    : feed_(feed), observe_(std::move(observe)) {}

EventHub::~EventHub() { Stop(); }

void EventHub::Start() {
  MutexLock lock(&feed_mutex_);
  if (feed_started_ || stopped_) return;
  const absl::Status status =
      feed_->Start([this](const JobEvent& event) { OnEvent(event); },
                   [this] { ForEach([](EventSubscriber& subscriber) { subscriber.OnGap(); }); });
  if (!status.ok()) {
    Log(LogLevel::kWarning, "event feed not started", {{"error", std::string(status.message())}});
    return;
  }
  feed_started_ = true;
}

void EventHub::Stop() {
  MutexLock lock(&feed_mutex_);
  stopped_ = true;
  if (feed_started_) feed_->Stop();
  feed_started_ = false;
}

EventHub::Shard& EventHub::ShardOf(const std::string& job_id) {
  return shards_[std::hash<std::string>()(job_id) % kShards];
}

void EventHub::Subscribe(const std::string& job_id, std::weak_ptr<EventSubscriber> subscriber) {
  const std::shared_ptr<EventSubscriber> alive = subscriber.lock();
  if (alive == nullptr) return;
  Shard& shard = ShardOf(job_id);
  MutexLock lock(&shard.mutex);
  shard.by_job[job_id].push_back({alive.get(), std::move(subscriber)});
}

void EventHub::Unsubscribe(const std::string& job_id, const EventSubscriber* subscriber) {
  Shard& shard = ShardOf(job_id);
  MutexLock lock(&shard.mutex);
  const auto found = shard.by_job.find(job_id);
  if (found == shard.by_job.end()) return;
  std::vector<Entry>& entries = found->second;
  const auto entry = std::find_if(entries.begin(), entries.end(),
                                  [&](const Entry& e) { return e.key == subscriber; });
  if (entry == entries.end()) return;
  std::swap(*entry, entries.back());
  entries.pop_back();
  if (entries.empty()) shard.by_job.erase(found);
}

void EventHub::OnEvent(const JobEvent& event) {
  if (observe_) observe_(event);
  std::vector<std::shared_ptr<EventSubscriber>> subscribers;
  Shard& shard = ShardOf(event.job_id);
  {
    MutexLock lock(&shard.mutex);
    const auto found = shard.by_job.find(event.job_id);
    if (found == shard.by_job.end()) return;
    subscribers.reserve(found->second.size());
    for (const Entry& entry : found->second) {
      if (auto subscriber = entry.subscriber.lock()) subscribers.push_back(std::move(subscriber));
    }
  }
  const auto encoded = std::make_shared<const EncodedEvent>(event);
  for (const auto& subscriber : subscribers) subscriber->OnEvent(encoded);
}

void EventHub::ForEach(const std::function<void(EventSubscriber&)>& visit) {
  for (Shard& shard : shards_) {
    std::vector<std::shared_ptr<EventSubscriber>> subscribers;
    {
      MutexLock lock(&shard.mutex);
      for (const auto& [job_id, entries] : shard.by_job) {
        for (const Entry& entry : entries) {
          if (auto subscriber = entry.subscriber.lock()) {
            subscribers.push_back(std::move(subscriber));
          }
        }
      }
    }
    for (const auto& subscriber : subscribers) visit(*subscriber);
  }
}

void EventHub::Tick() {
  Start();
  ForEach([](EventSubscriber& subscriber) { subscriber.OnTick(); });
}

}  // namespace kandinsky
