"""deploy/local/stack and the kandinsky command with real processes: starting, stopping, cleaning up, and a video that
arrives although the frontend dies on the way."""

import argparse
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from stack import STAGES, free_port, wait_until  # noqa: E402

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
OPTIONS = None


def processes_of(state_dir):
    """Ids of live processes that work in the state directory: every one that the stack starts."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if (os.readlink(f"/proc/{pid}/cwd") + "/").startswith(state_dir + "/"):
                found.append(int(pid))
        except OSError:
            pass
    return found


def environment(pid):
    with open(f"/proc/{pid}/environ", "rb") as file:
        return dict(entry.split("=", 1) for entry in file.read().decode().split("\0") if "=" in entry)


def read(path):
    with open(path, "rb") as file:
        return file.read()


class CliTest(unittest.TestCase):
    def setUp(self):
        self.dir = os.path.realpath(tempfile.mkdtemp(prefix="kandinsky-cli-"))
        self.state = os.path.join(self.dir, "state")
        self.addCleanup(shutil.rmtree, self.dir, True)
        self.addCleanup(self.stack, "stop")

    def stack_argv(self, command, *extra, model=None):
        argv = [sys.executable, os.path.join(ROOT, "deploy/local/stack"), command, "--state-dir", self.state]
        if command == "start":
            argv += ["--bin-dir", OPTIONS.bin, "--model-dir", model or OPTIONS.model,
                     "--worker-binary", "kandinsky-sim-worker"]
        return argv + list(extra)

    def stack(self, command, *extra, model=None):
        return subprocess.run(self.stack_argv(command, *extra, model=model), capture_output=True, text=True, timeout=120,
                              check=False)

    def start(self, *extra):
        done = self.stack("start", *extra)
        self.assertEqual(done.returncode, 0, done.stderr)
        with open(os.path.join(self.state, "stack.json"), encoding="utf-8") as file:
            return json.load(file)

    def cli(self, stack, *argv, check=0):
        done = subprocess.run([os.path.join(OPTIONS.bin, "kandinsky"), *argv, f"--server={stack['frontend']}"],
                              capture_output=True, text=True, timeout=120, check=False)
        self.assertEqual(done.returncode, check, done.stdout + done.stderr)
        return done.stdout

    def ready_workers(self, stack):
        server = json.loads(self.cli(stack, "status", "--json"))["server"]
        return [stage.get("ready_workers") for stage in server["stages"]]

    def test_start_use_stop(self):
        stack = self.start("--admin")
        self.assertEqual(sorted(stack["pids"]), ["decoding", "frontend", "interpolation", "keyframes", "redis"])
        self.assertEqual(sorted(stack["metrics"]), ["decoding", "frontend", "interpolation", "keyframes"])
        self.assertEqual(self.start()["pids"], stack["pids"], "a stack that runs is left as it is")
        self.assertEqual(json.loads(self.stack("status").stdout), stack)

        path = os.path.join(self.dir, "v.mp4")
        self.assertEqual(self.cli(stack, "generate", "a ball", "--level=low", "--quiet", f"--out={path}"), path + "\n")
        self.assertGreater(os.path.getsize(path), 0)
        self.assertEqual(os.listdir(self.dir).count("v.mp4.part"), 0)

        job = self.cli(stack, "submit", "another ball", "--level=medium", "--request-id=twice").strip()
        self.assertEqual(self.cli(stack, "submit", "another ball", "--level=medium", "--request-id=twice").strip(), job)
        self.cli(stack, "submit", "a third ball", "--request-id=twice", check=2)
        self.cli(stack, "watch", job)
        self.assertEqual(json.loads(self.cli(stack, "get", job, "--json"))["job"]["state"], "JOB_STATE_SUCCEEDED")
        copy = os.path.join(self.dir, "copy.mp4")
        self.cli(stack, "download", job, f"--out={copy}")
        whole = read(copy)
        os.rename(copy, copy + ".part")
        os.truncate(copy + ".part", len(whole) // 2)
        self.cli(stack, "download", job, f"--out={copy}")
        self.assertEqual(read(copy), whole)
        self.assertEqual(len(self.cli(stack, "list", "--json").splitlines()), 2)
        self.cli(stack, "delete", job)
        self.cli(stack, "get", job, check=3)
        self.cli(stack, "generate", "x", "--width=7", check=2)
        self.assertEqual(self.cli(stack, "dead", "list"), "")
        self.assertEqual(self.cli(stack, "status", "--health"), "serving\n")

        self.assertEqual(self.stack("stop", "--purge").returncode, 0)
        self.assertEqual(processes_of(self.state), [])
        self.assertEqual(os.listdir(self.state), ["lock"])
        self.assertEqual(self.stack("status").returncode, 1)
        self.cli(stack, "get", job, check=4)

    def test_several_workers_a_stage(self):
        names = [f"{stage}-{i}" for stage in STAGES for i in range(2)]
        stack = self.start("--workers", "2")
        self.assertEqual(sorted(stack["pids"]), sorted([*names, "frontend", "redis"]))
        self.assertEqual(sorted(os.listdir(os.path.join(self.state, "spill"))), sorted(names), "a folder for each")
        wait_until(lambda: self.ready_workers(stack) == [2, 2, 2], "two of each stage are ready")
        jobs = [self.cli(stack, "submit", f"ball {i}", "--level=low").strip() for i in range(4)]
        for job in jobs:
            self.cli(stack, "watch", job)
        self.assertEqual(self.stack("stop", "--purge").returncode, 0)
        self.assertEqual(processes_of(self.state), [])

    def test_each_worker_gets_a_device(self):
        os.environ["CUDA_VISIBLE_DEVICES"] = "3,5"
        self.addCleanup(os.environ.pop, "CUDA_VISIBLE_DEVICES", None)
        stack = self.start("--workers", "3")
        for stage in STAGES:
            seen = [environment(stack["pids"][f"{stage}-{i}"])["CUDA_VISIBLE_DEVICES"] for i in range(3)]
            self.assertEqual(seen, ["3", "5", "3"])
        self.assertEqual(environment(stack["pids"]["frontend"])["CUDA_VISIBLE_DEVICES"], "3,5", "as it was")
        self.assertEqual(self.stack("stop").returncode, 0)
        worker = os.path.join(self.dir, "worker")  # the simulated one knows no --device
        with open(worker, "w", encoding="utf-8") as file:
            file.write(f"""#!/bin/bash
