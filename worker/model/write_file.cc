#include "worker/model/write_file.h"

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <system_error>

#include "worker/model/error.h"

namespace kandinsky::model {

void WriteFile(const std::string& path, std::string_view bytes) {
  namespace fs = std::filesystem;
  const std::string temporary = path + "." + std::to_string(getpid()) + ".tmp";
  std::ofstream stream(temporary, std::ios::binary | std::ios::trunc);
  stream << bytes;
  stream.close();
  std::error_code error;
  if (stream) fs::rename(temporary, path, error);
  if (stream && !error) return;
  std::error_code ignored;
  fs::remove(temporary, ignored);
  throw ModelError(ModelError::Kind::kDataLoss,
                   path + ": cannot write: " +
                       (error ? error.message() : "the disk may be full or the folder missing"));
}

}  // namespace kandinsky::model
