#!/usr/bin/env python3
"""Fails when a file includes what its part of the project may not: the architecture, checked.

  check_includes.py [ROOT]     checks every .h and .cc below ROOT (default: the repository) that git knows or would add
  check_includes.py --self-test

A part is a folder of the map below. It may include itself, the parts and the outside libraries that are listed for it,
and the standard library. A main.cc picks implementations: it may include every part of its own side.
"""

import pathlib
import re
import subprocess
import sys
import tempfile

# Longest prefix wins. part: (folder, parts it may include, outside libraries it may include)
PARTS = {
    "base": ("common/base", "", "absl spdlog"),
    "spec": ("common/spec", "", ""),
    "config": ("common/config", "base", "absl"),
    "metrics": ("common/metrics", "base", "absl prometheus"),
    "latent": ("common/latent", "base", "absl json"),
    "redis": ("common/redis", "base", "absl hiredis"),
    "queue": ("common/queue", "base", "absl"),
    "queue_redis": ("common/queue_redis", "base queue redis", "absl protobuf records_proto"),
    "transport": ("common/transport", "base latent metrics", "absl prometheus grpc protobuf latent_proto"),
    "frontend": ("services/frontend", "base spec config metrics latent queue transport",
                 "absl prometheus grpc protobuf json api_proto"),
    "cli": ("services/cli", "base", "absl grpc protobuf api_proto"),
    "media": ("worker/media", "base", "absl ffmpeg"),
    "process": ("worker/process", "", ""),
    "model": ("worker/model", "spec process", "torch sentencepiece json"),
    "runtime": ("worker/runtime", "base latent metrics queue", "absl prometheus"),
    "stages": ("worker/stages", "base latent queue media model process runtime", "absl torch json"),
    "local": ("worker/local", "base spec config latent queue media model process runtime stages", "absl torch json"),
    "worker_main": ("worker", "base config metrics latent queue queue_redis transport media model process runtime stages",
                    "absl prometheus grpc"),
    "training": ("training", "base metrics media model process",
                 "absl prometheus torch sentencepiece json webp"),
    "cuda_headers": ("cmake/cuda_headers", "", ""),
    "tests": ("tests", "*", "*"),
}
# The main of a part may include these parts, too: it chooses implementations.
MAIN_PARTS = {
    "frontend": "queue_redis redis",
    "worker_main": "",
    "local": "",
}
# <library>: which include paths belong to it. Everything else in <> is the standard library or the system.
LIBRARIES = {
    "absl": r"absl/",
    "spdlog": r"spdlog/|fmt/",
    "prometheus": r"prometheus/",
    "hiredis": r"hiredis",
    "grpc": r"grpc/|grpcpp/|grpc\+\+/|.*\.grpc\.pb\.h$",
    "protobuf": r"google/protobuf/|google/rpc/",
    "api_proto": r"kandinsky/video/v1/",
    "latent_proto": r"kandinsky/worker/v1/latent_service",
    "records_proto": r"kandinsky/worker/v1/records",
    "ffmpeg": r"libav|libsw",
    "torch": r"torch/|ATen/|c10/|caffe2/",
    "sentencepiece": r"sentencepiece",
    "webp": r"webp/",
    "json": r"nlohmann/",
    "gtest": r"gtest/|gmock/|benchmark/",
}
# Libraries that stay in one place, tests aside.
TORCH = re.compile(LIBRARIES["torch"])
SERVICE_HEADER = re.compile(r"grpc|.*\.pb\.h$|spdlog/|google/protobuf/")
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]', re.MULTILINE)


def part_of(path):
    """The part that a file below ROOT belongs to, or None."""
    best = None
    for part, (folder, _, _) in PARTS.items():
        if path.startswith(folder + "/") and (best is None or len(folder) > len(PARTS[best][0])):
            best = part
    return best


def library_of(include):
    for library, pattern in LIBRARIES.items():
        if re.match(pattern, include):
            # A generated gRPC header counts as gRPC, wherever it lies.
            return "grpc" if include.endswith(".grpc.pb.h") else library
    return None


def check_file(path, text):
    """Complaints about one file, one string each."""
    part = part_of(path)
    if part is None:
        return [f"{path}: belongs to no part of the architecture"]
    complaints = []
    includes = [match.group(2) for match in INCLUDE.finditer(text)]
    _, parts, libraries = PARTS[part]
    parts, libraries = parts.split(), libraries.split()
    if path.endswith("main.cc"):
        parts = parts + MAIN_PARTS.get(part, "").split()
    for include in includes:
        other = part_of(include)
        if other is not None:
            if other != part and other not in parts and "*" not in parts:
                complaints.append(f"{path}: {part} must not include {other} ({include})")
            if other == "tests" and part != "tests":
                complaints.append(f"{path}: only tests include tests ({include})")
            continue
        library = library_of(include)
        if library == "gtest" and part != "tests":
            complaints.append(f"{path}: only tests include test libraries ({include})")
        elif library not in (None, "gtest") and library not in libraries and "*" not in libraries:
            complaints.append(f"{path}: {part} must not include {library} ({include})")
    torch = [include for include in includes if TORCH.match(include)]
    service = [include for include in includes if SERVICE_HEADER.match(include)]
    if torch and service:
        complaints.append(f"{path}: torch and protobuf, gRPC or spdlog headers in one file ({torch[0]}, {service[0]})")
    return complaints


