#!/usr/bin/env python3
"""Runs the sections of deploy/gpu/check, which sets up and builds first, and writes the report.

Every section is a process of its own: one that fails, hangs or is killed says so in the report, and the next one runs.
Whatever ends this program ends what it started.
"""
import argparse
import ctypes
import datetime
import glob
import json
import os
import platform
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PASS, FAIL, SKIP = "PASS", "FAIL", "SKIPPED"
DTYPES = ("float32", "float16", "bfloat16")
# Guidance in two passes against one, over the few steps of "repeats": the root mean square of the difference over that
# of the latents. Rounding differs with the size of a batch, and guidance feeds it back (docs/gpu.md).
PASSES_TOLERANCE = {"float32": 1e-3, "float16": 0.05, "bfloat16": 0.3}


class OutOfTime(Exception):
    pass


class Failed(Exception):
    pass


def die_with_parent():
    """In a child: SIGKILL when the parent is gone, however it went (PR_SET_PDEATHSIG)."""
    ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL)


def duration(seconds):
    seconds = int(seconds + 0.5)
    if seconds < 100:
        return f"{seconds} s"
    if seconds < 5400:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"


def quantity(value, unit):
    for factor, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{value / factor:.2f} {prefix}{unit}"
    return f"{value:.0f} {unit}"


def gib(value):
    return f"{value / 2**30:.2f} GiB"


