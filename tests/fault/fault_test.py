"""Fault tests: real Redis, real processes, real networks. After every fault, every accepted job has exactly one result,
its decoded frames equal those of the undisturbed run, its events are in order and no key is left behind.

    fault_test.py BIN_DIR MODEL_DIR [-k NAME …]

KANDINSKY_FAULT_LONG=1 runs the long form: Redis is unreachable for 30 s instead of 8 s. KANDINSKY_FAULT_SIMULATED=1
takes kandinsky-sim-worker in place of kandinsky-worker, for work on the job engine without LibTorch.
"""

import hashlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import urllib.request

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "integration"))

import grpc  # noqa: E402
from client import Client  # noqa: E402
from stack import STAGES, Process, Redis, Stack, free_port, wait_until  # noqa: E402

SIMULATED = os.environ.get("KANDINSKY_FAULT_SIMULATED") == "1"
LONG = os.environ.get("KANDINSKY_FAULT_LONG") == "1"
BIN_DIR, MODEL_DIR = "", ""
# Short leases and checkpoints, so that a lost worker is noticed in seconds.
WORKER_FLAGS = ["--lease=2s", "--checkpoint_interval=300ms", "--drain_grace=20s"]
REQUEST = {"prompt": "a red circle moves to the right on a white background", "seed": 7, "level": "LEVEL_MEDIUM",
           "steps": 20}


def frames_digest(video):
    """Digest of the decoded frames of a video file, and their number. Simulated files hold no frames but bytes."""
    if SIMULATED:
        return hashlib.sha256(video).hexdigest(), len(video)
    with tempfile.NamedTemporaryFile(suffix=".mp4") as file:
        file.write(video)
        file.flush()
        raw = subprocess.run(["ffmpeg", "-v", "error", "-i", file.name, "-f", "framemd5", "-"], check=True,
                             capture_output=True, text=True).stdout
    lines = [line.split(",")[-1].strip() for line in raw.splitlines() if line and not line.startswith("#")]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest(), len(lines)


def metric(process, pattern):
    """Sum of the samples of a process whose line matches `pattern`."""
    with urllib.request.urlopen(f"http://{process.addresses['metrics']}/metrics", timeout=10) as page:
        text = page.read().decode()
    return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines()
               if not line.startswith("#") and re.search(pattern, line))


class Proxy:
    """TCP proxy to `target` that lets `fault(direction, data)` change what passes; direction is "up" or "down"."""

    def __init__(self, target, fault):
        self.target, self.fault = target, fault
        self.server = socket.create_server(("127.0.0.1", 0))
        self.address = "127.0.0.1:%d" % self.server.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                near, _ = self.server.accept()
                host, port = self.target().rsplit(":", 1)
                far = socket.create_connection((host, int(port)))
            except OSError:
                return
            for source, sink, direction in ((near, far, "up"), (far, near, "down")):
                threading.Thread(target=self._pump, args=(source, sink, direction), daemon=True).start()

    def _pump(self, source, sink, direction):
        try:
            while data := source.recv(65536):
                sink.sendall(self.fault(direction, data))
        except OSError:
            pass
        for end in (source, sink):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def close(self):
        self.server.close()


