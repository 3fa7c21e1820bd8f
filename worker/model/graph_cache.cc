#include "worker/model/graph_cache.h"

#include <ATen/DeviceGuard.h>
#include <ATen/core/grad_mode.h>
#include <c10/core/Event.h>
#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <algorithm>
#include <utility>

#include "worker/model/error.h"

namespace kandinsky::model {
namespace {

// Kinds of work that are remembered for each graph that there may be: those that ran once only and
// those that cannot be recorded.
constexpr size_t kRememberedPerGraph = 8;

std::string KeyOf(const std::string& signature, const std::vector<at::Tensor>& inputs) {
  std::string key = signature;
  for (const at::Tensor& input : inputs) {
    key += c10::str("|", input.scalar_type(), input.sizes(), input.strides());
  }
  return key;
}

// Waits for the device.
bool SameBits(const at::Tensor& a, const at::Tensor& b) {
  if (a.sizes() != b.sizes() || a.scalar_type() != b.scalar_type()) return false;
  // As bytes a NaN equals itself.
  return at::equal(a.contiguous().view(at::kByte), b.contiguous().view(at::kByte));
}

// Work that is queued on `to` from now on waits for that on `from`.
void Order(const c10::Stream& from, const c10::Stream& to) {
  c10::Event event(from.device_type());
  event.record(from);
  event.block(to);
}

}  // namespace

GraphCache::GraphCache(std::unique_ptr<GraphRecorder> recorder, at::Device device,
                       size_t max_graphs)
    : recorder_(std::move(recorder)), device_(device), max_graphs_(max_graphs) {
  if (max_graphs == 0) {
    throw ModelError(ModelError::Kind::kInvalidArgument, "max_graphs is 0, must be at least 1");
  }
}

GraphCache::~GraphCache() = default;

void GraphCache::Clear() { entries_.clear(); }

void GraphCache::Entry::Forget() {
  graph.reset();
  inputs.clear();
  output.reset();
  work = nullptr;
}

at::Tensor GraphCache::Run(const std::string& signature, const std::vector<at::Tensor>& inputs,
                           const Work& work) {
  for (const at::Tensor& input : inputs) {
    if (!input.is_non_overlapping_and_dense()) {
      throw ModelError(ModelError::Kind::kInvalidArgument,
                       c10::str("an input of a graph has strides ", input.strides(), " for ",
                                input.sizes(), ", must be dense"));
    }
  }
  const at::NoGradGuard no_grad;
  const c10::DeviceGuard guard(device_);
  Entry& entry = Find(KeyOf(signature, inputs));
  if (!entry.broken && !entry.first_output.defined()) {
    at::Tensor output = WarmUp(inputs, work);
    for (const at::Tensor& input : inputs) entry.first_inputs.push_back(input.clone());
    entry.first_output = output.clone();
    ++stats_.as_usual;
    return output;
  }
  if (entry.broken || (entry.graph == nullptr && !Record(entry, work))) {
    ++stats_.as_usual;
    return work(inputs);
  }
  Replay(entry, inputs);
  ++stats_.replayed;
  return entry.output.clone();
}

GraphCache::Entry& GraphCache::Find(const std::string& key) {
  const auto found = std::find_if(entries_.begin(), entries_.end(),
                                  [&key](const Entry& entry) { return entry.key == key; });
  if (found != entries_.end()) {
    entries_.splice(entries_.begin(), entries_, found);
    return entries_.front();
  }
  if (entries_.size() >= max_graphs_ * kRememberedPerGraph) {
    if (entries_.back().graph != nullptr) ++stats_.dropped;
    entries_.pop_back();
  }
  entries_.emplace_front();
  entries_.front().key = key;
  return entries_.front();
}

at::Tensor GraphCache::WarmUp(const std::vector<at::Tensor>& inputs, const Work& work) {
  const c10::impl::VirtualGuardImpl backend(device_.type());
  const c10::Stream current = backend.getStream(device_);
  if (!stream_) stream_ = backend.getStreamFromGlobalPool(device_);
  Order(current, *stream_);
  at::Tensor output;
  {
    const c10::StreamGuard on_side(*stream_);
    output = work(inputs);
  }
  Order(*stream_, current);
  // The result's memory belongs to the other stream.
  backend.recordDataPtrOnStream(output.storage().data_ptr(), current);
  return output;
}

bool GraphCache::Record(Entry& entry, const Work& work) {
  MakeRoom();
  const c10::Stream current = c10::impl::VirtualGuardImpl(device_.type()).getStream(device_);
  try {
    for (const at::Tensor& input : entry.first_inputs) {
      // Values that the work can take, should the recorder run it: any number is no index.
      entry.inputs.push_back(
          at::empty_strided(input.sizes(), input.strides(), input.options()).copy_(input));
    }
    entry.work = work;
    Order(current, *stream_);
    {
      const c10::StreamGuard on_side(*stream_);
      entry.graph = recorder_->Record([&entry] {
        const at::Tensor output = entry.work(entry.inputs);
        if (entry.output.defined()) {
          entry.output.copy_(output);  // only where a recorder runs the work again
        } else {
          entry.output = output;
        }
      });
    }
    Order(*stream_, current);
    Replay(entry, entry.first_inputs);
    TORCH_CHECK(SameBits(entry.output, entry.first_output),
                "a replay gave other bits than the run that it repeats");
    ++stats_.recorded;
    return true;
  } catch (const c10::Error& error) {
    if (stats_.failed++ == 0) stats_.reason = error.what_without_backtrace();
    entry.broken = true;
    entry.Forget();
    return false;
  } catch (...) {
    entry.Forget();
    throw;
  }
}

void GraphCache::Replay(Entry& entry, const std::vector<at::Tensor>& inputs) {
  for (size_t i = 0; i < inputs.size(); ++i) {
    entry.inputs[i].copy_(inputs[i], /*non_blocking=*/true);
  }
  entry.graph->Replay();
}

void GraphCache::MakeRoom() {
  size_t graphs = 0;
  for (Entry& entry : entries_) {
    if (entry.graph == nullptr || ++graphs < max_graphs_) continue;
    // The first call stays known: the work may be recorded again at once.
    entry.Forget();
    ++stats_.dropped;
  }
}

}  // namespace kandinsky::model