def files_of(root):
    """Tracked files and new ones that git does not ignore; without git, all outside build/."""
    try:
        listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=root, check=True,
                                capture_output=True, text=True).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):
        listed = [str(path.relative_to(root)) for path in root.rglob("*")]
    wanted = (name for name in listed if name.endswith((".h", ".cc", ".cpp", ".hpp", ".c")))
    return sorted(name for name in wanted if not name.startswith("build/") and (root / name).is_file())


def check(root):
    root = pathlib.Path(root)
    complaints = []
    files = files_of(root)
    for name in files:
        complaints += check_file(name, (root / name).read_text(encoding="utf-8", errors="replace"))
    return files, complaints


def self_test():
    """Each rule refuses what it is there for, and lets through what it should."""
    cases = [
        ("common/base/a.cc", '#include "common/base/log.h"\n#include <string>\n#include "absl/status/status.h"', 0),
        ("common/base/a.cc", '#include "common/queue/job.h"', 1),
        ("common/queue/a.cc", '#include "hiredis/hiredis.h"', 1),
        ("common/redis/a.cc", "#include <hiredis/hiredis.h>", 0),
        ("common/queue_redis/a.cc", "#include <hiredis.h>", 1),
        ("common/transport/a.cc", "#include <grpcpp/grpcpp.h>", 0),
        ("common/queue_redis/a.cc", "#  include <grpcpp/grpcpp.h>", 1),
        ("worker/runtime/a.cc", "#include <grpcpp/grpcpp.h>", 1),
        ("worker/runtime/a.cc", '#include "kandinsky/worker/v1/latent_service.grpc.pb.h"', 1),
        ("worker/main.cc", '#include "common/transport/a.h"\n#include "common/queue_redis/engine.h"', 0),
        ("services/frontend/a.cc", '#include "common/queue_redis/engine.h"', 1),
        ("services/frontend/main.cc", '#include "common/queue_redis/engine.h"', 0),
        ("services/frontend/a.cc", '#include "worker/runtime/stage.h"', 1),
        ("worker/stages/a.cc", '#include "services/frontend/text.h"', 1),
        ("services/cli/a.cc", '#include "common/queue/job.h"', 1),
        ("worker/media/a.cc", "#include <libavcodec/avcodec.h>", 0),
        ("worker/stages/a.cc", "#include <libavcodec/avcodec.h>", 1),
        ("worker/model/a.cc", "#include <torch/torch.h>", 0),
        ("worker/model/a.cc", '#include "common/base/log.h"', 1),
        ("worker/runtime/a.cc", "#include <ATen/ATen.h>", 1),
        ("worker/stages/a.cc", '#include <torch/torch.h>\n#include "a.pb.h"', 1),
        ("tests/unit/a.cc", "#include <torch/torch.h>\n#include <grpcpp/grpcpp.h>", 1),
        ("tests/unit/a.cc", '#include <gtest/gtest.h>\n#include "services/cli/args.h"', 0),
        ("services/cli/a.cc", "#include <gtest/gtest.h>", 1),
        ("services/cli/a.cc", '#include "tests/unit/a.h"', 2),
        ("training/a.cc", '#include "worker/media/video_reader.h"', 0),
        ("training/a.cc", '#include "worker/stages/a.h"', 1),
        ("elsewhere/a.cc", "", 1),
    ]
    failed = 0
    for path, text, want in cases:
        got = check_file(path, text)
        if len(got) != want:
            failed += 1
            print(f"self-test: {path} with {text!r}: want {want} complaints, got {got}")
    with tempfile.TemporaryDirectory() as folder:
        bad = pathlib.Path(folder, "common", "base", "bad.h")
        bad.parent.mkdir(parents=True)
        bad.write_text('#include "worker/model/unet.h"\n', encoding="utf-8")
        files, complaints = check(folder)
        if files != ["common/base/bad.h"] or len(complaints) != 1:
            failed += 1
            print(f"self-test: a folder with one bad file gave {files}, {complaints}")
    return failed


def main(argv):
    if argv[1:] == ["--self-test"]:
        return 1 if self_test() else 0
    root = argv[1] if len(argv) > 1 else pathlib.Path(__file__).resolve().parents[2]
    files, complaints = check(root)
    for complaint in complaints:
        print(complaint)
    print(f"{len(files)} files, {len(complaints)} complaints")
    return 1 if complaints or not files else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
