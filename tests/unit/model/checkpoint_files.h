// Makes checkpoint files, sound and broken, byte by byte. Shared by the tests of the readers and by
// the fuzzer's seeds.
#ifndef KANDINSKY_TESTS_UNIT_MODEL_CHECKPOINT_FILES_H_
#define KANDINSKY_TESTS_UNIT_MODEL_CHECKPOINT_FILES_H_

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

namespace kandinsky::model::testing {

inline std::string LittleEndian(uint64_t value, int width) {
  std::string bytes;
  for (int i = 0; i < width; ++i) bytes += static_cast<char>(value >> (8 * i));
  return bytes;
}

// A safetensors file of this header text and data, whatever they are.
inline std::string Safetensors(const std::string& header, const std::string& data = "") {
  return LittleEndian(header.size(), 8) + header + data;
}

// The pieces of a pickle.
namespace pickle {

inline std::string Text(const std::string& text) {
  return "X" + LittleEndian(text.size(), 4) + text;
}
inline std::string Int(int64_t value) {
  if (value >= INT32_MIN && value <= INT32_MAX) {
    return "J" + LittleEndian(static_cast<uint64_t>(value), 4);
  }
  return std::string("\x8a\x08") + LittleEndian(static_cast<uint64_t>(value), 8);
}
inline std::string Global(const std::string& module, const std::string& name) {
  return "c" + module + "\n" + name + "\n";
}
inline std::string Tuple(const std::vector<std::string>& items) {
  std::string bytes = "(";
  for (const std::string& item : items) bytes += item;
  return bytes + "t";
}
inline std::string Ints(const std::vector<int64_t>& values) {
  std::vector<std::string> items;
  for (const int64_t value : values) items.push_back(Int(value));
  return Tuple(items);
}
inline std::string Storage(const std::string& type, const std::string& key, int64_t numel) {
  return Tuple({Text("storage"), Global("torch", type), Text(key), Text("cpu"), Int(numel)}) + "Q";
}
inline std::string Tensor(const std::string& storage, int64_t offset,
                          const std::vector<int64_t>& shape, const std::vector<int64_t>& strides) {
  return Global("torch._utils", "_rebuild_tensor_v2") +
         Tuple({storage, Int(offset), Ints(shape), Ints(strides), "\x89",
                Global("collections", "OrderedDict") + ")R"}) +
         "R";
}
inline std::string Dict(const std::vector<std::pair<std::string, std::string>>& items) {
  std::string bytes = "}(";
  for (const auto& [key, value] : items) bytes += Text(key) + value;
  return bytes + "u";
}
// A whole pickle of protocol 2.
inline std::string Whole(const std::string& value) { return "\x80\x02" + value + "."; }

}  // namespace pickle

// What one entry of a zip archive claims; by default the truth.
struct ZipRecord {
  std::string name;
  std::string data;
  int method = 0;
  int flags = 0;
  int64_t claimed_size = -1;    // in the directory, both sizes
  int64_t claimed_offset = -1;  // of the local header
  std::string local_name;       // "" is name
};

inline std::string Zip(const std::vector<ZipRecord>& records) {
  std::string file, directory;
  for (const ZipRecord& record : records) {
    const std::string& local_name = record.local_name.empty() ? record.name : record.local_name;
    const uint64_t offset = record.claimed_offset >= 0 ? record.claimed_offset : file.size();
    const uint64_t size = record.claimed_size >= 0 ? record.claimed_size : record.data.size();
    file += "PK\x03\x04" + LittleEndian(20, 2) + LittleEndian(record.flags, 2) +
            LittleEndian(record.method, 2) + LittleEndian(0, 8) +
            LittleEndian(record.data.size(), 4) + LittleEndian(record.data.size(), 4) +
            LittleEndian(local_name.size(), 2) + LittleEndian(0, 2) + local_name + record.data;
    directory += "PK\x01\x02" + LittleEndian(20, 2) + LittleEndian(20, 2) +
                 LittleEndian(record.flags, 2) + LittleEndian(record.method, 2) +
                 LittleEndian(0, 8) + LittleEndian(size, 4) + LittleEndian(size, 4) +
                 LittleEndian(record.name.size(), 2) + LittleEndian(0, 12) +
                 LittleEndian(offset, 4) + record.name;
  }
  const uint64_t begin = file.size();
  return file + directory + "PK\x05\x06" + LittleEndian(0, 4) + LittleEndian(records.size(), 2) +
         LittleEndian(records.size(), 2) + LittleEndian(directory.size(), 4) +
         LittleEndian(begin, 4) + LittleEndian(0, 2);
}

// A torch.save file of this pickle and these storages.
inline std::string TorchFile(const std::string& pickle,
                             const std::vector<std::pair<std::string, std::string>>& storages) {
  std::vector<ZipRecord> records = {{"archive/data.pkl", pickle}};
  for (const auto& [key, data] : storages) records.push_back({"archive/data/" + key, data});
  records.push_back({"archive/version", "3\n"});
  return Zip(records);
}

// A folder that goes away with the object.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "kandinsky.XXXXXX").string();
    path_ = ::mkdtemp(name.data());
  }
  ~TemporaryFolder() {
    std::error_code error;
    std::filesystem::remove_all(path_, error);
  }
  std::string Path(const std::string& name) const { return path_ + "/" + name; }
  std::string Write(const std::string& name, const std::string& bytes) const {
    std::ofstream(Path(name), std::ios::binary | std::ios::trunc) << bytes;
    return Path(name);
  }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

}  // namespace kandinsky::model::testing

#endif  // KANDINSKY_TESTS_UNIT_MODEL_CHECKPOINT_FILES_H_