class Check:
    def __init__(self, options):
        self.options = options
        self.started = time.monotonic()
        self.end = self.started + 60 * options.budget
        self.sections = []
        self.child = None
        self.last_said = 0
        self.guesses = {}  # section -> seconds that it is thought to take
        self.peaks = {}  # type -> FLOP/s of the fastest matrix product
        self.plan = None  # stage -> bytes of the chosen plan
        self.memory_bytes = None  # of the card; None: no limit is known
        os.makedirs(options.out, exist_ok=True)
        self.log = open(os.path.join(options.out, "log.txt"), "w", encoding="utf-8")

    # ---- saying -----------------------------------------------------------------------------------------------------

    def say(self, text):
        print(f"[gpu-check] {text}", file=sys.stderr, flush=True)
        print(text, file=self.log, flush=True)

    def progress(self, section, text, left):
        """At most one line in two seconds on a terminal, in fifteen elsewhere."""
        now = time.monotonic()
        if now - self.last_said < (2 if sys.stderr.isatty() else 15):
            return
        self.last_said = now
        names = list(self.guesses)
        after = names[names.index(section) + 1:] if section in names else []
        rest = left + sum(self.guesses[name] for name in after)
        self.say(f"{section}: {text}; about {duration(left)} of it left, {duration(rest)} in all")

    # ---- processes --------------------------------------------------------------------------------------------------

    def run(self, arguments, on_line=None, seconds=None):
        """Runs a program and returns (exit status, lines of its output). `on_line` is told each line as it comes. What
        is still running after `seconds`, or when the budget is spent, is ended, and OutOfTime raised."""
        limit = self.end if seconds is None else min(self.end, time.monotonic() + seconds)
        print("$ " + " ".join(shlex.quote(a) for a in arguments), file=self.log, flush=True)
        with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as errors:
            self.child = subprocess.Popen(arguments, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors,
                                          text=True, errors="replace", start_new_session=True, preexec_fn=die_with_parent)
            late = threading.Event()

            def end_late(child=self.child):
                late.set()
                self.end_child(child)

            timer = threading.Timer(max(0, limit - time.monotonic()), end_late)
            timer.daemon = True
            timer.start()
            lines = []
            try:
                for line in self.child.stdout:
                    lines.append(line.rstrip("\n"))
                    print(line, end="", file=self.log, flush=True)
                    if on_line:
                        on_line(lines[-1])
                status = self.child.wait()
            finally:
                timer.cancel()
                self.end_child(self.child)
                self.child = None
            errors.seek(0)
            self.errors = errors.read().strip()
            print(self.errors, file=self.log, flush=True)
        if late.is_set():
            raise OutOfTime(f"ended after {duration(limit - self.started)} of the budget" if limit == self.end else
                            f"ended after {duration(seconds)}")
        return status, lines

    @staticmethod
    def end_child(child):
        """The child's whole process group: asked first, then killed."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(child.pid, number)
            except ProcessLookupError:
                return
            end = time.monotonic() + 5
            while time.monotonic() < end:
                child.poll()
                try:
                    os.killpg(child.pid, 0)
                except ProcessLookupError:
                    return
                time.sleep(0.05)

    def program(self, name):
        path = os.path.join(self.options.bin, name)
        if not os.access(path, os.X_OK):
            raise Failed(f"{path} is not built")
        return path

    def measure(self, section, command, arguments, seconds=None):
        """kandinsky-measure: its result; progress is passed on."""
        began = time.monotonic()

        def on_line(line):
            try:
                progress = json.loads(line).get("progress")
            except ValueError:
                return
            if progress and progress["done"]:
                fraction = progress["done"] / progress["parts"]
                left = self.guesses.get(section, 0) - (time.monotonic() - began)
                if command == "repeats":
                    left = (time.monotonic() - began) * (1 - fraction) / fraction
                self.progress(section, f"{progress['stage']} {progress['done']} of {progress['parts']}", max(left, 0))

        arguments = [self.program("kandinsky-measure"), command] + arguments
        status, lines = self.run(arguments, on_line, seconds)
        for line in reversed(lines):
            try:
                return status, json.loads(line)["result"]
            except (ValueError, KeyError):
                continue
        raise Failed(self.errors.splitlines()[0] if self.errors else
                     f"kandinsky-measure {command} ended with status {status} and without a result")

    # ---- sections ---------------------------------------------------------------------------------------------------

    def section(self, name, function):
        """Runs one section; what goes wrong in it is its result."""
        self.say(f"{name}: begins")
        began = time.monotonic()
        entry = {"name": name, "status": FAIL, "summary": "", "data": None}
        try:
            if began >= self.end:
                entry["status"], entry["summary"] = SKIP, f"the budget of {self.options.budget:g} minutes was spent"
            else:
                entry["status"], entry["summary"], entry["data"] = function()
        except (OutOfTime, Failed, OSError) as error:
            entry["summary"] = str(error)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            entry["summary"] = f"the answer was not understood: {error!r}"
        entry["seconds"] = round(time.monotonic() - began, 3)
        self.sections.append(entry)
        self.guesses.pop(name, None)
        self.say(f"{name}: {entry['status']} in {duration(entry['seconds'])}: {entry['summary']}")
        self.write()

    def device(self):
        data = {"machine": platform.machine(), "kernel": platform.release(), "processors": os.cpu_count()}
        status, info = self.measure("device", "info", [], 120)
        data["libraries"] = info
        if self.options.device.startswith("cuda"):
            fields = ("name", "driver_version", "memory.total", "compute_cap", "power.limit", "clocks.max.sm", "pci.bus_id")
            index = self.options.device.partition(":")[2] or "0"
            try:
                status, lines = self.run(["nvidia-smi", f"--id={index}", f"--query-gpu={','.join(fields)}",
                                          "--format=csv,noheader"], seconds=60)
                if status == 0 and lines:
                    data.update(zip(fields, (value.strip() for value in lines[0].split(","))))
            except OSError:
                data["nvidia-smi"] = "not there"
            memory = data.get("memory.total", "").split()
            if memory and memory[0].isdigit():
                self.memory_bytes = int(memory[0]) * 2**20  # nvidia-smi says MiB
            if not info["cuda_devices"]:
                return FAIL, "LibTorch sees no CUDA device (a build for the CPU, or no driver)", data
        name = data.get("name") or f"the CPU, {info['cpu']}, {info['threads']} threads"
        return PASS, f"{name}, LibTorch {info['libtorch']}", data

    def parity(self, dtype):
        cases = sorted(os.path.dirname(path) for path in glob.glob(os.path.join(self.options.cases, "*", "case.json")))
        if not cases:
            raise Failed(f"{self.options.cases} holds no recorded case")
        done = []
        name = f"parity {dtype}"
        began = time.monotonic()

        def on_line(line):
            if line.startswith(("PASS ", "FAIL ", "  ERROR")):
                done.append(line)
                elapsed = time.monotonic() - began
                self.progress(name, f"{len(done)} of {len(cases)} cases", elapsed / len(done) * (len(cases) - len(done)))

        with tempfile.NamedTemporaryFile("r", suffix=".json", encoding="utf-8") as lines:
            arguments = [self.program("kandinsky-parity"), "--quiet", f"--device={self.options.device}", f"--dtype={dtype}",
                         f"--json={lines.name}"]
            if self.options.device == "cpu":
                arguments.append(f"--threads={self.options.threads or 1}")
            status, _ = self.run(arguments + cases, on_line)
            results = [json.loads(line) for line in lines]
        for result in results:
            result["case"] = os.path.basename(result["case"])
        if len(results) < len(cases):
            raise Failed(f"ended with status {status} after {len(results)} of {len(cases)} cases: {self.errors[-500:]}")
        failed = [r for r in results if not r["passed"]]
        if failed:
            text = "; ".join(f"{r['case']}: " + (r["error"] or f"{r['worst']['name']}: {r['worst']['text']}") for r in failed)
            return FAIL, f"{len(failed)} of {len(results)} cases: {text}", results
        used = max((r["worst"]["used"] or 0, r["case"], r["worst"]["name"]) for r in results)
        return PASS, f"{len(results)} cases; the nearest to its tolerance is {used[1]}, {used[2]}: {used[0]:.0%} of it", results

    def peak(self):
        seconds = 0.5 if self.options.quick else 3
        _, result = self.measure("peak", "peak", self.where() + ["--seconds", str(seconds)], 600)
        self.peaks = {entry["type"]: entry["flops_per_second"] for entry in result}
        return PASS, ", ".join(f"{e['type']} {quantity(e['flops_per_second'], 'FLOP/s')}" for e in result), result

    def where(self, dtype=False):
        arguments = ["--device", self.options.device]
        if dtype:
            arguments += ["--dtype", self.options.dtype]
        if self.options.threads:
            arguments += ["--threads", str(self.options.threads)]
        return arguments

    def what(self, steps=None, level=None):
        """The model and the request, for kandinsky-measure."""
        options = self.options
        arguments = ["--model", options.model]
        if options.random:
            arguments += ["--random-weights", "1"]
        if not os.path.exists(os.path.join(options.model, options.tokenizer)):
            arguments += ["--tokenizer", os.path.join(ROOT, "models/tiny/spiece.model")]
        for name, value in (("level", level or options.level), ("width", options.width), ("height", options.height),
                            ("steps", steps or options.steps)):
            if value is not None:
                arguments += [f"--{name}", str(value)]
        return arguments

    def work(self):
        """What the request is, in FLOP, and how long the sections that follow may take with it."""
        _, flops = self.measure("work", "flops", self.what() + self.where(), 600)
        peak = self.peaks.get(self.options.dtype)
        if peak:
            self.guesses["run"] = 60 + flops["total"] / (0.35 * peak)
        text = f"{quantity(flops['total'], 'FLOP')}: keyframes {quantity(flops['keyframes'], 'FLOP')}, interpolation " \
               f"{quantity(sum(flops['interpolation']), 'FLOP')}, decoding {quantity(flops['decoding'], 'FLOP')}"
        if peak:
            text += f"; {duration(flops['total'] / peak)} at the card's fastest product"
        return PASS, text, flops

    def memory(self):
        """The first plan of each stage that fits the card; its options are the run's."""
        options = self.options
        arguments = ["memory", "--model", options.model, "--dtype", options.dtype, "--level", options.level, "--json",
                     "--device", "cpu" if options.device == "cpu" else "gpu"]
        for name in ("width", "height"):
            if getattr(options, name) is not None:
                arguments += [f"--{name}", str(getattr(options, name))]
        status, lines = self.run([self.program("kandinsky-plan")] + arguments + options.flags, seconds=600)
        if status != 0:
            raise Failed(self.errors.splitlines()[0] if self.errors else f"kandinsky-plan ended with status {status}")
        stages = json.loads("\n".join(lines))["stages"]
        chosen, flags = {}, {}
        for stage in stages:
            fitting = [p for p in stage["plans"] if self.memory_bytes is None or p["total_bytes"] <= self.memory_bytes]
            if not fitting:
                least = min(p["total_bytes"] for p in stage["plans"])
                raise Failed(f"{stage['stage']} does not fit: {gib(least)} at least, the card has {gib(self.memory_bytes)}")
            chosen[stage["stage"]] = fitting[0]
            for flag in shlex.split(fitting[0]["flags"]):
                flags[flag.partition("=")[0]] = flag
        options.flags = options.flags + list(flags.values())
        self.plan = {name: plan["total_bytes"] for name, plan in chosen.items()}
        text = ", ".join(f"{name} {gib(plan['total_bytes'])}" for name, plan in chosen.items())
        return PASS, f"{text}; options: {' '.join(options.flags) or 'none needed'}", {"chosen": chosen, "bytes": self.plan}

    def speed(self):
        status, result = self.measure("run", "run", self.what() + self.where(True) + self.options.flags)
        peak = self.peaks.get(self.options.dtype)
        complaints = []
        for stage in result["stages"]:
            if peak:
                stage["fraction_of_peak"] = stage["flops_per_second"] / peak
            if not stage["finite"]:
                complaints.append(f"{stage['stage']}: not every number is finite")
            # A CUDA graph is replayed without passing the counter; more than was foreseen cannot be.
            if stage["counted_flops"] > 1.02 * stage["flops"]:
                complaints.append(f"{stage['stage']}: {stage['counted_flops']} FLOP were counted, {stage['flops']} foreseen")
            if self.options.device == "cpu" and stage["counted_flops"] < 0.98 * stage["flops"]:
                complaints.append(f"{stage['stage']}: only {stage['counted_flops']} of {stage['flops']} FLOP were counted")
            # On the CPU the plan is of float32; narrow types are widened there.
            planned = (self.plan or {}).get(stage["stage"])
            exact = self.options.device != "cpu" or self.options.dtype == "float32"
            if planned and exact and stage["peak_bytes"] > 1.1 * planned:
                complaints.append(f"{stage['stage']}: {gib(stage['peak_bytes'])} at the peak, {gib(planned)} planned")
        if peak:
            result["fraction_of_peak"] = result["flops_per_second"] / peak
        text = f"{result['frames']} frames in {result['seconds']:.1f} s: " + ", ".join(
            f"{s['stage']} {s['seconds']:.1f}" for s in result["stages"])
        text += f"; {quantity(result['flops_per_second'], 'FLOP/s')}"
        if peak:
            text += f", {result['fraction_of_peak']:.0%} of the fastest product"
        if complaints:
            return FAIL, "; ".join(complaints), result
        return PASS, text, result

    def repeats(self):
        # One interpolation pass stands for all: they differ in nothing but their length.
        arguments = self.what(steps=2 if self.options.quick else 4, level=self.options.repeats_level)
        tolerance = PASSES_TOLERANCE[self.options.dtype]
        status, checks = self.measure("repeats", "repeats", arguments + self.where(True) + self.options.flags +
                                      ["--passes-tolerance", str(tolerance)])
        failed = [check for check in checks if not check["passed"]]
        if failed or status != 0:
            return FAIL, "; ".join(f"{check['name']}: {check['text']}" for check in failed) or f"status {status}", checks
        return PASS, f"{len(checks)} checks", checks

    # ---- the report -------------------------------------------------------------------------------------------------

    def report(self):
        def git(*arguments):
            try:
                return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=30,
                                      check=True).stdout.strip()
            except (OSError, subprocess.SubprocessError):
                return None

        options = {name: value for name, value in sorted(vars(self.options).items())}
        changed = git("status", "--porcelain")
        setup = os.environ.get("KANDINSKY_CHECK_SETUP_SECONDS")
        return {
            "format": 1,
            "passed": all(s["status"] == PASS for s in self.sections),
            "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "revision": git("rev-parse", "HEAD"),
            "changed": None if changed is None else changed != "",
            "options": options,
            "setup_seconds": int(setup) if setup else None,
            "seconds": round(time.monotonic() - self.started, 1),
            "sections": self.sections,
        }

    def write(self):
        report = self.report()
        for name, text in (("report.json", json.dumps(report, indent=1, ensure_ascii=False) + "\n"),
                           ("report.md", markdown(report))):
            path = os.path.join(self.options.out, name)
            with open(path + ".part", "w", encoding="utf-8") as file:
                file.write(text)
            os.replace(path + ".part", path)


