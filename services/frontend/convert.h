// Between the values of common/queue and the messages of the public API. Pure functions;
// thread-safe.
#ifndef KANDINSKY_SERVICES_FRONTEND_CONVERT_H_
#define KANDINSKY_SERVICES_FRONTEND_CONVERT_H_

#include "absl/time/time.h"
#include "common/queue/job.h"
#include "common/queue/job_store.h"
#include "kandinsky/video/v1/admin_service.pb.h"
#include "kandinsky/video/v1/video_service.pb.h"
#include "services/frontend/model_catalog.h"

namespace kandinsky {

// The arguments must be known values; UNSPECIFIED becomes the default that video_service.proto
// names.
Level FromProto(video::v1::Level level);
VideoFormat FromProto(video::v1::VideoFormat format);
JobState FromProto(video::v1::JobState state);

google::protobuf::Timestamp ToProto(absl::Time time);
google::protobuf::Duration ToProto(absl::Duration duration);
video::v1::Stage ToProto(Stage stage);
video::v1::Job ToProto(const Job& job);
video::v1::JobEvent ToProto(const JobEvent& event);
video::v1::Model ToProto(const ModelInfo& model, bool is_default);
video::v1::DeadJob ToProto(const DeadLetter& letter);

}  // namespace kandinsky

#endif  // KANDINSKY_SERVICES_FRONTEND_CONVERT_H_
