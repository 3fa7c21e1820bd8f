#include "common/base/version.h"

namespace kandinsky {

const char* BuildCommit() { return KANDINSKY_COMMIT; }

}  // namespace kandinsky
