#include "services/frontend/server.h"

#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/resource_quota.h>
#include <grpcpp/security/server_credentials.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>

#include <chrono>
#include <fstream>
#include <mutex>
#include <sstream>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/base/log.h"
#include "common/transport/grpc_server_metrics.h"
#include "services/frontend/admin_service.h"
#include "services/frontend/periodic.h"
#include "services/frontend/video_service.h"

namespace kandinsky {
namespace {

// Unary calls that are under way when the server stops get so long.
constexpr absl::Duration kUnaryGrace = absl::Seconds(5);

absl::StatusOr<std::string> ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  if (!file || text.str().empty()) {
    return absl::InvalidArgumentError(absl::StrCat("cannot read ", path));
  }
  return text.str();
}

absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> MakeCredentials(const TlsFiles& files) {
  if (files.certificate.empty() && files.key.empty() && files.client_ca.empty()) {
    return grpc::InsecureServerCredentials();
  }
  if (files.certificate.empty() || files.key.empty()) {
    return absl::InvalidArgumentError("TLS needs both a certificate and a key");
  }
  const auto certificate = ReadFile(files.certificate);
  if (!certificate.ok()) return certificate.status();
  const auto key = ReadFile(files.key);
  if (!key.ok()) return key.status();
  grpc::SslServerCredentialsOptions options(
      files.client_ca.empty() ? GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE
                              : GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
  options.pem_key_cert_pairs.push_back({*key, *certificate});
  if (!files.client_ca.empty()) {
    const auto ca = ReadFile(files.client_ca);
    if (!ca.ok()) return ca.status();
    options.pem_root_certs = *ca;
  }
  return grpc::SslServerCredentials(options);
}

std::string HealthName(Stage stage) {
  return absl::StrCat("kandinsky.stage.", std::string(Name(stage)));
}

void SetLimits(const ServerOptions& options, grpc::ServerBuilder& builder) {
  builder.SetMaxReceiveMessageSize(options.max_request_bytes);
  grpc::ResourceQuota quota("frontend");
  quota.Resize(static_cast<size_t>(options.max_memory_bytes));
  builder.SetResourceQuota(quota);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, options.max_streams_per_connection);
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS,
                             static_cast<int>(absl::ToInt64Milliseconds(options.keepalive_time)));
  builder.AddChannelArgument(
      GRPC_ARG_KEEPALIVE_TIMEOUT_MS,
      static_cast<int>(absl::ToInt64Milliseconds(options.keepalive_timeout)));
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 10000);
}

}  // namespace

class FrontendServer::Impl {
 public:
  Impl(const ServerOptions& options, const Engine& engine, ModelCatalog catalog,
       FrontendSettings settings, Metrics& metrics)
      : options_(options),
        metrics_(metrics),
        frontend_(engine, std::move(catalog), std::move(settings), metrics),
        video_service_(&frontend_),
        admin_service_(&frontend_),
        ticker_(options.tick_period, [this] { Tick(); }),
        housekeeper_(options.housekeeping_period, [this] { KeepHouse(); }) {}

  ~Impl() { Shutdown(absl::ZeroDuration(), nullptr); }

  absl::Status Start() {
    const auto credentials = MakeCredentials(options_.tls);
    if (!credentials.ok()) return credentials.status();
    static std::once_flag once;
    std::call_once(once, [] {
      grpc::EnableDefaultHealthCheckService(true);
      grpc::reflection::InitProtoReflectionServerBuilderPlugin();
    });
    grpc::ServerBuilder builder;
    SetLimits(options_, builder);
    int port = 0;
    if (!options_.listen.empty()) builder.AddListeningPort(options_.listen, *credentials, &port);
    std::vector<std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface>> creators;
    creators.push_back(MakeGrpcServerMetrics(metrics_));
    builder.experimental().SetInterceptorCreators(std::move(creators));
    builder.RegisterService(&video_service_);
    if (options_.admin) builder.RegisterService(&admin_service_);
    server_ = builder.BuildAndStart();
    if (server_ == nullptr || (port == 0 && !options_.listen.empty())) {
      return absl::UnavailableError(absl::StrCat("cannot listen at ", options_.listen));
    }
    address_ = absl::StrCat(options_.listen.substr(0, options_.listen.rfind(':')), ":", port);
    SetHealth("", false);
    SetHealth("kandinsky.video.v1.VideoService", false);
    for (const Stage stage : kStages) SetHealth(HealthName(stage), false);
    frontend_.hub.Start();
    KeepHouse();
    ticker_.Start();
    housekeeper_.Start();
    return absl::OkStatus();
  }

