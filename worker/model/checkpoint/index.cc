#include "worker/model/checkpoint/index.h"

#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>

#include "worker/model/checkpoint/shape.h"
#include "worker/model/error.h"

namespace kandinsky::model {
namespace {

[[noreturn]] void Damaged(const std::string& path, const std::string& what) {
  throw ModelError(ModelError::Kind::kDataLoss, path + ": not a valid checkpoint index: " + what);
}

// Keeps the strings of the top-level "weight_map" and skips everything else.
class IndexHandler : public nlohmann::json_sax<nlohmann::json> {
 public:
  IndexHandler(const std::string& path, std::map<std::string, std::string>* files)
      : path_(path), files_(files) {}

  bool null() override { return Other(); }
  bool boolean(bool) override { return Other(); }
  bool number_integer(int64_t) override { return Other(); }
  bool number_unsigned(uint64_t) override { return Other(); }
  bool number_float(double, const std::string&) override { return Other(); }
  bool binary(nlohmann::json::binary_t&) override { return Other(); }

  bool string(std::string& value) override {
    if (!InMap()) return Other();
    if (value.empty() || value.find('/') != std::string::npos ||
        value.find('\0') != std::string::npos || value == "." || value == "..") {
      Damaged(path_, "shard " + Quote(value) + " is not a plain file name");
    }
    if (!files_->emplace(key_, value).second) Damaged(path_, "duplicate name " + Quote(key_));
    return true;
  }

  bool start_object(std::size_t) override {
    if (depth_ == 1 && in_weight_map_) {
      if (seen_) Damaged(path_, "two weight_map entries");
      seen_ = true;
    } else {
      Other();
    }
    ++depth_;
    return true;
  }
  bool end_object() override { return --depth_, true; }
  bool start_array(std::size_t) override {
    Other();
    ++depth_;
    return true;
  }
  bool end_array() override { return --depth_, true; }

  bool key(std::string& value) override {
    if (depth_ == 1) in_weight_map_ = value == "weight_map";
    key_ = value;
    return true;
  }

  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::json::exception&) override {
    Damaged(path_, "bad JSON at byte " + std::to_string(position));
  }

  bool seen() const { return seen_; }

 private:
  bool InMap() const { return depth_ == 2 && in_weight_map_ && seen_; }
  bool Other() {
    if (depth_ >= 1 && in_weight_map_) Damaged(path_, "weight_map must map names to file names");
    return true;
  }

  const std::string& path_;
  std::map<std::string, std::string>* const files_;
  int64_t depth_ = 0;
  bool in_weight_map_ = false;
  bool seen_ = false;
  std::string key_;
};

}  // namespace

std::map<std::string, std::string> ShardedSource::ParseIndex(const MappedFile& index) {
  std::map<std::string, std::string> files;
  IndexHandler handler(index.path(), &files);
  const char* text = reinterpret_cast<const char*>(index.data());
  nlohmann::json::sax_parse(text, text + index.size(), &handler);
  if (!handler.seen()) Damaged(index.path(), "no weight_map");
  return files;
}

ShardedSource::ShardedSource(const MappedFile& index) : path_(index.path()) {
  const std::map<std::string, std::string> files = ParseIndex(index);
  const std::filesystem::path directory = std::filesystem::path(path_).parent_path();
  std::map<std::string, const TensorSource*> opened;
  for (const auto& [name, file] : files) {
    const TensorSource*& shard = opened[file];
    if (shard == nullptr) {
      // An index that names another index (itself, say) would open files without end.
      if (file.ends_with(".index.json")) Damaged(path_, "shard " + Quote(file) + " is an index");
      const std::filesystem::path shard_path = directory / file;
      if (std::filesystem::is_directory(shard_path)) {
        Damaged(path_, "shard " + Quote(file) + " is a directory");
      }
      shards_.push_back(OpenCheckpoint(shard_path.string()));
      shard = shards_.back().get();
    }
    if (shard->Find(name) == nullptr) {
      Damaged(path_, "tensor " + Quote(name) + " is not in shard " + Quote(file));
    }
    owner_[name] = shard;
  }
}

std::vector<std::string> ShardedSource::Names() const {
  std::vector<std::string> names;
  names.reserve(owner_.size());
  for (const auto& [name, shard] : owner_) names.push_back(name);
  return names;
}

const TensorMeta* ShardedSource::Find(const std::string& name) const {
  const auto found = owner_.find(name);
  return found == owner_.end() ? nullptr : found->second->Find(name);
}

at::Tensor ShardedSource::View(const std::string& name) const {
  return owner_.at(name)->View(name);
}

void ShardedSource::Release(const std::string& name) const { owner_.at(name)->Release(name); }

}  // namespace kandinsky::model
