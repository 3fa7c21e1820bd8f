"""deploy/local/setup: which build of LibTorch it chooses, what it says, and what is left when it fails.

Runs the real script and a real pip, offline, in a copy of deploy/local whose packages are made here and are a few hundred
bytes large. The distribution's packages and SentencePiece are taken as installed.
"""

import base64
import hashlib
import os
import shutil
import subprocess
import tempfile
import unittest
import zipfile

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
TORCH = "2.13.0"


def make_wheel(folder, name, version, files):
    """A wheel with these files; gives its path."""
    info = f"{name}-{version}.dist-info"
    files = dict(files)
    files[f"{info}/METADATA"] = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    files[f"{info}/WHEEL"] = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    record = "".join(
        f"{path},sha256={base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b'=').decode()},{len(text)}\n"
        for path, text in files.items())
    files[f"{info}/RECORD"] = record + f"{info}/RECORD,,\n"
    path = os.path.join(folder, f"{name}-{version}-py3-none-any.whl")
    with zipfile.ZipFile(path, "w") as archive:
        for member, text in files.items():
            archive.writestr(member, text)
    return path


def sha256(path):
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


class SetupTest(unittest.TestCase):
    def setUp(self):
        # A space in the path, as users have it.
        self.dir = os.path.realpath(tempfile.mkdtemp(prefix="kandinsky setup "))
        self.addCleanup(shutil.rmtree, self.dir, True)
        self.local = os.path.join(self.dir, "deploy", "local")
        os.makedirs(self.local)
        for name in ("setup", "packages.txt", "requirements.txt"):
            shutil.copy(os.path.join(ROOT, "deploy/local", name), self.local)
        with open(os.path.join(self.local, "packages.txt"), "w", encoding="utf-8") as file:
            file.write("bash  # is there\n")
        # One folder for what the Python Package Index has, one for what another index would add.
        self.index, self.cpu_index = (os.path.join(self.dir, name) for name in ("index", "cpu index"))
        os.makedirs(self.index)
        os.makedirs(self.cpu_index)
        self.cuda_wheel = make_wheel(self.index, "torch", TORCH, {
            "torch/version.py": f"from typing import Optional\n__version__ = '{TORCH}+cu130'\ncuda: Optional[str] = '13.0'\n"})
        make_wheel(self.cpu_index, "torch", f"{TORCH}+cpu", {
            "torch/version.py": f"from typing import Optional\n__version__ = '{TORCH}+cpu'\ncuda: Optional[str] = None\n"})
        self.helper = make_wheel(self.index, "helper", "1.0", {"helper.py": "VALUE = 1\n"})
        self.lock()
        version = self.read(os.path.join(ROOT, "deploy/local/locked/source.txt")).split("sentencepiece===")[1].split()[0]
        self.write("build/deps/sentencepiece/version", version + "\n")

    def lock(self, **digests):
        self.write("deploy/local/locked/common.txt", "# download 1000000000, installed 2000000000\n"
                   f"helper===1.0 --hash=sha256:{digests.get('helper', sha256(self.helper))}\n")
        self.write("deploy/local/locked/cuda.txt", "# download 3000000000, installed 4000000000\n"
                   f"torch==={TORCH} --hash=sha256:{digests.get('torch', sha256(self.cuda_wheel))}\n")
        shutil.copy(os.path.join(ROOT, "deploy/local/locked/source.txt"), os.path.join(self.local, "locked"))

    @staticmethod
    def read(path):
        with open(path, encoding="utf-8") as file:
            return file.read()

    def write(self, path, text):
        path = os.path.join(self.dir, path)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)

    def setup(self, *arguments, cpu_offered=True, nvidia=False, environment=None, free=10**12):
        """Runs the script; with `nvidia`, in a mount namespace where the PCI bus has an NVIDIA card."""
        folders = [self.index] + ([self.cpu_index] if cpu_offered else [])
        # pip splits this variable at spaces.
        links = []
        for number, folder in enumerate(folders):
            link = os.path.join(tempfile.gettempdir(), f"{os.path.basename(self.dir).replace(' ', '-')}-{number}")
            if not os.path.islink(link):
                os.symlink(folder, link)
                self.addCleanup(os.unlink, link)
            links.append(link)
        env = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "KANDINSKY_"))}
        env.update(PIP_CONFIG_FILE=os.devnull, PIP_NO_INDEX="1", PIP_FIND_LINKS=" ".join(links))
        env.update(environment or {})
        # The disk is as large as the test says.
        self.write("bin/df", f"#!/bin/sh\necho Avail\necho {free}\n")
        os.chmod(os.path.join(self.dir, "bin/df"), 0o755)
        env["PATH"] = os.path.join(self.dir, "bin") + ":" + env["PATH"]
        argv = ["bash", os.path.join(self.local, "setup"), *arguments]
        devices = os.path.join(self.dir, "devices")
        os.makedirs(devices, exist_ok=True)
        if nvidia:
            self.write("devices/0000:01:00.0/vendor", "0x10de\n")
            self.write("devices/0000:01:00.0/class", "0x030200\n")
        # Without the namespace the machine's own devices would count.
        argv = ["unshare", "--mount", "--map-root-user", "sh", "-c",
                'mount --bind "$0" /sys/bus/pci/devices && exec "$@"', devices, *argv]
        return subprocess.run(argv, env=env, capture_output=True, text=True, timeout=120, check=False)

    def build(self):
        done = subprocess.run([os.path.join(self.dir, "build/venv/bin/python"), "-I", "-c",
                               "import torch.version as v; print(v.__version__)"], capture_output=True, text=True, check=False)
        return done.stdout.strip()

    def assert_done(self, done, build, *said):
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(self.build(), build)
        for text in said:
            self.assertIn(text, done.stderr)

    def assert_failed(self, done, *said, code=1):
        self.assertEqual(done.returncode, code, done.stderr)
        for text in said:
            self.assertIn(text, done.stderr)

    def test_auto_takes_the_cpu_build_where_it_is_offered(self):
        self.assert_done(self.setup(), f"{TORCH}+cpu", "LibTorch 2.13.0 for the CPU", "1.2 GB to download, 2.7 GB installed")
        # Nothing to do, and nothing to ask.
        again = self.setup(cpu_offered=False, environment={"PIP_FIND_LINKS": "/nowhere"})
        self.assert_done(again, f"{TORCH}+cpu")
        self.assertEqual(again.stderr, "")

    def test_auto_takes_the_cuda_build_where_nothing_else_is_offered(self):
        self.assert_done(self.setup(cpu_offered=False), f"{TORCH}+cu130", "no NVIDIA device",
                         "LibTorch 2.13.0 for CUDA", "4.0 GB to download, 6.0 GB installed")

    def test_auto_takes_the_cuda_build_where_a_device_is(self):
        self.assert_done(self.setup(nvidia=True), f"{TORCH}+cu130", "there is an NVIDIA device")

    def test_auto_keeps_what_is_installed(self):
        self.assert_done(self.setup("--torch", "cpu"), f"{TORCH}+cpu")
        self.assert_done(self.setup(nvidia=True), f"{TORCH}+cpu", "--torch cuda replaces it")

    def test_replaces_the_other_build(self):
        self.assert_done(self.setup("--torch=cpu"), f"{TORCH}+cpu")
        self.assert_done(self.setup(environment={"KANDINSKY_TORCH": "cuda"}), f"{TORCH}+cu130",
                         "replacing build/venv, which has LibTorch for the CPU, by LibTorch 2.13.0 for CUDA")
        self.assert_done(self.setup("--torch=cpu"), f"{TORCH}+cpu",
                         "replacing build/venv, which has LibTorch for CUDA, by LibTorch 2.13.0 for the CPU")
        self.assertFalse(os.path.exists(os.path.join(self.dir, "build/venv.old")))

    def test_keeps_the_old_environment_when_replacing_fails(self):
        self.assert_done(self.setup("--torch=cpu"), f"{TORCH}+cpu")
        self.lock(torch="0" * 64)
        self.assert_failed(self.setup("--torch=cuda"), "not the one that deploy/local/locked names",
                           "the environment is what it was before")
        self.assertEqual(self.build(), f"{TORCH}+cpu")
        self.assert_done(self.setup(), f"{TORCH}+cpu")

    def test_goes_on_after_a_replacement_that_was_killed(self):
        self.assert_done(self.setup("--torch=cpu"), f"{TORCH}+cpu")
        build = os.path.join(self.dir, "build")
        os.rename(os.path.join(build, "venv"), os.path.join(build, "venv.old"))
        self.write("build/venv/bin/python", "half of an environment")
        self.assert_done(self.setup(), f"{TORCH}+cpu")

    def test_begins_anew_after_an_installation_that_was_killed(self):
        self.assert_done(self.setup("--torch=cpu"), f"{TORCH}+cpu")
        os.unlink(os.path.join(self.dir, "build/venv/.installed"))
        shutil.rmtree(os.path.join(self.dir, "build/venv/bin"))
        self.assert_done(self.setup(), f"{TORCH}+cpu", "to download")

    def test_installs_what_changed(self):
        self.assert_done(self.setup(), f"{TORCH}+cpu")
        self.helper = make_wheel(self.index, "helper", "1.0", {"helper.py": "VALUE = 2\n"})
        self.write("deploy/local/locked/common.txt", "# download 1, installed 2\n"
                   f"helper===1.1 --hash=sha256:{sha256(make_wheel(self.index, 'helper', '1.1', {'helper.py': 'VALUE = 3'}))}\n")
        self.assert_done(self.setup(), f"{TORCH}+cpu", "checking build/venv")
        value = subprocess.run([os.path.join(self.dir, "build/venv/bin/python"), "-I", "-c", "import helper; print(helper.VALUE)"],
                               capture_output=True, text=True, check=True).stdout
        self.assertEqual(value, "3\n")

    def test_dry_run_installs_nothing(self):
        for arguments, said in ((("--torch=cuda",), "4.0 GB to download"), ((), "1.2 GB to download")):
            done = self.setup("--dry-run", *arguments)
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertIn(said, done.stderr)
            self.assertFalse(os.path.exists(os.path.join(self.dir, "build/venv")))

    def test_a_users_settings_of_pip_do_no_harm(self):
        self.assert_done(self.setup(environment={"PIP_USER": "1", "PIP_TARGET": "/nowhere", "PIP_REQUIRE_HASHES": "1",
                                                 "PYTHONHOME": "/nowhere", "PYTHONPATH": "/nowhere"}), f"{TORCH}+cpu")

    def test_says_what_is_wrong(self):
        self.assert_failed(self.setup("--torch=gpu"), '"gpu"; it can be auto, cpu or cuda', code=2)
        self.assert_failed(self.setup(environment={"KANDINSKY_TORCH": "rocm"}), '"rocm"', code=2)
        self.assert_failed(self.setup("--torch"), "--torch needs a value", code=2)
        self.assert_failed(self.setup("--fast"), '"--fast"', code=2)
        self.assert_failed(self.setup("--torch=cpu", cpu_offered=False), "no package index that pip knows offers torch 2.13.0+cpu",
                           "PIP_EXTRA_INDEX_URL")
        self.assert_failed(self.setup("--torch=cuda", free=10**9), "has 1.0 GB left, and installing needs 10.5 GB")
        os.unlink(self.cuda_wheel)
        self.assert_failed(self.setup("--torch=cuda"), "no package index that pip knows has what is needed",
                           f"No matching distribution found for torch==={TORCH}")

    def test_says_when_no_index_can_be_reached(self):
        # A port of this machine that nobody listens on.
        unreachable = {"PIP_NO_INDEX": "0", "PIP_FIND_LINKS": "", "PIP_RETRIES": "0", "PIP_INDEX_URL": "http://127.0.0.1:9/simple"}
        self.assert_failed(self.setup(environment=unreachable), "a package index cannot be reached")
        self.assert_failed(self.setup("--torch=cuda", environment=unreachable), "a package index cannot be reached")


if __name__ == "__main__":
    namespace = subprocess.run(["unshare", "--mount", "--map-root-user", "sh", "-c", "mount --bind /tmp /sys/bus/pci/devices"],
                               capture_output=True, check=False)
    if namespace.returncode != 0:
        print("skipped: this machine lets nobody make a mount namespace, or has no PCI bus")
        raise SystemExit(77)
    unittest.main()
