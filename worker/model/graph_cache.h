// One graph a shape: repeated device work is recorded once and then replayed, with running it as
// usual wherever recording does not work.
//
// A step of a denoising loop queues thousands of small kernels; where the host needs longer for
// that than the device for the work, a replay, which queues them all at once, is faster.
#ifndef KANDINSKY_WORKER_MODEL_GRAPH_CACHE_H_
#define KANDINSKY_WORKER_MODEL_GRAPH_CACHE_H_

#include <ATen/ATen.h>
#include <c10/core/Stream.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "worker/model/graph_recorder.h"

namespace kandinsky::model {

// What a cache has done since it was made.
struct GraphStats {
  int64_t recorded = 0;  // graphs
  int64_t replayed = 0;  // calls of Run that were a replay
  int64_t as_usual = 0;  // all other calls
  int64_t dropped = 0;   // graphs that made room for others
  int64_t failed = 0;    // attempts to record, or to repeat the first call by a replay
  std::string reason;    // of the first failure
};

// Not thread-safe: it belongs to whoever runs the loops of one network.
class GraphCache {
 public:
  // Work over `inputs`, all on the recorder's device. It may depend on nothing else that changes
  // between calls with one signature, and returns a tensor of its own. It is kept, with all that it
  // holds, for as long as its graph.
  using Work = std::function<at::Tensor(const std::vector<at::Tensor>& inputs)>;

  // The memory of each graph's intermediate results stays reserved, though graphs share it: that of
  // the largest counts. `max_graphs` at least 1.
  explicit GraphCache(std::unique_ptr<GraphRecorder> recorder, at::Device device,
                      size_t max_graphs = 4);
  ~GraphCache();

  // work(inputs), by way of a graph from the second call on that has the same `signature` and equal
  // shapes, strides and types of the inputs (dense, no two elements in one place): the first call
  // warms up what libraries set up lazily, on the stream that the second records on. Before a graph
  // is used it is replayed once on the first call's inputs, and the host compares the bits with the
  // first call's result; that is the only time that it waits for the device. Where recording fails
  // (out of memory, an operation that waits) or the bits differ, calls of this kind run as usual
  // from then on. The least recently used graph makes room for one more than max_graphs. The same
  // bits in every case.
  //
  // `signature` names everything on the host that the work depends on (scales, flags). Throws what
  // `work` throws, and ModelError::kInvalidArgument for inputs that are not dense.
  at::Tensor Run(const std::string& signature, const std::vector<at::Tensor>& inputs,
                 const Work& work);

  // Gives all graphs and their memory back. Needed when memory that work reads has moved.
  void Clear();

  const GraphStats& stats() const { return stats_; }

 private:
  struct Entry {
    void Forget();  // the graph and what belongs to it

    std::string key;
    bool broken = false;  // recording failed
    // Of the first call; not defined before it.
    std::vector<at::Tensor> first_inputs;
    at::Tensor first_output;
    Work work;
    std::vector<at::Tensor> inputs;  // what the graph reads
    at::Tensor output;               // what it writes
    std::unique_ptr<RecordedGraph> graph;
  };

  Entry& Find(const std::string& key);
  at::Tensor WarmUp(const std::vector<at::Tensor>& inputs, const Work& work);
  // False when it cannot be done.
  bool Record(Entry& entry, const Work& work);
  void Replay(Entry& entry, const std::vector<at::Tensor>& inputs);
  void MakeRoom();

  const std::unique_ptr<GraphRecorder> recorder_;
  const at::Device device_;
  const size_t max_graphs_;
  std::optional<c10::Stream> stream_;  // for warming up and recording
  std::list<Entry> entries_;           // most recently used first
  GraphStats stats_;
};

}  // namespace kandinsky::model

#endif  // KANDINSKY_WORKER_MODEL_GRAPH_CACHE_H_
