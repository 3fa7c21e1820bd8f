"""Looks at running programs: none that links LibTorch lets idle threads spin for long (worker/process/bounded_spin.h).

  bounded_spin_test.py PROBE FOLDER…     PROBE: spin_probe; FOLDERs: where the programs and tests lie
"""

import glob
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import unittest

PROBE, FOLDERS = os.path.abspath(sys.argv[1]), sys.argv[2:]
WANT = "1000"


def environment(**extra):
    kept = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    return {**kept, **extra}


def display(argv, **extra):
    """What libgomp says that it took: {"GOMP_SPINCOUNT": "1000", …}. It says so while it is loaded."""
    done = subprocess.run(argv, env=environment(OMP_DISPLAY_ENV="VERBOSE", **extra), stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, errors="replace", timeout=120, check=False)
    return dict(re.findall(r"^\s*(?:\[host\] )?(\w+) = '([^']*)'", done.stderr, re.MULTILINE))


def probe(argv, **options):
    options.setdefault("env", environment())
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False, **options)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def links_torch(program):
    done = subprocess.run([program], env={"LD_TRACE_LOADED_OBJECTS": "1"}, stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, errors="replace", timeout=60, check=False)
    return "libtorch_cpu.so" in done.stdout


class ProgramsTest(unittest.TestCase):
    def test_every_program_bounds_it(self):
        looked_at = []
        for folder in FOLDERS:
            for program in sorted(os.listdir(folder)):
                path = os.path.join(folder, program)
                with open(path, "rb") if os.path.isfile(path) else open(os.devnull, "rb") as file:
                    if file.read(4) != b"\x7fELF" or not os.access(path, os.X_OK) or not links_torch(path):
                        continue
                with self.subTest(program=program):
                    help_flag = "--gtest_list_tests" if folder.endswith("tests") else "--help"
                    self.assertEqual(display([path, help_flag]).get("GOMP_SPINCOUNT"), WANT)
                looked_at.append(program)
        self.assertIn("kandinsky-local", looked_at)
        self.assertIn("kandinsky-worker", looked_at)
        print(f"{len(looked_at)} programs", file=sys.stderr)

    def test_users_setting_wins(self):
        for name, value, want in [("GOMP_SPINCOUNT", "77", "77"), ("OMP_WAIT_POLICY", "PASSIVE", "0"),
                                  ("OMP_WAIT_POLICY", "ACTIVE", "30000000000")]:
            with self.subTest(name=name, value=value):
                self.assertEqual(display([PROBE], **{name: value}).get("GOMP_SPINCOUNT"), want)

    def test_idle_team_sleeps(self):
        done = subprocess.run([PROBE, "--idle", "0.5"], env=environment(), capture_output=True, text=True, timeout=60,
                              check=True)
        self.assertLess(float(done.stdout), 0.02)


class SecondStartTest(unittest.TestCase):
    def test_keeps_arguments_files_and_signals(self):
        def prepare():
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
            signal.signal(signal.SIGUSR2, signal.SIG_IGN)
            os.dup2(os.open(PROBE, os.O_RDONLY), 9)

        child = subprocess.Popen(["another name", "", "a b"], executable=PROBE, env=environment(), text=True,
                                 stdout=subprocess.PIPE, preexec_fn=prepare, close_fds=False)
        found = json.loads(child.communicate(timeout=60)[0])
        self.assertEqual(found, {"pid": child.pid, "name": "spin_probe", "usr1_blocked": 1, "usr2_ignored": 1,
                                 "spin": WANT, "fd9": 1, "argv": ["another name", "", "a b"]})

    def test_relative_path(self):
        found = probe(["./spin_probe"], cwd=os.path.dirname(PROBE))
        self.assertEqual((found["spin"], found["argv"]), (WANT, ["./spin_probe"]))

    def test_empty_environment(self):
        self.assertEqual(probe([PROBE], env={})["spin"], WANT)

    def test_executed_through_a_descriptor(self):
        with open(PROBE, "rb") as file:
            child = os.fork()
            if child == 0:
                os.dup2(os.open(os.path.join(tempfile.gettempdir(), f"probe-{os.getpid()}"),
                                os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600), 1)
                os.set_inheritable(file.fileno(), False)  # gone after the first start
                os.execve(file.fileno(), ["probe"], environment())
        _, status = os.waitpid(child, 0)
        path = os.path.join(tempfile.gettempdir(), f"probe-{child}")
        with open(path, encoding="utf-8") as output:
            text = output.read()
        os.remove(path)
        self.assertEqual(status, 0)
        self.assertEqual(json.loads(text)["spin"], WANT)

    def test_explicit_loader_is_left_alone(self):
        loaders = glob.glob("/lib*/ld-linux*.so.*")
        if not loaders:
            self.skipTest(f"no loader found on {platform.machine()}")
        found = probe([loaders[0], PROBE, "x"])
        self.assertEqual((found["spin"], found["argv"][1:]), ("", ["x"]))

    def test_without_proc(self):
        if shutil.which("unshare") is None:
            self.skipTest("no unshare")
        script = 'umount -l /proc && exec "$0" --there'
        done = subprocess.run(["unshare", "--mount", "sh", "-c", script, PROBE], env=environment(),
                              capture_output=True, text=True, timeout=60, check=False)
        if done.returncode != 0 and "spin" not in done.stdout:
            self.skipTest(f"cannot unmount /proc here: {done.stderr.strip()}")
        found = json.loads(done.stdout)
        self.assertEqual((found["spin"], found["argv"][1:]), (WANT, ["--there"]))


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
