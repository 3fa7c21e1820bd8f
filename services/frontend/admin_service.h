// kandinsky.video.v1.AdminService: dead letters. Served only with --admin.
#ifndef KANDINSKY_SERVICES_FRONTEND_ADMIN_SERVICE_H_
#define KANDINSKY_SERVICES_FRONTEND_ADMIN_SERVICE_H_

#include "kandinsky/video/v1/admin_service.grpc.pb.h"
#include "services/frontend/frontend.h"

namespace kandinsky {

namespace internal {
using RawAdminService = video::v1::AdminService::WithRawCallbackMethod_ListDeadJobs<
    video::v1::AdminService::WithRawCallbackMethod_GetDeadJob<
        video::v1::AdminService::WithRawCallbackMethod_RetryDeadJob<
            video::v1::AdminService::WithRawCallbackMethod_PurgeDeadJob<
                video::v1::AdminService::Service>>>>;
}  // namespace internal

// Thread-safe. `frontend` must outlive it.
class AdminServiceImpl : public internal::RawAdminService {
 public:
  explicit AdminServiceImpl(Frontend* frontend) : frontend_(*frontend) {}

  grpc::ServerUnaryReactor* ListDeadJobs(grpc::CallbackServerContext* context,
                                         const grpc::ByteBuffer* in,
                                         grpc::ByteBuffer* out) override;
  grpc::ServerUnaryReactor* GetDeadJob(grpc::CallbackServerContext* context,
                                       const grpc::ByteBuffer* in, grpc::ByteBuffer* out) override;
  grpc::ServerUnaryReactor* RetryDeadJob(grpc::CallbackServerContext* context,
                                         const grpc::ByteBuffer* in,
                                         grpc::ByteBuffer* out) override;
  grpc::ServerUnaryReactor* PurgeDeadJob(grpc::CallbackServerContext* context,
                                         const grpc::ByteBuffer* in,
                                         grpc::ByteBuffer* out) override;

 private:
  Frontend& frontend_;
};

}  // namespace kandinsky

#endif  // KANDINSKY_SERVICES_FRONTEND_ADMIN_SERVICE_H_
