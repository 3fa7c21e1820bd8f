#include "common/transport/worker_server.h"

#include <grpcpp/grpcpp.h>
#include <grpcpp/health_check_service_interface.h>

#include <chrono>
#include <mutex>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/transport/grpc_server_metrics.h"
#include "common/transport/latent_service.h"

namespace kandinsky {

struct WorkerServer::Impl {
  Impl(LatentStore* store, const Options& options)
      : health_name(options.health_name), latents(store, {.on_sent = options.on_latents_sent}) {}

  const std::string health_name;
  LatentService latents;
  std::unique_ptr<grpc::Server> server;
  std::once_flag shutdown;
};

absl::StatusOr<std::unique_ptr<WorkerServer>> WorkerServer::Start(const Options& options,
                                                                  LatentStore* store,
                                                                  Metrics* metrics) {
  grpc::EnableDefaultHealthCheckService(true);
  auto impl = std::make_unique<Impl>(store, options);
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort(options.listen, grpc::InsecureServerCredentials(), &port);
  // Two workers on one port would each get half of the calls for latents.
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  builder.RegisterService(&impl->latents);
  std::vector<std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface>> interceptors;
  interceptors.push_back(MakeGrpcServerMetrics(*metrics));
  builder.experimental().SetInterceptorCreators(std::move(interceptors));
  impl->server = builder.BuildAndStart();
  if (impl->server == nullptr || port == 0) {
    return absl::UnavailableError(absl::StrCat("cannot listen at ", options.listen));
  }
  auto server = std::unique_ptr<WorkerServer>(new WorkerServer(std::move(impl)));
  server->port_ = port;
  server->SetServing(false);
  return server;
}

WorkerServer::WorkerServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

WorkerServer::~WorkerServer() { Shutdown(absl::ZeroDuration()); }

void WorkerServer::SetServing(bool serving) {
  grpc::HealthCheckServiceInterface* health = impl_->server->GetHealthCheckService();
  if (health == nullptr) return;
  health->SetServingStatus("", serving);
  health->SetServingStatus(impl_->health_name, serving);
}

void WorkerServer::Shutdown(absl::Duration grace) {
  std::call_once(impl_->shutdown, [&] {
    impl_->server->Shutdown(std::chrono::system_clock::now() +
                            std::chrono::duration_cast<std::chrono::system_clock::duration>(
                                absl::ToChronoNanoseconds(grace)));
    impl_->server->Wait();
  });
}

}  // namespace kandinsky
