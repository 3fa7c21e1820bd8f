// Latents over real gRPC servers on loopback: honest ones, and one that lies in every way that the
// protocol allows.
#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <prometheus/text_serializer.h>

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/crc32c.h"
#include "common/latent/latent_store.h"
#include "common/metrics/metrics.h"
#include "common/transport/latent_client.h"
#include "common/transport/latent_service.h"
#include "common/transport/worker_server.h"

namespace kandinsky {
namespace {

using testing::HasSubstr;
using worker::v1::FetchLatentsRequest;
using worker::v1::FetchLatentsResponse;

HostTensor Tensor(std::vector<int64_t> shape, DataType dtype = DataType::kFloat32) {
  std::string bytes(*CheckedByteSize(dtype, shape, UINT64_MAX), '\0');
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<char>(i * 7 + i / 251);
  return *HostTensor::Create(dtype, std::move(shape), std::move(bytes));
}

RemoteLatents Remote(int port, const HostTensor& tensor) {
  return {absl::StrCat("127.0.0.1:", port), "k", tensor.dtype(), tensor.shape(),
          Crc32c(tensor.bytes())};
}

LatentClient::Options FastOptions() {
  LatentClient::Options options;
  options.progress_timeout = absl::Milliseconds(300);
  options.backoff = absl::Milliseconds(1);
  options.max_backoff = absl::Milliseconds(4);
  options.max_attempts = 4;
  return options;
}

// Writes whatever a test wants.
class HostileService : public worker::v1::LatentService::Service {
 public:
  using Writer = grpc::ServerWriter<FetchLatentsResponse>;
  using Script = std::function<grpc::Status(int call, uint64_t offset, Writer* writer,
                                            grpc::ServerContext* context)>;

  explicit HostileService(Script script) : script_(std::move(script)) {
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port_);
    builder.RegisterService(this);
    server_ = builder.BuildAndStart();
  }
  ~HostileService() override {
    server_->Shutdown(std::chrono::system_clock::now());
    server_->Wait();
  }

  int port() const { return port_; }
  int calls() const { return calls_; }
  std::vector<uint64_t> offsets() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return offsets_;
  }

 private:
  grpc::Status FetchLatents(grpc::ServerContext* context, const FetchLatentsRequest* request,
                            Writer* writer) override {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      offsets_.push_back(request->offset());
    }
    return script_(++calls_, request->offset(), writer, context);
  }

  const Script script_;
  std::atomic<int> calls_{0};
  std::mutex mutex_;
  std::vector<uint64_t> offsets_;  // guarded by mutex_
  int port_ = 0;
  std::unique_ptr<grpc::Server> server_;
};

FetchLatentsResponse Header(const HostTensor& tensor) {
  FetchLatentsResponse message;
  worker::v1::LatentHeader* header = message.mutable_header();
  header->set_dtype(worker::v1::DATA_TYPE_FLOAT32);
  for (const int64_t d : tensor.shape()) header->add_shape(d);
  header->set_byte_size(tensor.bytes().size());
  header->set_crc32c(Crc32c(tensor.bytes()));
  return message;
}

FetchLatentsResponse Chunk(const HostTensor& tensor, uint64_t offset, uint64_t size) {
  FetchLatentsResponse message;
  const std::string_view data = tensor.bytes().substr(offset, size);
  message.mutable_chunk()->set_offset(offset);
  message.mutable_chunk()->set_data(data.data(), data.size());
  message.mutable_chunk()->set_crc32c(Crc32c(data));
  return message;
}

