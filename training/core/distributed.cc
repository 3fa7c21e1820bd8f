#include "training/core/distributed.h"

#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>
#ifdef USE_C10D_NCCL
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>
#endif

#include <charconv>
#include <chrono>
#include <cstdlib>
#include <string>

#include "worker/model/error.h"

namespace kandinsky::training {
namespace {

using model::ModelError;

constexpr std::chrono::minutes kPatience{5};

std::string Environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

int EnvironmentNumber(const char* name, int otherwise, int least, int most) {
  const std::string text = Environment(name);
  if (text.empty()) return otherwise;
  int value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < least || value > most) {
    throw ModelError(ModelError::Kind::kInvalidArgument,
                     std::string(name) + " is \"" + text + "\", must be a number from " +
                         std::to_string(least) + " to " + std::to_string(most));
  }
  return value;
}

class Alone : public ProcessGroup {
 public:
  int rank() const override { return 0; }
  int size() const override { return 1; }
  void AllReduceSum(const std::vector<at::Tensor>&) override {}
  void AllReduceMean(const std::vector<at::Tensor>&) override {}
  void Broadcast(const std::vector<at::Tensor>&) override {}
};

class C10dGroup : public ProcessGroup {
 public:
  C10dGroup(c10::intrusive_ptr<c10d::Backend> backend, at::Device device)
      : backend_(std::move(backend)), device_(device) {}

  int rank() const override { return backend_->getRank(); }
  int size() const override { return backend_->getSize(); }

  void AllReduceSum(const std::vector<at::Tensor>& tensors) override { AllReduce(tensors, 1); }
  void AllReduceMean(const std::vector<at::Tensor>& tensors) override {
    AllReduce(tensors, size());
  }

  void Broadcast(const std::vector<at::Tensor>& tensors) override {
    at::NoGradGuard no_grad;
    std::vector<at::Tensor> one = {Flatten(tensors)};
    backend_->broadcast(one)->wait();
    Unflatten(one[0], tensors);
  }

 private:
  void AllReduce(const std::vector<at::Tensor>& tensors, int divisor) {
    at::NoGradGuard no_grad;
    // One message for all: most parameters are small.
    std::vector<at::Tensor> one = {Flatten(tensors)};
    backend_->allreduce(one)->wait();
    Unflatten(divisor == 1 ? one[0] : one[0].div_(divisor), tensors);
  }

  // On the device of the backend: NCCL takes no others.
  at::Tensor Flatten(const std::vector<at::Tensor>& tensors) const {
    std::vector<at::Tensor> flat;
    for (const at::Tensor& tensor : tensors) {
      flat.push_back(tensor.reshape({-1}).to(device_, at::kFloat));
    }
    return at::cat(flat);
  }

  static void Unflatten(const at::Tensor& flat, const std::vector<at::Tensor>& tensors) {
    int64_t offset = 0;
    for (const at::Tensor& tensor : tensors) {
      tensor.copy_(flat.narrow(0, offset, tensor.numel()).view(tensor.sizes()));
      offset += tensor.numel();
    }
  }

  const c10::intrusive_ptr<c10d::Backend> backend_;
  const at::Device device_;
};

}  // namespace

std::unique_ptr<ProcessGroup> JoinProcessGroup(at::Device device) {
  const int size = EnvironmentNumber("WORLD_SIZE", 1, 1, 1 << 20);
  if (size == 1) return std::make_unique<Alone>();
  const int rank = EnvironmentNumber("RANK", -1, 0, size - 1);
  const std::string address = Environment("MASTER_ADDR");
  if (rank < 0 || address.empty()) {
    throw ModelError(ModelError::Kind::kInvalidArgument,
                     "WORLD_SIZE is " + std::to_string(size) +
                         ", so RANK, MASTER_ADDR and MASTER_PORT must be set, too");
  }
  c10d::TCPStoreOptions options;
  options.port = static_cast<uint16_t>(EnvironmentNumber("MASTER_PORT", 29500, 1, 65535));
  // A launcher may have opened the store itself.
  options.isServer = rank == 0 && Environment("TORCHELASTIC_USE_AGENT_STORE") != "True";
  options.numWorkers = static_cast<size_t>(size);
  options.timeout = kPatience;
  options.waitWorkers = false;
  const auto store = c10::make_intrusive<c10d::PrefixStore>(
      "kandinsky-train/" + Environment("TORCHELASTIC_RESTART_COUNT"),
      c10::make_intrusive<c10d::TCPStore>(address, options));
  if (device.is_cuda()) {
#ifdef USE_C10D_NCCL
    return std::make_unique<C10dGroup>(
        c10::make_intrusive<c10d::ProcessGroupNCCL>(store, rank, size,
                                                    c10d::ProcessGroupNCCL::Options::create()),
        device);
#else
    throw ModelError(ModelError::Kind::kInvalidArgument,
                     "WORLD_SIZE is " + std::to_string(size) +
                         ", but this LibTorch was built without NCCL, which several GPUs need");
#endif
  }
  auto gloo = c10d::ProcessGroupGloo::Options::create(kPatience);
  // Processes of one machine need no name service.
  gloo->devices.push_back(address == "127.0.0.1" || address == "localhost"
                              ? c10d::ProcessGroupGloo::createDeviceForHostname("127.0.0.1")
                              : c10d::ProcessGroupGloo::createDefaultDevice());
  return std::make_unique<C10dGroup>(
      c10::make_intrusive<c10d::ProcessGroupGloo>(store, rank, size, gloo), device);
}

int LocalRank() { return EnvironmentNumber("LOCAL_RANK", 0, 0, 4096); }

}  // namespace kandinsky::training
