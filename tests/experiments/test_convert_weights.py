"""Conversion by hand, as a user runs it."""

import dataclasses
import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from srdef import models
from srdef.commands import cli
from srdef.commands import convert_weights as script
from srdef.errors import InputError
from srdef.weights import catalog, download, loading

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SRDEF_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def call(*words):
    script.run(cli.parse("convert-weights", "", script.COMMAND, words))


@pytest.fixture
def published(tmp_path):
    """A file that a network's authors might publish: an EDSR for a scale of 2."""
    torch.manual_seed(0)
    shapes = {"head.0": (64, 3), "body.16": (64, 64), "tail.0.0": (256, 64), "tail.1": (3, 64)}
    shapes |= {f"body.{i}.body.{j}": (64, 64) for i in range(16) for j in (0, 2)}
    tensors = {f"{name}.weight": torch.randn(*shape, 3, 3) for name, shape in shapes.items()}
    tensors |= {f"{name}.bias": torch.randn(shape[0]) for name, shape in shapes.items()}
    path = tmp_path / "edsr_baseline_x2.pt"
    torch.save(tensors, path)
    return path, tensors


def test_into_the_cache(published, cache, monkeypatch):
    """With the hash of the catalogue; `weights="official"` then needs no network."""
    path, tensors = published
    entry = catalog.variants("edsr_baseline_x2")["official"]
    digest = f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
    entry = dataclasses.replace(entry, digest=digest, url="http://127.0.0.1:9/none.pt")
    monkeypatch.setattr(catalog, "DOWNLOADS", (entry,))
    call("edsr_baseline_x2", str(path))
    assert [file.name for file in cache.iterdir()] == [download.converted_path(entry).name]
    network = models.create("edsr_baseline_x2", weights="official")
    np.testing.assert_array_equal(
        loading.flatten(network)["tail.kernel"], tensors["tail.1.weight"].permute(2, 3, 1, 0).numpy()
    )


def test_into_the_cache_only_what_was_published(published, cache):
    with pytest.raises(
        InputError, match=r"edsr_baseline_x2\.pt: \d+ bytes with the SHA256 \w+, expected 1bc95232"
    ):
        call("edsr_baseline_x2", str(published[0]))
    assert not cache.exists()


def test_to_a_file(published, tmp_path):
    output = tmp_path / "mine.safetensors"
    call("edsr_baseline_x2", str(published[0]), f"--output={output}")
    network = models.create("edsr_baseline_x2", weights=output)
    assert loading.flatten(network)["head.bias"].shape == (64,)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "usage: convert-weights NETWORK FILE"),
        (
            ["edsr_small_x2", "a.pt"],
            "no weights of 'edsr_small_x2' are published; networks that have some: inc",
        ),
        (
            ["resnet50_torchvision", "a.pth", "--variant=v3"],
            "no weights called 'v3'; choose from: imagenet1k_v1",
        ),
        (["edsr_baseline_x2", "none.pt"], "none.pt: cannot be read"),
        (["edsr_baseline_x2", "a.pt", "--output=a.npz"], "must end in .safetensors, not 'a.npz'"),
        (["edsr_baseline_x2", "a.pt", "--variant="], "no weights called ''; choose from: official"),
        (
            ["edsr_baseline_x2", "a.pt", "--output=a.safetensors", "--variant=official"],
            "--variant=official says which published weights .* beside --output",
        ),
        (["--list", "inception_v3"], "--list lists all there is, so that 'inception_v3' beside it means not"),
        (["--list", "--output=a.safetensors"], "so that 'a.safetensors' beside it means nothing"),
        (["--list", "--variant=official"], "so that 'official' beside it means nothing"),
        (["resnet18", "a.pt", "--output=a.safetensors"], "unknown model 'resnet18'"),
    ],
)
def test_bad_input(words, message):
    with pytest.raises(InputError, match=message):
        call(*words)


def test_the_command():
    """`--list` has every published file; a wrong call is one line and exit code 2."""
    command = [sys.executable, "-m", "experiments.convert_weights"]
    listed = subprocess.run([*command, "--list"], cwd=ROOT, capture_output=True, text=True, check=True)
    for entry in catalog.DOWNLOADS:
        assert entry.url in listed.stdout
    failed = subprocess.run([*command, "inception_v3", "none.h5"], cwd=ROOT, capture_output=True, text=True)
    assert failed.returncode == 2
    assert failed.stderr == "error: weights file none.h5: cannot be read (No such file or directory)\n"