TEST(LatentTransportTest, HonestServer) {
  FakeClock clock;
  Metrics metrics("test");
  const auto store = *LatentStore::Open({}, &clock);
  std::atomic<uint64_t> sent{0};
  const auto server = *WorkerServer::Start(
      {"127.0.0.1:0", "keyframes", [&](uint64_t n, double) { sent += n; }}, store.get(), &metrics);
  std::atomic<uint64_t> got_bytes{0};
  LatentClient::Options options = FastOptions();
  options.progress_timeout = absl::Seconds(30);  // counted below: no second try on a slow machine
  options.on_received = [&](uint64_t n, double) { got_bytes += n; };
  LatentClient client(options);
  const struct {
    const char* name;
    HostTensor tensor;
  } kCases[] = {{"small", Tensor({16, 4, 8, 8})},
                {"several chunks", Tensor({61, 4, 64, 64})},
                {"half", Tensor({16, 4, 9, 7}, DataType::kFloat16)},
                {"bfloat16", Tensor({3, 4, 2, 2}, DataType::kBFloat16)},
                {"empty", Tensor({0, 4, 8, 8})}};
  uint64_t total = 0;
  for (const auto& c : kCases) {
    SCOPED_TRACE(c.name);
    ASSERT_TRUE(store->Put("k", c.tensor).ok());
    const auto got = client.Fetch(Remote(server->port(), c.tensor), nullptr);
    ASSERT_TRUE(got.ok()) << got.status();
    EXPECT_EQ(got->bytes(), c.tensor.bytes());
    EXPECT_EQ(got->shape(), c.tensor.shape());
    EXPECT_EQ(got->dtype(), c.tensor.dtype());
    total += c.tensor.bytes().size();
  }
  EXPECT_EQ(got_bytes, total);

  // Release is asynchronous: the destructor waits for it.
  { LatentClient(FastOptions()).Release(Remote(server->port(), kCases[0].tensor)); }
  EXPECT_TRUE(
      absl::IsNotFound(client.Fetch(Remote(server->port(), kCases[0].tensor), nullptr).status()));
  server->Shutdown(absl::Seconds(5));
  EXPECT_EQ(sent, total);

  const std::string text = prometheus::TextSerializer().Serialize(metrics.registry().Collect());
  EXPECT_THAT(text, HasSubstr("grpc_server_started_total{grpc_method=\"FetchLatents\","
                              "grpc_service=\"kandinsky.worker.v1.LatentService\","
                              "grpc_type=\"server_stream\"} 6"));
  EXPECT_THAT(text, HasSubstr("grpc_code=\"NotFound\",grpc_method=\"FetchLatents\""));
  EXPECT_THAT(text, HasSubstr("grpc_server_handled_total{grpc_code=\"OK\",grpc_method="
                              "\"ReleaseLatents\",grpc_service=\"kandinsky.worker.v1.LatentService"
                              "\",grpc_type=\"unary\"} 1"));
  EXPECT_THAT(text, HasSubstr("grpc_server_handling_seconds_bucket"));
  EXPECT_THAT(text, HasSubstr("le=\"1800\""));
}

