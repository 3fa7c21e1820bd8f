#include "worker/runtime/store_retry.h"

#include <algorithm>
#include <chrono>
#include <thread>

namespace kandinsky {

bool MayPass(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kOk:
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kNotFound:
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kOutOfRange:
    case absl::StatusCode::kCancelled:
    case absl::StatusCode::kUnimplemented:
      return false;
    default:
      return true;
  }
}

absl::Status RetryUntil(const std::function<absl::Status()>& call,
                        const std::function<bool()>& give_up) {
  constexpr std::chrono::milliseconds kSlice(20);
  std::chrono::milliseconds pause = kSlice;
  absl::Status status = call();
  while (MayPass(status)) {
    bool last = give_up();
    for (std::chrono::milliseconds waited(0); waited < pause && !last; waited += kSlice) {
      std::this_thread::sleep_for(kSlice);
      last = give_up();
    }
    pause = std::min<std::chrono::milliseconds>(pause * 2, std::chrono::seconds(1));
    status = call();
    if (last) break;
  }
  return status;
}

}  // namespace kandinsky
