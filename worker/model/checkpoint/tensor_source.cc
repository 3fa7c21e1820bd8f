#include "worker/model/checkpoint/tensor_source.h"

#include <algorithm>
#include <filesystem>
#include <utility>

#include "worker/model/checkpoint/index.h"
#include "worker/model/checkpoint/mapped_file.h"
#include "worker/model/checkpoint/safetensors.h"
#include "worker/model/checkpoint/shape.h"
#include "worker/model/checkpoint/torch_file.h"
#include "worker/model/checkpoint/zip.h"
#include "worker/model/error.h"

namespace kandinsky::model {
namespace {

namespace fs = std::filesystem;

struct DtypeSpelling {
  at::ScalarType dtype;
  const char* name;        // manifests, model.json, messages
  const char* short_name;  // safetensors
};

constexpr DtypeSpelling kSpellings[] = {
    {at::kFloat, "float32", "F32"},
    {at::kHalf, "float16", "F16"},
    {at::kBFloat16, "bfloat16", "BF16"},
    {at::kDouble, "float64", "F64"},
    {at::kLong, "int64", "I64"},
    {at::kInt, "int32", "I32"},
    {at::kShort, "int16", "I16"},
    {at::kChar, "int8", "I8"},
    {at::kByte, "uint8", "U8"},
    {at::kUInt16, "uint16", "U16"},
    {at::kUInt32, "uint32", "U32"},
    {at::kUInt64, "uint64", "U64"},
    {at::kBool, "bool", "BOOL"},
    {at::kComplexFloat, "complex64", "C64"},
    {at::kFloat8_e4m3fn, "float8_e4m3fn", "F8_E4M3"},
    {at::kFloat8_e5m2, "float8_e5m2", "F8_E5M2"},
};

std::string FindInDirectory(const std::string& path) {
  for (const char* name : {"model.safetensors.index.json", "model.safetensors",
                           "pytorch_model.bin.index.json", "pytorch_model.bin"}) {
    const fs::path candidate = fs::path(path) / name;
    if (fs::is_regular_file(candidate)) return candidate.string();
  }
  std::vector<std::string> files;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(path, error)) {
    if (entry.is_regular_file(error)) files.push_back(entry.path().string());
  }
  std::sort(files.begin(), files.end());
  for (const char* ending : {".index.json", ".safetensors", ".pt", ".bin"}) {
    std::vector<std::string> matches;
    for (const std::string& file : files) {
      if (file.ends_with(ending)) matches.push_back(file);
    }
    if (matches.size() == 1) return matches[0];
    if (matches.size() > 1) {
      throw ModelError(ModelError::Kind::kNotFound,
                       path + ": several checkpoints to choose from: " +
                           fs::path(matches[0]).filename().string() + ", " +
                           fs::path(matches[1]).filename().string() + "; name one");
    }
  }
  throw ModelError(ModelError::Kind::kNotFound, path + ": no checkpoint in this directory");
}

}  // namespace

int64_t TensorMeta::numel() const {
  int64_t product = 1;
  for (const int64_t extent : shape) product *= extent;
  return product;
}

int64_t TensorMeta::bytes() const {
  return numel() * static_cast<int64_t>(c10::elementSize(dtype));
}

std::string ShapeToString(at::IntArrayRef shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) {
    if (i > 0) text += ", ";
    text += std::to_string(shape[i]);
  }
  return text + "]";
}

std::string ToString(const TensorMeta& meta) {
  return DtypeName(meta.dtype) + " " + ShapeToString(meta.shape);
}

std::string DtypeName(at::ScalarType dtype) {
  for (const DtypeSpelling& spelling : kSpellings) {
    if (spelling.dtype == dtype) return spelling.name;
  }
  return c10::toString(dtype);
}

std::optional<at::ScalarType> ParseDtype(const std::string& name) {
  for (const DtypeSpelling& spelling : kSpellings) {
    if (name == spelling.name || name == spelling.short_name) return spelling.dtype;
  }
  return std::nullopt;
}

at::Tensor TensorSource::Read(const std::string& name, std::optional<at::ScalarType> dtype,
                              at::Device device) const {
  const TensorMeta* meta = Find(name);
  if (meta == nullptr) {
    throw ModelError(ModelError::Kind::kNotFound, path() + ": no tensor " + Quote(name));
  }
  const at::ScalarType target =
      dtype && c10::isFloatingType(meta->dtype) && c10::isFloatingType(*dtype) ? *dtype
                                                                               : meta->dtype;
  at::Tensor tensor = at::empty(meta->shape, at::TensorOptions().dtype(target).device(device));
  tensor.copy_(View(name));
  Release(name);
  return tensor;
}

std::unique_ptr<TensorSource> OpenCheckpoint(const std::string& path) {
  std::error_code error;
  if (fs::is_directory(path, error)) return OpenCheckpoint(FindInDirectory(path));
  std::shared_ptr<const MappedFile> file = MappedFile::Open(path);
  if (path.ends_with(".index.json")) return std::make_unique<ShardedSource>(*file);
  if (SafetensorsFile::LooksLike(*file) || path.ends_with(".safetensors")) {
    return std::make_unique<SafetensorsFile>(std::move(file));
  }
  if (LooksLikeZip(*file)) return std::make_unique<TorchFile>(std::move(file));
  throw ModelError(ModelError::Kind::kDataLoss,
                   path + ": neither safetensors nor a zip file as torch.save writes it");
}

}  // namespace kandinsky::model