flags=()
for flag; do [[ $flag == --device=* ]] || flags+=("$flag"); done
exec {shlex.quote(os.path.abspath(OPTIONS.bin))}/kandinsky-sim-worker "${{flags[@]}}"
""")
        os.chmod(worker, 0o755)
        stack = self.start("--workers", "2", "--device", "cpu", "--worker-binary", worker)
        self.assertEqual(environment(stack["pids"]["decoding-1"])["CUDA_VISIBLE_DEVICES"], "3,5", "none is needed")

    def test_workers_are_refused(self):
        for extra in (["--workers", "0"], ["--workers", "65"], ["--workers", "2", "--device", "cuda:1"]):
            done = self.stack("start", *extra)
            self.assertEqual(done.returncode, 2, extra)
            self.assertIn("must be", done.stderr)

    def test_a_stack_belongs_to_its_owner(self):
        owner = subprocess.Popen(["sleep", "600"])
        self.addCleanup(owner.kill)
        first = self.start("--owner", str(owner.pid))
        refused = self.stack("start", "--owner", str(os.getpid()))
        self.assertEqual(refused.returncode, 1)
        self.assertIn(f"belongs to process {owner.pid}", refused.stderr)
        self.stack("stop", "--owner", str(os.getpid()))
        self.assertEqual(self.stack("status").returncode, 0, "not ours to stop")
        owner.kill()
        owner.wait()
        self.assertEqual(self.stack("status").returncode, 1, "left behind")
        second = self.start("--owner", str(os.getpid()))
        self.assertFalse(set(first["pids"].values()) & set(second["pids"].values()))
        self.assertEqual(sorted(processes_of(self.state)), sorted(second["pids"].values()))

    def test_a_killed_start_is_cleaned_up(self):
        start = subprocess.Popen(self.stack_argv("start"))
        wait_until(lambda: os.path.exists(os.path.join(self.state, "pids.json")), "the first process was started")
        start.kill()
        start.wait()
        stack = self.start()
        self.assertEqual(sorted(processes_of(self.state)), sorted(stack["pids"].values()))

    def test_a_start_that_cannot_work_leaves_nothing(self):
        done = self.stack("start", model=os.path.join(self.dir, "no-model"))
        self.assertEqual(done.returncode, 1)
        self.assertIn("no-model", done.stderr)
        self.assertEqual(processes_of(self.state), [])

    def test_generate_survives_the_death_of_the_frontend(self):
        stack = self.start("--worker-flag=--step_time=50ms", f"--listen=127.0.0.1:{free_port()}")
        pid = stack["pids"]["frontend"]
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            argv = [part.decode() for part in file.read().split(b"\0")[:-1]]
        path = os.path.join(self.dir, "v.mp4")
        generate = subprocess.Popen([os.path.join(OPTIONS.bin, "kandinsky"), "generate", "a ball", "--level=low",
                                     "--json", f"--out={path}", f"--server={stack['frontend']}"],
                                    stdout=subprocess.PIPE, text=True)
        self.addCleanup(generate.stdout.close)
        self.addCleanup(generate.kill)
        lines = [json.loads(generate.stdout.readline())]
        while lines[-1].get("event", {}).get("type") != "TYPE_PROGRESS":
            lines.append(json.loads(generate.stdout.readline()))
        os.kill(pid, signal.SIGKILL)
        port_file = next(arg for arg in argv if arg.startswith("--port_file=")).partition("=")[2]
        os.remove(port_file)
        again = subprocess.Popen(argv, cwd=self.state, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                 stderr=subprocess.DEVNULL)
        self.addCleanup(again.wait)
        self.addCleanup(again.kill)
        lines += [json.loads(line) for line in generate.stdout]
        self.assertEqual(generate.wait(60), 0, lines[-1])
        events = [line["event"]["event_id"] for line in lines if "event" in line]
        self.assertEqual(len(events), len(set(events)), "no event twice")
        self.assertEqual(sum(line.get("event", {}).get("state") == "JOB_STATE_SUCCEEDED" for line in lines), 1)
        self.assertEqual(sum("job" in line for line in lines), 1, "one job")
        info = lines[-1]["video"]["info"]
        self.assertEqual(os.path.getsize(path), int(info["size_bytes"]))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bin", required=True)
    parser.add_argument("--model", required=True)
    OPTIONS, rest = parser.parse_known_args()
    unittest.main(argv=[sys.argv[0], *rest], verbosity=2)