class FaultCase(unittest.TestCase):
    reference = None

    def stack(self, **kwargs):
        stack = Stack(BIN_DIR, MODEL_DIR, simulated=SIMULATED,
                      worker_flags=WORKER_FLAGS + kwargs.pop("worker_flags", []),
                      frontend_flags=["--lease=2s"] + kwargs.pop("frontend_flags", []), **kwargs)
        self.addCleanup(stack.__exit__, None, None, None)
        return stack

    def run_stack(self, workers=True, **kwargs):
        stack = self.stack(**kwargs)
        stack.start_redis()
        stack.frontend = stack.start_frontend()
        stack.workers = {stage: stack.start_worker(stage) for stage in STAGES} if workers else {}
        stack.client = Client(stack.frontend.addresses["grpc"])
        self.addCleanup(stack.client.close)
        return stack

    def want(self, client):
        """The digest of the undisturbed run, made once."""
        if FaultCase.reference is None:
            job = self.submit(client)
            self.wait_for(client, job, "JOB_STATE_SUCCEEDED")
            FaultCase.reference = frames_digest(client.download(job))
        return FaultCase.reference

    def submit(self, client, **fields):
        return client.call("CreateJob", {"parameters": REQUEST, **fields}).id

    def wait_for(self, client, job, state, timeout=120):
        def reached():
            try:
                now = client.state(job)
            except grpc.RpcError as error:
                if error.code() == grpc.StatusCode.UNAVAILABLE:
                    return False
                raise
            self.assertFalse(now in ("JOB_STATE_FAILED", "JOB_STATE_EXPIRED") and now != state,
                             f"{now}: {client.call('GetJob', {'job_id': job}).error}")
            return now == state
        wait_until(reached, f"job {job} is {state}", timeout)

    def wait_for_stage(self, client, job, stage):
        """Until a worker has begun the stage."""
        def reached():
            for event in client.stream("WatchJob", {"job_id": job}):
                if (client.enum(event, "type"), client.enum(event, "stage")) == ("TYPE_STAGE_STARTED",
                                                                                 f"STAGE_{stage.upper()}"):
                    return True
            raise AssertionError(f"the job ended without {stage}")
        wait_until(reached, f"{stage} has begun", 60)

    def check(self, stack, client, jobs):
        """Every job: one result, the right frames, ordered events; then delete it, and nothing is left."""
        want = self.want(client)
        for job in jobs:
            self.wait_for(client, job, "JOB_STATE_SUCCEEDED")
            self.assertEqual(frames_digest(client.download(job)), want)
            events = client.events(job)
            ids = [event.event_id for event in events]
            self.assertEqual(len(ids), len(set(ids)))
            states = [client.enum(event, "state") for event in events
                      if client.enum(event, "type") == "TYPE_STATE_CHANGED"]
            self.assertEqual(states, ["JOB_STATE_QUEUED", "JOB_STATE_RUNNING", "JOB_STATE_SUCCEEDED"])
            self.assertEqual(client.enum(events[-1], "state"), "JOB_STATE_SUCCEEDED")
            fraction = 0.0
            for event in events:
                again = client.enum(event, "type") == "TYPE_RETRY" or event.attempt > 1 and event.step == 0
                if not again:
                    self.assertGreaterEqual(event.fraction + 1e-9, fraction, event)
                fraction = 0.0 if again else event.fraction
            client.call("DeleteJob", {"job_id": job})
        # A checkpoint that was on its way when its worker died vanishes by itself within a minute (docs/queue.md).
        left = [key for key in stack.redis.keys() if any(job in key for job in jobs)
                and not (":upload:" in key and 0 < int(stack.redis.cli("pttl", key)) <= 60000)]
        self.assertEqual(left, [])

    def retries(self, client, job):
        return [event for event in client.events(job) if client.enum(event, "type") == "TYPE_RETRY"]


class KillTest(FaultCase):
    """kill -9 at every point of every stage: the process kills itself exactly there."""

    POINTS = [("keyframes", "claimed"), ("keyframes", "mid_steps"), ("keyframes", "after_result"),
              ("keyframes", "before_ack"), ("interpolation", "claimed"), ("interpolation", "during_transfer"),
              ("interpolation", "mid_steps"), ("interpolation", "after_result"), ("interpolation", "before_ack"),
              ("decoding", "claimed"), ("decoding", "during_transfer"), ("decoding", "during_encode"),
              ("decoding", "after_result"), ("decoding", "before_ack")]

    def test_worker_killed_at_every_point(self):
        stack = self.run_stack()
        self.want(stack.client)
        for stage, point in self.POINTS:
            with self.subTest(stage=stage, point=point):
                victim = stack.workers[stage]
                victim.terminate()
                victim.start(env={"KANDINSKY_FAULT_POINT": point})
                job = self.submit(stack.client)
                self.assertEqual(victim.wait(60), -signal.SIGKILL)
                victim.start()
                self.check(stack, stack.client, [job])

    def test_producer_gone_before_hand_over(self):
        """The keyframes worker dies after its stage, and its disk with it: the keyframes are made again."""
        stack = self.run_stack(workers=False)
        producer = stack.start_worker("keyframes")
        job = self.submit(stack.client)
        wait_until(lambda: stack.client.call("GetJob", {"job_id": job}).stage == 2, "keyframes are done", 60)
        producer.kill()
        shutil.rmtree(next(a.split("=", 1)[1] for a in producer.argv if a.startswith("--spill_dir=")))
        stack.start_worker("interpolation")
        stack.start_worker("decoding")
        producer.start()
        self.wait_for(stack.client, job, "JOB_STATE_SUCCEEDED")
        self.assertEqual(stack.client.call("GetJob", {"job_id": job}).attempt, 1)
        self.check(stack, stack.client, [job])

    def test_producer_restarted_serves_from_disk(self):
        stack = self.run_stack(workers=False)
        producer = stack.start_worker("keyframes")
        job = self.submit(stack.client)
        wait_until(lambda: stack.client.call("GetJob", {"job_id": job}).stage == 2, "keyframes are done", 60)
        producer.kill()
        producer.start()
        stack.start_worker("interpolation")
        stack.start_worker("decoding")
        self.wait_for(stack.client, job, "JOB_STATE_SUCCEEDED")
        starts = [event for event in stack.client.events(job)
                  if stack.client.enum(event, "type") == "TYPE_STAGE_STARTED"]
        self.assertEqual([event.stage for event in starts], [1, 2, 3], "no stage ran twice")
        self.check(stack, stack.client, [job])

    def test_frontend_killed_while_a_client_watches(self):
        stack = self.run_stack()
        other = stack.start_frontend()
        stream = stack.client.stream("GenerateVideo", {"parameters": REQUEST})
        job = next(stream).job.id
        seen = []
        with self.assertRaises(grpc.RpcError):
            for response in stream:
                if response.HasField("event"):
                    seen.append(response.event.event_id)
                    if len(seen) == 3:
                        stack.frontend.kill()
                        break
            next(stream)
            while True:
                next(stream)
        with Client(other.addresses["grpc"]) as client:
            rest = client.events(job, after=seen[-1])
            self.assertFalse(set(seen) & {event.event_id for event in rest})
            self.check(stack, client, [job])


