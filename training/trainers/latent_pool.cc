#include "training/trainers/latent_pool.h"

#include <ATen/Parallel.h>

#include <algorithm>
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

constexpr int64_t kPart = 128;  // clips of each process between two exchanges

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
                       const ClipRequest& request, std::vector<double> spacings, int64_t clips)
    : encoder_(encoder), source_(source), request_(request), spacings_(std::move(spacings)) {
  if (clips < 1) {
    throw model::ModelError(model::ModelError::Kind::kInvalidArgument,
                            "--clips is " + std::to_string(clips) + ", must be 1 or more");
  }
  const int64_t cell = encoder.config().downsampling();
  latents_ = at::zeros({clips, request.frames, encoder.config().z_channels, request.height / cell,
                        request.width / cell},
                       at::kHalf);
  descriptions_.resize(static_cast<size_t>(clips));
  encoded_ = std::make_unique<std::once_flag[]>(static_cast<size_t>(clips));
}

void LatentPool::Fill(ProcessGroup& group, const std::string& cache_file, int threads) {
  at::NoGradGuard no_grad;
  const std::string fingerprint = nlohmann::json{
      {"source", source_.Fingerprint()},
      {"frames", request_.frames},
      {"spacings", spacings_},
      {"height", request_.height},
      {"width", request_.width},
      {"motion", request_.motion},
      {"clips", clips()},
      {"version", 2},
      {"encoder",
       WeightSum(encoder_)}}.dump();
  const bool first = group.rank() == 0;
  const at::Tensor found =
      at::full({1}, first && ReadCache(cache_file, fingerprint) ? 1 : 0, at::kFloat);
  group.Broadcast({found});
  const bool cached = found.item<float>() > 0;
  auto said = std::chrono::steady_clock::now();
  // In parts, so that processes wait for each other often and not long.
  const int64_t part = kPart * group.size();
  for (int64_t begin = 0; begin < clips(); begin += part) {
    const int64_t end = std::min(clips(), begin + part);
    if (!cached) EncodePart(begin + group.rank(), end, group.size(), threads);
    if (group.size() > 1) {
      Exchange(group, begin, end, [&](int64_t clip) {
        return cached ? first : (clip - begin) % group.size() == group.rank();
      });
    }
    const auto now = std::chrono::steady_clock::now();
    if (!cached && first && now - said > std::chrono::seconds(10)) {
      said = now;
      std::fprintf(stderr, "encoding clips: %lld of %lld\n", static_cast<long long>(end),
                   static_cast<long long>(clips()));
    }
  }
  encoded_.reset();
  if (first && !cached) WriteCache(cache_file, fingerprint);
}

bool LatentPool::ReadCache(const std::string& path, const std::string& fingerprint) {
  if (!std::filesystem::exists(path)) return false;
  const model::SafetensorsFile file(path);
  const auto found = file.metadata().find("fingerprint");
  if (found == file.metadata().end() || found->second != fingerprint) return false;
  latents_.copy_(file.Read("latents"));
  const nlohmann::json texts = nlohmann::json::parse(file.metadata().at("captions"));
  const at::Tensor attributes = file.Read("attributes");  // int64 [clips, kAttributes]
  for (size_t i = 0; i < descriptions_.size(); ++i) {
    descriptions_[i].caption = texts.at(i).get<std::string>();
    std::memcpy(descriptions_[i].attributes.data(),
                attributes.data_ptr<int64_t>() + i * kAttributes,
                sizeof(descriptions_[i].attributes));
  }
  return true;
}

void LatentPool::WriteCache(const std::string& path, const std::string& fingerprint) const {
  std::filesystem::create_directories(std::filesystem::path(path).parent_path());
  const at::Tensor attributes = at::empty({clips(), kAttributes}, at::kLong);
  nlohmann::json texts = nlohmann::json::array();
  for (size_t i = 0; i < descriptions_.size(); ++i) {
    texts.push_back(descriptions_[i].caption);
    std::memcpy(attributes.data_ptr<int64_t>() + i * kAttributes,
                descriptions_[i].attributes.data(), sizeof(descriptions_[i].attributes));
  }
  model::WriteSafetensors(path, {{"latents", latents_}, {"attributes", attributes}},
                          {{"fingerprint", fingerprint}, {"captions", texts.dump()}});
}

void LatentPool::Exchange(ProcessGroup& group, int64_t first, int64_t end,
                          const std::function<bool(int64_t)>& mine) {
  // What a process does not have is zero in its part of the sum; its latents are still as the
  // constructor made them.
  const int64_t count = end - first;
  const at::Tensor sizes = at::zeros({count}, at::kFloat);
  std::vector<std::string> texts(static_cast<size_t>(count));
  for (int64_t clip = first; clip < end; ++clip) {
    if (!mine(clip)) continue;
    const Description& description = descriptions_[static_cast<size_t>(clip)];
    std::string& text = texts[static_cast<size_t>(clip - first)];
    text = nlohmann::json{description.caption, description.attributes}.dump();
    sizes[clip - first] = static_cast<float>(text.size());
  }
  group.AllReduceSum({sizes, latents_.slice(0, first, end)});
  const at::Tensor lengths = sizes.to(at::kLong);
  const at::Tensor bytes = at::zeros({lengths.sum().item<int64_t>()}, at::kByte);
  std::vector<uint8_t*> places;
  auto* place = bytes.data_ptr<uint8_t>();
  for (int64_t i = 0; i < count; ++i) {
    places.push_back(place);
    const std::string& text = texts[static_cast<size_t>(i)];
    std::copy(text.begin(), text.end(), place);
    place += lengths[i].item<int64_t>();
  }
  group.AllReduceSum({bytes});
  places.push_back(place);
  for (int64_t i = 0; i < count; ++i) {
    const nlohmann::json text =
        nlohmann::json::parse(places[static_cast<size_t>(i)], places[static_cast<size_t>(i) + 1]);
    Description& description = descriptions_[static_cast<size_t>(first + i)];
    text.at(0).get_to(description.caption);
    text.at(1).get_to(description.attributes);
  }
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

void LatentPool::EncodePart(int64_t first, int64_t end, int64_t stride, int threads) const {
  std::atomic<int64_t> next{first};
  std::mutex mutex;  // guards failure
  std::exception_ptr failure;
  const auto work = [&] {
    at::set_num_threads(1);
    for (int64_t i = next.fetch_add(stride); i < end; i = next.fetch_add(stride)) {
      try {
        Encode(i);
      } catch (...) {
        const std::lock_guard lock(mutex);
        failure = std::current_exception();
        next = end;
        return;
      }
    }
  };
  std::vector<std::thread> workers;
  for (int i = 0; i < threads; ++i) workers.emplace_back(work);
  for (std::thread& worker : workers) worker.join();
  if (failure) std::rethrow_exception(failure);
}

}  // namespace kandinsky::training