def table(header, rows):
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    for row in rows:
        lines.append("| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in row) + " |")
    return "\n".join(lines) + "\n"


def markdown(report):
    sections = {section["name"]: section for section in report["sections"]}
    options = report["options"]
    device = (sections.get("device") or {}).get("data") or {}
    text = f"# {device.get('name', 'CPU')}: {'PASS' if report['passed'] else 'FAIL'}\n\n"
    rows = [("date", report["date"]),
            ("revision", (report["revision"] or "unknown") + (" and changes" if report["changed"] else "")),
            ("model", f"{options['model']}, {'random' if options['random'] else 'its own'} weights, {options['dtype']}"),
            ("driver, memory", f"{device.get('driver_version', '-')}, {device.get('memory.total', '-')}"),
            ("LibTorch", (device.get("libraries") or {}).get("libtorch", "-")),
            ("flags", " ".join(options["flags"]) or "none"),
            ("duration", duration(report["seconds"]) +
             (f", set-up and build {duration(report['setup_seconds'])}" if report["setup_seconds"] else ""))]
    text += table(("", ""), rows) + "\n"
    text += table(("section", "result", "duration", ""),
                  [(s["name"], s["status"], duration(s["seconds"]), s["summary"]) for s in report["sections"]])
    peak = sections.get("peak")
    if peak and peak["data"]:
        text += "\n## Matrix products\n\n" + table(
            ("type", "side", "FLOP/s"), [(e["type"], e["size"], quantity(e["flops_per_second"], "FLOP/s")) for e in peak["data"]])
    run = sections.get("run")
    if run and run["data"]:
        planned = ((sections.get("plan") or {}).get("data") or {}).get("bytes", {})
        text += f"\n## {run['data']['frames']} frames\n\n" + table(
            ("stage", "loading", "seconds", "a step", "work", "FLOP/s", "of the fastest product", "weights", "peak", "planned"),
            [(s["stage"], f"{s['load_seconds']:.1f} s", f"{s['seconds']:.2f}",
              f"{s['step_seconds']:.3f} s" if "step_seconds" in s else "-", quantity(s["flops"], "FLOP"),
              quantity(s["flops_per_second"], "FLOP/s"),
              f"{s['fraction_of_peak']:.0%}" if "fraction_of_peak" in s else "-", gib(s["weights_bytes"]), gib(s["peak_bytes"]),
              gib(planned[s["stage"]]) if planned.get(s["stage"]) else "-") for s in run["data"]["stages"]])
    for section in report["sections"]:
        if section["name"].startswith("parity") and section["data"]:
            text += f"\n## {section['name'].capitalize()}\n\n" + table(
                ("case", "", "checks", "worst", "of its tolerance"),
                [(r["case"], "pass" if r["passed"] else "FAIL", f"{r['checks'] - r['failures']} of {r['checks']}",
                  r["error"] or f"{r['worst']['name']}: {r['worst']['text']}",
                  "-" if r["error"] or r["worst"]["used"] is None else f"{r['worst']['used']:.0%}") for r in section["data"]])
    repeats = sections.get("repeats")
    if repeats and repeats["data"]:
        text += "\n## Repeats\n\n" + table(("check", "", ""), [(c["name"], "pass" if c["passed"] else "FAIL", c["text"])
                                                                for c in repeats["data"]])
    return text


def parse(arguments):
    parser = argparse.ArgumentParser(prog="deploy/gpu/check", description="Compares with recordings, measures, and writes a report.")
    parser.add_argument("--model", default="models/kandinsky-video-1.0", help="model directory (default: %(default)s)")
    parser.add_argument("--weights", choices=("auto", "random", "files"), default="auto",
                        help="auto: the model's where its files are there, otherwise random ones")
    parser.add_argument("--device", default="cuda:0", help="cpu or cuda:N (default: %(default)s)")
    parser.add_argument("--dtype", choices=DTYPES, default="float16", help="of the run and the repeats (default: %(default)s)")
    parser.add_argument("--level", help="low, medium or high: how many frames (default: the model's)")
    for name in ("width", "height", "steps"):
        parser.add_argument(f"--{name}", type=int, help="default: the model's")
    parser.add_argument("--quick", action="store_true", help="fewer steps and frames: minutes instead of an hour")
    parser.add_argument("--budget", type=float, default=None, help="minutes that all of it may take (default: 120; --quick: 30)")
    parser.add_argument("--out", help="folder of the report (default: build/gpu-check/DATE)")
    parser.add_argument("--threads", type=int, help="processor threads of an operation")
    parser.add_argument("--flags", default="", help="further options of the run, as kandinsky-local has them, instead of the plan's")
    parser.add_argument("--no-setup", action="store_true", help="neither set up nor build")
    parser.add_argument("--bin", default=os.path.join(ROOT, "build/release/bin"), help="where the programs are (default: build/release/bin)")
    parser.add_argument("--cases", default=os.path.join(ROOT, "tests/parity"), help="recorded cases (default: tests/parity)")
    options = parser.parse_args(arguments)
    model = os.path.join(ROOT, options.model)
    if not os.path.exists(os.path.join(model, "model.json")):
        parser.error(f"--model: {options.model} holds no model.json")
    options.model = os.path.abspath(model)
    with open(os.path.join(model, "model.json"), encoding="utf-8") as file:
        config = json.load(file)
    weights = config["weights"]
    options.tokenizer = config.get("tokenizer", "spiece.model")
    levels = sorted(config["levels"], key=lambda level: level["passes"])
    options.repeats_level = next((level for level in levels if level["passes"] > 0), levels[0])["name"]
    there = all(os.path.exists(os.path.join(model, source["file"])) for name, source in weights.items() if name != "video_movq")
    if options.weights == "files" and not there:
        parser.error(f"--weights=files: {options.model} does not hold all weights that its model.json names")
    options.level = options.level or ("low" if options.quick else config["defaults"]["level"])
    options.random = options.weights == "random" or not there
    options.flags = shlex.split(options.flags)
    if options.budget is None:
        options.budget = 30 if options.quick else 120
    if options.budget <= 0:
        parser.error("--budget must be more than 0 minutes")
    if options.quick:
        options.steps = options.steps or 10
    if not options.out:
        stamp = datetime.datetime.now().strftime("%Y-%m-%d-%H%M%S")
        options.out = os.path.join(ROOT, "build/gpu-check", stamp)
    return options


def main():
    check = Check(parse(sys.argv[1:]))

    def interrupted(number, frame):
        if check.child is not None:
            check.end_child(check.child)
        check.say(f"ended by signal {number}")
        check.write()
        os._exit(128 + number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupted)
    sections = [("device", check.device)]
    sections += [(f"parity {dtype}", lambda dtype=dtype: check.parity(dtype)) for dtype in DTYPES]
    sections += [("peak", check.peak), ("work", check.work), ("plan", check.memory), ("run", check.speed),
                 ("repeats", check.repeats)]
    # Until something better is known.
    check.guesses = {name: 60.0 for name, _ in sections}
    for name, function in sections:
        check.section(name, function)
        if name == "device" and check.sections[-1]["status"] != PASS:
            break
    report = check.report()
    check.say(f"{'PASS' if report['passed'] else 'FAIL'}: {os.path.join(check.options.out, 'report.md')} and report.json")
    return 0 if report["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
