// The directory of a zip file whose entries are stored, not compressed: all that torch.save writes,
// and nothing more.
#ifndef KANDINSKY_WORKER_MODEL_CHECKPOINT_ZIP_H_
#define KANDINSKY_WORKER_MODEL_CHECKPOINT_ZIP_H_

#include <cstdint>
#include <map>
#include <string>

#include "worker/model/checkpoint/mapped_file.h"

namespace kandinsky::model {

// A file of the archive, as a range of the archive's own bytes.
struct ZipEntry {
  int64_t begin = 0;
  int64_t size = 0;
};

// Whether the file begins as a zip archive does.
bool LooksLikeZip(const MappedFile& file);

// Name -> position, with 64-bit sizes where the archive has them. Throws ModelError::kDataLoss for
// compressed or encrypted entries (so that nothing ever grows), entries that overlap or leave the
// file, duplicate names, archives in several volumes and every inconsistency between the two places
// where zip describes an entry.
std::map<std::string, ZipEntry> ReadZipDirectory(const MappedFile& file);

}  // namespace kandinsky::model

#endif  // KANDINSKY_WORKER_MODEL_CHECKPOINT_ZIP_H_
