#include "worker/model/checkpoint/torch_file.h"

#include <string_view>
#include <utility>

#include "worker/model/checkpoint/shape.h"
#include "worker/model/error.h"

namespace kandinsky::model {
namespace {

[[noreturn]] void Damaged(const std::string& path, const std::string& what) {
  throw ModelError(ModelError::Kind::kDataLoss, path + ": not a usable torch checkpoint: " + what);
}

std::string_view Text(const MappedFile& file, const ZipEntry& entry) {
  return {reinterpret_cast<const char*>(file.data()) + entry.begin,
          static_cast<size_t>(entry.size)};
}

// The archive's own folder: the one that holds data.pkl.
std::string FindFolder(const MappedFile& file, const std::map<std::string, ZipEntry>& records) {
  constexpr std::string_view kPickle = "/data.pkl";
  std::string folder;
  for (const auto& [name, record] : records) {
    if (!name.ends_with(kPickle) || name.find('/') != name.size() - kPickle.size()) continue;
    if (!folder.empty()) Damaged(file.path(), "more than one data.pkl");
    folder = name.substr(0, name.size() - kPickle.size());
  }
  if (folder.empty()) Damaged(file.path(), "no data.pkl in the archive");
  return folder;
}

}  // namespace

TorchFile::TorchFile(std::shared_ptr<const MappedFile> file) : file_(std::move(file)) {
  const std::map<std::string, ZipEntry> records = ReadZipDirectory(*file_);
  const std::string folder = FindFolder(*file_, records);
  if (const auto order = records.find(folder + "/byteorder"); order != records.end()) {
    if (Text(*file_, order->second) != "little") {
      Damaged(path(), "its byte order is " + Quote(std::string(Text(*file_, order->second))));
    }
  }
  const ZipEntry& pickle = records.at(folder + "/data.pkl");
  for (auto& [name, tensor] : ReadTensorPickle(path(), Text(*file_, pickle))) {
    Entry entry;
    entry.meta = {tensor.dtype, tensor.shape};
    entry.strides = tensor.strides;
    const auto record = records.find(folder + "/data/" + tensor.storage);
    if (record == records.end()) {
      // Storages of no elements may have no record.
      if (tensor.storage_bytes > 0) {
        Damaged(path(), "tensor " + Quote(name) + " needs record " + Quote(tensor.storage) +
                            ", which is missing");
      }
    } else {
      entry.record = record->second;
      if (entry.record.size != tensor.storage_bytes) {
        Damaged(path(), "record " + Quote(tensor.storage) + " of tensor " + Quote(name) + " has " +
                            std::to_string(entry.record.size) + " bytes, must have " +
                            std::to_string(tensor.storage_bytes));
      }
      entry.begin =
          entry.record.begin + tensor.offset * static_cast<int64_t>(c10::elementSize(tensor.dtype));
    }
    entries_.emplace(name, std::move(entry));
  }
}

std::vector<std::string> TorchFile::Names() const {
  std::vector<std::string> names;
  names.reserve(entries_.size());
  for (const auto& [name, entry] : entries_) names.push_back(name);
  return names;
}

const TensorMeta* TorchFile::Find(const std::string& name) const {
  const auto found = entries_.find(name);
  return found == entries_.end() ? nullptr : &found->second.meta;
}

at::Tensor TorchFile::View(const std::string& name) const {
  const Entry& entry = entries_.at(name);
  return file_->Tensor(entry.begin, entry.meta.dtype, entry.meta.shape, entry.strides);
}

void TorchFile::Release(const std::string& name) const {
  const Entry& entry = entries_.at(name);
  file_->Release(entry.record.begin, entry.record.size);
}

}  // namespace kandinsky::model
