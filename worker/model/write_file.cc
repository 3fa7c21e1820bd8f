#include "worker/model/write_file.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <fstream>
#include <system_error>

#include "worker/model/error.h"

namespace kandinsky::model {

void WriteFile(const std::string& path, std::string_view bytes) {
  namespace fs = std::filesystem;
  const auto fail = [&](const std::string& reason) {
    throw ModelError(ModelError::Kind::kDataLoss, path + ": cannot write: " + reason);
  };
  // A name of its own, as SafetensorsWriter's: other machines may write to the same folder.
  std::string temporary = path + ".XXXXXX";
  const int fd = ::mkostemp(temporary.data(), O_CLOEXEC);
  if (fd < 0) fail(std::error_code(errno, std::generic_category()).message());
  ::fchmod(fd, 0644);
  ::close(fd);
  std::ofstream stream(temporary, std::ios::binary | std::ios::trunc);
  stream << bytes;
  stream.close();
  std::error_code error;
  if (stream) fs::rename(temporary, path, error);
  if (stream && !error) return;
  std::error_code ignored;
  fs::remove(temporary, ignored);
  fail(error ? error.message() : "the disk may be full");
}

}  // namespace kandinsky::model
