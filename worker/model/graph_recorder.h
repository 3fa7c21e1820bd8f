// Recorded device work that is started as a whole: a CUDA graph behind an interface, so that all
// that decides about graphs is tested without a GPU.
#ifndef KANDINSKY_WORKER_MODEL_GRAPH_RECORDER_H_
#define KANDINSKY_WORKER_MODEL_GRAPH_RECORDER_H_

#include <c10/core/Device.h>

#include <functional>
#include <memory>
#include <string>

namespace kandinsky::model {

class RecordedGraph {
 public:
  virtual ~RecordedGraph() = default;
  // Queues the recorded work on the current stream: the same kernels on the same addresses. Throws
  // c10::Error.
  virtual void Replay() = 0;
};

// Records graphs on one device. They share one pool of memory, so the results of one may be
// overwritten by the replay of another. Used by one thread at a time.
class GraphRecorder {
 public:
  virtual ~GraphRecorder() = default;

  // Runs `work` once, on the current stream (which must not be the device's default one), and
  // records what it queues instead of executing it; it is executed by Replay only. `work` may
  // neither wait for the device nor copy from or to pageable memory: that is a c10::Error, after
  // which the device goes on as if nothing had been tried. Memory that `work` reads must stay where
  // it is for as long as the graph; what it allocates belongs to the pool.
  virtual std::unique_ptr<RecordedGraph> Record(const std::function<void()>& work) = 0;
};

// For a CUDA device of a build with CUDA. Otherwise nullptr, and `why` says what is missing.
std::unique_ptr<GraphRecorder> MakeGraphRecorder(c10::Device device, std::string* why);

}  // namespace kandinsky::model

#endif  // KANDINSKY_WORKER_MODEL_GRAPH_RECORDER_H_
