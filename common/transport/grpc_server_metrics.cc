#include "common/transport/grpc_server_metrics.h"

#include <chrono>
#include <map>
#include <mutex>
#include <string>
#include <string_view>

namespace kandinsky {
namespace {

using grpc::experimental::InterceptionHookPoints;
using grpc::experimental::Interceptor;
using grpc::experimental::InterceptorBatchMethods;
using grpc::experimental::ServerInterceptorFactoryInterface;
using grpc::experimental::ServerRpcInfo;
using Labels = prometheus::Labels;

constexpr size_t kMaxMethods = 512;

const char* CodeName(grpc::StatusCode code) {
  static constexpr const char* kNames[] = {
      "OK",       "Canceled",       "Unknown",          "InvalidArgument",   "DeadlineExceeded",
      "NotFound", "AlreadyExists",  "PermissionDenied", "ResourceExhausted", "FailedPrecondition",
      "Aborted",  "OutOfRange",     "Unimplemented",    "Internal",          "Unavailable",
      "DataLoss", "Unauthenticated"};
  const int index = static_cast<int>(code);
  return index >= 0 && index < static_cast<int>(std::size(kNames)) ? kNames[index] : "Unknown";
}

const char* TypeName(ServerRpcInfo::Type type) {
  switch (type) {
    case ServerRpcInfo::Type::UNARY:
      return "unary";
    case ServerRpcInfo::Type::CLIENT_STREAMING:
      return "client_stream";
    case ServerRpcInfo::Type::SERVER_STREAMING:
      return "server_stream";
    case ServerRpcInfo::Type::BIDI_STREAMING:
      return "bidi_stream";
  }
  return "unary";
}

// The families, and what was counted of each method.
class Families {
 public:
  explicit Families(prometheus::Registry& registry)
      : started_(prometheus::BuildCounter()
                     .Name("grpc_server_started_total")
                     .Help("RPCs that the server has begun to handle.")
                     .Register(registry)),
        handled_(prometheus::BuildCounter()
                     .Name("grpc_server_handled_total")
                     .Help("RPCs that the server has finished, by status code.")
                     .Register(registry)),
        seconds_(prometheus::BuildHistogram()
                     .Name("grpc_server_handling_seconds")
                     .Help("Seconds from the begin of an RPC to its status.")
                     .Register(registry)) {}

  struct Method {
    Labels labels;
    prometheus::Counter* started = nullptr;
    std::map<grpc::StatusCode, std::pair<prometheus::Counter*, prometheus::Histogram*>> handled;
  };

  Method* Start(const char* path, ServerRpcInfo::Type type) {
    std::string_view name = path == nullptr ? "" : path;
    const std::lock_guard<std::mutex> lock(mutex_);
    auto it = methods_.find(name);
    if (it == methods_.end()) {
      if (methods_.size() >= kMaxMethods) name = "/other/other";
      it = methods_.try_emplace(std::string(name)).first;
      Method& method = it->second;
      if (method.started == nullptr) {
        const std::string_view tail = name.substr(name.empty() ? 0 : 1);
        const size_t slash = tail.rfind('/');
        method.labels = {
            {"grpc_type", TypeName(type)},
            {"grpc_service", std::string(tail.substr(0, slash))},
            {"grpc_method", slash == std::string_view::npos ? std::string()
                                                            : std::string(tail.substr(slash + 1))}};
        method.started = &started_.Add(method.labels);
      }
    }
    it->second.started->Increment();
    return &it->second;
  }

  void Finish(Method* method, grpc::StatusCode code, double seconds) {
    const std::lock_guard<std::mutex> lock(mutex_);
    auto& [counter, histogram] = method->handled[code];
    if (counter == nullptr) {
      Labels labels = method->labels;
      labels["grpc_code"] = CodeName(code);
      counter = &handled_.Add(labels);
      histogram = &seconds_.Add(labels, DurationBuckets());
    }
    counter->Increment();
    histogram->Observe(seconds);
  }

 private:
  prometheus::Family<prometheus::Counter>& started_;
  prometheus::Family<prometheus::Counter>& handled_;
  prometheus::Family<prometheus::Histogram>& seconds_;

  std::mutex mutex_;
  std::map<std::string, Method, std::less<>>
      methods_;  // guarded by mutex_; entries are never removed
};

// One per RPC; gRPC calls it from one thread at a time.
class MetricsInterceptor : public Interceptor {
 public:
  MetricsInterceptor(std::shared_ptr<Families> families, const ServerRpcInfo& info)
      : families_(std::move(families)),
        method_(families_->Start(info.method(), info.type())),
        start_(std::chrono::steady_clock::now()) {}

  ~MetricsInterceptor() override { Finish(grpc::StatusCode::CANCELLED); }

  void Intercept(InterceptorBatchMethods* methods) override {
    if (methods->QueryInterceptionHookPoint(InterceptionHookPoints::PRE_SEND_STATUS)) {
      Finish(methods->GetSendStatus().error_code());
    }
    methods->Proceed();
  }

 private:
  void Finish(grpc::StatusCode code) {
    if (finished_) return;
    finished_ = true;
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start_;
    families_->Finish(method_, code, elapsed.count());
  }

  const std::shared_ptr<Families> families_;
  Families::Method* const method_;
  const std::chrono::steady_clock::time_point start_;
  bool finished_ = false;
};

class Factory : public ServerInterceptorFactoryInterface {
 public:
  explicit Factory(Metrics& metrics) : families_(std::make_shared<Families>(metrics.registry())) {}
  Interceptor* CreateServerInterceptor(ServerRpcInfo* info) override {
    return new MetricsInterceptor(families_, *info);
  }

 private:
  const std::shared_ptr<Families> families_;
};

}  // namespace

std::unique_ptr<ServerInterceptorFactoryInterface> MakeGrpcServerMetrics(Metrics& metrics) {
  return std::make_unique<Factory>(metrics);
}

}  // namespace kandinsky
