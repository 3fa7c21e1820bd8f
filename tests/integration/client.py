"""A client of the public API that knows nothing of the project but what the server's reflection tells.

    client = Client("127.0.0.1:50051")
    job = client.call("CreateJob", {"parameters": {"prompt": "a red circle"}})
    for event in client.stream("WatchJob", {"job_id": job.id}): ...
"""

import grpc
from google.protobuf import descriptor_pool, json_format, message_factory
from google.rpc import error_details_pb2, status_pb2  # noqa: F401  (the well-known detail types)
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

SERVICE = "kandinsky.video.v1.VideoService"


def _crc32c_table():
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = (byte >> 1) ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return table


_TABLE = _crc32c_table()


def crc32c(data, crc=0):
    crc ^= 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


class Client:
    def __init__(self, address, service=SERVICE):
        self.channel = grpc.insecure_channel(address, options=[("grpc.max_receive_message_length", 16 << 20)])
        self.pool = descriptor_pool.DescriptorPool(ProtoReflectionDescriptorDatabase(self.channel))
        self.service = self.pool.FindServiceByName(service)

    def close(self):
        self.channel.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _method(self, name):
        return self.service.methods_by_name[name]

    def request(self, method, fields):
        message = message_factory.GetMessageClass(self._method(method).input_type)()
        return json_format.ParseDict(fields, message, descriptor_pool=self.pool)

    def _stub(self, name, factory):
        method = self._method(name)
        return factory(f"/{self.service.full_name}/{name}", request_serializer=lambda m: m.SerializeToString(),
                       response_deserializer=message_factory.GetMessageClass(method.output_type).FromString)

    def call(self, method, fields=None, timeout=30, **kwargs):
        return self._stub(method, self.channel.unary_unary)(self.request(method, fields or {}), timeout=timeout,
                                                           **kwargs)

    def call_raw(self, method, data, timeout=30):
        """Sends bytes as they are, for requests that no well-behaved client can make."""
        stub = self.channel.unary_unary(f"/{self.service.full_name}/{method}",
                                        response_deserializer=lambda b: b)
        return stub(data, timeout=timeout)

    def stream(self, method, fields=None, timeout=300, **kwargs):
        return self._stub(method, self.channel.unary_stream)(self.request(method, fields or {}), timeout=timeout,
                                                            **kwargs)

    def enum(self, message, field):
        """Name of the value of an enum field: enum(job, "state") -> "JOB_STATE_QUEUED"."""
        descriptor = message.DESCRIPTOR.fields_by_name[field].enum_type
        return descriptor.values_by_number[getattr(message, field)].name

    def state(self, job_id):
        return self.enum(self.call("GetJob", {"job_id": job_id}), "state")

    def download(self, job_id, offset=0, stop_after=None):
        """Bytes of the video from `offset`; every chunk is checked. Breaks the call after `stop_after` bytes."""
        data = b""
        call = self.stream("DownloadVideo", {"job_id": job_id, "offset": offset})
        for chunk in call:
            assert chunk.offset == offset + len(data), (chunk.offset, offset, len(data))
            assert len(chunk.data) <= 1 << 20
            assert crc32c(chunk.data) == chunk.crc32c
            data += chunk.data
            if stop_after is not None and len(data) >= stop_after:
                call.cancel()
                break
        return data

    def events(self, job_id, after=""):
        """All events until the job is finished."""
        return list(self.stream("WatchJob", {"job_id": job_id, "after_event_id": after}))


def error_details(error):
    """grpc.RpcError -> {"ErrorInfo": …, "BadRequest": …, "RetryInfo": …} of what its status carries."""
    details = {}
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            for packed in status_pb2.Status.FromString(value).details:
                for kind in (error_details_pb2.ErrorInfo, error_details_pb2.BadRequest, error_details_pb2.RetryInfo):
                    if packed.Is(kind.DESCRIPTOR):
                        message = kind()
                        packed.Unpack(message)
                        details[kind.DESCRIPTOR.name] = message
    return details
