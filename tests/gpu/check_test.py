#!/usr/bin/env python3
"""deploy/gpu/check from start to end on the CPU, what it says when something is wrong, and that nothing stays behind."""
import argparse
import glob
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest
import uuid

SOURCE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SECTIONS = ["device", "parity float32", "parity float16", "parity bfloat16", "peak", "work", "plan", "run", "repeats"]
options = None


def processes_with(marker):
    """Ids of processes whose environment holds `marker`."""
    found = []
    for path in glob.glob("/proc/[0-9]*/environ"):
        try:
            with open(path, "rb") as file:
                if marker.encode() in file.read():
                    found.append(int(path.split("/")[2]))
        except OSError:
            pass
    return found


class CheckTest(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix="gpu_check_test_")
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        self.marker = f"KANDINSKY_CHECK_TEST={uuid.uuid4()}"
        self.out = os.path.join(self.folder, "out")

    def start(self, *arguments, model="models/tiny", binaries=None):
        name, value = self.marker.split("=")
        command = [os.path.join(SOURCE, "deploy/gpu/check"), "--device", "cpu", "--dtype", "float32", "--threads", "2", "--bin",
                   binaries or options.bin, "--model", model, "--out", self.out, *arguments]
        return subprocess.Popen(command, env={**os.environ, name: value}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def check(self, *arguments, **more):
        process = self.start(*arguments, **more)
        text, _ = process.communicate()
        self.assertEqual(processes_with(self.marker), [], "processes stayed behind")
        return process.returncode, text

    def report(self):
        with open(os.path.join(self.out, "report.json"), encoding="utf-8") as file:
            report = json.load(file)
        with open(os.path.join(self.out, "report.md"), encoding="utf-8") as file:
            markdown = file.read()
        return report, {section["name"]: section for section in report["sections"]}, markdown

    def assert_whole(self, status, text, frames):
        report, sections, markdown = self.report()
        failures = {name: s["summary"] for name, s in sections.items() if s["status"] != "PASS"}
        self.assertEqual(failures, {}, text)
        self.assertEqual(status, 0, text)
        self.assertTrue(report["passed"])
        self.assertEqual(list(sections), SECTIONS)
        cases = {os.path.basename(os.path.dirname(path)) for path in glob.glob(os.path.join(SOURCE, "tests/parity/*/case.json"))}
        for dtype in ("float32", "float16", "bfloat16"):
            results = sections[f"parity {dtype}"]["data"]
            self.assertEqual({result["case"] for result in results}, cases)
            for result in results:
                self.assertGreater(result["checks"], 0)
                self.assertLessEqual(result["worst"]["used"], 1)
        self.assertEqual([entry["type"] for entry in sections["peak"]["data"]], ["float32", "bfloat16", "float16"])
        run = sections["run"]["data"]
        self.assertEqual(run["frames"], frames)
        self.assertEqual([s["stage"] for s in run["stages"]],
                         ["keyframes", "interpolation", "decoding"] if frames > 16 else ["keyframes", "decoding"])
        for stage in run["stages"]:
            self.assertGreater(stage["flops"], 0)
            self.assertAlmostEqual(stage["counted_flops"] / stage["flops"], 1, delta=0.02, msg=stage)
            self.assertGreater(stage["weights_bytes"], 0)
            self.assertGreaterEqual(stage["peak_bytes"], stage["weights_bytes"])
            self.assertGreater(stage["fraction_of_peak"], 0)
            self.assertIn(f"| {stage['stage']} |", markdown)
        self.assertEqual(sum(s["flops"] for s in run["stages"]), sections["work"]["data"]["total"])
        self.assertGreaterEqual(len(sections["repeats"]["data"]), 6)
        self.assertTrue(markdown.startswith("# CPU: PASS"), markdown[:80])
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=SOURCE, capture_output=True, text=True, check=False).stdout.strip()
        if head:
            self.assertEqual(report["revision"], head)
            self.assertIn(head, markdown)

    def one_case(self, name="t2i_unet_a"):
        """A folder of recorded cases that holds this one; fast."""
        cases = os.path.join(self.folder, "cases")
        shutil.copytree(os.path.join(SOURCE, "tests/parity", name), os.path.join(cases, name))
        return cases

    def binaries_that(self, command, script):
        """The programs, but kandinsky-measure does this when asked for `command`."""
        folder = os.path.join(self.folder, "bin")
        os.makedirs(folder)
        for name in ("kandinsky-parity", "kandinsky-plan"):
            if os.path.exists(os.path.join(options.bin, name)):
                os.symlink(os.path.join(options.bin, name), os.path.join(folder, name))
        path = os.path.join(folder, "kandinsky-measure")
        with open(path, "w", encoding="utf-8") as file:
            file.write(f'#!/usr/bin/env bash\nif [[ $1 == {command} ]]; then {script}; fi\n'
                       f'exec "{options.bin}/kandinsky-measure" "$@"\n')
        os.chmod(path, 0o755)
        return folder