class PauseTest(FaultCase):
    def test_stopped_longer_than_its_lease(self):
        """SIGSTOP, the lease passes to another worker, SIGCONT: the stale worker is fenced off."""
        stack = self.run_stack()
        self.want(stack.client)
        for stage in ("keyframes", "interpolation"):
            with self.subTest(stage=stage):
                stale = stack.workers[stage]
                stale.terminate()
                # Pauses itself in the middle, so that the test does not race with the computation.
                stale.start(env={"KANDINSKY_FAULT_POINT": "mid_steps:1:stop"})
                job = self.submit(stack.client)
                wait_until(lambda s=stale: _state(s.popen.pid) == "T", "the worker has stopped", 60)
                fresh = stack.start_worker(stage)
                self.wait_for(stack.client, job, "JOB_STATE_SUCCEEDED")
                stale.resume()
                wait_until(lambda s=stale: metric(s, r"^kandinsky_worker_leases_lost_total") >= 1,
                           "the stale worker has noticed", 30)
                self.check(stack, stack.client, [job])
                fresh.terminate()


def _state(pid):
    with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
        return file.read().rsplit(")", 1)[1].split()[0]


class RedisTest(FaultCase):
    def test_killed_and_restarted_with_its_aof(self):
        stack = self.run_stack()
        self.want(stack.client)
        jobs = [self.submit(stack.client) for _ in range(3)]
        self.wait_for_stage(stack.client, jobs[0], "keyframes")
        stack.redis.kill()
        with self.assertRaises(grpc.RpcError) as caught:
            self.submit(stack.client)
        self.assertEqual(caught.exception.code(), grpc.StatusCode.UNAVAILABLE)
        stack.redis.start()
        self.check(stack, stack.client, jobs)

    def test_unreachable(self):
        stack = self.run_stack()
        self.want(stack.client)
        jobs = [self.submit(stack.client) for _ in range(2)]
        self.wait_for_stage(stack.client, jobs[0], "keyframes")
        stack.redis.pause()
        try:
            started = time.monotonic()
            with self.assertRaises(grpc.RpcError) as caught:
                self.submit(stack.client)
            self.assertEqual(caught.exception.code(), grpc.StatusCode.UNAVAILABLE)
            # The outage itself is what is tested: it lasts this long.
            time.sleep(max(0.0, (30 if LONG else 8) - (time.monotonic() - started)))
        finally:
            stack.redis.resume()
        self.check(stack, stack.client, jobs)

    def test_sentinel_failover(self):
        stack = self.stack()
        stack.redis = master = stack.add(Redis("master", stack.directory)).start()
        replica = stack.add(Redis("replica", stack.directory, replica_of=master.port)).start()
        wait_until(lambda: "state=online" in master.cli("info", "replication"), "the replica follows")
        port = free_port()
        config = os.path.join(stack.directory, "sentinel.conf")
        with open(config, "w", encoding="utf-8") as file:
            file.write(f"port {port}\nbind 127.0.0.1\nsentinel monitor kandinsky 127.0.0.1 {master.port} 1\n"
                       "sentinel down-after-milliseconds kandinsky 1000\nsentinel failover-timeout kandinsky 5000\n")
        stack.add(Process("sentinel", ["redis-server", config, "--sentinel"], stack.directory)).start()
        stack.redis_url = f"sentinel://127.0.0.1:{port}/kandinsky"
        wait_until(lambda: f"slave0:ip=127.0.0.1,port={replica.port}" in master.cli("info", "replication")
                   and _sentinel_sees_replica(port), "the sentinel sees both", 30)
        frontend = stack.start_frontend()
        client = Client(frontend.addresses["grpc"])
        self.addCleanup(client.close)
        stack.start_workers()
        self.want(client)
        jobs = [self.submit(client) for _ in range(2)]
        self.wait_for_stage(client, jobs[0], "keyframes")
        # What the replica has not yet got would be lost with the master; --min_replicas closes that for acceptance.
        wait_until(lambda: master.cli("wait", 1, 1000) == "1", "the replica is up to date")
        master.kill()
        # A failover closes the connections of all clients, this question's, too.
        wait_until(lambda: "role:master" in replica.cli("info", "replication", check=False), "the replica is master", 60)
        stack.redis = replica
        self.check(stack, client, jobs)


