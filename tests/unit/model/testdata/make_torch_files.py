#!/usr/bin/env python3
"""Writes the small files that the checkpoint tests read, with PyTorch itself.

  build/venv/bin/python tests/unit/model/testdata/make_torch_files.py tests/unit/model/testdata

zoo.pt holds every layout that torch.save can produce of tensors in dicts and lists; zoo.safetensors is what reading it
must give. The other files must be refused.
"""
import collections
import json
import os
import struct
import sys
import zipfile

import torch


def write_safetensors(path, tensors):
    names = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.float64: "F64", torch.int64: "I64",
             torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL"}
    header, data = {}, b""
    for name, tensor in sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0])):
        raw = bytes(tensor.detach().contiguous().view(-1).view(torch.uint8).tolist())
        header[name] = {"dtype": names[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + data)


def flatten(value, name, out):
    if isinstance(value, torch.Tensor):
        out[name] = value
    elif isinstance(value, dict):
        for key, item in value.items():
            flatten(item, f"{name}.{key}" if name else str(key), out)
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            flatten(item, f"{name}.{index}" if name else str(index), out)
    return out


def main(folder):
    torch.manual_seed(1)
    base = torch.randn(6, 8)
    state = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2)).state_dict()  # has _metadata
    zoo = {
        "state": state,
        "float32": base,
        "tied": base,
        "transposed": base.t(),
        "slice": base[1:5:2, 3:],
        "column": base[:, 2],
        "float16": torch.randn(3).half(),
        "bfloat16": torch.randn(2, 2).bfloat16(),
        "float64": torch.randn(2).double(),
        "int64": torch.tensor([-(2**40), 2**40]),
        "int32": torch.tensor([[-1, 2]], dtype=torch.int32),
        "int16": torch.tensor([-300], dtype=torch.int16),
        "int8": torch.tensor([-3], dtype=torch.int8),
        "uint8": torch.tensor([200], dtype=torch.uint8),
        "bool": torch.tensor([True, False]),
        "scalar": torch.tensor(3.5),
        "empty": torch.empty(0, 4),
        "parameter": torch.nn.Parameter(torch.randn(4)),
        "list": [torch.ones(1), {"deep": torch.zeros(2)}, (torch.full((1,), 7.0),)],
        5: torch.full((1,), 5.0),
        "pairs": collections.OrderedDict([("a", torch.ones(2))]),
        "size": base.shape,
        "dtype": torch.float16,
        "numbers": [1, -1, 255, 70000, 2**31, -(2**63), 2**80, 1.5, True, False, None, "text"],
    }
    torch.save(zoo, os.path.join(folder, "zoo.pt"))
    write_safetensors(os.path.join(folder, "zoo.safetensors"), flatten(zoo, "", {}))
    torch.save({"a": base}, os.path.join(folder, "protocol4.pt"), pickle_protocol=4)

    class Evil:
        def __reduce__(self):
            return os.system, ("touch /tmp/kandinsky_checkpoint_was_executed",)

    torch.save({"w": base[:1], "x": Evil()}, os.path.join(folder, "reduce.pt"))
    torch.save({"w": base[:1]}, os.path.join(folder, "legacy.pt"), _use_new_zipfile_serialization=False)
    torch.save(torch.nn.Linear(2, 2), os.path.join(folder, "module.pt"))

    torch.save({"w": torch.zeros(1000)}, os.path.join(folder, "plain.tmp"))
    with zipfile.ZipFile(os.path.join(folder, "plain.tmp")) as plain, \
            zipfile.ZipFile(os.path.join(folder, "deflated.pt"), "w", zipfile.ZIP_DEFLATED) as deflated:
        for info in plain.infolist():
            deflated.writestr(info.filename, plain.read(info))
    os.remove(os.path.join(folder, "plain.tmp"))


if __name__ == "__main__":
    main(sys.argv[1])
