#include "worker/model/graph_recorder.h"

#if KANDINSKY_WITH_CUDA
#include <ATen/cuda/CUDAGraph.h>
#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAGuard.h>
#endif

namespace kandinsky::model {

#if KANDINSKY_WITH_CUDA
namespace {

class CudaGraph : public RecordedGraph {
 public:
  explicit CudaGraph(c10::DeviceIndex device) : device_(device) {}
  ~CudaGraph() override = default;

  void Record(at::cuda::MempoolId_t pool, const std::function<void()>& work) {
    const c10::cuda::CUDAGuard guard(device_);
    // Other threads of the process may use the device meanwhile.
    graph_.capture_begin(pool, cudaStreamCaptureModeThreadLocal);
    try {
      work();
    } catch (...) {
      End();
      throw;
    }
    graph_.capture_end();
  }

  void Replay() override {
    const c10::cuda::CUDAGuard guard(device_);
    graph_.replay();
  }

 private:
  // After a failure, whose consequence an error here is.
  void End() {
    try {
      graph_.capture_end();
    } catch (const c10::Error&) {
      cudaGetLastError();  // or the next operation would report it
    }
  }

  const c10::DeviceIndex device_;
  at::cuda::CUDAGraph graph_;
};

class CudaGraphRecorder : public GraphRecorder {
 public:
  explicit CudaGraphRecorder(c10::DeviceIndex device)
      : device_(device), pool_(at::cuda::graph_pool_handle()) {}

  std::unique_ptr<RecordedGraph> Record(const std::function<void()>& work) override {
    // What the runs before have left in the cache of the allocator is of no use to the pool.
    c10::cuda::CUDACachingAllocator::emptyCache();
    auto graph = std::make_unique<CudaGraph>(device_);
    graph->Record(pool_, work);
    return graph;
  }

 private:
  const c10::DeviceIndex device_;
  const at::cuda::MempoolId_t pool_;
};

}  // namespace

std::unique_ptr<GraphRecorder> MakeGraphRecorder(c10::Device device, std::string* why) {
  if (!device.is_cuda()) {
    *why = "the device is " + device.str() + ", not a CUDA device";
    return nullptr;
  }
  if (device.index() >= c10::cuda::device_count()) {
    *why = "there is no device " + device.str();
    return nullptr;
  }
  return std::make_unique<CudaGraphRecorder>(device.has_index() ? device.index()
                                                                : c10::cuda::current_device());
}

#else

std::unique_ptr<GraphRecorder> MakeGraphRecorder(c10::Device device, std::string* why) {
  *why = "this build is without CUDA";
  return nullptr;
}

#endif

}  // namespace kandinsky::model