TEST(LatentTransportTest, LiesAreRefused) {
  const HostTensor tensor = Tensor({4, 4, 8, 8});  // 4096 bytes
  using Change = std::function<void(FetchLatentsResponse*)>;
  const auto with_header = [&](const Change& change) -> HostileService::Script {
    return [&tensor, change](int, uint64_t, HostileService::Writer* writer, grpc::ServerContext*) {
      FetchLatentsResponse header = Header(tensor);
      change(&header);
      writer->Write(header);
      writer->Write(Chunk(tensor, 0, 4096));
      return grpc::Status::OK;
    };
  };
  const auto with_chunks =
      [&](const std::function<void(HostileService::Writer*)>& chunks) -> HostileService::Script {
    return [&tensor, chunks](int, uint64_t, HostileService::Writer* writer, grpc::ServerContext*) {
      writer->Write(Header(tensor));
      chunks(writer);
      return grpc::Status::OK;
    };
  };
  const struct {
    const char* name;
    HostileService::Script script;
    absl::StatusCode want;
    const char* want_message;
  } kCases[] = {
      {"wrong dtype",
       with_header([](auto* m) { m->mutable_header()->set_dtype(worker::v1::DATA_TYPE_FLOAT16); }),
       absl::StatusCode::kDataLoss, "dtype"},
      {"unknown dtype", with_header([](auto* m) {
         m->mutable_header()->set_dtype(static_cast<worker::v1::DataType>(77));
       }),
       absl::StatusCode::kDataLoss, "dtype"},
      {"wrong shape", with_header([](auto* m) { m->mutable_header()->set_shape(0, 5); }),
       absl::StatusCode::kDataLoss, "shape"},
      {"same size, other shape", with_header([](auto* m) {
         m->mutable_header()->set_shape(0, 8);
         m->mutable_header()->set_shape(1, 2);
       }),
       absl::StatusCode::kDataLoss, "shape"},
      {"too many dimensions", with_header([](auto* m) {
         for (int i = 0; i < 10000; ++i) m->mutable_header()->add_shape(1);
       }),
       absl::StatusCode::kDataLoss, "shape"},
      {"negative dimension", with_header([](auto* m) { m->mutable_header()->set_shape(0, -4); }),
       absl::StatusCode::kDataLoss, "shape"},
      {"huge byte_size",
       with_header([](auto* m) { m->mutable_header()->set_byte_size(uint64_t{1} << 62); }),
       absl::StatusCode::kDataLoss, "byte_size"},
      {"byte_size too small", with_header([](auto* m) { m->mutable_header()->set_byte_size(1); }),
       absl::StatusCode::kDataLoss, "byte_size"},
      {"other checksum", with_header([](auto* m) { m->mutable_header()->set_crc32c(1); }),
       absl::StatusCode::kDataLoss, "checksum"},
      {"no header",
       [&](int, uint64_t, HostileService::Writer* writer, grpc::ServerContext*) {
         writer->Write(Chunk(tensor, 0, 4096));
         return grpc::Status::OK;
       },
       absl::StatusCode::kDataLoss, "without a header"},
      {"empty message",
       [&](int, uint64_t, HostileService::Writer* writer, grpc::ServerContext*) {
         writer->Write(FetchLatentsResponse());
         return grpc::Status::OK;
       },
       absl::StatusCode::kDataLoss, "without a header"},
      {"second header", with_chunks([&](auto* w) { w->Write(Header(tensor)); }),
       absl::StatusCode::kDataLoss, "second header"},
      {"corrupted chunk", with_chunks([&](auto* w) {
         FetchLatentsResponse chunk = Chunk(tensor, 0, 4096);
         (*chunk.mutable_chunk()->mutable_data())[100] ^= 1;
         w->Write(chunk);
       }),
       absl::StatusCode::kDataLoss, "checksum of the chunk"},
      {"corrupted before its checksum was made", with_chunks([&](auto* w) {
         FetchLatentsResponse chunk = Chunk(tensor, 0, 4096);
         (*chunk.mutable_chunk()->mutable_data())[100] ^= 1;
         chunk.mutable_chunk()->set_crc32c(Crc32c(chunk.chunk().data()));
         w->Write(chunk);
       }),
       absl::StatusCode::kDataLoss, "whole tensor"},
      {"duplicate chunk", with_chunks([&](auto* w) {
         w->Write(Chunk(tensor, 0, 1024));
         w->Write(Chunk(tensor, 0, 1024));
       }),
       absl::StatusCode::kDataLoss, "offset 0"},
      {"reordered chunks", with_chunks([&](auto* w) {
         w->Write(Chunk(tensor, 1024, 3072));
         w->Write(Chunk(tensor, 0, 1024));
       }),
       absl::StatusCode::kDataLoss, "offset 1024"},
      {"more than announced", with_chunks([&](auto* w) {
         w->Write(Chunk(tensor, 0, 4096));
         FetchLatentsResponse more;
         more.mutable_chunk()->set_offset(4096);
         more.mutable_chunk()->set_data("x");
         more.mutable_chunk()->set_crc32c(Crc32c("x"));
         w->Write(more);
       }),
       absl::StatusCode::kDataLoss, "a chunk"},
      {"empty chunk", with_chunks([&](auto* w) { w->Write(Chunk(tensor, 0, 0)); }),
       absl::StatusCode::kDataLoss, "chunk of 0 bytes"},
      {"nothing but a header", with_chunks([&](auto*) {}), absl::StatusCode::kUnavailable,
       "ended after 0 of 4096"},
      {"an empty stream",
       [](int, uint64_t, HostileService::Writer*, grpc::ServerContext*) {
         return grpc::Status::OK;
       },
       absl::StatusCode::kUnavailable, "ended after 0"},
      {"internal error",
       [](int, uint64_t, HostileService::Writer*, grpc::ServerContext*) {
         return grpc::Status(grpc::StatusCode::INTERNAL, "broken");
       },
       absl::StatusCode::kUnavailable, "broken"},
      {"a status that is not in the list",
       [](int, uint64_t, HostileService::Writer*, grpc::ServerContext*) {
         return grpc::Status(static_cast<grpc::StatusCode>(20), "odd");
       },
       absl::StatusCode::kUnavailable, ""},
      {"cancelled by the server",
       [](int, uint64_t, HostileService::Writer*, grpc::ServerContext*) {
         return grpc::Status(grpc::StatusCode::CANCELLED, "no");
       },
       absl::StatusCode::kUnavailable, "no"},
      {"end of range from the server",
       [](int, uint64_t, HostileService::Writer*, grpc::ServerContext*) {
         return grpc::Status(grpc::StatusCode::OUT_OF_RANGE, "no such offset");
       },
       absl::StatusCode::kUnavailable, ""},
  };
  for (const auto& c : kCases) {
    SCOPED_TRACE(c.name);
    HostileService server(c.script);
    LatentClient client(FastOptions());
    const auto got = client.Fetch(Remote(server.port(), tensor), [] { return false; });
    EXPECT_EQ(got.status().code(), c.want) << got.status();
    EXPECT_THAT(std::string(got.status().message()), HasSubstr(c.want_message));
    EXPECT_GE(server.calls(), 4);
    EXPECT_LE(server.calls(), 10);
  }
}

