"""cmake/LibTorch.cmake: what it makes of wheels for the CPU and for CUDA, and what it says when there is none that it can use.

The wheels are made here: the files that it looks at, and libraries with one function each.
"""

import os
import shutil
import subprocess
import tempfile
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

PROJECT = f"""
cmake_minimum_required(VERSION 3.25)
project(wheel_test LANGUAGES CXX)
set(CMAKE_CXX_STANDARD 20)
add_library(kandinsky_flags INTERFACE)
add_library(kandinsky_bounded_spin STATIC "{ROOT}/worker/process/bounded_spin.cc")
target_include_directories(kandinsky_bounded_spin PRIVATE "{ROOT}")
include("{ROOT}/cmake/LibTorch.cmake")
add_executable(program main.cc)
target_link_libraries(program PRIVATE kandinsky_torch_cuda)
"""

PROGRAM = """
#include <ATen/ATen.h>
#include <torch/torch.h>
#ifndef KANDINSKY_WITH_CUDA
#error "says nothing about CUDA"
#endif
#if KANDINSKY_WITH_CUDA
#include <crt/host_defines.h>
#include <cuda_runtime_api.h>
#ifdef USE_C10D_NCCL
#include <nccl.h>
#include <nv/target>
#endif
#endif
#ifdef USE_C10D_NCCL
int main() { return 1 + KANDINSKY_WITH_CUDA; }
#else
int main() { return KANDINSKY_WITH_CUDA; }
#endif
"""


def version_py(version, cuda="None", hip="None"):
    return f"__version__ = '{version}'\ndebug = False\ncuda: Optional[str] = {cuda}\nhip: Optional[str] = {hip}\nxpu: Optional[str] = None\n"


