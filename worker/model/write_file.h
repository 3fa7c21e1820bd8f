// A small file, written as a whole or not at all.
#ifndef KANDINSKY_WORKER_MODEL_WRITE_FILE_H_
#define KANDINSKY_WORKER_MODEL_WRITE_FILE_H_

#include <string>
#include <string_view>

namespace kandinsky::model {

// The file is replaced when all bytes are in a temporary file of its own beside it, so that several
// processes and machines may write the same; the folder must exist. Throws ModelError::kDataLoss
// with the path and the system's reason; the old file is then still there and the temporary one is
// not.
void WriteFile(const std::string& path, std::string_view bytes);

}  // namespace kandinsky::model

#endif  // KANDINSKY_WORKER_MODEL_WRITE_FILE_H_
