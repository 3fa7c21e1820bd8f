// kandinsky.video.v1.VideoService: every method checks its request, does its blocking work on the
// pool and answers.
#ifndef KANDINSKY_SERVICES_FRONTEND_VIDEO_SERVICE_H_
#define KANDINSKY_SERVICES_FRONTEND_VIDEO_SERVICE_H_

#include "kandinsky/video/v1/video_service.grpc.pb.h"
#include "services/frontend/frontend.h"

namespace kandinsky {

namespace internal {
// Requests come as bytes, see wire.h.
template <typename Base>
using RawCreate = video::v1::VideoService::WithRawCallbackMethod_GenerateVideo<
    video::v1::VideoService::WithRawCallbackMethod_CreateJob<Base>>;
template <typename Base>
using RawJobs = video::v1::VideoService::WithRawCallbackMethod_GetJob<
    video::v1::VideoService::WithRawCallbackMethod_ListJobs<
        video::v1::VideoService::WithRawCallbackMethod_CancelJob<
            video::v1::VideoService::WithRawCallbackMethod_DeleteJob<Base>>>>;
template <typename Base>
using RawStreams = video::v1::VideoService::WithRawCallbackMethod_WatchJob<
    video::v1::VideoService::WithRawCallbackMethod_DownloadVideo<Base>>;
template <typename Base>
using RawInfo = video::v1::VideoService::WithRawCallbackMethod_ListModels<
    video::v1::VideoService::WithRawCallbackMethod_GetServerInfo<Base>>;
using RawVideoService = RawCreate<RawJobs<RawStreams<RawInfo<video::v1::VideoService::Service>>>>;
}  // namespace internal

// Thread-safe. `frontend` must outlive it.
class VideoServiceImpl : public internal::RawVideoService {
 public:
  explicit VideoServiceImpl(Frontend* frontend) : frontend_(*frontend) {}

  grpc::ServerWriteReactor<grpc::ByteBuffer>* GenerateVideo(grpc::CallbackServerContext* context,
                                                            const grpc::ByteBuffer* in) override;
  grpc::ServerUnaryReactor* CreateJob(grpc::CallbackServerContext* context,
                                      const grpc::ByteBuffer* in, grpc::ByteBuffer* out) override;
  grpc::ServerUnaryReactor* GetJob(grpc::CallbackServerContext* context, const grpc::ByteBuffer* in,
                                   grpc::ByteBuffer* out) override;
  grpc::ServerUnaryReactor* ListJobs(grpc::CallbackServerContext* context,
                                     const grpc::ByteBuffer* in, grpc::ByteBuffer* out) override;
  grpc::ServerUnaryReactor* CancelJob(grpc::CallbackServerContext* context,
                                      const grpc::ByteBuffer* in, grpc::ByteBuffer* out) override;
  grpc::ServerUnaryReactor* DeleteJob(grpc::CallbackServerContext* context,
                                      const grpc::ByteBuffer* in, grpc::ByteBuffer* out) override;
  grpc::ServerWriteReactor<grpc::ByteBuffer>* WatchJob(grpc::CallbackServerContext* context,
                                                       const grpc::ByteBuffer* in) override;
  grpc::ServerWriteReactor<grpc::ByteBuffer>* DownloadVideo(grpc::CallbackServerContext* context,
                                                            const grpc::ByteBuffer* in) override;
  grpc::ServerUnaryReactor* ListModels(grpc::CallbackServerContext* context,
                                       const grpc::ByteBuffer* in, grpc::ByteBuffer* out) override;
  grpc::ServerUnaryReactor* GetServerInfo(grpc::CallbackServerContext* context,
                                          const grpc::ByteBuffer* in,
                                          grpc::ByteBuffer* out) override;

 private:
  Frontend& frontend_;
};

}  // namespace kandinsky

#endif  // KANDINSKY_SERVICES_FRONTEND_VIDEO_SERVICE_H_
