"""The public API end to end: real Redis, real processes, and a client that only knows what reflection tells.

    api_test.py --bin build/release/bin --model models/tiny [--simulated] [unittest options]

With --simulated the workers run a fast stand-in of the stages (kandinsky-sim-worker), so that builds without LibTorch
test the same paths; whatever depends on the picture is then left out.
"""

import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys
import threading
import unittest
import urllib.request

import grpc

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from client import Client, crc32c, error_details  # noqa: E402
from stack import STAGES, Stack, wait_until  # noqa: E402

OPTIONS = argparse.Namespace()

SMALL = {"prompt": "a red circle moves to the right", "level": "LEVEL_LOW", "width": 64, "height": 64, "steps": 2,
         "seed": "42"}
FINISHED = ("JOB_STATE_SUCCEEDED", "JOB_STATE_FAILED", "JOB_STATE_CANCELLED", "JOB_STATE_EXPIRED")


def parameters(**changes):
    return {**SMALL, **changes}


def code_of(function):
    """(code name, reason, violated fields) of the error that the call ends with."""
    try:
        function()
    except grpc.RpcError as error:
        details = error_details(error)
        info = details.get("ErrorInfo")
        fields = [v.field for v in details["BadRequest"].field_violations] if "BadRequest" in details else []
        return error.code().name, info.reason if info else None, fields
    return "OK", None, []


def health(address, service=""):
    """grpc.health.v1.Health/Check by hand: a string and an enum, both field 1."""
    with grpc.insecure_channel(address) as channel:
        call = channel.unary_unary("/grpc.health.v1.Health/Check")
        try:
            answer = call(b"\x0a" + bytes([len(service)]) + service.encode(), timeout=5)
        except grpc.RpcError as error:
            return error.code().name
        return {1: "SERVING", 2: "NOT_SERVING"}.get(answer[1] if len(answer) == 2 else 0, "UNKNOWN")


def metrics_of(process):
    with urllib.request.urlopen(f"http://{process.addresses['metrics']}/metrics", timeout=10) as answer:
        return answer.read().decode()


def probe(data, suffix):
    """What ffprobe says about the video stream, decoded to the last frame."""
    path = os.path.join(ApiTest.stack.directory, f"probe{suffix}")
    with open(path, "wb") as file:
        file.write(data)
    out = subprocess.run(["ffprobe", "-v", "error", "-count_frames", "-select_streams", "v:0", "-show_entries",
                          "stream=codec_name,width,height,nb_read_frames,pix_fmt:format=duration", "-of", "json", path],
                         check=True, capture_output=True, text=True, timeout=60).stdout
    found = json.loads(out)
    return found["streams"][0], float(found["format"].get("duration", 0))


class ApiTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.stack = Stack(OPTIONS.bin, OPTIONS.model, simulated=OPTIONS.simulated)
        try:
            cls.stack.start_redis()
            cls.frontend = cls.stack.start_frontend(["--admin"])
            cls.workers = [cls.stack.start_worker(stage) for stage in STAGES]
            cls.address = cls.frontend.addresses["grpc"]
            cls.client = Client(cls.address)
            for stage in STAGES:
                wait_until(lambda s=stage: health(cls.address, f"kandinsky.stage.{s}") == "SERVING",
                           f"{stage} is ready", timeout=120)
        except BaseException:
            cls.stack.__exit__(*sys.exc_info())
            raise

    @classmethod
    def tearDownClass(cls):
        cls.client.close()
        cls.stack.__exit__(None, None, None)

    def create(self, **changes):
        return self.client.call("CreateJob", {"parameters": parameters(**changes)})

    def finish(self, job_id, want="JOB_STATE_SUCCEEDED"):
        events = self.client.events(job_id)
        last = events[-1]
        self.assertEqual(self.client.enum(last, "state"), want, last)
        return events

    # --- the life of a job

    def test_create_watch_download(self):
        job = self.create()
        self.assertEqual(self.client.enum(job, "state"), "JOB_STATE_QUEUED")
        self.assertEqual(job.parameters.seed, 42)
        events = self.finish(job.id)
        ids = [int(event.event_id) for event in events]
        self.assertEqual(ids, sorted(set(ids)), "every event once and in order")
        self.assertEqual(self.client.enum(events[0], "state"), "JOB_STATE_QUEUED")
        started = [self.client.enum(e, "stage") for e in events if self.client.enum(e, "type") == "TYPE_STAGE_STARTED"]
        self.assertEqual(started, ["STAGE_KEYFRAMES", "STAGE_DECODING"], "level LOW has nothing to interpolate")
        fractions = [event.fraction for event in events]
        self.assertEqual(fractions, sorted(fractions), "progress does not fall")
        self.assertEqual(fractions[-1], 1)
        # A late and a resumed watcher see the same.
        self.assertEqual(self.client.events(job.id), events)
        middle = len(events) // 2
        self.assertEqual(self.client.events(job.id, after=events[middle].event_id), events[middle + 1:])
        self.assertEqual(self.client.events(job.id, after=events[-1].event_id), [])

        done = self.client.call("GetJob", {"job_id": job.id})
        self.assertEqual(self.client.enum(done, "state"), "JOB_STATE_SUCCEEDED")
        self.assertEqual(done.video.mime_type, "video/mp4")
        self.assertEqual((done.video.frames, done.video.width, done.video.height), (16, 64, 64))
        data = self.client.download(job.id)
        self.assertEqual(len(data), done.video.size_bytes)
        self.assertEqual(crc32c(data), done.video.crc32c)

    def test_a_download_broken_at_any_byte_resumes_to_the_same_file(self):
        job = self.create(seed="43")
        self.finish(job.id)
        whole = self.client.download(job.id)
        for offset in (1, len(whole) // 3, len(whole) - 1, len(whole)):
            self.assertEqual(whole[:offset] + self.client.download(job.id, offset), whole)
        code, reason, _ = code_of(lambda: self.client.download(job.id, len(whole) + 1))
        self.assertEqual((code, reason), ("OUT_OF_RANGE", "OFFSET_OUT_OF_RANGE"))
        self.client.call("DeleteJob", {"job_id": job.id})
        self.assertEqual(code_of(lambda: self.client.download(job.id))[:2], ("NOT_FOUND", "JOB_NOT_FOUND"))

    def test_generate_sends_the_job_then_events_then_the_video(self):
        kinds, states, data, job_id = [], [], b"", None
        for message in self.client.stream("GenerateVideo", {"parameters": parameters(seed="44")}):
            kind = message.WhichOneof("payload")
            if not kinds or kinds[-1] != kind:
                kinds.append(kind)
            if kind == "job":
                job_id = message.job.id
            elif kind == "event":
                states.append(self.client.enum(message.event, "state"))
            elif kind == "chunk":
                self.assertEqual(message.chunk.offset, len(data))
                self.assertEqual(crc32c(message.chunk.data), message.chunk.crc32c)
                data += message.chunk.data
        self.assertEqual(kinds[:2], ["job", "event"])
        # The last event and the last chunk may pass each other.
        self.assertIn("chunk", kinds[-2:])
        self.assertEqual(states[-1], "JOB_STATE_SUCCEEDED")
        self.assertEqual(data, self.client.download(job_id))

    def test_the_same_seed_gives_the_same_video_and_another_one_another(self):
        jobs = [self.create(seed=seed) for seed in ("7", "7", "8")]
        videos = []
        for job in jobs:
            self.finish(job.id)
            videos.append(self.client.download(job.id))
        self.assertEqual(videos[0], videos[1])
        self.assertNotEqual(videos[0], videos[2])

    def test_formats(self):
        for name, mime, suffix, codec in (("MP4", "video/mp4", ".mp4", "h264"), ("WEBM", "video/webm", ".webm", "vp9"),
                                          ("GIF", "image/gif", ".gif", "gif"),
                                          ("FRAGMENTED_MP4", "video/mp4", ".mp4", "h264")):
            with self.subTest(name):
                job = self.create(format=f"VIDEO_FORMAT_{name}", width=64, height=32)
                self.finish(job.id)
                data = self.client.download(job.id)
                self.assertTrue(data)
                if OPTIONS.simulated:
                    continue
                self.assertEqual(self.client.call("GetJob", {"job_id": job.id}).video.mime_type, mime)
                if not shutil.which("ffprobe"):
                    continue
                stream, duration = probe(data, suffix)
                self.assertEqual((stream["codec_name"], stream["width"], stream["height"]), (codec, 64, 32))
                self.assertEqual(int(stream["nb_read_frames"]), 16)
                self.assertAlmostEqual(duration, 8, delta=0.6)

    def test_levels_have_their_frames_and_last_as_long(self):
        for level, frames in (("LOW", 16), ("MEDIUM", 61), ("HIGH", 241)):
            with self.subTest(level):
                job = self.create(level=f"LEVEL_{level}", width=32, height=32)
                self.finish(job.id)
                video = self.client.call("GetJob", {"job_id": job.id}).video
                self.assertEqual(video.frames, frames)
                if OPTIONS.simulated or not shutil.which("ffprobe"):
                    continue
                stream, duration = probe(self.client.download(job.id), ".mp4")
                self.assertEqual(int(stream["nb_read_frames"]), frames)
                self.assertEqual(stream["pix_fmt"], "yuv420p")
                self.assertAlmostEqual(duration, 8, delta=0.2)

    def test_previews_are_images(self):
        if OPTIONS.simulated:
            self.skipTest("the simulated stage makes no picture")
        job = self.create(level="LEVEL_MEDIUM", width=32, height=32)
        previews = [event.preview for event in self.finish(job.id) if event.HasField("preview")]
        self.assertTrue(previews)
        self.assertEqual(previews[0].png[:8], b"\x89PNG\r\n\x1a\n")
        self.assertGreater(previews[0].width, previews[0].height)

    # --- cancellation

    def test_cancel_while_waiting_and_while_running(self):
        for wait_for in ("JOB_STATE_QUEUED", "JOB_STATE_RUNNING"):
            with self.subTest(wait_for):
                job = self.create(level="LEVEL_HIGH", steps=100, width=128, height=128)
                stream = self.client.stream("WatchJob", {"job_id": job.id})
                for event in stream:
                    if self.client.enum(event, "state") == wait_for:
                        break
                answer = self.client.call("CancelJob", {"job_id": job.id})
                self.assertIn(self.client.enum(answer, "state"), (wait_for, "JOB_STATE_RUNNING", "JOB_STATE_CANCELLED"))
                last = list(stream)[-1]
                self.assertEqual(self.client.enum(last, "state"), "JOB_STATE_CANCELLED")
                self.assertEqual(code_of(lambda j=job: self.client.download(j.id))[:2], ("CANCELLED", "JOB_CANCELLED"))
                # Once more is no error and changes nothing.
                again = self.client.call("CancelJob", {"job_id": job.id})
                self.assertEqual(self.client.enum(again, "state"), "JOB_STATE_CANCELLED")

    def test_cancel_on_disconnect(self):
        call = self.client.stream("GenerateVideo", {
            "parameters": parameters(level="LEVEL_HIGH", steps=100, width=128, height=128),
            "cancel_on_disconnect": True})
        job_id = next(call).job.id
        call.cancel()
        wait_until(lambda: self.client.state(job_id) == "JOB_STATE_CANCELLED", "the job is cancelled")

    def test_the_deadline_ends_a_job(self):
        job = self.client.call("CreateJob", {
            "parameters": parameters(level="LEVEL_HIGH", steps=100, width=128, height=128), "timeout": "1s"})
        self.finish(job.id, "JOB_STATE_EXPIRED")
        self.assertEqual(code_of(lambda: self.client.download(job.id))[:2], ("DEADLINE_EXCEEDED", "JOB_EXPIRED"))

    # --- requests

    def test_bad_requests_get_code_reason_and_fields_and_leave_no_job(self):
        before = len(self.client.call("ListJobs", {"page_size": 1000}).jobs)
        create = lambda **fields: lambda: self.client.call("CreateJob", fields)  # noqa: E731
        invalid = "INVALID_ARGUMENT", "INVALID_REQUEST"
        # Field 1 (parameters) { field 1 (prompt) = a lone continuation byte }.
        not_utf8 = lambda: self.client.call_raw("CreateJob", b"\x0a\x03\x0a\x01\x80")  # noqa: E731
        table = [
            ("nothing", create(), *invalid, ["parameters.prompt"]),
            ("blank prompt", create(parameters={"prompt": " \n\t"}), *invalid, ["parameters.prompt"]),
            ("long prompt", create(parameters={"prompt": "x" * 2001}), *invalid, ["parameters.prompt"]),
            ("control character", create(parameters={"prompt": "a\u0000b"}), *invalid, ["parameters.prompt"]),
            ("not UTF-8", not_utf8, *invalid, ["parameters.prompt"]),
            ("no message", lambda: self.client.call_raw("CreateJob", b"\x0a\x7f"), *invalid, [""]),
            ("size", create(parameters=parameters(width=65, height=100000)), *invalid,
             ["parameters.width", "parameters.height"]),
            ("steps", create(parameters=parameters(steps=0)), *invalid, ["parameters.steps"]),
            ("guidance", create(parameters=parameters(guidance_scale="NaN", interpolation_guidance_scale=-1)), *invalid,
             ["parameters.guidance_scale", "parameters.interpolation_guidance_scale"]),
            ("fps", create(parameters=parameters(fps=1000)), *invalid, ["parameters.fps"]),
            ("level", create(parameters=parameters(level=77)), *invalid, ["parameters.level"]),
            ("format", create(parameters=parameters(format=77)), *invalid, ["parameters.format"]),
            ("model", create(parameters=parameters(model="large")), "NOT_FOUND", "MODEL_NOT_FOUND", []),
            ("tenant and request_id", create(parameters=SMALL, tenant="a b", request_id="?"), *invalid,
             ["request_id", "tenant"]),
            ("timeout", create(parameters=SMALL, timeout="86401s"), *invalid, ["timeout"]),
            ("job id", lambda: self.client.call("GetJob", {"job_id": "../x"}), *invalid, ["job_id"]),
            ("unknown job", lambda: self.client.call("GetJob", {"job_id": "0" * 26}), "NOT_FOUND", "JOB_NOT_FOUND", []),
            ("event id", lambda: self.client.events("0" * 26, "x"), *invalid, ["after_event_id"]),
            ("page", lambda: self.client.call("ListJobs", {"page_size": -1, "page_token": "x" * 2000}), *invalid,
             ["page_size", "page_token"]),
        ]
        for name, call, code, reason, fields in table:
            with self.subTest(name):
                self.assertEqual(code_of(call), (code, reason, fields))
        self.assertEqual(len(self.client.call("ListJobs", {"page_size": 1000}).jobs), before)

    def test_request_id_is_idempotent(self):
        request = {"parameters": {**SMALL, "seed": None}, "request_id": "order-1", "tenant": "shop"}
        del request["parameters"]["seed"]
        first = self.client.call("CreateJob", request)
        second = self.client.call("CreateJob", request)
        self.assertEqual(first.id, second.id)
        self.assertEqual(first.parameters.seed, second.parameters.seed)
        other = {**request, "parameters": parameters(prompt="something else")}
        self.assertEqual(code_of(lambda: self.client.call("CreateJob", other))[:2],
                         ("ALREADY_EXISTS", "REQUEST_ID_CONFLICT"))
        self.client.call("CancelJob", {"job_id": first.id})

    def test_lists_are_paged_and_filtered(self):
        created = [self.client.call("CreateJob", {"parameters": SMALL, "tenant": "lists"}).id for _ in range(5)]
        for job_id in created:
            self.client.call("CancelJob", {"job_id": job_id})
        for job_id in created:
            self.client.events(job_id)
        listed, token = [], ""
        while True:
            page = self.client.call("ListJobs", {"tenant": "lists", "page_size": 2, "page_token": token})
            listed += [job.id for job in page.jobs]
            token = page.next_page_token
            if not token:
                break
        self.assertEqual(listed, created[::-1], "newest first")
        none = self.client.call("ListJobs", {"tenant": "lists", "states": ["JOB_STATE_QUEUED"]})
        self.assertEqual(len(none.jobs), 0)

    def test_server_tells_models_and_limits(self):
        model = self.client.call("ListModels").models[0]
        self.assertEqual(model.name, "tiny")
        self.assertEqual([level.frames for level in model.levels], [16, 61, 241])
        info = self.client.call("GetServerInfo")
        self.assertEqual([stage.ready_workers for stage in info.stages], [1, 1, 1])

    def test_reflection_lists_the_services(self):
        from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
        services = set(ProtoReflectionDescriptorDatabase(self.client.channel).get_services())
        self.assertTrue({"kandinsky.video.v1.VideoService", "kandinsky.video.v1.AdminService",
                         "grpc.health.v1.Health"} <= services, services)

    # --- operation

    def test_health(self):
        self.assertEqual(health(self.address), "SERVING")
        self.assertEqual(health(self.address, "kandinsky.video.v1.VideoService"), "SERVING")
        self.assertEqual(health(self.address, "no.such.Service"), "NOT_FOUND")

    def test_metrics_and_logs_know_no_prompt_and_no_id(self):
        secret = "a very particular zebra"
        job = self.create(prompt=secret)
        self.finish(job.id)
        code_of(lambda: self.create(width=1))
        text = metrics_of(self.frontend)
        for name in ("grpc_server_started_total", "grpc_server_handled_total", "grpc_server_handling_seconds_bucket",
                     'kandinsky_jobs_created_total{outcome="created"}', "kandinsky_jobs_finished_total",
                     "kandinsky_queue_depth", "kandinsky_queue_oldest_age_seconds", "kandinsky_workers_ready",
                     "kandinsky_frontend_watch_streams", "kandinsky_build_info", "kandinsky_redis_up 1",
                     'kandinsky_redis_warning{setting="aof"} 0', 'grpc_code="InvalidArgument"', 'le="1800"'):
            self.assertIn(name, text)
        for process in (self.frontend, *self.workers):
            self.assertNotIn(secret, process.log(), process.name)
            shown = metrics_of(process)
            self.assertNotIn(secret, shown, process.name)
            self.assertNotIn(job.id, shown, process.name)
        self.assertIn(job.id, self.frontend.log())

    def test_any_frontend_serves_any_job_and_a_drain_sends_watchers_elsewhere(self):
        other = self.stack.start_frontend()
        with Client(other.addresses["grpc"]) as client:
            job = self.create(level="LEVEL_HIGH", steps=100, width=128, height=128)
            stream = client.stream("WatchJob", {"job_id": job.id})
            first = next(stream)
            seen = [first.event_id]
            ended = []

            def follow():
                try:
                    for event in stream:
                        seen.append(event.event_id)
                except grpc.RpcError as error:
                    ended.append((error.code().name, error_details(error)))

            follower = threading.Thread(target=follow)
            follower.start()
            wait_until(lambda: len(seen) > 2, "events arrive")
            self.assertEqual(other.terminate(), 0)
            follower.join(30)
        self.assertEqual(ended[0][0], "UNAVAILABLE")
        self.assertEqual(ended[0][1]["ErrorInfo"].reason, "SHUTTING_DOWN")
        self.assertIn("RetryInfo", ended[0][1])
        # What was missed is at the other frontend.
        self.client.call("CancelJob", {"job_id": job.id})
        rest = [event.event_id for event in self.client.events(job.id, after=seen[-1])]
        ids = [int(i) for i in seen + rest]
        self.assertEqual(ids, sorted(set(ids)))

    def test_tls_with_client_certificates(self):
        directory = self.stack.directory
        path = lambda name: os.path.join(directory, name)  # noqa: E731
        run = lambda *argv: subprocess.run(argv, check=True, capture_output=True, timeout=60)  # noqa: E731
        run("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=test-ca", "-keyout",
            path("ca.key"), "-out", path("ca.pem"))
        with open(path("san.cnf"), "w", encoding="utf-8") as file:
            file.write("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
        for name in ("server", "client"):
            run("openssl", "req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}", "-keyout",
                path(f"{name}.key"), "-out", path(f"{name}.csr"))
            run("openssl", "x509", "-req", "-in", path(f"{name}.csr"), "-CA", path("ca.pem"), "-CAkey", path("ca.key"),
                "-CAcreateserial", "-days", "2", "-extfile", path("san.cnf"), "-out", path(f"{name}.pem"))
        frontend = self.stack.start_frontend([f"--tls_cert_file={path('server.pem')}",
                                              f"--tls_key_file={path('server.key')}",
                                              f"--tls_client_ca_file={path('ca.pem')}"])
        read = lambda name: pathlib.Path(path(name)).read_bytes()  # noqa: E731
        call_models = lambda channel: channel.unary_unary(  # noqa: E731
            "/kandinsky.video.v1.VideoService/ListModels")(b"", timeout=10)
        with_certificate = grpc.ssl_channel_credentials(read("ca.pem"), read("client.key"), read("client.pem"))
        with grpc.secure_channel(frontend.addresses["grpc"], with_certificate) as channel:
            self.assertIn(b"tiny", call_models(channel))
        with grpc.secure_channel(frontend.addresses["grpc"], grpc.ssl_channel_credentials(read("ca.pem"))) as channel:
            self.assertEqual(code_of(lambda: call_models(channel))[0], "UNAVAILABLE")
        frontend.kill()

    def test_redis_away_is_unavailable_and_comes_back(self):
        job = self.create(seed="99")
        self.finish(job.id)
        self.stack.redis.kill()
        try:
            code, reason, _ = code_of(lambda: self.client.call("GetJob", {"job_id": job.id}, timeout=15))
            self.assertEqual((code, reason), ("UNAVAILABLE", "STORE_UNAVAILABLE"))
            code, reason, _ = code_of(lambda: self.client.call("CreateJob", {"parameters": SMALL}, timeout=15))
            self.assertEqual((code, reason), ("UNAVAILABLE", "STORE_UNAVAILABLE"))
            wait_until(lambda: health(self.address) == "NOT_SERVING", "health says so")
        finally:
            self.stack.redis.start()
        wait_until(lambda: health(self.address) == "SERVING", "the frontend recovers")
        self.assertEqual(self.client.state(job.id), "JOB_STATE_SUCCEEDED", "AOF kept the job")
        again = self.create(seed="100")
        self.finish(again.id)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--bin", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--simulated", action="store_true")
    rest = parser.parse_known_args(namespace=OPTIONS)[1]
    unittest.main(argv=[sys.argv[0], *rest], verbosity=2)


if __name__ == "__main__":
    main()
