"""deploy/local/locked belongs to deploy/local/requirements.txt: every pin is there with that version, everything has a hash."""

import pathlib
import re
import unittest

LOCAL = pathlib.Path(__file__).resolve().parent.parent.parent / "deploy" / "local"
RUN = "run deploy/local/lock and commit what it writes"


class LockedPackagesTest(unittest.TestCase):
    def setUp(self):
        self.locked = {}
        for name in ("common", "cuda", "source"):
            head, _, *lines = (LOCAL / "locked" / f"{name}.txt").read_text().splitlines()
            self.assertRegex(head, r"^# download [1-9]\d*, installed [1-9]\d*$", f"{name}.txt: {RUN}")
            for line in lines:
                self.assertRegex(line, r"^[a-z0-9-]+===[\w.+]+ --hash=sha256:[0-9a-f]{64}$", f"{name}.txt")
                package, version = line.split()[0].split("===")
                self.assertNotIn(package, self.locked, f"{name}.txt names it twice")
                self.locked[package] = (name, version)

    def test_every_pin_is_locked(self):
        for line in (LOCAL / "requirements.txt").read_text().splitlines():
            pin, _, comment = line.partition("#")
            if not pin.strip():
                continue
            self.assertRegex(pin.strip(), r"^[\w.-]+==[\w.]+$")
            package, version = pin.strip().split("==")
            package = re.sub(r"[-_.]+", "-", package).lower()
            want = "source" if "source" in comment.split() else "cuda" if re.match("(torch$|nvidia-)", package) else "common"
            self.assertEqual(self.locked.get(package), (want, version), f"{package}: {RUN}")

    def test_the_cuda_build_is_whole(self):
        # What LibTorch's CMake file links, and what the image's libraries come from.
        for package in ("nvidia-cuda-runtime", "nvidia-cublas", "nvidia-cudnn-cu13", "nvidia-nccl-cu13", "nvidia-cuda-nvrtc"):
            self.assertEqual(self.locked.get(package, (None,))[0], "cuda", f"{package}: {RUN}")


if __name__ == "__main__":
    unittest.main()