TEST(LatentTransportTest, ChunksOverOneMebibyteAreRefused) {
  const HostTensor tensor = Tensor({1, 4, 300, 300});
  HostileService server([&](int, uint64_t, HostileService::Writer* writer, grpc::ServerContext*) {
    writer->Write(Header(tensor));
    writer->Write(Chunk(tensor, 0, (uint64_t{1} << 20) + 4));
    return grpc::Status::OK;
  });
  LatentClient client(FastOptions());
  const auto got = client.Fetch(Remote(server.port(), tensor), nullptr);
  EXPECT_EQ(got.status().code(), absl::StatusCode::kDataLoss) << got.status();
}

TEST(LatentTransportTest, NotFoundIsNotTriedAgain) {
  HostileService server([&](int, uint64_t, HostileService::Writer*, grpc::ServerContext*) {
    return grpc::Status(grpc::StatusCode::NOT_FOUND, "gone");
  });
  LatentClient client(FastOptions());
  EXPECT_TRUE(absl::IsNotFound(client.Fetch(Remote(server.port(), Tensor({4})), nullptr).status()));
  EXPECT_EQ(server.calls(), 1);
}

TEST(LatentTransportTest, BadLocationsAreRefusedWithoutACall) {
  HostileService server([&](int, uint64_t, HostileService::Writer*, grpc::ServerContext*) {
    return grpc::Status::OK;
  });
  LatentClient::Options options = FastOptions();
  options.max_bytes = 4096;
  LatentClient client(options);
  const std::string address = absl::StrCat("127.0.0.1:", server.port());
  const RemoteLatents kCases[] = {
      {address, "k", DataType::kFloat32, {4, 4, 8, 9}, 0},     // too large
      {address, "k", DataType::kFloat32, {1, 1, 1, 1, 1}, 0},  // too many dimensions
      {address, "k", DataType::kFloat32, {-1, 4}, 0},          // negative
      {address, "k", DataType::kFloat32, {INT64_MAX, 16}, 0},  // overflow
      {address, "", DataType::kFloat32, {4}, 0},               // no key
      {"", "k", DataType::kFloat32, {4}, 0}};                  // no address
  for (const RemoteLatents& c : kCases) {
    EXPECT_EQ(client.Fetch(c, nullptr).status().code(), absl::StatusCode::kInvalidArgument)
        << testing::PrintToString(c.shape);
  }
  EXPECT_EQ(server.calls(), 0);
}

