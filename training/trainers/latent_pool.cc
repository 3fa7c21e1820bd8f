#include "training/trainers/latent_pool.h"

#include <ATen/Parallel.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <exception>
#include <filesystem>
#include <mutex>
#include <nlohmann/json.hpp>
#include <optional>
#include <thread>
#include <utility>

#include "training/trainers/initialize.h"
#include "worker/model/checkpoint/safetensors.h"
#include "worker/model/error.h"

namespace kandinsky::training {
namespace {

// A number that tells encoders apart: sums of their weights.
double WeightSum(const model::Movq& encoder) {
  double sum = 0;
  for (const auto& parameter : encoder.named_parameters()) {
    if (IsEncoderParameter(parameter.key())) {
      sum += parameter.value().detach().to(at::kDouble).abs().sum().item<double>();
    }
  }
  return sum;
}

}  // namespace

LatentPool::LatentPool(const model::Movq& encoder, const ClipSource& source,
                       const ClipRequest& request, std::vector<double> spacings, int64_t clips,
                       bool ahead, const std::string& cache_file, int threads)
    : encoder_(encoder), source_(source), request_(request), spacings_(std::move(spacings)) {
  at::NoGradGuard no_grad;
  if (clips < 1) {
    throw model::ModelError(model::ModelError::Kind::kInvalidArgument,
                            "--clips is " + std::to_string(clips) + ", must be 1 or more");
  }
  const int64_t cell = encoder.config().downsampling();
  latents_ = at::empty({clips, request.frames, encoder.config().z_channels, request.height / cell,
                        request.width / cell},
                       at::kHalf);
  descriptions_.resize(static_cast<size_t>(clips));
  if (!ahead) {
    encoded_ = std::make_unique<std::once_flag[]>(static_cast<size_t>(clips));
    return;
  }
  const std::string fingerprint = nlohmann::json{
      {"source", source.Fingerprint()},
      {"frames", request.frames},
      {"spacings", spacings_},
      {"height", request.height},
      {"width", request.width},
      {"motion", request.motion},
      {"clips", clips},
      {"version", 2},
      {"encoder", WeightSum(encoder)}}.dump();
  if (std::filesystem::exists(cache_file)) {
    const model::SafetensorsFile file(cache_file);
    const auto found = file.metadata().find("fingerprint");
    if (found != file.metadata().end() && found->second == fingerprint) {
      latents_ = file.Read("latents").clone();
      const nlohmann::json texts = nlohmann::json::parse(file.metadata().at("captions"));
      const at::Tensor attributes = file.Read("attributes");  // int64 [clips, kAttributes]
      for (size_t i = 0; i < descriptions_.size(); ++i) {
        descriptions_[i].caption = texts.at(i).get<std::string>();
        std::memcpy(descriptions_[i].attributes.data(),
                    attributes.data_ptr<int64_t>() + i * kAttributes,
                    sizeof(descriptions_[i].attributes));
      }
      return;
    }
  }
  EncodeAll(threads);
  std::filesystem::create_directories(std::filesystem::path(cache_file).parent_path());
  const at::Tensor attributes = at::empty({clips, kAttributes}, at::kLong);
  nlohmann::json texts = nlohmann::json::array();
  for (size_t i = 0; i < descriptions_.size(); ++i) {
    texts.push_back(descriptions_[i].caption);
    std::memcpy(attributes.data_ptr<int64_t>() + i * kAttributes,
                descriptions_[i].attributes.data(), sizeof(descriptions_[i].attributes));
  }
  model::WriteSafetensors(cache_file, {{"latents", latents_}, {"attributes", attributes}},
                          {{"fingerprint", fingerprint}, {"captions", texts.dump()}});
}

Description LatentPool::Describe(int64_t clip, uint64_t variant) const {
  std::optional<Description> another =
      source_.Redescribe(static_cast<uint64_t>(clip), request_, variant);
  if (another) return *std::move(another);
  Need(clip);
  return descriptions_[static_cast<size_t>(clip)];
}

void LatentPool::Need(int64_t clip) const {
  if (!encoded_) return;
  std::call_once(encoded_[static_cast<size_t>(clip)], [&] { Encode(clip); });
}

void LatentPool::Encode(int64_t clip) const {
  at::NoGradGuard no_grad;
  ClipRequest spaced = request_;
  spaced.spacing = Spacing(clip);
  const Clip read = source_.Read(static_cast<uint64_t>(clip), spaced);
  descriptions_[static_cast<size_t>(clip)] = read;
  const at::Tensor images = ToNetworkInput(read.frames)
                                .to(encoder_.parameters().front().device())
                                .contiguous(at::MemoryFormat::ChannelsLast);
  latents_[clip].copy_(encoder_.Encode(images));
}

void LatentPool::EncodeAll(int threads) const {
  std::atomic<int64_t> next{0};
  std::mutex mutex;  // guards failure and said
  std::exception_ptr failure;
  auto said = std::chrono::steady_clock::now();
  const auto work = [&] {
    at::set_num_threads(1);
    for (int64_t i = next++; i < clips(); i = next++) {
      try {
        Encode(i);
      } catch (...) {
        const std::lock_guard lock(mutex);
        failure = std::current_exception();
        next = clips();
        return;
      }
      const std::lock_guard lock(mutex);
      const auto now = std::chrono::steady_clock::now();
      if (now - said > std::chrono::seconds(10)) {
        said = now;
        std::fprintf(stderr, "encoding clips: %lld of %lld\n", static_cast<long long>(i),
                     static_cast<long long>(clips()));
      }
    }
  };
  std::vector<std::thread> workers;
  for (int i = 0; i < threads; ++i) workers.emplace_back(work);
  for (std::thread& worker : workers) worker.join();
  if (failure) std::rethrow_exception(failure);
}

}  // namespace kandinsky::training