class LibTorchCmakeTest(unittest.TestCase):
    def setUp(self):
        self.dir = os.path.realpath(tempfile.mkdtemp(prefix="kandinsky wheel "))
        self.addCleanup(shutil.rmtree, self.dir, True)
        self.venv = os.path.join(self.dir, "venv")
        self.packages = os.path.join(self.venv, "lib/site-packages")
        with open(os.path.join(ROOT, "deploy/local/requirements.txt"), encoding="utf-8") as file:
            self.pin = next(line.strip().removeprefix("torch==") for line in file if line.startswith("torch=="))
        self.write("project/CMakeLists.txt", PROJECT)
        self.write("project/main.cc", PROGRAM)

    def write(self, path, text):
        path = os.path.join(self.dir, path)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        return path

    def library(self, path, code="void unused() {}", *options):
        source = self.write("library.cc", code)
        path = os.path.join(self.packages, path)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        subprocess.run(["g++", "-shared", "-fPIC", "-o", path, source, f"-Wl,-soname,{os.path.basename(path)}", *options], check=True)

    def wheel(self, cuda=False, abi=1):
        self.python(f"echo '{self.packages}'")
        torch = "venv/lib/site-packages/torch"
        self.write(f"{torch}/version.py", version_py(self.pin + ("+cu130" if cuda else "+cpu"), "'13.0'" if cuda else "None"))
        self.write(f"{torch}/include/ATen/ATen.h", "#pragma once\n")
        self.write(f"{torch}/include/torch/csrc/api/include/torch/torch.h", "#pragma once\n")
        string = "#include <string>\nnamespace c10 { void warn(std::string) {} }"
        self.library("torch/lib/libc10.so", string, f"-D_GLIBCXX_USE_CXX11_ABI={abi}")
        for name in ("torch", "torch_cpu") + (("torch_cuda", "c10_cuda") if cuda else ()):
            self.library(f"torch/lib/lib{name}.so")
        if cuda:
            self.library("nvidia/cu13/lib/libcudart.so.13")
            self.write("venv/lib/site-packages/nvidia/cu13/include/cuda_runtime_api.h", "#pragma once\n")
            self.write("venv/lib/site-packages/nvidia/cu13/include/crt/host_defines.h", "#pragma once\n")
            self.write("venv/lib/site-packages/nvidia/cu13/include/nv/target", "#pragma once\n")
            self.write("venv/lib/site-packages/nvidia/nccl/include/nccl.h", "#pragma once\n")

    def python(self, script):
        os.chmod(self.write("venv/bin/python", f"#!/bin/sh\n{script}\n"), 0o755)

    def configure(self, *options, environment=None):
        return subprocess.run(["cmake", "-G", "Ninja", "-S", os.path.join(self.dir, "project"), "-B", os.path.join(self.dir, "out"),
                               f"-DKANDINSKY_VENV_DIR={self.venv}", *options], env={**os.environ, **(environment or {})}, capture_output=True,
                              text=True, check=False)

    def build(self):
        done = subprocess.run(["cmake", "--build", os.path.join(self.dir, "out")], capture_output=True, text=True, check=False)
        self.assertEqual(done.returncode, 0, done.stdout)
        program = os.path.join(self.dir, "out/program")
        dynamic = subprocess.run(["readelf", "-dW", program], capture_output=True, text=True, check=True).stdout
        return subprocess.run([program], check=False).returncode, dynamic

    def assert_refused(self, *said):
        done = self.configure()
        self.assertNotEqual(done.returncode, 0)
        message = " ".join(done.stderr.split())
        for text in said + ("deploy/local/setup",):
            self.assertIn(text, message)

    def test_cpu_wheel(self):
        self.wheel()
        done = self.configure()
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn(f"LibTorch {self.pin}+cpu for the CPU", done.stdout)
        status, dynamic = self.build()
        self.assertEqual(status, 0)
        for name in ("libtorch.so", "libtorch_cpu.so", "libc10.so"):
            self.assertIn(f"[{name}]", dynamic)
        self.assertNotIn("cuda", dynamic)

    def test_cuda_wheel(self):
        self.wheel(cuda=True)
        done = self.configure()
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn(f"LibTorch {self.pin}+cu130 for CUDA 13.0", done.stdout)
        status, dynamic = self.build()
        self.assertEqual(status, 2)
        # Nothing of it is used by name, and all of it must be loaded.
        for name in ("libtorch.so", "libtorch_cpu.so", "libtorch_cuda.so", "libc10.so", "libc10_cuda.so"):
            self.assertIn(f"[{name}]", dynamic)

    def test_cuda_wheel_without_all_headers(self):
        self.wheel(cuda=True)
        shutil.rmtree(os.path.join(self.packages, "nvidia/cu13/include/crt"))
        shutil.rmtree(os.path.join(self.packages, "nvidia/cu13/include/nv"))
        done = self.configure()
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("nvidia-cuda-crt", " ".join(done.stdout.split()))
        status, dynamic = self.build()
        self.assertEqual(status, 1)
        self.assertIn("[libtorch_cuda.so]", dynamic)

    def test_a_toolkit_is_not_asked(self):
        self.wheel(cuda=True)
        marker = os.path.join(self.dir, "asked")
        os.chmod(self.write("toolkit/bin/nvcc", f"#!/bin/sh\ntouch '{marker}'\nexit 1\n"), 0o755)
        toolkit = os.path.join(self.dir, "toolkit")
        done = self.configure(environment={"PATH": f"{toolkit}/bin:" + os.environ["PATH"], "CUDA_HOME": toolkit, "CUDACXX": f"{toolkit}/bin/nvcc"})
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(self.build()[0], 2)
        self.assertFalse(os.path.exists(marker))

    def test_another_wheel_in_the_same_place(self):
        self.wheel()
        self.assertEqual(self.configure().returncode, 0)
        self.assertEqual(self.build()[0], 0)
        self.wheel(cuda=True)
        status, dynamic = self.build()
        self.assertEqual(status, 2)
        self.assertIn("[libtorch_cuda.so]", dynamic)

    def test_no_environment(self):
        self.assert_refused("There is no virtual environment in", "(no bin/python)")

    def test_python_that_does_not_run(self):
        self.python("echo 'broken to bits' >&2; exit 3")
        self.assert_refused("does not run", "broken to bits")

    def test_no_wheel(self):
        self.python(f"echo '{self.packages}'")
        os.makedirs(self.packages)
        self.assert_refused("There is no LibTorch in")

    def test_another_version(self):
        self.wheel()
        self.write("venv/lib/site-packages/torch/version.py", version_py("1.2.3+cpu"))
        self.assert_refused(f'is "1.2.3+cpu", but this project is built against {self.pin}')
        self.assertEqual(self.configure("-DKANDINSKY_TORCH_VERSION=1.2.3").returncode, 0)

    def test_another_kind_of_device(self):
        self.wheel()
        self.write("venv/lib/site-packages/torch/version.py", version_py(f"{self.pin}+rocm7.0", hip="'7.0.1'"))
        self.assert_refused("a build for ROCm or XPU")

    def test_another_abi(self):
        self.wheel(abi=0)
        self.assert_refused("the C++ ABI of before g++ 5")

    def test_incomplete_wheels(self):
        self.wheel(cuda=True)
        for path, said in (("torch/lib/libc10_cuda.so", "torch/lib/libc10_cuda.so is missing"),
                           ("torch/include/ATen/ATen.h", "torch/include/ATen/ATen.h is missing"),
                           ("nvidia/cu13/lib/libcudart.so.13", "without the nvidia packages"),
                           ("nvidia/cu13/include/cuda_runtime_api.h", "without the nvidia packages")):
            with self.subTest(path):
                path = os.path.join(self.packages, path)
                away = os.path.join(self.dir, "away")
                os.rename(path, away)
                self.assert_refused(said)
                os.rename(away, path)


if __name__ == "__main__":
    unittest.main()