class TinyTest(CheckTest):
    def test_everything_passes(self):
        self.assert_whole(*self.check("--no-setup", "--quick"), frames=16)

    def test_a_wrong_case_is_named_with_its_worst_tensor(self):
        cases = self.one_case()
        path = os.path.join(cases, "t2i_unet_a/case.json")
        with open(path, encoding="utf-8") as file:
            case = json.load(file)
        case["tolerance"] = {"rtol": 0, "atol": 1e-12}
        with open(path, "w", encoding="utf-8") as file:
            json.dump(case, file)
        status, _ = self.check("--no-setup", "--quick", "--cases", cases,
                               binaries=self.binaries_that("peak", "echo 'no card today' >&2; exit 1"))
        self.assertEqual(status, 1)
        report, sections, markdown = self.report()
        self.assertFalse(report["passed"])
        self.assertEqual(sections["parity float32"]["status"], "FAIL")
        self.assertIn("t2i_unet_a: out", sections["parity float32"]["summary"])
        self.assertIn("| t2i_unet_a | FAIL |", markdown)
        # A section that fails does not end the rest.
        self.assertEqual(sections["peak"]["status"], "FAIL")
        self.assertIn("no card today", sections["peak"]["summary"])
        self.assertEqual(sections["run"]["status"], "PASS", sections["run"]["summary"])
        self.assertEqual(sections["repeats"]["status"], "PASS", sections["repeats"]["summary"])

    def test_a_spent_budget_ends_what_runs_and_skips_the_rest(self):
        began = time.monotonic()
        status, _ = self.check("--no-setup", "--quick", "--cases", self.one_case(), "--budget", "0.5",
                               binaries=self.binaries_that("peak", "trap '' TERM; sleep 600 & wait; sleep 600"))
        self.assertEqual(status, 1)
        self.assertLess(time.monotonic() - began, 90)
        _, sections, _ = self.report()
        self.assertEqual(sections["peak"]["status"], "FAIL")
        self.assertIn("of the budget", sections["peak"]["summary"])
        after = SECTIONS[SECTIONS.index("peak") + 1:]
        self.assertEqual([sections[name]["status"] for name in after], ["SKIPPED"] * len(after))

    def interrupted_by(self, number):
        process = self.start("--no-setup", "--quick", "--cases", self.one_case(), binaries=self.binaries_that("peak", "exec sleep 600"))
        for line in process.stdout:
            if "peak: begins" in line:
                break
        while not any(self.is_sleep(pid) for pid in processes_with(self.marker)):
            time.sleep(0.05)
        process.send_signal(number)
        process.communicate()
        deadline = time.monotonic() + 30
        while processes_with(self.marker) and time.monotonic() < deadline:
            time.sleep(0.05)
        self.assertEqual(processes_with(self.marker), [])
        return process.returncode

    @staticmethod
    def is_sleep(pid):
        try:
            with open(f"/proc/{pid}/comm", encoding="utf-8") as file:
                return file.read().strip() == "sleep"
        except OSError:
            return False

    def test_a_signal_leaves_a_report_and_no_process(self):
        self.assertEqual(self.interrupted_by(signal.SIGTERM), 128 + signal.SIGTERM)
        _, sections, _ = self.report()
        self.assertEqual(sections["parity float32"]["status"], "PASS")

    def test_a_killed_check_leaves_no_process(self):
        self.assertEqual(self.interrupted_by(signal.SIGKILL), -signal.SIGKILL)

    def test_usage(self):
        for arguments in (["--budget", "0"], ["--model", "no/such/model"], ["--dtype", "int8"], ["--no-such-flag"],
                          ["--model", "tests/gpu/mid", "--weights", "files"]):
            status, text = self.check("--no-setup", *arguments)
            self.assertEqual(status, 2, text)


class MidTest(CheckTest):
    """Random weights at a size between tiny and full; sets up and builds, too, where the programs are this tree's."""

    def test_everything_passes(self):
        own = os.path.realpath(options.bin) == os.path.realpath(os.path.join(SOURCE, "build/release/bin"))
        arguments = [] if own else ["--no-setup"]
        self.assert_whole(*self.check(*arguments, model="tests/gpu/mid"), frames=61)
        report, _, markdown = self.report()
        self.assertTrue(report["options"]["random"])
        self.assertIn("random weights", markdown)
        if own:
            self.assertIsNotNone(report["setup_seconds"])


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--bin", required=True)
    parser.add_argument("--size", choices=("tiny", "mid"), required=True)
    options, rest = parser.parse_known_args()
    unittest.main(argv=[sys.argv[0], *(rest or [TinyTest.__name__ if options.size == "tiny" else MidTest.__name__])])
