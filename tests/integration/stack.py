"""The whole service as real processes, for tests: Redis, frontends and workers on free ports of 127.0.0.1.

    with Stack(bin_dir, simulated=True) as stack:
        stack.start_redis(); stack.start_frontend()
        worker = stack.start_worker("keyframes")
        stack.wait_ready({"keyframes": 1})
        worker.kill(); worker.start()

Everything lives in one temporary directory that goes away with the stack (it stays, and its path is printed, when the
test failed and KANDINSKY_KEEP is set). Nothing here sleeps for a fixed time: conditions are polled until a deadline.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

STAGES = ("keyframes", "interpolation", "decoding")


def wait_until(condition, what, timeout=30.0, interval=0.02):
    """Polls `condition` until it returns something true, and returns that. AssertionError after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"timed out after {timeout:g} s waiting until {what}")
        time.sleep(interval)


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


class Process:
    """One child process that can be started again with the same command line."""

    def __init__(self, name, argv, directory, env=None, ready_file=None):
        self.name = name
        self.argv = [str(part) for part in argv]
        self.directory = directory
        self.env = dict(env or {})
        self.ready_file = ready_file
        self.log_path = os.path.join(directory, f"{name}.log")
        self.popen = None
        self.addresses = {}

    def start(self, env=None, wait=True):
        """Starts the process; `env` is added for this start only. Waits until it has written its port file."""
        assert not self.running(), f"{self.name} runs already"
        if self.ready_file and os.path.exists(self.ready_file):
            os.remove(self.ready_file)
        environment = {**os.environ, **self.env, **(env or {})}
        with open(self.log_path, "ab") as log:
            self.popen = subprocess.Popen(self.argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                          cwd=self.directory, env=environment)
        if self.ready_file and wait:
            wait_until(lambda: os.path.exists(self.ready_file) or not self.running(),
                       f"{self.name} listens", timeout=60)
            if not os.path.exists(self.ready_file):
                raise AssertionError(f"{self.name} ended with status {self.popen.returncode}:\n{self.log_tail()}")
            with open(self.ready_file, encoding="utf-8") as file:
                self.addresses = json.load(file)
        return self

    def running(self):
        return self.popen is not None and self.popen.poll() is None

    def send(self, number):
        if self.running():
            self.popen.send_signal(number)

    def kill(self):
        """kill -9, and waits until the process is gone."""
        self.send(signal.SIGKILL)
        if self.popen is not None:
            self.popen.wait()

    def pause(self):
        self.send(signal.SIGSTOP)

    def resume(self):
        self.send(signal.SIGCONT)

    def terminate(self, timeout=60):
        """SIGTERM; returns the exit status."""
        self.send(signal.SIGTERM)
        return self.wait(timeout)

    def wait(self, timeout=60):
        try:
            return self.popen.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} did not end within {timeout} s:\n{self.log_tail()}") from None

    def log(self):
        try:
            with open(self.log_path, encoding="utf-8", errors="replace") as file:
                return file.read()
        except FileNotFoundError:
            return ""

    def log_tail(self, lines=20):
        return "\n".join(self.log().splitlines()[-lines:])


class Redis(Process):
    """redis-server with the settings that production needs: AOF and noeviction."""

    def __init__(self, name, directory, port=None, replica_of=None, extra=()):
        self.port = port or free_port()
        data = os.path.join(directory, name)
        os.makedirs(data, exist_ok=True)
        argv = ["redis-server", "--bind", "127.0.0.1", "--port", self.port, "--dir", data, "--appendonly", "yes",
                "--appendfsync", "always", "--maxmemory-policy", "noeviction", "--save", "", "--daemonize", "no"]
        if replica_of:
            argv += ["--replicaof", "127.0.0.1", replica_of]
        super().__init__(name, argv + list(extra), directory)

    @property
    def url(self):
        return f"redis://127.0.0.1:{self.port}/0"

    def cli(self, *command, check=True):
        """Runs one command and returns what redis-cli prints."""
        return subprocess.run(["redis-cli", "-p", str(self.port), *map(str, command)], check=check,
                              capture_output=True, text=True, timeout=20).stdout.strip()

    def keys(self):
        return sorted(filter(None, self.cli("--scan").splitlines()))

    def start(self, env=None, wait=True):
        super().start(env)
        if wait:
            wait_until(self._answers, f"{self.name} answers")
        return self

    def _answers(self):
        done = subprocess.run(["redis-cli", "-p", str(self.port), "ping"], capture_output=True, text=True, check=False)
        return done.stdout.strip() == "PONG"


class Stack:
    def __init__(self, bin_dir, model_dir, simulated=False, worker_flags=(), frontend_flags=()):
        self.bin_dir = os.path.abspath(bin_dir)
        self.model_dir = os.path.abspath(model_dir)
        self.simulated = simulated
        self.worker_flags = list(worker_flags)
        self.frontend_flags = list(frontend_flags)
        self.directory = tempfile.mkdtemp(prefix="kandinsky-test-")
        self.processes = []
        self.redis = None
        self.redis_url = None

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        for process in reversed(self.processes):
            process.resume()
            if os.environ.get("KANDINSKY_SANITIZED") and not isinstance(process, Redis) and process.running():
                process.send(signal.SIGTERM)  # leaks are reported by a process that ends by itself
                try:
                    process.popen.wait(40)
                except subprocess.TimeoutExpired:
                    pass
            process.kill()
        if kind is not None:
            for process in self.processes:
                print(f"--- {process.name}\n{process.log_tail(40)}", file=sys.stderr)
        if kind is not None and os.environ.get("KANDINSKY_KEEP"):
            print(f"kept: {self.directory}", file=sys.stderr)
        else:
            shutil.rmtree(self.directory, ignore_errors=True)

    def add(self, process):
        self.processes.append(process)
        return process

    def start_redis(self, extra=()):
        self.redis = self.add(Redis("redis", self.directory, extra=extra)).start()
        self.redis_url = self.redis.url
        return self.redis

    def start_frontend(self, flags=(), name=None):
        name = name or f"frontend-{len(self.processes)}"
        ready = os.path.join(self.directory, f"{name}.json")
        # A fixed port, so that clients find a restarted frontend again.
        argv = [os.path.join(self.bin_dir, "kandinsky-frontend"), f"--listen=127.0.0.1:{free_port()}",
                "--metrics_listen=127.0.0.1:0", f"--port_file={ready}", f"--redis={self.redis_url}",
                f"--model_dirs={self.model_dir}", *self.frontend_flags, *flags]
        return self.add(Process(name, argv, self.directory, ready_file=ready)).start()

    def start_worker(self, stage, flags=(), env=None, wait=True):
        name = f"{stage}-{len(self.processes)}"
        ready = os.path.join(self.directory, f"{name}.json")
        spill = os.path.join(self.directory, f"{name}.spill")
        binary = "kandinsky-sim-worker" if self.simulated else "kandinsky-worker"
        argv = [os.path.join(self.bin_dir, binary), f"--stage={stage}", f"--listen=127.0.0.1:{free_port()}",
                "--metrics_listen=127.0.0.1:0", f"--port_file={ready}", f"--redis={self.redis_url}",
                f"--spill_dir={spill}", f"--model_dirs={self.model_dir}", f"--worker_id={name}"]
        if not self.simulated:
            argv += ["--device=cpu", "--threads=1"]
        process = self.add(Process(name, argv + self.worker_flags + list(flags), self.directory, ready_file=ready))
        return process.start(env=env, wait=wait)

    def start_workers(self, count=1, flags=()):
        return [self.start_worker(stage, flags) for stage in STAGES for _ in range(count)]