  void Shutdown(absl::Duration grace, const std::atomic<bool>* hurry) {
    if (server_ == nullptr) return;
    ticker_.Stop();
    housekeeper_.Stop();
    server_->GetHealthCheckService()->SetServingStatus(false);
    frontend_.streams.Drain();
    const absl::Time end = absl::Now() + grace;
    const auto hurried = [&] { return hurry != nullptr && *hurry; };
    while (frontend_.streams.Count(StreamKind::kDownload) > 0 && absl::Now() < end && !hurried()) {
      absl::SleepFor(std::min(end - absl::Now(), absl::Milliseconds(50)));
    }
    frontend_.streams.EndAll();
    const absl::Duration unary_grace = hurried() ? absl::Milliseconds(200) : kUnaryGrace;
    server_->Shutdown(std::chrono::system_clock::now() + absl::ToChronoMilliseconds(unary_grace));
    frontend_.hub.Stop();
    frontend_.pool.Stop();
    server_.reset();
  }

  const std::string& address() const { return address_; }
  std::shared_ptr<grpc::Channel> InProcessChannel() {
    return server_->InProcessChannel(grpc::ChannelArguments());
  }

 private:
  void SetHealth(const std::string& service, bool serving) {
    server_->GetHealthCheckService()->SetServingStatus(service, serving);
  }

  void Tick() {
    frontend_.hub.Tick();
    frontend_.canceller.Tick();
    frontend_.metrics.SetStreams(frontend_.streams);
  }

  // Blocks on the store; any replica may do it at any time.
  void KeepHouse() {
    const Engine& engine = frontend_.engine;
    absl::Status status = engine.queue->Maintain();
    const auto stats = engine.queue->Stats();
    if (stats.ok()) frontend_.metrics.SetQueue(*stats);
    status.Update(stats.status());
    const auto workers = engine.queue->Workers();
    status.Update(workers.status());
    const std::map<Stage, int> ready = workers.ok() ? CountReady(*workers) : std::map<Stage, int>{};
    frontend_.metrics.SetReadyWorkers(ready);
    for (const Stage stage : kStages) SetHealth(HealthName(stage), ready.contains(stage));
    NoteStore(status);
    if (options_.check_store && absl::Now() >= next_check_) CheckStore();
  }

  void NoteStore(const absl::Status& status) {
    const bool up = !absl::IsUnavailable(status) && !absl::IsDeadlineExceeded(status);
    if (!status.ok() && up) {
      Log(LogLevel::kError, "housekeeping failed", {{"error", status.ToString()}});
    }
    if (store_up_ != up) {
      Log(up ? LogLevel::kInfo : LogLevel::kWarning, up ? "store is up" : "store is down",
          {{"error", std::string(status.message())}});
      store_up_ = up;
    }
    frontend_.metrics.SetStoreUp(up);
    SetHealth("", up);
    SetHealth("kandinsky.video.v1.VideoService", up);
  }

  void CheckStore() {
    const auto warnings = options_.check_store();
    if (!warnings.ok()) return;
    frontend_.metrics.SetStoreWarnings(*warnings);
    next_check_ = absl::Now() + options_.check_store_period;
  }

  const ServerOptions options_;
  Metrics& metrics_;
  Frontend frontend_;
  VideoServiceImpl video_service_;
  AdminServiceImpl admin_service_;
  std::unique_ptr<grpc::Server> server_;
  std::string address_;
  // --- of the housekeeping thread
  std::optional<bool> store_up_;
  absl::Time next_check_ = absl::InfinitePast();
  // --- last, so that they stop first
  Periodic ticker_;
  Periodic housekeeper_;
};

FrontendServer::FrontendServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
FrontendServer::~FrontendServer() = default;

absl::StatusOr<std::unique_ptr<FrontendServer>> FrontendServer::Start(const ServerOptions& options,
                                                                      const Engine& engine,
                                                                      ModelCatalog catalog,
                                                                      FrontendSettings settings,
                                                                      Metrics& metrics) {
  auto impl =
      std::make_unique<Impl>(options, engine, std::move(catalog), std::move(settings), metrics);
  const absl::Status status = impl->Start();
  if (!status.ok()) return status;
  return std::unique_ptr<FrontendServer>(new FrontendServer(std::move(impl)));
}

const std::string& FrontendServer::address() const { return impl_->address(); }

std::shared_ptr<grpc::Channel> FrontendServer::InProcessChannel() {
  return impl_->InProcessChannel();
}

void FrontendServer::Shutdown(absl::Duration grace, const std::atomic<bool>* hurry) {
  impl_->Shutdown(grace, hurry);
}

}  // namespace kandinsky