def _sentinel_sees_replica(port):
    done = subprocess.run(["redis-cli", "-p", str(port), "sentinel", "replicas", "kandinsky"], capture_output=True,
                          text=True, check=False)
    return "runid" in done.stdout and "s_down" not in done.stdout


class TransferTest(FaultCase):
    def test_latents_corrupted_in_flight(self):
        """A byte is flipped on the wire while the keyframes are fetched."""
        stack = self.run_stack(workers=False)
        flips = []

        def flip(direction, data):
            if direction == "down" and not flips and len(data) > 4000:
                flips.append(len(data))
                data = data[:2000] + bytes([data[2000] ^ 0x10]) + data[2001:]
            return data

        port = free_port()
        proxy = Proxy(lambda: f"127.0.0.1:{port}", flip)
        self.addCleanup(proxy.close)
        stack.start_worker("keyframes", flags=[f"--listen=127.0.0.1:{port}", f"--advertise={proxy.address}"])
        stack.start_worker("interpolation")
        stack.start_worker("decoding")
        job = self.submit(stack.client)
        self.wait_for(stack.client, job, "JOB_STATE_SUCCEEDED")
        self.assertEqual(len(flips), 1)
        self.check(stack, stack.client, [job])


@unittest.skipUnless(os.geteuid() == 0, "mounting a small tmpfs needs root")
class DiskTest(FaultCase):
    def mount(self, size):
        directory = tempfile.mkdtemp(prefix="kandinsky-full-")
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", directory], check=False,
                              capture_output=True, text=True)
        if done.returncode != 0:
            self.skipTest(f"no tmpfs can be mounted here: {done.stderr.strip()}")
        self.addCleanup(shutil.rmtree, directory, True)
        self.addCleanup(subprocess.run, ["umount", "-l", directory], check=False)
        return directory

    def test_spill_disk_full(self):
        stack = self.run_stack(workers=False)
        full = self.mount("8k")
        # Without room in memory either; otherwise the worker would go on with that.
        worker = stack.start_worker("keyframes", flags=[f"--spill_dir={full}", "--retry_backoff=500ms",
                                                        "--latent_memory_bytes=1"])
        stack.start_worker("interpolation")
        stack.start_worker("decoding")
        job = self.submit(stack.client)
        wait_until(lambda: self.retry_seen(stack.client, job), "the full disk is reported", 60)
        subprocess.run(["mount", "-o", "remount,size=8m", full], check=True)
        self.check(stack, stack.client, [job])
        self.assertTrue(worker.running())

    def test_video_disk_full(self):
        videos = self.mount("4k")
        flags = ["--video_store=directory", f"--video_directory={videos}"]
        stack = self.run_stack(worker_flags=flags, frontend_flags=flags)
        job = self.submit(stack.client)
        wait_until(lambda: self.retry_seen(stack.client, job), "the full disk is reported", 90)
        subprocess.run(["mount", "-o", "remount,size=8m", videos], check=True)
        self.check(stack, stack.client, [job])
        self.assertEqual([name for _, _, files in os.walk(videos) for name in files], [])

    def retry_seen(self, client, job):
        for event in client.stream("WatchJob", {"job_id": job}):
            if client.enum(event, "type") == "TYPE_RETRY":
                return True
            if client.enum(event, "state") not in ("JOB_STATE_QUEUED", "JOB_STATE_RUNNING"):
                raise AssertionError(f"the job ended without a retry: {event}")
        return False


