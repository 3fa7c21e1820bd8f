#include "worker/model/checkpoint/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "worker/model/error.h"

namespace kandinsky::model {

std::shared_ptr<const MappedFile> MappedFile::Open(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) {
    throw ModelError(ModelError::Kind::kNotFound,
                     path + ": cannot open: " + std::string(std::strerror(errno)));
  }
  struct stat info = {};
  if (::fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
    ::close(fd);
    throw ModelError(ModelError::Kind::kNotFound, path + ": not a regular file");
  }
  const uint8_t* data = nullptr;
  if (info.st_size > 0) {
    void* mapping = ::mmap(nullptr, info.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    const int error = errno;
    ::close(fd);
    if (mapping == MAP_FAILED) {
      throw ModelError(ModelError::Kind::kNotFound,
                       path + ": cannot map: " + std::string(std::strerror(error)));
    }
    data = static_cast<const uint8_t*>(mapping);
  } else {
    ::close(fd);
  }
  return std::shared_ptr<const MappedFile>(new MappedFile(path, data, info.st_size));
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(const_cast<uint8_t*>(data_), size_);
}

at::Tensor MappedFile::Tensor(int64_t offset, at::ScalarType dtype, at::IntArrayRef shape,
                              at::IntArrayRef strides) const {
  const auto options = at::TensorOptions().dtype(dtype);
  for (const int64_t extent : shape) {
    if (extent == 0) return at::empty(shape, options);
  }
  const uint8_t* begin = data_ + offset;
  const int64_t item = static_cast<int64_t>(c10::elementSize(dtype));
  if (reinterpret_cast<uintptr_t>(begin) % item != 0) {
    int64_t last = 0;  // index of the last element that is reached
    for (size_t i = 0; i < shape.size(); ++i) last += (shape[i] - 1) * strides[i];
    at::Tensor copy = at::empty({last + 1}, options);
    std::memcpy(copy.data_ptr(), begin, (last + 1) * item);
    return copy.as_strided(shape, strides);
  }
  auto keep = shared_from_this();
  return at::from_blob(
      const_cast<uint8_t*>(begin), shape, strides, [keep](void*) {}, options, at::kCPU);
}

void MappedFile::Release(int64_t offset, int64_t length) const {
  const int64_t page = ::sysconf(_SC_PAGESIZE);
  const int64_t begin = offset / page * page;
  if (length > 0) {
    ::madvise(const_cast<uint8_t*>(data_) + begin, offset + length - begin, MADV_DONTNEED);
  }
}

}  // namespace kandinsky::model
