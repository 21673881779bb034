"""Weights files that are damaged or made to do damage: they load, or are refused in one line.

`make test-faults` damages 20,000 files instead of a few hundred.
"""

import io
import json
import os
import pickle
import re
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from bombs import BOMBS
from weights_worker import NETWORK

from srdef import models
from srdef.weights import loading

WORKER = Path(__file__).with_name("weights_worker.py")
ROOT = Path(__file__).parents[2]
COUNT = int(os.environ.get("SRDEF_FAULTS", "420"))
# Python objects of a pickle of a million instructions, the largest that is read at all.
MOST_MEMORY = 200 << 20
MOST_SECONDS = 15


def run(files, *options):
    """The outcomes of the files, one for each, or a failure that names the file that ended the process."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(WORKER), *options, *map(str, files)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        names = [line for line in done.stderr.splitlines() if line.startswith("/")]
        pytest.fail(f"exit code {done.returncode} at {names[-1:]}: {done.stderr[-1000:]}")
    outcomes = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(outcomes) == len(files)
    return outcomes


def check(outcome):
    """Loaded or refused, in one short line, with bounded memory and time."""
    assert outcome["outcome"] in ("loaded", "InputError"), outcome
    assert outcome["message"].isprintable(), outcome
    assert len(outcome["message"]) < 1500, outcome
    assert "MemoryError" not in outcome["message"], outcome
    assert "not enough memory" not in outcome["message"], outcome
    assert outcome["memory"] < MOST_MEMORY, outcome
    assert outcome["seconds"] < MOST_SECONDS, outcome


@pytest.mark.slow
def test_bombs(tmp_path):
    files = []
    for i, (suffix, write, _) in enumerate(BOMBS.values()):
        files.append(tmp_path / f"{i}{suffix}")
        write(files[-1])
        assert files[-1].stat().st_size < 6 << 20
    for (name, (_, _, message)), outcome in zip(BOMBS.items(), run(files), strict=True):
        check(outcome)
        assert outcome["outcome"] == "InputError", name
        assert re.search(message, outcome["message"]), (name, outcome)


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """A right file of each kind, by suffix: small networks, as each library writes them."""
    folder = tmp_path_factory.mktemp("originals")
    network = models.create("edsr", **NETWORK)
    tensors = loading.flatten(network)
    loading.save_safetensors(network, folder / "a.safetensors")
    np.savez(folder / "a.npz", **tensors)
    np.savez_compressed(folder / "b.npz", **tensors)
    theirs = {f"module.{name}": torch.tensor(array) for name, array in tensors.items()}
    torch.save({"epoch": 3, "state_dict": theirs, "optimizer": {"lr": 0.1}}, folder / "a.pth")
    torch.save(theirs, folder / "a.pt", _use_new_zipfile_serialization=False)
    (folder / "a.pkl").write_bytes(pickle.dumps({"a": [tensors["head.kernel"], tensors["head.bias"]]}, 3))
    with h5py.File(folder / "a.h5", "w") as file:
        file.attrs["layer_names"] = np.asarray([b"head", b"tail"])
        for layer in ("head", "tail"):
            group = file.create_group(layer)
            group.attrs["weight_names"] = [f"{layer}/kernel:0", f"{layer}/bias:0"]
            for part in ("kernel", "bias"):
                group[f"{layer}/{part}:0"] = tensors[f"{layer}.{part}"]
    files = sorted(folder.iterdir())
    assert all(outcome["outcome"] == "loaded" for outcome in run(files, "--network"))
    return files


EXTREMES = (0, 1, 0x7F, 0xFF, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 28, 1 << 40, (1 << 62) - 1, (1 << 64) - 1)


def damaged(data, rng):
    """One to four damages: bits, bytes, lengths, pieces lost, doubled, or put in; or the end is missing."""
    data = bytearray(data)
    for _ in range(rng.integers(1, 5)):
        # Headers and directories are at the ends; what is between is mostly numbers.
        place = int(rng.choice([rng.integers(600), rng.integers(len(data)), len(data) - rng.integers(1200)]))
        place = min(max(place, 0), len(data) - 1)
        length = int(rng.integers(1, 40))
        kind = rng.integers(7)
        if kind == 0:
            data[place] ^= 1 << rng.integers(8)
        elif kind == 1:
            data[place : place + length] = rng.bytes(length)
        elif kind == 2:
            size = int(rng.choice([1, 2, 4, 8]))
            value = EXTREMES[rng.integers(len(EXTREMES))] & ((1 << 8 * size) - 1)
            data[place : place + size] = value.to_bytes(size, rng.choice(["little", "big"]))
        elif kind == 3:
            del data[place : place + length]
        elif kind == 4:
            data[place:place] = data[place : place + length] * int(rng.integers(1, 20))
        elif kind == 5:
            data[place:place] = rng.bytes(length)
        elif rng.integers(4) == 0:
            del data[place:]
        if not data:
            data = bytearray(struct.pack("<Q", int(rng.integers(1 << 62))))
    return bytes(data)


def mutated(path, rng):
    """A damaged file; of an archive every second time a member, behind whose back the checksum is right."""
    data = path.read_bytes()
    if not zipfile.is_zipfile(path) or rng.integers(2):
        return damaged(data, rng)
    changed = io.BytesIO()
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(changed, "w") as target:
        members = source.infolist()
        pickled = [i for i, member in enumerate(members) if member.filename.endswith(".pkl")]
        chosen = pickled[0] if pickled and rng.integers(3) else rng.integers(len(members))
        for i, member in enumerate(members):
            content = source.read(member)
            target.writestr(member, damaged(content, rng) if i == chosen and content else content)
    return changed.getvalue()


@pytest.mark.slow
def test_damaged_files(originals, tmp_path):
    """The files of one seed, always the same; what is refused and what still loads is printed."""
    rng = np.random.default_rng(0)
    counts = {}
    for first in range(0, COUNT, 500):
        files = []
        for i in range(first, min(first + 500, COUNT)):
            original = originals[i % len(originals)]
            files.append(tmp_path / f"{i}{original.suffix}")
            files[-1].write_bytes(mutated(original, rng))
        for path, outcome in zip(files, run(files, "--network"), strict=True):
            check(outcome)
            key = (path.suffix, outcome["outcome"])
            counts[key] = counts.get(key, 0) + 1
            path.unlink()
    print(counts)
    loaded = sum(count for (_, kind), count in counts.items() if kind == "loaded")
    # Some damages only numbers; if nothing or everything were refused, the damages would prove nothing.
    assert COUNT // 100 < loaded < 9 * COUNT // 10