@unittest.skipUnless(shutil.which("faketime"), "needs the package faketime")
class ClockTest(FaultCase):
    def test_clock_of_a_worker_jumps(self):
        """The wall clock of every worker jumps an hour forward, then two back, in the middle of the job."""
        library = subprocess.run(["faketime", "-f", "+0", "sh", "-c", "printenv LD_PRELOAD"], check=True,
                                 capture_output=True, text=True).stdout.strip()
        stack = self.run_stack(workers=False)
        offset = os.path.join(stack.directory, "clock")
        with open(offset, "w", encoding="utf-8") as file:
            file.write("+0\n")
        env = {"LD_PRELOAD": library, "FAKETIME_TIMESTAMP_FILE": offset, "FAKETIME_NO_CACHE": "1",
               "FAKETIME_DONT_FAKE_MONOTONIC": "1", "FAKETIME_DONT_RESET": "1"}
        for stage in STAGES:
            stack.start_worker(stage, env=env)
        for jump in ("+3600\n", "-3600\n"):
            job = self.submit(stack.client)
            self.wait_for_stage(stack.client, job, "keyframes")
            with open(offset, "w", encoding="utf-8") as file:
                file.write(jump)
            self.check(stack, stack.client, [job])


class DrainTest(FaultCase):
    def test_rolling_upgrade_of_every_process_under_load(self):
        stack = self.run_stack()
        self.want(stack.client)
        second = stack.start_frontend()
        client = Client(second.addresses["grpc"])
        self.addCleanup(client.close)
        jobs = [self.submit(client) for _ in range(4)]
        for stage in STAGES:
            old = stack.workers[stage]
            stack.workers[stage] = stack.start_worker(stage)
            self.assertEqual(old.terminate(), 0)
        self.assertEqual(stack.frontend.terminate(), 0)
        stack.frontend.start()
        self.check(stack, client, jobs)

    def test_drain_hands_the_task_back_without_an_attempt(self):
        stack = self.run_stack(workers=False)
        drained = stack.start_worker("keyframes", flags=["--drain_grace=100ms"])
        job = self.submit(stack.client, parameters={**REQUEST, "steps": 100})
        self.wait_for_stage(stack.client, job, "keyframes")
        self.assertEqual(drained.terminate(), 0)
        stack.start_workers()
        self.wait_for(stack.client, job, "JOB_STATE_SUCCEEDED")
        starts = [event for event in stack.client.events(job)
                  if stack.client.enum(event, "type") == "TYPE_STAGE_STARTED"]
        self.assertTrue(all(event.attempt == 1 for event in starts), starts)
        self.assertEqual(self.retries(stack.client, job), [])


class CancelTest(FaultCase):
    def test_cancel_frees_the_worker(self):
        stack = self.run_stack()
        job = self.submit(stack.client, parameters={**REQUEST, "steps": 100, "level": "LEVEL_HIGH"})
        self.wait_for_stage(stack.client, job, "keyframes")
        stack.client.call("CancelJob", {"job_id": job})
        self.wait_for(stack.client, job, "JOB_STATE_CANCELLED", 10)
        # The same worker serves the next job.
        self.check(stack, stack.client, [self.submit(stack.client)])

    def test_deadline_ends_a_running_job(self):
        stack = self.run_stack()
        job = self.submit(stack.client, timeout="1s",
                          parameters={**REQUEST, "steps": 100, "level": "LEVEL_HIGH"})
        self.wait_for(stack.client, job, "JOB_STATE_EXPIRED", 20)
        self.check(stack, stack.client, [self.submit(stack.client)])

    def test_cancel_on_disconnect(self):
        stack = self.run_stack()
        stream = stack.client.stream("GenerateVideo", {"parameters": {**REQUEST, "steps": 100},
                                                       "cancel_on_disconnect": True})
        job = next(stream).job.id
        self.wait_for_stage(stack.client, job, "keyframes")
        stream.cancel()
        self.wait_for(stack.client, job, "JOB_STATE_CANCELLED", 20)


if __name__ == "__main__":
    BIN_DIR, MODEL_DIR = sys.argv[1:3]
    unittest.main(argv=sys.argv[:1] + sys.argv[3:], verbosity=2)
