"""deploy/image/libraries: the set of libraries that an image carries is the one that programs load.

  image_libraries_test.py [--bin DIR --venv DIR --case DIR]

Libraries made here stand for an environment; with --bin, the real one is tried, too: kandinsky-parity computes a recorded
case with nothing of the environment but the set.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
TOOL = os.path.join(ROOT, "deploy/image/libraries")
OPTIONS = {}


def run(*argv, **options):
    return subprocess.run(argv, capture_output=True, text=True, check=False, **options)


class MadeUpTest(unittest.TestCase):
    """An environment like a CUDA wheel's: torch/lib, which looks for NVIDIA's packages beside it."""

    def setUp(self):
        self.dir = os.path.realpath(tempfile.mkdtemp(prefix="kandinsky-image-"))
        self.addCleanup(shutil.rmtree, self.dir, True)
        self.venv = os.path.join(self.dir, "venv")
        self.torch, self.cuda = (os.path.join(self.venv, "lib", part) for part in ("torch/lib", "nvidia/cu13/lib"))
        self.other = os.path.join(self.venv, "lib/triton")
        for folder in (self.torch, self.cuda, self.other):
            os.makedirs(folder)
        self.library(self.cuda, "libopened_part.so.9")
        self.library(self.cuda, "libmath.so.13", text='"libopened_part.so\\0" "libnone.so.3"')
        self.library(self.cuda, "libnvperf_host.so")
        self.library(self.cuda, "libunused.so.1")
        self.library(self.other, "libmath_extra.so.1")
        self.library(self.torch, "libversioned.so.2.4")
        self.library(self.torch, "libtorch_cuda.so", needs=[(self.cuda, "libmath.so.13")], runpath="$ORIGIN/../../nvidia/cu13/lib:$ORIGIN",
                     text='"libnvperf_host.so\\0libmath_extra.so.1\\0libversioned.so.%d"')
        self.program = os.path.join(self.dir, "program")
        self.compile(self.program, "int main(void) { return 0; }", needs=[(self.torch, "libtorch_cuda.so")], runpath=self.torch)

    def compile(self, path, code, *options, needs=(), runpath=""):
        source = os.path.join(self.dir, "source.c")
        with open(source, "w", encoding="utf-8") as file:
            file.write(code)
        argv = ["cc", "-o", path, source, *options, "-Wl,--no-as-needed", "-Wl,--allow-shlib-undefined",
                *(os.path.join(*library) for library in needs)]
        argv += [f"-Wl,-rpath,{runpath}"] if runpath else []
        argv += [f"-Wl,-rpath-link,{self.cuda}"]
        subprocess.run(argv, check=True)

    def library(self, folder, name, text='""', **options):
        self.compile(os.path.join(folder, name), f"const char names[] = {text};", "-shared", "-fPIC", f"-Wl,-soname,{name}", **options)

    def tool(self, *arguments):
        return run(TOOL, "--venv", self.venv, *arguments)

    def test_takes_what_is_needed_and_what_is_opened(self):
        done = self.tool(self.program)
        self.assertEqual(done.returncode, 0, done.stderr)
        *lines, total = done.stdout.splitlines()
        self.assertEqual([line.split()[1] for line in lines],
                         ["lib/nvidia/cu13/lib/libmath.so.13", "lib/nvidia/cu13/lib/libopened_part.so.9",
                          "lib/torch/lib/libtorch_cuda.so", "lib/torch/lib/libversioned.so.2.4"])
        self.assertEqual(total.split(), [str(sum(int(line.split()[0]) for line in lines)), "in", "4", "libraries"])

    def test_copies_are_enough_to_run(self):
        image = os.path.join(self.dir, "image")
        self.assertEqual(self.tool("--copy", image, self.program).returncode, 0)
        os.rename(self.venv, self.venv + ".away")
        self.assertEqual(run(self.program).returncode, 127)
        os.rename(image + self.venv, self.venv)
        self.assertEqual(run(self.program).returncode, 0)
        self.assertFalse(os.path.exists(os.path.join(self.cuda, "libunused.so.1")))

    def test_says_what_is_missing(self):
        os.unlink(os.path.join(self.cuda, "libmath.so.13"))
        done = self.tool(self.program)
        self.assertEqual(done.returncode, 1)
        self.assertIn("libtorch_cuda.so needs libmath.so.13, which is neither in", done.stderr)
        done = self.tool(os.path.join(self.dir, "source.c"))
        self.assertEqual(done.returncode, 1)
        self.assertIn("source.c is no program or shared library", done.stderr)
        self.assertEqual(self.tool().returncode, 2)
        self.assertEqual(run(TOOL, "--venv", self.dir, self.program).returncode, 2)

    def test_a_program_that_loads_nothing_is_a_mistake(self):
        alone = os.path.join(self.dir, "alone")
        self.compile(alone, "int main(void) { return 0; }")
        done = self.tool(alone)
        self.assertEqual(done.returncode, 1)
        self.assertIn("the programs load nothing from", done.stderr)


class RealTest(unittest.TestCase):
    def setUp(self):
        if "bin" not in OPTIONS:
            self.skipTest("no --bin")
        self.dir = os.path.realpath(tempfile.mkdtemp(prefix="kandinsky-image-"))
        self.addCleanup(shutil.rmtree, self.dir, True)
        self.programs = [os.path.join(OPTIONS["bin"], name) for name in ("kandinsky-worker", "kandinsky-train", "kandinsky-parity")
                         if os.path.exists(os.path.join(OPTIONS["bin"], name))]
        self.parity = os.path.join(OPTIONS["bin"], "kandinsky-parity")

    def test_computes_with_the_set_alone(self):
        image = os.path.join(self.dir, "image")
        done = run(TOOL, "--venv", OPTIONS["venv"], "--copy", image, *self.programs)
        self.assertEqual(done.returncode, 0, done.stderr)
        print(done.stdout.splitlines()[-1])
        # In a mount namespace the environment is the copy.
        carried = image + os.path.abspath(OPTIONS["venv"])
        if run("unshare", "--mount", "--map-root-user", "sh", "-c", "mount --bind /tmp /mnt").returncode != 0:
            self.skipTest("this machine lets nobody make a mount namespace")
        inside = 'mount --bind "$0" "$1" && test ! -e "$1/bin" && shift && exec "$@"'
        done = run("unshare", "--mount", "--map-root-user", "sh", "-c", inside, carried, os.path.realpath(OPTIONS["venv"]),
                   self.parity, "--threads=1", OPTIONS["case"])
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertIn("PASS", done.stdout)

    def test_the_image_has_the_systems_libraries(self):
        """Debian's packages of the libraries that the programs need themselves are in the Dockerfile."""
        with open(os.path.join(ROOT, "Dockerfile"), encoding="utf-8") as file:
            runtime = file.read().split("# --- images")[1]
        # In every Debian image with a shell, or brought by another package of the list.
        have = set(re.findall(r"\b(lib[\w.+-]+)\b", runtime)) | {"libc6", "libgcc-s1", "libstdc++6", "libgrpc29", "zlib1g"}
        cache = run("/sbin/ldconfig", "-p").stdout
        for program in self.programs:
            if program == self.parity:
                continue
            for name in re.findall(r"\(NEEDED\).*\[(.+)\]", run("readelf", "--dynamic", "--wide", program).stdout):
                path = re.search(rf"^\s+{re.escape(name)} .* => (\S+)$", cache, re.MULTILINE)
                if path is None:
                    continue  # of the environment
                owner = next(filter(None, (run("dpkg-query", "--search", candidate).stdout.partition(":")[0]
                                           for candidate in (path[1], os.path.realpath(path[1]), f"*/{name}"))), None)
                self.assertIn(owner, have, f"{os.path.basename(program)} needs {name}")


if __name__ == "__main__":
    arguments = sys.argv[1:]
    while arguments and arguments[0].startswith("--"):
        OPTIONS[arguments[0][2:]] = arguments[1]
        del arguments[:2]
    unittest.main(argv=[sys.argv[0], *arguments])