TEST(LatentTransportTest, BrokenStreamsResumeWhereTheyBroke) {
  const HostTensor tensor = Tensor({16, 4, 8, 8});  // 16384 bytes
  // Every stream brings one good chunk and breaks in another way; 16 streams are more than
  // max_attempts allows without progress.
  HostileService server(
      [&](int call, uint64_t offset, HostileService::Writer* writer, grpc::ServerContext* context) {
        writer->Write(Header(tensor));
        if (offset < 16384) writer->Write(Chunk(tensor, offset, 1024));
        if (offset + 1024 >= 16384) return grpc::Status::OK;
        switch (call % 4) {
          case 0:
            return grpc::Status::OK;  // too early
          case 1:
            return grpc::Status(grpc::StatusCode::UNAVAILABLE, "restarting");
          case 2: {
            FetchLatentsResponse bad = Chunk(tensor, offset + 1024, 1024);
            (*bad.mutable_chunk()->mutable_data())[5] ^= 4;
            writer->Write(bad);
            return grpc::Status::OK;
          }
          default:
            writer->Write(Chunk(tensor, 0, 1024));
            return grpc::Status::OK;
        }
      });
  LatentClient client(FastOptions());
  const auto got = client.Fetch(Remote(server.port(), tensor), nullptr);
  ASSERT_TRUE(got.ok()) << got.status();
  EXPECT_EQ(got->bytes(), tensor.bytes());
  std::vector<uint64_t> want;
  for (uint64_t offset = 0; offset < 16384; offset += 1024) want.push_back(offset);
  EXPECT_EQ(server.offsets(), want);
}

TEST(LatentTransportTest, SilentProducerIsGivenUpAndTriedAgain) {
  const HostTensor tensor = Tensor({4, 4, 8, 8});
  HostileService server(
      [&](int call, uint64_t offset, HostileService::Writer* writer, grpc::ServerContext* context) {
        writer->Write(Header(tensor));
        if (call == 1) {
          while (!context->IsCancelled()) std::this_thread::sleep_for(std::chrono::milliseconds(2));
          return grpc::Status::CANCELLED;
        }
        writer->Write(Chunk(tensor, offset, 4096));
        return grpc::Status::OK;
      });
  LatentClient client(FastOptions());
  const auto got = client.Fetch(Remote(server.port(), tensor), nullptr);
  ASSERT_TRUE(got.ok()) << got.status();
  EXPECT_EQ(server.calls(), 2);
}

TEST(LatentTransportTest, CancelEndsAWaitingFetch) {
  std::atomic<bool> in_call{false};
  HostileService server([&](int, uint64_t, HostileService::Writer*, grpc::ServerContext* context) {
    in_call = true;
    while (!context->IsCancelled()) std::this_thread::sleep_for(std::chrono::milliseconds(2));
    return grpc::Status::CANCELLED;
  });
  LatentClient::Options options = FastOptions();
  options.progress_timeout = absl::Hours(1);
  LatentClient client(options);
  const auto got = client.Fetch(Remote(server.port(), Tensor({4})), [&] { return in_call.load(); });
  EXPECT_TRUE(absl::IsCancelled(got.status())) << got.status();
}

TEST(LatentTransportTest, UnreachableProducerIsUnavailableAndFoundAgain) {
  FakeClock clock;
  const auto store = *LatentStore::Open({}, &clock);
  const HostTensor tensor = Tensor({4, 4, 8, 8});
  ASSERT_TRUE(store->Put("k", tensor).ok());
  int port = 0;
  {
    Metrics metrics("test");
    port = (*WorkerServer::Start({"127.0.0.1:0", "keyframes"}, store.get(), &metrics))->port();
  }
  LatentClient client(FastOptions());
  EXPECT_TRUE(absl::IsUnavailable(client.Fetch(Remote(port, tensor), nullptr).status()));
  Metrics metrics("test");
  const auto server =
      WorkerServer::Start({absl::StrCat("127.0.0.1:", port), "keyframes"}, store.get(), &metrics);
  ASSERT_TRUE(server.ok()) << server.status();
  EXPECT_TRUE(client.Fetch(Remote(port, tensor), nullptr).ok());
}

TEST(WorkerServerTest, TakenPortIsAnError) {
  FakeClock clock;
  Metrics metrics("test");
  const auto store = *LatentStore::Open({}, &clock);
  const auto first = *WorkerServer::Start({"127.0.0.1:0", "decoding"}, store.get(), &metrics);
  Metrics other("test");
  EXPECT_TRUE(absl::IsUnavailable(
      WorkerServer::Start({absl::StrCat("127.0.0.1:", first->port()), "decoding"}, store.get(),
                          &other)
          .status()));
}

}  // namespace
}  // namespace kandinsky
